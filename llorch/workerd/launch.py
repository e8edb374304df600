"""How a worker is started: flags, `[worker]` of llorch.toml, and which directory a model id means."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llorch.base import config, ids, settings_table
from llorch.base.errors import ConfigError, HostError, InvalidRequest, ModelNotFound, UsageError
from llorch.base.home import Home, find_home
from llorch.base.log import LogFormat
from llorch.base.settings import add_flags, resolve
from llorch.wire.catalog import EMBEDDED, Catalog, ModelEntry, parse_catalog

LOG_FILE_ENV = "LLORCH_WORKER_LOG_FILE"  # one worker's own, so that no machine-wide setting can name it
PORT_DEFAULT = 8001
BACKENDS = ("cpu", "cuda", "metal")
CATALOG_SIZE_MAX = 16 << 20


@dataclass(frozen=True, slots=True)
class Launch:
    """What this worker was asked to be. `context` None: the model's own; `threads` None: as the engine sees fit."""

    worker_id: str
    model: str
    port: int
    callback_url: str | None
    backend: str
    gpu: int
    bind: str
    token_file: Path | None
    dtype: str
    kernels: str
    quantize: str
    cpu_isa: str | None
    kv_mib: int | None
    slots: int
    context: int | None
    threads: int | None
    insecure_lan: bool
    grace_s: float
    log_format: LogFormat
    log_file: Path | None
    orchestrator: str | None


@dataclass(frozen=True, slots=True)
class Model:
    """The model to serve: its public id, its directory, the catalog's hints for the chat template."""

    id: str
    directory: Path
    architecture: str = ""
    template: str = ""


def parser(prog: str) -> argparse.ArgumentParser:
    """The command line of the worker."""
    made = argparse.ArgumentParser(
        prog=prog,
        description="Serve one model over HTTP: POST /execute streams tokens. It finds the orchestrator of this host "
        "by itself and also works without one.",
        epilog="example: llorch worker --model demo --port 8001",
        allow_abbrev=False,
    )
    add = made.add_argument
    add("--model", required=True, metavar="DIR_OR_ID", help="model directory (safetensors), or an id of the catalog")
    add(
        "--port", type=int, default=PORT_DEFAULT, help=f"port to listen on, 0 takes a free one (default {PORT_DEFAULT})"
    )
    add("--worker-id", metavar="ID", help="name of this worker (default: a fresh one)")
    add(
        "--callback-url",
        metavar="URL",
        help="where to announce readiness; none: nowhere (default: this host's orchestratord)",
    )
    add("--backend", choices=BACKENDS, default="cpu", help="what computes (default cpu)")
    add("--gpu", type=int, default=0, metavar="N", help="which GPU, for cuda and metal (default 0)")
    add("--token-file", type=Path, metavar="FILE", help="file with the worker token that callers must show")
    add("--insecure-lan", action="store_true", help="need no token even when others on the network can reach us")
    add_flags(made, settings_table.WORKER)
    return made


def read(argv: Sequence[str], env: Mapping[str, str], *, prog: str) -> Launch:
    """Flags > environment > llorch.toml > defaults. Raises ConfigError and UsageError; SystemExit for --help."""
    flags = parser(prog).parse_args(list(argv))
    file = config.load_file(config.config_path(env))
    found = {
        key: resolved.value
        for key, resolved in resolve(
            settings_table.WORKER, section="worker", flags=vars(flags), env=env, file=file
        ).items()
    }
    _check(flags)
    return Launch(
        worker_id=flags.worker_id or ids.new_worker_id(flags.backend),
        model=flags.model,
        port=flags.port,
        callback_url=flags.callback_url,
        backend=flags.backend,
        gpu=flags.gpu,
        bind=found["bind"],
        token_file=flags.token_file,
        dtype=found["dtype"],
        kernels=found["kernels"],
        quantize=found["quantize"],
        cpu_isa=found["cpu_isa"],
        kv_mib=found["kv_mib"],
        slots=found["slots"],
        context=found["context"],
        threads=found["threads"],
        insecure_lan=flags.insecure_lan,
        grace_s=found["grace_s"],
        log_format=LogFormat(found["log_format"]),
        log_file=Path(env[LOG_FILE_ENV]).absolute() if env.get(LOG_FILE_ENV) else None,
        orchestrator=env.get("LLORCH_ORCHESTRATOR") or _orchestrator(file),
    )


def _orchestrator(file: Mapping[str, Any]) -> str | None:
    value = file.get("orchestrator")
    if value is not None and not isinstance(value, str):
        raise ConfigError("config file: orchestrator must be a URL in quotes")
    return value or None


def _check(flags: argparse.Namespace) -> None:
    if not 0 <= flags.port <= 65535:
        raise UsageError("--port must be between 0 and 65535")
    if flags.worker_id is not None and not ids.WORKER_ID.fullmatch(flags.worker_id):
        raise UsageError(f"--worker-id must match {ids.WORKER_ID.pattern}")


def check_backend(backend: str, available: Sequence[str]) -> None:
    """Raises HostError for a backend this build cannot compute on; another one is never taken in its place."""
    if backend not in available:
        known = ", ".join(available)
        raise HostError(f"backend {backend} is not available: the torch of this build computes on {known} only")


def find_model(named: str, env: Mapping[str, str], assets_dir: Callable[[], Path]) -> Model:
    """The model that `--model` names: an id or alias of the catalog, else a directory.

    `assets_dir` is asked only for an embedded model: in the frozen file it may have to be unpacked.
    Raises ModelNotFound and HostError.
    """
    directory = Path(named).expanduser()
    if "/" not in named:
        catalog, home = _catalog(env)
        entry = catalog.find(named)
        if entry is not None:
            return _from_catalog(entry, home, assets_dir)
        if not directory.is_dir():
            catalog.get(named)  # raises with a suggestion
    if not (directory / "config.json").is_file():
        raise ModelNotFound(f"{named}: no model there (a directory with config.json is expected)")
    return Model(_id_of(directory), directory)


def _catalog(env: Mapping[str, str]) -> tuple[Catalog, Home]:
    home = find_home(env)
    try:
        with open(home.catalog_path, "rb") as file:
            return parse_catalog(file.read(CATALOG_SIZE_MAX)), home
    except FileNotFoundError:
        return Catalog(), home
    except (OSError, InvalidRequest) as error:
        raise HostError(f"the catalog {home.catalog_path} cannot be read: {error}") from None


def _from_catalog(entry: ModelEntry, home: Home, assets_dir: Callable[[], Path]) -> Model:
    if entry.embedded:
        directory = assets_dir() / entry.path.removeprefix(EMBEDDED)
    else:
        directory = home.model_dir(entry.id, entry.path)
    if not (directory / "config.json").is_file():
        raise HostError(f"model '{entry.id}' is not downloaded: llorch-pool models download {entry.id}")
    return Model(entry.id, directory, entry.architecture, entry.template)


def _id_of(directory: Path) -> str:
    """A public id from a directory's name: never its path, which is nobody else's business."""
    name = directory.resolve().name.lower()
    kept = "".join(c if c in "abcdefghijklmnopqrstuvwxyz0123456789._-" else "-" for c in name).strip("._-")[:64]
    return kept or "model"
