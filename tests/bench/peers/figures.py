"""Figures of one run: samples by name, then `key=value` lines with medians and their range, and ratios of medians."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from statistics import median


class Figures:
    """Every sample is a number whose name says what, how and whose; nothing is printed twice."""

    def __init__(self) -> None:
        self._samples: defaultdict[str, list[float]] = defaultdict(list)
        self._printed: set[str] = set()

    def add(self, name: str, value: float) -> None:
        self._samples[name].append(value)

    def has(self, *names: str) -> bool:
        """Is there at least one sample of each?"""
        return all(self._samples.get(name) for name in names)

    def median(self, name: str) -> float:
        return median(self._samples[name])

    def show(self, name: str) -> None:
        """`name=median min=... max=...`"""
        if name in self._printed:
            return
        self._printed.add(name)
        samples = self._samples[name]
        spread = f" min={_number(min(samples))} max={_number(max(samples))}" if len(samples) > 1 else ""
        print(f"{name}={_number(median(samples))}{spread}", flush=True)

    def ratio(self, key: str, above: str, below: str) -> float | None:
        """Print both medians and then their ratio; nothing, and None, when a side was not measured.

        `of_best` is the ratio of the best samples, which on a busy machine says more; the best of times (a name with
        `_s_` or `_ms_`) is the lowest.
        """
        if not self.has(above, below):
            return None
        self.show(above)
        self.show(below)
        value = self.median(above) / self.median(below)
        best = min if "_s_" in above or "_ms_" in above else max
        self.line(key, value, f" of_best={best(self._samples[above]) / best(self._samples[below]):.3f}")
        return value

    def line(self, key: str, value: float, more: str = "") -> None:
        """`key=value`, once."""
        if key not in self._printed:
            self._printed.add(key)
            print(f"{key}={value:.3f}{more}", flush=True)


def percentile(samples: Sequence[float], share: float) -> float:
    """The smallest sample that at least this share of them does not exceed."""
    assert samples
    ordered = sorted(samples)
    return ordered[max(0, -(-len(ordered) * round(share * 1000) // 1000) - 1)]


def _number(value: float) -> str:
    return f"{value:.3f}" if value < 10 else f"{value:.1f}"
