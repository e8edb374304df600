"""Our loaded engine against a peer in one number format: what each side measures, and the ratios that come of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from peers.child import Child
from peers.figures import Figures
from peers.llamacpp import LlamaCpp

SHORT = 128
STEPS = 24
PROMPT = 512
GENERATE = 64
LONG_BATCH = 8
Side = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Names:
    """`label` is our format, `theirs` what their samples end in, `rival` what the ratio is against."""

    label: str
    theirs: str
    rival: str


@dataclass(frozen=True, slots=True)
class Duel:
    """Sides come in lists, ours first: whoever runs them takes turns. Without a peer we measure alone."""

    figures: Figures
    names: Names
    ours: Child
    peer: LlamaCpp | None
    model: Path | None
    hugepages: bool = False

    def single(self, *, decode: bool, prefill: bool) -> list[Side]:
        """One sequence: decoding, and a prompt of 512 tokens."""
        label = self.names.label
        sides = [partial(one_sequence, self.figures, self.ours, f"{label}_ours", decode=decode, prefill=prefill)]
        for name, huge in self._peer_names():
            sides.append(partial(self._their_single, name, decode=decode, prefill=prefill, huge=huge))
        return sides

    def batched(self, batches: Sequence[int]) -> list[Side]:
        """Several sequences decoded together."""
        sides: list[Side] = [partial(self._our_decode, f"{self.names.label}_ours", batches, SHORT)]
        sides += [partial(self._their_batched, name, batches, huge=huge) for name, huge in self._peer_names()]
        return sides

    def long(self, context: int) -> list[Side]:
        """One sequence and eight, decoded after a long context."""
        sides: list[Side] = [partial(self._our_decode, f"{self.names.label}_ctx2048_ours", (1, LONG_BATCH), context)]
        if self.peer is not None:
            sides.append(partial(self._their_long, f"{self.names.theirs}_ctx2048", context))
        return sides

    def show(self) -> None:
        """Print what was measured: absolute figures, then our ratio to each."""
        label, rival = self.names.label, self.names.rival
        for what in ("decode_b1", "decode_b8", "decode_b16", f"prefill{PROMPT}"):
            ours = f"{what}_{label}_ours"
            if self.figures.has(ours):
                self.figures.show(ours)
            short = self.figures.ratio(f"{what}_{label}_vs_{rival}", ours, f"{what}_{self.names.theirs}")
            tuned = f"{what}_{self.names.theirs}_hugepages"
            self.figures.ratio(f"{what}_{label}_vs_{rival}_hugepages", ours, tuned)
            ours, theirs = f"{what}_{label}_ctx2048_ours", f"{what}_{self.names.theirs}_ctx2048"
            if self.figures.has(ours):
                self.figures.show(ours)
            long = self.figures.ratio(f"{what}_{label}_ctx2048_vs_{rival}", ours, theirs)
            if long is not None and short is not None:
                self.figures.line(f"{what}_{label}_ctx2048_kept", long / short)

    def _peer_names(self) -> list[tuple[str, bool]]:
        if self.peer is None:
            return []
        theirs = self.names.theirs
        return [(theirs, False), (f"{theirs}_hugepages", True)] if self.hugepages else [(theirs, False)]

    def _our_decode(self, name: str, batches: Sequence[int], context: int) -> None:
        for batch in batches:
            answer = self.ours.ask("decode", batch=batch, context=context, steps=STEPS)
            self.figures.add(f"decode_b{batch}_{name}", answer["tokens_per_s"])

    def _their_single(self, name: str, *, decode: bool, prefill: bool, huge: bool) -> None:
        peer, model = self._their()
        speeds = peer.bench(model, prompt=PROMPT * prefill, generate=GENERATE * decode, huge=huge)
        if prefill:
            self.figures.add(f"prefill{PROMPT}_{name}", speeds.pop(0))
        if decode:
            self.figures.add(f"decode_b1_{name}", speeds.pop(0))

    def _their_batched(self, name: str, batches: Sequence[int], *, huge: bool) -> None:
        peer, model = self._their()
        for batch, speed in peer.batched(model, batches, context=SHORT, huge=huge).items():
            self.figures.add(f"decode_b{batch}_{name}", speed)

    def _their_long(self, name: str, context: int) -> None:
        peer, model = self._their()
        (speed,) = peer.bench(model, generate=STEPS, depth=context)
        self.figures.add(f"decode_b1_{name}", speed)
        for batch, speed in peer.batched(model, (LONG_BATCH,), context=context, generate=STEPS).items():
            self.figures.add(f"decode_b{batch}_{name}", speed)

    def _their(self) -> tuple[LlamaCpp, Path]:
        assert self.peer is not None and self.model is not None
        return self.peer, self.model


def one_sequence(figures: Figures, child: Child, name: str, *, decode: bool, prefill: bool) -> None:
    """What a child measures with one sequence: ours, and transformers likewise."""
    if decode:
        answer = child.ask("decode", batch=1, context=SHORT, steps=STEPS)
        figures.add(f"decode_b1_{name}", answer["tokens_per_s"])
    if prefill:
        figures.add(f"prefill{PROMPT}_{name}", child.ask("prefill", tokens=PROMPT)["tokens_per_s"])


def take_turns(
    title: str, rounds: int, contests: Sequence[Sequence[Side]], before: Side, say: Callable[[str], None]
) -> None:
    """Every side of every contest, round after round; who begins changes from round to round."""
    for number in range(rounds):
        say(f"{title}, round {number + 1} of {rounds}")
        before()
        for sides in contests:
            first = number % len(sides)
            for side in (*sides[first:], *sides[:first]):
                side()
