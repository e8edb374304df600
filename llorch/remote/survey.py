"""What the pools say about running a model now, and which of them is the best place for it.

Asking is `llorch-pool models info` on each; the choice is a pure function of the answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from llorch.base.errors import HostError, InsufficientMemory, LlorchError, ModelNotFound, NotFound, SshFailed
from llorch.host.pool_session import Done, open_session
from llorch.host.targets import SshTarget
from llorch.remote import terminal
from llorch.wire import strict_json

LOCAL = "local"
ASK_TIMEOUT_S = 60.0
_NO_PROGRAM = 127
_RUNTIME_BYTES = 300 << 20  # as llorch-pool estimates a worker beside its weights
# Weights as published, in bytes: what to offer instead of a model that is too large.
_SMALLER = {"qwen-0.5b": 988_000_000, "tinyllama": 2_200_000_000, "phi3": 7_640_000_000, "mistral": 14_480_000_000}


@dataclass(frozen=True, slots=True)
class Place:
    """A pool that may serve; `target` None is this machine."""

    name: str
    target: SshTarget | None

    @property
    def tunnel(self) -> str | None:
        """As which pool orchestratord has a tunnel to it; None: its workers are reached over the LAN."""
        return self.name.lower() if self.target is not None and self.target.tunnel else None


@dataclass(frozen=True, slots=True)
class Backend:
    """One backend of a pool: memory a worker would take there (None: not known) and what is free, in bytes."""

    name: str
    needed_bytes: int | None
    free_bytes: int
    is_measured: bool = False

    @property
    def lacks_bytes(self) -> int:
        """How much too small it is; 0: it fits, as far as is known."""
        return max(0, (self.needed_bytes or 0) - self.free_bytes)


@dataclass(frozen=True, slots=True)
class Offer:
    """What one pool says: `size_bytes` of files it has or would fetch (0: not known), and who serves there already."""

    place: Place
    model: str
    is_here: bool
    size_bytes: int
    disk_free_bytes: int
    backends: tuple[Backend, ...]
    workers: tuple[str, ...]

    @property
    def disk_lacks_bytes(self) -> int:
        """How much disk is missing for the files."""
        return 0 if self.is_here else max(0, self.size_bytes - self.disk_free_bytes)

    @property
    def backend(self) -> Backend | None:
        """The best one that fits: a GPU before the processor, then the one with most room."""
        fitting = [backend for backend in self.backends if not backend.lacks_bytes]
        return max(fitting, key=lambda one: (one.name != "cpu", one.free_bytes - (one.needed_bytes or 0)), default=None)

    @property
    def fits(self) -> bool:
        """Can this pool serve the model now?"""
        return self.backend is not None and not self.disk_lacks_bytes

    def sized(self, size_bytes: int) -> Offer:
        """The same, now that the size is known from another pool."""
        if self.size_bytes or not size_bytes:
            return self
        about = size_bytes + _RUNTIME_BYTES
        backends = tuple(b if b.needed_bytes else replace(b, needed_bytes=about) for b in self.backends)
        return replace(self, size_bytes=size_bytes, backends=backends)


def parse_offer(place: Place, body: Mapping[str, Any]) -> Offer:
    """The JSON of `models info`. Raises HostError when it is not that."""
    try:
        is_here, hub = bool(body["downloaded"]), body.get("hub")
        size = int(body["size_bytes"]) if is_here else int(hub["size_bytes"]) if hub else 0
        rows = [row for row in body["fit"] if isinstance(row, dict)]
        backends = [
            Backend(
                str(row["backend"]), row.get("needed_bytes"), int(row["free_bytes"]), row.get("origin") == "measured"
            )
            for row in rows
        ]
        free = int(body["disk"]["free_bytes"])
        return Offer(place, str(body["id"]), is_here, size, free, tuple(backends), tuple(map(str, body["workers"])))
    except (KeyError, TypeError, ValueError):
        raise HostError(
            f"{place.name}: llorch-pool there does not answer 'models info --json' as this version does"
        ) from None


async def ask(places: Sequence[Place], model: str) -> list[Offer]:
    """What every place says, in their order; the hub is asked for the size only where no pool has the model.

    Places that do not answer are told about and left out. Raises the first one's error when none is left.
    """
    offers = await _ask_all(places, ["models", "info", model, "--json"])
    if not any(offer.is_here for offer in offers):
        # Any of them will do, and one whose fetching fails says why.
        asked = [offer.place for offer in offers]
        return await _ask_all(asked, ["models", "info", model, "--json", "--hub"])
    size = next(offer.size_bytes for offer in offers if offer.is_here)
    return [offer.sized(size) for offer in offers]


async def _ask_all(places: Sequence[Place], words: list[str]) -> list[Offer]:
    answers = await asyncio.gather(*(_ask(place, words) for place in places))
    offers = [answer for answer in answers if isinstance(answer, Offer)]
    failures = [answer for answer in answers if isinstance(answer, LlorchError)]
    if not offers:
        raise failures[0]
    for failure in failures:
        terminal.tell(f"left out: {failure.message}")
    return offers


async def _ask(place: Place, words: list[str]) -> Offer | LlorchError:
    try:
        async with asyncio.timeout(ASK_TIMEOUT_S), open_session(place.target) as session:
            done = await session.run(words)
        if done.exit_code != 0:
            return failure_of(place, done)
        return parse_offer(place, strict_json.parse_object(done.out))
    except TimeoutError:
        return HostError(f"{place.name}: no answer within {ASK_TIMEOUT_S:g} s")
    except SshFailed as error:
        lead = "" if error.message.startswith(place.name) else f"{place.name}: "
        return SshFailed(lead + error.message)
    except LlorchError as error:
        return error


def failure_of(place: Place, done: Done) -> LlorchError:
    """The error of a command on a pool, with its exit code and its own words."""
    lead = "" if place.target is None else f"{place.name}: "
    if done.exit_code == _NO_PROGRAM and place.target is not None:
        return NotFound(f"{lead}no llorch-pool there; bring it with: llorch pool install --host {place.name}")
    kinds = {ModelNotFound.exit_code: ModelNotFound}
    error = kinds.get(done.exit_code, HostError)(lead + done.complaint)
    error.exit_code = done.exit_code
    return error


def choose(offers: Sequence[Offer]) -> Offer:
    """The best place: with a GPU, with the files already there, with most room; else the first named.

    Raises InsufficientMemory that says, by pool, what is missing and what would fit.
    """
    fitting = [offer for offer in offers if offer.fits]
    if not fitting:
        raise InsufficientMemory(_refusal(offers))
    return max(fitting, key=_rank)


def _rank(offer: Offer) -> tuple[bool, bool, int]:
    backend = offer.backend
    assert backend is not None
    return backend.name != "cpu", offer.is_here, backend.free_bytes - (backend.needed_bytes or 0)


def _refusal(offers: Sequence[Offer]) -> str:
    reasons = "; ".join(_why_not(offer) for offer in offers)
    room = max((backend.free_bytes for offer in offers for backend in offer.backends), default=0)
    disk = max((offer.disk_free_bytes for offer in offers), default=0)
    known = {offer.model for offer in offers}
    smaller = [
        f"{name} (about {gigabytes(size + _RUNTIME_BYTES)})"
        for name, size in _SMALLER.items()
        if size + _RUNTIME_BYTES <= room and size <= disk and name not in known
    ]
    more = "stop other workers or programs, or add a pool"
    if any(offer.disk_lacks_bytes for offer in offers):
        more = "free some disk (llorch-pool models delete ID), or add a pool"
    advice = f"what would fit: {', '.join(smaller)}" if smaller else more
    return f"model '{offers[0].model}' does not fit: {reasons}; {advice}"


def _why_not(offer: Offer) -> str:
    name = offer.place.name
    if offer.disk_lacks_bytes:
        return (
            f"{name} lacks {gigabytes(offer.disk_lacks_bytes)} of disk ({gigabytes(offer.size_bytes)} needed, "
            f"{gigabytes(offer.disk_free_bytes)} free)"
        )
    if not offer.backends:
        return f"{name} has no backend that works (llorch-pool backends)"
    parts = [
        f"{gigabytes(backend.lacks_bytes)} of memory for {backend.name} ({gigabytes(backend.needed_bytes or 0)} "
        f"needed, {gigabytes(backend.free_bytes)} free)"
        for backend in offer.backends
    ]
    return f"{name} lacks {' and '.join(parts)}"


def fit_line(offer: Offer) -> str:
    """That it fits, for people."""
    backend = offer.backend
    assert backend is not None
    free = f"{gigabytes(backend.free_bytes)} free"
    if not backend.needed_bytes:
        return f"{backend.name}, {free}"
    how = "measured" if backend.is_measured else "estimated"
    return f"{backend.name}, {gigabytes(backend.needed_bytes)} of memory needed ({how}), {free}"


def gigabytes(count: int) -> str:
    """`12.3 GB`, or megabytes below one."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
