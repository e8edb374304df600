"""`llorch service`: orchestratord and workers that stay, as services of this machine's own service manager."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llorch.base import ids
from llorch.base.errors import HostError, NotFound, UsageError
from llorch.host import services
from llorch.host.process import source_path
from llorch.host.units import Definition, Left, Scope
from llorch.remote import terminal

ROLES = ("orchestratord", "worker")
GRACE_S = 10.0
SERVICE_VARIABLE = "LLORCH_SERVICE"
# Where things are. Nothing that could be a secret: every user of the machine may read a unit.
_PLACES = ("LLORCH_HOME", "LLORCH_STATE", "LLORCH_CACHE", "LLORCH_CONFIG", "LLORCH_REPO", "LLORCH_TORCH")
_FILES = ("LLORCH_WORKER_TOKEN_FILE",)
_XDG = ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME")


def _which_arguments(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    parser.add_argument("role", metavar="orchestratord|worker", choices=ROLES, nargs=None if required else "?")
    parser.add_argument("worker_id", metavar="ID", nargs="?", help="the worker's id (of a worker only)")
    parser.add_argument("--system", action="store_true", help="a service of the machine, not of this user; needs root")


def install_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `llorch service install`."""
    _which_arguments(parser)
    parser.add_argument("--model", metavar="DIR_OR_ID", help="what the worker serves")
    parser.add_argument("--port", type=int, metavar="P", help="port to listen on (default: the daemon's own)")
    parser.add_argument("--backend", choices=("cpu", "cuda", "metal"), help="what the worker computes on (default cpu)")
    parser.add_argument("--gpu", type=int, metavar="N", help="which GPU, for cuda and metal")
    parser.add_argument("--flags", metavar="WORDS", default="", help="more flags of the daemon: --flags='--slots 4'")
    parser.add_argument("--grace", type=float, default=GRACE_S, metavar="S", help="seconds it drains when stopped (10)")
    parser.add_argument("--user", metavar="NAME", help="with --system: the account it runs under (default: sudo's)")
    parser.add_argument("--no-start", action="store_true", help="write the definition only")
    parser.add_argument("--no-linger", action="store_true", help="do not ask that it may run without a login")
    parser.add_argument("--dry-run", action="store_true", help="print what would be written and run")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    parser.epilog = "example: llorch service install worker stories --model demo --port 8001"


def install(arguments: argparse.Namespace) -> int:
    """JSON: {service, path, text, steps, changed, started}."""
    service = _definition(arguments, os.environ)
    steps = [] if arguments.no_start else services.start_steps(service.name, service.scope, os.environ)
    linger = None if service.scope is Scope.SYSTEM or arguments.no_linger else services.linger_step()
    path, text = services.path_of(service.name, service.scope, os.environ), services.text(service, os.environ).decode()
    shown = [*([linger] if linger else []), *steps]
    if arguments.dry_run:
        _tell_install(arguments, service, text, shown, changed=False, started=False)
        return 0
    changed = services.write(service, os.environ)
    if linger is not None:
        _try_linger(linger)
    if not changed and services.state(service.name, service.scope, os.environ).active == "active":
        steps = []  # it runs, and by this very definition
    if steps:
        terminal.tell(f"starting {service.name}, until it is ready; Ctrl-C leaves it to its manager")
    for step in steps:
        try:
            services.run(step)
        except HostError as error:
            again = " && ".join(shlex.join(words) for words in steps[steps.index(step) :])
            raise HostError(f"{path} is written, but {error.message}. When that is mended, run: {again}") from None
    _tell_install(arguments, service, text, shown, changed=changed, started=bool(steps))
    return 0


def _try_linger(step: list[str]) -> None:
    try:
        services.run(step)
    except HostError:
        terminal.tell(f"it will end when you log out; to have it stay, run: sudo {shlex.join(step)}")


def _tell_install(
    arguments: argparse.Namespace, service: Definition, text: str, steps: list[list[str]], **done: bool
) -> None:
    path = services.path_of(service.name, service.scope, os.environ)
    if arguments.json:
        terminal.write_json({"service": service.name, "path": str(path), "text": text, "steps": steps, **done})
    elif arguments.dry_run:
        print(f"# {path}\n{text}\n# then:", *(shlex.join(step) for step in steps), sep="\n")
    else:
        state = "runs" if done["started"] else "is written" if done["changed"] else "is as it was"
        print(f"Service {service.name} {state} ({path})")


def _definition(arguments: argparse.Namespace, env: Mapping[str, str]) -> Definition:
    """The service that the command line describes. Raises UsageError, HostError."""
    name, scope = _named(arguments), _scope(arguments)
    account = _account(arguments, env)
    if not 0 <= arguments.grace <= 3600:
        raise UsageError("--grace must be between 0 and 3600 seconds")
    if arguments.port is not None and not 1 <= arguments.port <= 65535:
        raise UsageError("--port must be between 1 and 65535")
    environment = {**source_path(), **_places(env), SERVICE_VARIABLE: name}
    port = [] if arguments.port is None else ["--port", str(arguments.port)]
    if arguments.role == "worker":
        argv = [*services.command("llorch-candled", "worker", scope, env), *_worker_flags(arguments), *port]
        environment["LLORCH_WORKER_GRACE_S"] = f"{arguments.grace:g}"
        about = f"llorch worker {arguments.worker_id}"
    else:
        _refuse_worker_options(arguments)
        argv = [*services.command("orchestratord", "orchestratord", scope, env), *port]
        argv += ["--grace-s", f"{arguments.grace:g}"]
        about = "llorch orchestrator"
    return Definition(
        name=name,
        description=about,
        argv=(*argv, *_more_flags(arguments)),
        scope=scope,
        grace_s=arguments.grace,
        children=Left.ENDS if arguments.role == "worker" else Left.STAYS,
        account=account,
        environment=environment,
    )


def _worker_flags(arguments: argparse.Namespace) -> list[str]:
    if not arguments.model:
        raise UsageError("--model is missing: which model shall the worker serve?")
    model = str(Path(arguments.model).expanduser().absolute()) if "/" in arguments.model else arguments.model
    flags = ["--worker-id", arguments.worker_id, "--model", model, "--backend", arguments.backend or "cpu"]
    return flags if arguments.gpu is None else [*flags, "--gpu", str(arguments.gpu)]


def _refuse_worker_options(arguments: argparse.Namespace) -> None:
    for name in ("model", "backend", "gpu"):
        if getattr(arguments, name) is not None:
            raise UsageError(f"--{name} is for a worker, not for orchestratord")


def _more_flags(arguments: argparse.Namespace) -> list[str]:
    try:
        return shlex.split(arguments.flags)
    except ValueError as error:
        raise UsageError(f"--flags: {error}") from None


def _named(arguments: argparse.Namespace) -> str:
    """The service's name. Raises UsageError."""
    if arguments.role == "orchestratord":
        if arguments.worker_id is not None:
            raise UsageError("there is one orchestratord: no id belongs to it")
        return f"{services.PREFIX}orchestratord"
    if arguments.worker_id is None or not ids.WORKER_ID.fullmatch(arguments.worker_id):
        raise UsageError(f"name the worker's id: it must match {ids.WORKER_ID.pattern}")
    return f"{services.PREFIX}worker-{arguments.worker_id}"


def _scope(arguments: argparse.Namespace) -> Scope:
    return Scope.SYSTEM if arguments.system else Scope.USER


def _account(arguments: argparse.Namespace, env: Mapping[str, str]) -> str:
    """Whom a service of the machine runs as. Raises UsageError."""
    if not arguments.system:
        if arguments.user is not None:
            raise UsageError("--user belongs to --system: a service of yours runs as you")
        return ""
    named = arguments.user or env.get("SUDO_USER", "")
    if not named or not all(character.isalnum() or character in "._-" for character in named):
        raise UsageError("--system: say which account it shall run under: --user NAME")
    return str(named)


def _places(env: Mapping[str, str]) -> dict[str, str]:
    """Where this shell's llorch finds its files; a service must find the same ones."""
    found = {}
    for name in (*_PLACES, *_FILES, *_XDG):
        if value := env.get(name, ""):
            found[name] = value if name == "LLORCH_HOME" and value == "checkout" else str(Path(value).absolute())
    orchestrator = env.get("LLORCH_ORCHESTRATOR", "")
    return {**found, "LLORCH_ORCHESTRATOR": orchestrator} if orchestrator and "@" not in orchestrator else found


def uninstall_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `llorch service uninstall`."""
    _which_arguments(parser)
    parser.add_argument("--dry-run", action="store_true", help="print what would be run")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def uninstall(arguments: argparse.Namespace) -> int:
    """Stop the service, draining, and remove it. JSON: {service, path, removed}."""
    name, scope = _named(arguments), _scope(arguments)
    path = services.path_of(name, scope, os.environ)
    if not path.exists():
        raise NotFound(f"service {name} is not installed ({path})")
    steps = services.stop_steps(name, scope)
    if not arguments.dry_run:
        for step in steps:
            services.run(step)
        services.remove(name, scope, os.environ)
    if arguments.json:
        done = not arguments.dry_run
        terminal.write_json({"service": name, "path": str(path), "steps": steps, "removed": done})
    elif arguments.dry_run:
        print(*(shlex.join(step) for step in steps), f"rm {shlex.quote(str(path))}", sep="\n")
    else:
        print(f"Service {name} is stopped and removed")
    return 0


def status_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `llorch service status`."""
    _which_arguments(parser, required=False)
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def status(arguments: argparse.Namespace) -> int:
    """JSON: {services: [{name, path, active, detail, status, pid, restarts, enabled}]}."""
    scope = _scope(arguments)
    installed = services.names(scope, os.environ)
    wanted = installed if arguments.role is None else [_named(arguments)]
    for name in wanted:
        if name not in installed:
            raise NotFound(f"service {name} is not installed")
    rows = [_state_body(services.state(name, scope, os.environ)) for name in wanted]
    if arguments.json:
        terminal.write_json({"services": rows})
    elif rows:
        keys = ("name", "active", "detail", "pid", "restarts", "status")
        cells = [[terminal.shown(row[key] or None) for key in keys] for row in rows]
        terminal.write_table(["SERVICE", "STATE", "DETAIL", "PID", "RESTARTS", "SAYS"], cells)
    else:
        print("No service of llorch is installed (llorch service install --help)")
    return 0 if all(row["active"] in ("active", "reloading", "activating") for row in rows) else 1


def _state_body(state: services.State) -> dict[str, Any]:
    return {**asdict(state), "path": str(state.path)}


def logs_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `llorch service logs`."""
    _which_arguments(parser)
    parser.add_argument("-f", "--follow", action="store_true", help="go on printing, over restarts, until Ctrl-C")
    parser.add_argument("-n", "--lines", type=int, default=100, metavar="N", help="lines from the end (default 100)")


def logs(arguments: argparse.Namespace) -> int:
    """What the service wrote, from the manager's own journal."""
    name, scope = _named(arguments), _scope(arguments)
    if name not in services.names(scope, os.environ):
        raise NotFound(f"service {name} is not installed")
    argv = services.logs_command(name, scope, os.environ, follow=arguments.follow, lines=max(0, arguments.lines))
    return services.show(argv)
