"""The prefix tree: blocks that outlive their sequences, found again by the exact token ids that led to them.

A node is one block: a whole one, or a partial one, which never has children. Whoever holds a node holds all nodes above
it and lets go of them from below, so that in the order of release a node always comes after its children: the node
that was released first is a leaf.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterable, Iterator
from collections.abc import Sequence as Items
from dataclasses import dataclass

from llorch.batching.blocks import BLOCK_POSITIONS, BlockPool
from llorch.batching.sequence import common_length

NODE_LABELS_MAX = 8

TokenIds = tuple[int, ...]


class Branch:
    """Where blocks may follow: a root, or a node."""

    __slots__ = ("_nodes", "_order")

    def __init__(self) -> None:
        self._nodes: dict[TokenIds, Node] = {}
        self._order: list[TokenIds] = []

    @property
    def children(self) -> Iterable[Node]:
        """The nodes that follow, in no order."""
        return self._nodes.values()

    def child(self, token_ids: TokenIds) -> Node | None:
        """The node with exactly these ids."""
        return self._nodes.get(token_ids)

    def nearest(self, token_ids: TokenIds) -> tuple[Node | None, int]:
        """The child that begins with most of these ids, and how many; None and 0 when no child begins like them."""
        at = bisect.bisect_left(self._order, token_ids)
        best: Node | None = None
        length = 0
        for key in self._order[max(0, at - 1) : at + 1]:  # the longest common beginning is a neighbour's
            common = common_length(key, token_ids)
            if common > length:
                best, length = self._nodes[key], common
        return best, length

    def before(self, token_ids: TokenIds) -> Node | None:
        """The child whose ids come just before these; a beginning of these would."""
        at = bisect.bisect_left(self._order, token_ids)
        return self._nodes[self._order[at - 1]] if at else None

    def put(self, node: Node) -> None:
        """Add a child."""
        self._nodes[node.token_ids] = node
        bisect.insort(self._order, node.token_ids)

    def remove(self, node: Node) -> None:
        """Take a child out."""
        del self._nodes[node.token_ids]
        del self._order[bisect.bisect_left(self._order, node.token_ids)]


class Node(Branch):
    """One block and the ids of its positions."""

    __slots__ = ("block", "labels", "parent", "token_ids")

    def __init__(self, parent: Branch, token_ids: TokenIds, block: int) -> None:
        super().__init__()
        self.parent = parent
        self.token_ids = token_ids
        self.block = block
        self.labels: dict[str, None] = {}


@dataclass(frozen=True, slots=True)
class Found:
    """Whole blocks from the beginning, and the node whose first `positions` positions are the next ones."""

    path: tuple[Node, ...]
    source: Node | None
    positions: int


class PrefixTree:
    """Holds each node's block once; a node nobody else holds is idle, and at most `idle_max` are kept.

    Labels are names of beginnings that somebody outside knows texts by; they are gone with the last node they are on.
    """

    def __init__(self, pool: BlockPool, idle_max: int) -> None:
        self.evicted = 0
        self._pool = pool
        self._idle_max = idle_max
        self._roots: dict[bool, Branch] = {}
        self._idle: dict[Node, None] = {}
        self._labels: dict[str, int] = {}

    @property
    def idle(self) -> int:
        """Blocks that can be had by `evict`."""
        return len(self._idle)

    def is_idle(self, node: Node) -> bool:
        """True when only the tree holds it."""
        return node in self._idle

    def root(self, stretch: bool) -> Branch:
        """Where sequences with this set of rotary frequencies begin: the other set's keys are of no use to them."""
        return self._roots.setdefault(stretch, Branch())

    def find(self, root: Branch, token_ids: Items[int], limit: int) -> Found:
        """The longest known beginning of the first `limit` ids."""
        path: list[Node] = []
        branch = root
        while (end := (len(path) + 1) * BLOCK_POSITIONS) <= limit:
            node = branch.child(tuple(token_ids[end - BLOCK_POSITIONS : end]))
            if node is None:
                break
            path.append(node)
            branch = node
        start = len(path) * BLOCK_POSITIONS
        source, positions = branch.nearest(tuple(token_ids[start : min(limit, start + BLOCK_POSITIONS)]))
        return Found(tuple(path), source, positions)

    def enter(self, parent: Branch, token_ids: TokenIds, block: int) -> Node:
        """Hand in a block that the caller holds, and hold the node of these ids instead.

        When the tree knows them already, the caller's block is given back and the known one is held.
        """
        known, common = parent.nearest(token_ids)
        if known is not None and common == len(token_ids):
            self.hold(known)
            self._pool.release(block)
            return known
        node = Node(parent, token_ids, block)
        shorter = parent.before(token_ids)
        parent.put(node)
        self._pool.share(block)
        if shorter is not None and self.is_idle(shorter) and token_ids[: len(shorter.token_ids)] == shorter.token_ids:
            self.label(node, shorter.labels)
            self._remove(shorter)
        return node

    def hold(self, node: Node) -> None:
        """Keep a node from being evicted."""
        self._pool.share(node.block)
        self._idle.pop(node, None)

    def release(self, node: Node) -> None:
        """Hold it no more."""
        self._pool.release(node.block)
        if self._pool.holders(node.block) == 1:
            self._idle[node] = None
            if len(self._idle) > self._idle_max:
                self.evict()

    def evict(self) -> None:
        """Free the block that has been idle for longest."""
        self._remove(next(iter(self._idle)))
        self.evicted += 1

    def clear(self) -> None:
        """Free all idle blocks."""
        while self._idle:
            self._remove(next(iter(self._idle)))

    def label(self, node: Node, labels: Iterable[str]) -> None:
        """Attach labels, the most useful one last."""
        for label in labels:
            known = label in node.labels
            node.labels.pop(label, None)
            node.labels[label] = None
            self._labels[label] = self._labels.pop(label, 0) + (0 if known else 1)
            if len(node.labels) > NODE_LABELS_MAX:
                oldest = next(iter(node.labels))
                del node.labels[oldest]
                self._unlabel(oldest)

    def labels(self, limit: int) -> tuple[str, ...]:
        """Labels of what is still here, the one attached last first."""
        return tuple(itertools.islice(reversed(self._labels), limit))

    def nodes(self) -> Iterator[Node]:
        """Every node, for whoever checks the tree."""
        branches = list(self._roots.values())
        while branches:
            for node in branches.pop().children:
                branches.append(node)
                yield node

    def _remove(self, node: Node) -> None:
        assert not node._nodes, "what is below is released first"
        del self._idle[node]
        node.parent.remove(node)
        self._pool.release(node.block)
        for label in node.labels:
            self._unlabel(label)

    def _unlabel(self, label: str) -> None:
        self._labels[label] -= 1
        if not self._labels[label]:
            del self._labels[label]
