"""Figures for Prometheus: a few counters and histograms, written as text. Never holds prompts, keys or job ids."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

LATENCY_BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


class Counter:
    """A number that grows, by one label."""

    def __init__(self, name: str, help_line: str, label: str = "") -> None:
        self.name, self.help, self._label = name, help_line, label
        self._values: dict[str, float] = {} if label else {"": 0.0}

    def add(self, amount: float = 1.0, value: str = "") -> None:
        """Count `amount` under the label's `value`."""
        self._values[value] = self._values.get(value, 0.0) + amount

    def lines(self) -> Iterable[str]:
        """The exposition lines."""
        return _lines(self.name, self.help, "counter", self._label, self._values)


class Histogram:
    """Durations in seconds, in fixed buckets."""

    def __init__(self, name: str, help_line: str) -> None:
        self.name, self.help = name, help_line
        self._counts = [0] * (len(LATENCY_BOUNDS_S) + 1)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        place = next((n for n, bound in enumerate(LATENCY_BOUNDS_S) if seconds <= bound), len(LATENCY_BOUNDS_S))
        self._counts[place] += 1
        self._sum += seconds

    def lines(self) -> Iterable[str]:
        """The exposition lines."""
        yield f"# HELP {self.name} {self.help}"
        yield f"# TYPE {self.name} histogram"
        total = 0
        for bound, count in zip((*map(str, LATENCY_BOUNDS_S), "+Inf"), self._counts, strict=True):
            total += count
            yield f'{self.name}_bucket{{le="{bound}"}} {total}'
        yield f"{self.name}_sum {self._sum:.6f}"
        yield f"{self.name}_count {total}"


class Metrics:
    """Everything orchestratord counts."""

    def __init__(self) -> None:
        self.jobs = Counter("llorch_jobs_total", "Jobs that ended, and jobs accepted or refused.", "state")
        self.attempts_failed = Counter("llorch_attempts_failed_total", "Attempts that broke off, by kind.", "kind")
        self.frames = Counter("llorch_token_frames_relayed_total", "Token frames passed on to clients.")
        self.commits_failed = Counter("llorch_commits_failed_total", "Turns that could not be stored.")
        self.queue_wait = Histogram("llorch_queue_wait_seconds", "From acceptance to dispatch.")
        self.ttft = Histogram("llorch_time_to_first_token_seconds", "From acceptance to the first token.")

    def text(self, gauges: Mapping[str, float], workers: Mapping[str, float]) -> str:
        """The whole page; `gauges` are name to value, `workers` state to count."""
        parts: list[str] = []
        for source in (self.jobs, self.attempts_failed, self.frames, self.commits_failed, self.queue_wait, self.ttft):
            parts += source.lines()
        for name, value in gauges.items():
            parts += _lines(name, name.removeprefix("llorch_").replace("_", " ") + ".", "gauge", "", {"": value})
        parts += _lines("llorch_workers", "Workers by state.", "gauge", "state", workers)
        return "\n".join(parts) + "\n"


def _lines(name: str, help_line: str, kind: str, label: str, values: Mapping[str, float]) -> Iterable[str]:
    yield f"# HELP {name} {help_line}"
    yield f"# TYPE {name} {kind}"
    for value, count in sorted(values.items()):
        yield f'{name}{{{label}="{value}"}} {count:g}' if label else f"{name} {count:g}"
