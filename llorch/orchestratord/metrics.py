"""Figures for Prometheus: a few counters and histograms, written as text. Never holds prompts, keys or job ids."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from llorch.base.ids import TenantId
from llorch.core.policy import Hook
from llorch.core.tenant import UsageRecord
from llorch.scripting.faults import Reason

TENANT_LABELS_MAX = 100
OTHER_TENANTS = "_other"
LATENCY_BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
LOAD_BOUNDS_S = (0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0)
CALL_BOUNDS_S = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)


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

    def __init__(self, name: str, help_line: str, bounds_s: Sequence[float] = LATENCY_BOUNDS_S) -> None:
        self.name, self.help = name, help_line
        self._bounds_s = bounds_s
        self._counts = [0] * (len(bounds_s) + 1)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        place = next((n for n, bound in enumerate(self._bounds_s) if seconds <= bound), len(self._bounds_s))
        self._counts[place] += 1
        self._sum += seconds

    def lines(self) -> Iterable[str]:
        """The exposition lines."""
        yield f"# HELP {self.name} {self.help}"
        yield f"# TYPE {self.name} histogram"
        total = 0
        for bound, count in zip((*map(str, self._bounds_s), "+Inf"), self._counts, strict=True):
            total += count
            yield f'{self.name}_bucket{{le="{bound}"}} {total}'
        yield f"{self.name}_sum {self._sum:.6f}"
        yield f"{self.name}_count {total}"


class PolicyFigures:
    """How often a policy script was asked, how long it took, and how often the built-in policy had to answer."""

    def __init__(self) -> None:
        self._calls: dict[Hook, int] = {}
        self._fallbacks: dict[Hook, dict[Reason, int]] = {}
        self._seconds = Histogram("llorch_policy_call_seconds", "From question to answer.", CALL_BOUNDS_S)

    def asked(self, hook: Hook, seconds: float) -> None:
        """The script was asked."""
        self._calls[hook] = self._calls.get(hook, 0) + 1
        self._seconds.observe(seconds)

    def fell_back(self, hook: Hook, reason: Reason) -> None:
        """The built-in policy has to answer."""
        reasons = self._fallbacks.setdefault(hook, {})
        reasons[reason] = reasons.get(reason, 0) + 1

    def counts(self) -> dict[str, object]:
        """`calls` by hook, `fallbacks` by hook and reason."""
        return {"calls": dict(self._calls), "fallbacks": {hook: dict(n) for hook, n in self._fallbacks.items()}}

    def lines(self) -> Iterable[str]:
        """The exposition lines; none when no script was ever asked."""
        if not self._calls and not self._fallbacks:
            return
        calls = {hook.value: float(count) for hook, count in self._calls.items()}
        yield from _lines("llorch_policy_calls_total", "Questions put to the script.", "counter", "hook", calls)
        yield "# HELP llorch_policy_fallback_total Questions that the built-in policy answered instead of the script."
        yield "# TYPE llorch_policy_fallback_total counter"
        for hook, reasons in sorted(self._fallbacks.items()):
            for reason, count in sorted(reasons.items()):
                yield f'llorch_policy_fallback_total{{hook="{hook.value}",reason="{reason.value}"}} {count}'
        yield from self._seconds.lines()


class LoadFigures:
    """What was done about models on pools."""

    def __init__(self) -> None:
        self.spawns = Counter("llorch_spawns_total", "Workers started by orchestratord, by outcome.", "outcome")
        self.stops = Counter("llorch_stops_total", "Workers stopped by orchestratord, by cause.", "cause")
        self.evictions = Counter("llorch_evictions_total", "Workers stopped to make room for another model.")
        self.swaps = Counter("llorch_swaps_total", "Workers started in the place of evicted ones.")
        self.wakes = Counter("llorch_pool_wakes_total", "Packets sent to wake a pool.")
        self.load_s = Histogram("llorch_load_seconds", "From a spawn's begin until its worker is ready.", LOAD_BOUNDS_S)

    def lines(self) -> Iterable[str]:
        """The exposition lines."""
        for source in (self.spawns, self.stops, self.evictions, self.swaps, self.wakes, self.load_s):
            yield from source.lines()


class TenantCounters:
    """What tenants took since this process started, by the usage that is stored for them."""

    def __init__(self) -> None:
        self._jobs = Counter("llorch_tenant_jobs_total", "Jobs that ended with a result.", "tenant")
        self._tokens = Counter("llorch_tenant_tokens_total", "Prompt and generated tokens.", "tenant")
        self._seen: dict[TenantId, UsageRecord] = {}
        self._labels: set[str] = set()

    def begin(self, usage: Iterable[UsageRecord]) -> None:
        """What had been taken before."""
        for record in usage:
            self._seen[record.tenant] = max(record, self._seen.get(record.tenant, record), key=lambda found: found.day)

    def took(self, record: UsageRecord) -> None:
        """A tenant's record of the day has grown."""
        before = self._seen.get(record.tenant)
        if before is None or before.day != record.day:
            before = UsageRecord(record.tenant, record.day)
        self._seen[record.tenant] = record
        label = self._label(record.tenant)
        self._jobs.add(record.jobs - before.jobs, label)
        tokens = record.prompt_tokens + record.tokens_out - before.prompt_tokens - before.tokens_out
        self._tokens.add(tokens, label)

    def _label(self, tenant: TenantId) -> str:
        if tenant in self._labels or len(self._labels) < TENANT_LABELS_MAX:
            self._labels.add(tenant)
            return tenant
        return OTHER_TENANTS

    def text(self) -> str:
        """The exposition lines."""
        return "\n".join((*self._jobs.lines(), *self._tokens.lines())) + "\n"


class Metrics:
    """Everything orchestratord counts."""

    def __init__(self) -> None:
        self.jobs = Counter("llorch_jobs_total", "Jobs that ended, and jobs accepted or refused.", "state")
        self.attempts_failed = Counter("llorch_attempts_failed_total", "Attempts that broke off, by kind.", "kind")
        self.frames = Counter("llorch_token_frames_relayed_total", "Token frames passed on to clients.")
        self.commits_failed = Counter("llorch_commits_failed_total", "Turns that could not be stored.")
        self.tenants = TenantCounters()
        self.queue_wait = Histogram("llorch_queue_wait_seconds", "From acceptance to dispatch.")
        self.ttft = Histogram("llorch_time_to_first_token_seconds", "From acceptance to the first token.")
        self.policy = PolicyFigures()
        self.loads = LoadFigures()

    def text(self, gauges: Mapping[str, float], workers: Mapping[str, float]) -> str:
        """The page but for `tenants`, which name people; `gauges` are name to value, `workers` state to count."""
        parts: list[str] = []
        for source in (self.jobs, self.attempts_failed, self.frames, self.commits_failed, self.queue_wait, self.ttft):
            parts += source.lines()
        parts += self.policy.lines()
        parts += self.loads.lines()
        for name, value in gauges.items():
            parts += _lines(name, name.removeprefix("llorch_").replace("_", " ") + ".", "gauge", "", {"": value})
        parts += _lines("llorch_workers", "Workers by state.", "gauge", "state", workers)
        return "\n".join(parts) + "\n"


def _lines(name: str, help_line: str, kind: str, label: str, values: Mapping[str, float]) -> Iterable[str]:
    yield f"# HELP {name} {help_line}"
    yield f"# TYPE {name} {kind}"
    for value, count in sorted(values.items()):
        yield f'{name}{{{label}="{value}"}} {count:g}' if label else f"{name} {count:g}"
