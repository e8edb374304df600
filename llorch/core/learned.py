"""What the brain learned by watching, in numbers that follow the recent past."""

from __future__ import annotations

from collections import deque

from llorch.base.ids import ModelId

MEMORY_JOBS = 32


class Mean:
    """A mean that forgets: of all at first, later mostly of the last `MEMORY_JOBS`."""

    __slots__ = ("count", "value")

    def __init__(self) -> None:
        self.count = 0
        self.value = 0.0

    def note(self, value: float) -> None:
        self.count += 1
        self.value += (value - self.value) / min(self.count, MEMORY_JOBS)


class Speed:
    """How one model does: seconds from dispatch to first token, seconds a token after it, tokens a job."""

    __slots__ = ("token_s", "tokens_out", "ttft_s")

    def __init__(self) -> None:
        self.ttft_s = Mean()
        self.token_s = Mean()
        self.tokens_out = Mean()

    def known(self, jobs_min: int) -> bool:
        """Each was seen on at least so many jobs."""
        return min(self.ttft_s.count, self.token_s.count, self.tokens_out.count) >= jobs_min

    def expected_s(self, tokens_max: int | None) -> float:
        """Seconds from dispatch to the end of a job that may generate so many tokens."""
        tokens = self.tokens_out.value if tokens_max is None else min(self.tokens_out.value, float(tokens_max))
        return self.ttft_s.value + tokens * self.token_s.value


class Speeds:
    """Speed by model; None: of all together."""

    def __init__(self) -> None:
        self._of: dict[ModelId | None, Speed] = {}

    def of(self, lane: ModelId | None) -> Speed:
        return self._of.setdefault(lane, Speed())


class RetryBudget:
    """Retries may be a share of the recently accepted jobs plus a few: more would only feed what is overloaded.

    Time is kept in slices, so that memory does not grow with the number of jobs.
    """

    SLICES = 10

    def __init__(self, share: float, floor: int, window_s: float) -> None:
        self._share = share
        self._floor = floor
        self._slice_s = window_s / self.SLICES
        self._slices: deque[list[int]] = deque()
        self._accepted = 0
        self._retried = 0

    def accepted(self, now: float) -> None:
        """One more job was let in."""
        self._slice(now)[1] += 1
        self._accepted += 1

    def spend(self, now: float) -> bool:
        """Whether one more retry may happen at once; if so it is counted."""
        current = self._slice(now)
        if self._retried + 1 > self._share * self._accepted + self._floor:
            return False
        current[2] += 1
        self._retried += 1
        return True

    def _slice(self, now: float) -> list[int]:
        number = int(now // self._slice_s)
        while self._slices and self._slices[0][0] <= number - self.SLICES:
            _, accepted, retried = self._slices.popleft()
            self._accepted -= accepted
            self._retried -= retried
        if not self._slices or self._slices[-1][0] != number:
            self._slices.append([number, 0, 0])
        return self._slices[-1]
