"""Which blocks each sequence reads and writes: shared ones from the prefix tree, then its own.

`Sequence.blocks` are the blocks of positions 0, 128, ...: first those of nodes it holds, whole and never written again,
then private ones. A whole block is entered into the tree as soon as it is computed, the partial end when the
sequence leaves.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from llorch.batching.blocks import BLOCK_POSITIONS, BlockPool, blocks_for
from llorch.batching.plan import Copy
from llorch.batching.prefix import Branch, Found, Node, PrefixTree
from llorch.batching.sequence import Sequence


@dataclass(frozen=True, slots=True)
class _Pending:
    """A copy that no step has made yet; its source is held until then."""

    copy: Copy
    source: Node


class Cache:
    """Blocks of all admitted sequences. `idle_max` bounds what is kept for nobody but a later sequence."""

    def __init__(self, capacity: int, idle_max: int | None = None) -> None:
        self.pool = BlockPool(capacity)
        self.tree = PrefixTree(self.pool, capacity if idle_max is None else idle_max)
        self.prompt_tokens_looked_up = 0
        self.prompt_tokens_reused = 0
        self._paths: dict[str, list[Node]] = {}
        self._pending: dict[str, _Pending] = {}

    @property
    def copies(self) -> tuple[Copy, ...]:
        """What the next step has to copy before its rows."""
        return tuple(pending.copy for pending in self._pending.values())

    def missing(self, sequence: Sequence) -> int:
        """Blocks an admitted sequence still has to take for the ids it has."""
        return max(0, blocks_for(len(sequence.token_ids)) - len(sequence.blocks))

    def has_room(self, sequence: Sequence, claimed: int) -> bool:
        """True when its ids and one more block fit into what is free or idle, `claimed` blocks left for others.

        The one more keeps a sequence from being admitted only to be preempted at its next token.
        """
        path = self._find(sequence).path
        need = min(blocks_for(len(sequence.token_ids)) + 1, blocks_for(sequence.positions_max)) - len(path)
        reused = sum(self.tree.is_idle(node) for node in path)
        return need <= self.pool.free + self.tree.idle - reused - claimed

    def admit(self, sequence: Sequence) -> None:
        """Start with the longest known beginning, but not with the last token: a draw needs its logits."""
        found = self._find(sequence)
        for node in found.path:
            self.tree.hold(node)
        self._paths[sequence.key] = list(found.path)
        sequence.blocks = [node.block for node in found.path]
        sequence.computed = len(found.path) * BLOCK_POSITIONS
        if found.source is not None:
            self._begin_inside(sequence, found.source, found.positions)
        if not sequence.preemptions:
            self.prompt_tokens_looked_up += sequence.prompt_length
            self.prompt_tokens_reused += min(sequence.computed, sequence.prompt_length)

    def follow(self, sequence: Sequence) -> None:
        """Take over what others have entered since it was admitted."""
        path = self._paths[sequence.key]
        while (node := self.branch(sequence).child(self.next_whole(sequence))) is not None:
            assert sequence.key not in self._pending, "copies are made before anything new is entered"
            index = len(path)
            if index < len(sequence.blocks):
                self.pool.release(sequence.blocks[index])
                sequence.blocks[index] = node.block
            else:
                sequence.blocks.append(node.block)
            self.tree.hold(node)
            path.append(node)
            end = len(path) * BLOCK_POSITIONS
            if not sequence.preemptions:
                self.prompt_tokens_reused += max(0, min(end, sequence.prompt_length) - sequence.computed)
            sequence.computed = end

    def branch(self, sequence: Sequence) -> Branch:
        """Where its next whole block goes."""
        path = self._paths[sequence.key]
        return path[-1] if path else self.tree.root(sequence.stretch)

    def next_whole(self, sequence: Sequence) -> tuple[int, ...]:
        """Ids of the next block that it could take over whole; empty when the last token is among them."""
        start = len(self._paths[sequence.key]) * BLOCK_POSITIONS
        end = start + BLOCK_POSITIONS
        return tuple(sequence.token_ids[start:end]) if end < len(sequence.token_ids) else ()

    def grow(self, sequence: Sequence, end: int) -> int:
        """Take blocks for positions up to `end`, evicting idle ones; how far they reach when there are too few."""
        while len(sequence.blocks) * BLOCK_POSITIONS < end:
            if not self.pool.free:
                if not self.tree.idle:
                    break
                self.tree.evict()
            sequence.blocks.append(self.pool.take())
        return min(end, len(sequence.blocks) * BLOCK_POSITIONS)

    def copied(self, copies: Iterable[Copy]) -> None:
        """A step has made these copies."""
        made = {id(copy) for copy in copies}
        for key, pending in list(self._pending.items()):
            if id(pending.copy) in made:
                self._withdraw(key)

    def enter(self, sequence: Sequence) -> None:
        """Share every block that has become whole."""
        path = self._paths[sequence.key]
        while (end := (len(path) + 1) * BLOCK_POSITIONS) <= sequence.computed:
            token_ids = tuple(sequence.token_ids[end - BLOCK_POSITIONS : end])
            node = self.tree.enter(self.branch(sequence), token_ids, sequence.blocks[len(path)])
            sequence.blocks[len(path)] = node.block
            path.append(node)

    def label(self, sequence: Sequence) -> None:
        """Attach its labels along the prompt.

        Nobody knows at which token a label's text ends; they are spread evenly, so that when the tree is cut back from
        its leaves the shorter beginnings stay known for longer.
        """
        path = self._paths[sequence.key]
        blocks, count = blocks_for(sequence.prompt_length), len(sequence.labels)
        for number, label in enumerate(sequence.labels, 1):
            at = -(-blocks * number // count) - 1
            if at < len(path):  # of a prompt that was left early only the shorter beginnings are here
                self.tree.label(path[at], (label,))

    def keep(self, sequence: Sequence) -> None:
        """It leaves; all it computed stays in the tree, its partial end too."""
        path = self._paths[sequence.key]
        tail = tuple(sequence.token_ids[len(path) * BLOCK_POSITIONS : sequence.computed])
        if tail and sequence.key not in self._pending:
            path.append(self.tree.enter(self.branch(sequence), tail, sequence.blocks[len(path)]))
        self.label(sequence)
        self.drop(sequence)

    def drop(self, sequence: Sequence) -> None:
        """It leaves; what is in its private blocks is forgotten."""
        path = self._paths.pop(sequence.key)
        self._withdraw(sequence.key)
        for block in sequence.blocks[len(path) :]:
            self.pool.release(block)
        for node in reversed(path):
            self.tree.release(node)
        sequence.blocks = []
        sequence.computed = 0

    def _find(self, sequence: Sequence) -> Found:
        root = self.tree.root(sequence.stretch)
        return self.tree.find(root, sequence.token_ids, len(sequence.token_ids) - 1)

    def _begin_inside(self, sequence: Sequence, source: Node, positions: int) -> None:
        """Begin a private block as a copy, if there is one to be had beside the source."""
        self.tree.hold(source)
        end = sequence.computed + positions
        if self.grow(sequence, end) < end:
            self.tree.release(source)
            return
        self._pending[sequence.key] = _Pending(Copy(source.block, sequence.blocks[-1], positions), source)
        sequence.computed = end

    def _withdraw(self, key: str) -> None:
        pending = self._pending.pop(key, None)
        if pending is not None:
            self.tree.release(pending.source)
