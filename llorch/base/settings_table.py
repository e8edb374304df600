"""THE table of settings: every key of `llorch.toml`, its flag, environment variable, default and when a change counts.

Command lines, `llorch config`, the reload of orchestratord and spec/operations.md are made of it.
"""

from __future__ import annotations

from collections.abc import Mapping

from llorch.base.settings import Change, Kind, Setting

TEN_YEARS_S = 10 * 365 * 86_400
MIB_MAX = 1 << 24
TENANT_NUMBER_MAX = 1e15
UNBOUNDED = -1
QUEUE_MAX = 1_000_000_000
LOG_FORMATS = ("text", "json")


def _seconds(key: str, default: float | None, help_line: str, env: str | None = None) -> Setting:
    return Setting(key, Kind.NUMBER, default, help_line, env, low=0, high=TEN_YEARS_S)


def _fixed(key: str, kind: Kind, default: object, help_line: str, choices: tuple[str, ...] = ()) -> Setting:
    """A setting of orchestratord that a running one does not change."""
    low, high = (0, 65535) if key == "port" else (None, None)
    return Setting(key, kind, default, help_line, None, choices, low, high, Change.RESTART)


ORCHESTRATORD = (
    _fixed("port", Kind.INTEGER, 8080, "port to listen on; 0 takes a free one"),
    _fixed("bind", Kind.TEXT, "127.0.0.1", "address to listen on"),
    _fixed("mode", Kind.TEXT, "home", "home: loopback needs no key; lab, platform: keys", ("home", "lab", "platform")),
    Setting("queue_capacity", Kind.INTEGER, 10_000, "jobs that may wait; -1: no bound", low=UNBOUNDED, high=QUEUE_MAX),
    _fixed("insecure_lan", Kind.SWITCH, False, "listen beyond loopback without any key"),
    _fixed("tls_cert", Kind.TEXT, None, "PEM file with the server's certificate chain"),
    _fixed("tls_key", Kind.TEXT, None, "PEM file with its private key"),
    _seconds("queue_timeout_s", 600.0, "longest wait of an interactive job"),
    _seconds("first_token_timeout_s", 120.0, "longest wait for a first token"),
    _seconds("stall_timeout_s", 30.0, "longest silence between tokens"),
    _seconds("disconnect_grace_s", 0.0, "how long a dropped stream may come back"),
    _seconds("output_kept_s", 600.0, "how long an output can be read after its job's end"),
    _seconds("record_kept_s", 7 * 86400.0, "how long a job's record is kept"),
    _seconds("grace_s", 10.0, "how long SIGTERM waits for running jobs"),
    Setting("connections_max", Kind.INTEGER, 10_000, "open connections at once", low=1, high=QUEUE_MAX),
    _fixed("policy", Kind.TEXT, None, "policy script; else policy.star in the state directory, if there"),
    Setting("autospawn", Kind.SWITCH, False, "load models on demand, on this host and on the pools of llorch.toml"),
    _seconds("idle_ttl_s", 600.0, "how long an idle worker that autospawn started stays"),
    _seconds("spawn_timeout_s", 600.0, "how long loading a model may take"),
    _seconds("residency_min_s", 30.0, "how long a model stays before it makes room"),
    _seconds("swap_age_max_s", 60.0, "longest wait for a model that others keep out"),
    _seconds("scale_out_eta_s", 60.0, "queue that calls for one more worker, in time"),
    _fixed("log_format", Kind.TEXT, "text", "form of the log lines", LOG_FORMATS),
    _fixed("log_file", Kind.TEXT, None, "log to this file, rotated, not to stderr"),
    Setting(
        "log_level",
        Kind.TEXT,
        "info",
        "least level that is logged",
        choices=("debug", "info", "warning", "error"),
    ),
)


def _worker(
    key: str,
    kind: Kind,
    default: object,
    help_line: str,
    bounds: tuple[float, float] | tuple[None, None] = (None, None),
    *,
    choices: tuple[str, ...] = (),
    env: str | None = None,
    flag: str | None = None,
    metavar: str = "",
) -> Setting:
    """A machine-wide habit of workers; what names one worker (id, model, port, callback) is a flag only."""
    variable = f"LLORCH_WORKER_{key.upper()}" if env is None else env
    return Setting(key, kind, default, help_line, variable, choices, bounds[0], bounds[1], Change.NEXT, flag, metavar)


WORKER = (
    _worker("bind", Kind.TEXT, "127.0.0.1", "address to listen on; elsewhere than loopback a token is needed"),
    _worker(
        "dtype",
        Kind.TEXT,
        "auto",
        "arithmetic; auto: as stored, where the processor can",
        choices=("auto", "fp32", "bf16"),
    ),
    _worker(
        "kernels",
        Kind.TEXT,
        "auto",
        "what computes on a CPU; auto: native where processor, model and dtype allow",
        choices=("auto", "native", "torch"),
    ),
    _worker(
        "quantize",
        Kind.TEXT,
        "none",
        "int8: quantise the weights while loading, with the native kernels",
        choices=("none", "int8"),
    ),
    _worker("cpu_isa", Kind.TEXT, None, "variant of the native kernels", env="LLORCH_CPU_ISA", flag=""),
    _worker(
        "kv_mib",
        Kind.INTEGER,
        None,
        "memory for keys and values (default: as slots and context need)",
        (1, MIB_MAX),
        metavar="MIB",
    ),
    _worker("slots", Kind.INTEGER, 8, "sequences at the same time", (1, 256)),
    _worker(
        "context",
        Kind.INTEGER,
        None,
        "positions per sequence (default: the model's own, as memory allows)",
        (2, MIB_MAX),
    ),
    _worker(
        "threads",
        Kind.INTEGER,
        None,
        "CPU threads, at most one a processor (default: as fits model and machine)",
        (1, 256),
    ),
    _worker("grace_s", Kind.NUMBER, 10.0, "how long SIGTERM waits for live jobs", (0, TEN_YEARS_S), flag=""),
    _worker("log_format", Kind.TEXT, "text", "form of log lines", choices=LOG_FORMATS, env="LLORCH_LOG_FORMAT"),
)

POOL = (Setting("repo", Kind.TEXT, None, "source checkout of this host", "LLORCH_REPO", change=Change.NEXT, flag=""),)

# One section each: [tenants.NAME], [models.ID], [pools.NAME].
TENANT = (
    Setting(
        "weight", Kind.NUMBER, 1.0, "share of generated tokens beside the others'", low=0.001, high=TENANT_NUMBER_MAX
    ),
    Setting("running_max", Kind.INTEGER, None, "jobs on workers at once", low=1, high=TENANT_NUMBER_MAX),
    Setting("queued_max", Kind.INTEGER, None, "jobs that may wait", low=1, high=TENANT_NUMBER_MAX),
    Setting("tokens_per_day", Kind.INTEGER, None, "prompt and generated, UTC", low=1, high=TENANT_NUMBER_MAX),
    Setting("requests_per_s", Kind.NUMBER, None, "jobs submitted in a second", low=0.001, high=TENANT_NUMBER_MAX),
    Setting("models", Kind.NAMES, None, "the models that may be used (default: all)"),
)
MODEL = (
    Setting("replicas_min", Kind.INTEGER, 0, "workers that are always kept", low=0, high=1000),
    Setting("replicas_max", Kind.INTEGER, 1, "workers that a long queue may call for", low=0, high=1000),
    _seconds("ttl_s", None, "how long an idle worker stays (default: idle_ttl_s)"),
    Setting("pinned", Kind.SWITCH, False, "its last worker is never unloaded"),
    Setting("pools", Kind.NAMES, None, "where it may run (default: anywhere)"),
)
PROFILE = (
    Setting("host", Kind.TEXT, None, "name or address for SSH (default: the pool's name)"),
    Setting("user", Kind.TEXT, None, "default: what ssh would take"),
    Setting("port", Kind.INTEGER, None, "SSH port, default: what ssh would take"),
    Setting("path", Kind.TEXT, None, "where llorch-pool (or llorch) is over there"),
    Setting("repo", Kind.TEXT, None, "source checkout over there"),
    Setting("labels", Kind.NAMES, None, "words for it"),
    Setting("mac", Kind.TEXT, None, "its network card's address, for waking it"),
    Setting("tunnel", Kind.SWITCH, False, "workers stay on its loopback and are reached through SSH"),
    Setting("limits", Kind.TABLE, None, "`memory_mib`: main memory for all workers there; autospawn stays below it"),
)

# What stands above all sections, and what only the environment says.
CLIENT = (
    Setting(
        "orchestrator",
        Kind.TEXT,
        None,
        "URL of orchestratord, for the CLIs and for workers (default: this host's)",
        change=Change.NEXT,
    ),
)
ENVIRONMENT = (
    Setting("config", Kind.TEXT, None, "this file (default: llorch/llorch.toml where XDG says)"),
    Setting("state", Kind.TEXT, None, "state directory of daemons", change=Change.RESTART),
    Setting("home", Kind.TEXT, None, "catalog, models and workers of this host", change=Change.NEXT, flag=""),
    Setting("cache", Kind.TEXT, None, "unpacked runtimes", change=Change.NEXT, flag=""),
    Setting(
        "worker_token_file", Kind.TEXT, None, "the cluster's worker token", change=Change.NEXT, flag="--token-file"
    ),
    Setting("api_key", Kind.TEXT, None, "client key", change=Change.NEXT, flag="--key-file", secret=True),
)

SECTIONS: Mapping[str, tuple[Setting, ...]] = {"orchestratord": ORCHESTRATORD, "worker": WORKER, "pool": POOL}
FAMILIES: Mapping[str, tuple[Setting, ...]] = {"tenants": TENANT, "models": MODEL, "pools": PROFILE}


def keys(rows: tuple[Setting, ...]) -> tuple[str, ...]:
    """Their names in the file."""
    return tuple(row.key for row in rows)
