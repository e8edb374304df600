"""`self …` on every applet: version, install, links, runtimes, check."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from llorch.base.errors import HostError, LlorchError
from llorch.host import install, runtime


def parser(prog: str) -> argparse.ArgumentParser:
    """The command line of `self`."""
    top = argparse.ArgumentParser(prog=prog, description="Facts about this program, and its installation.")
    words = top.add_subparsers(dest="word", required=True, metavar="COMMAND")
    version = words.add_parser("version", help="version, build id, protocol, torch, backends")
    version.add_argument("--json", action="store_true", help="as JSON")
    place = words.add_parser("install", help="lay the program out under PREFIX and link its names")
    place.add_argument("--prefix", type=Path, help="default: ~/.local, with links in $LLORCH_BIN_DIR if that is set")
    gone = words.add_parser("uninstall", help="remove the program, its links and its cache")
    gone.add_argument("--prefix", type=Path, help="as it was installed, default: ~/.local")
    gone.add_argument("--purge", action="store_true", help="models, workers' records and the orchestrator's state, too")
    gone.add_argument("--yes", action="store_true", help="end processes that run from it")
    gone.add_argument("--dry-run", action="store_true", help="only say what there is to end and to remove")
    gone.add_argument("--json", action="store_true", help="as JSON")
    words.add_parser("links", help="the names that install links")
    runtimes = words.add_parser("runtimes", help="the embedded runtimes and where they are unpacked")
    runtimes.add_argument("action", nargs="?", choices=["list", "unpack"], default="list")
    runtimes.add_argument("names", nargs="*", metavar="NAME", help="unpack these only (torch, net, engine, program)")
    words.add_parser("check", help="can this program unpack and load what it carries?")
    return top


def main(argv: list[str], *, prog: str, links: Sequence[str]) -> int:
    """Run one `self` command; `links` are the names the applet table wants on PATH."""
    args = parser(prog).parse_args(argv)
    if args.word == "version":
        return _version(as_json=args.json)
    if args.word == "install":
        return _install(args.prefix, links)
    if args.word == "uninstall":
        return _uninstall(args)
    if args.word == "links":
        return _say(*links)
    if args.word == "runtimes":
        return _unpack(args.names) if args.action == "unpack" else _list_runtimes()
    return _check()


def _say(*lines: str) -> int:
    for line in lines:
        sys.stdout.write(line + "\n")
    return 0


def _version(*, as_json: bool) -> int:
    facts = runtime.version_facts()
    if as_json:
        return _say(json.dumps(facts))
    backends = facts["backends"]
    assert isinstance(backends, list)
    first = f"llorch {facts['version']} (build {facts['build_id']}, protocol {facts['protocol']})"
    torch = facts["torch"] or "not installed"
    return _say(first, f"Python {facts['python']}, torch {torch}, backends: {', '.join(backends)}")


def _install(prefix: Path | None, links: Sequence[str]) -> int:
    done = install.install(os.environ, prefix, links)
    bin_dir = done.links[0].parent
    _say(f"installed {done.program}", f"linked {', '.join(link.name for link in done.links)} in {bin_dir}")
    if not done.is_on_path:
        _say(f'{bin_dir} is not on your PATH: add  export PATH="{bin_dir}:$PATH"  to your shell profile')
    elif done.shadowed_by is not None:
        _say(f"note: your PATH finds {done.shadowed_by} first")
    for folder in done.removed:
        _say(f"removed {folder}, which nothing uses any more")
    return 0


def _uninstall(args: argparse.Namespace) -> int:
    """JSON: {processes: [{pid, command}], removed: [path], kept: [path]}; with --dry-run `removed` is yet to go."""
    from llorch.host import removal

    found = removal.plan(os.environ, args.prefix, removal.Data.PURGE if args.purge else removal.Data.KEEP)
    if found.users and not (args.yes or args.dry_run):
        named = "; ".join(f"{user.pid} {user.command}" for user in found.users)
        raise HostError(f"{len(found.users)} processes run from it ({named}): stop them, or give --yes to end them")
    kept = [] if args.dry_run else removal.carry_out(found, os.environ, args.prefix)
    paths = [str(path) for path in (*found.data, *found.links, *found.folders) if str(path) not in kept]
    processes = [{"pid": user.pid, "command": user.command} for user in found.users]
    if args.json:
        _say(json.dumps({"processes": processes, "removed": paths, "kept": kept}))
    else:
        verbs = ("would end", "would remove") if args.dry_run else ("ended", "removed")
        _say(*(f"{verbs[0]} process {user.pid}: {user.command}" for user in found.users))
        _say(*(f"{verbs[1]} {path}" for path in paths), *([] if paths or found.users else ["nothing is installed"]))
    if kept:
        raise HostError(f"could not remove {', '.join(kept)}")
    return 0


def _list_runtimes() -> int:
    if not runtime.is_frozen():
        return _say("running from sources: nothing to unpack")
    for name, folder in runtime.folders().items():
        size = runtime.build().payloads[name].size_bytes >> 20
        _say(f"{name:<8} {size:>5} MB  {folder}{'' if folder.is_dir() else '  (not unpacked)'}")
    return 0


def _unpack(names: Sequence[str]) -> int:
    if not runtime.is_frozen():
        return _list_runtimes()
    for name in names or [*runtime.build().payloads, "program"]:
        folder = runtime.one_folder_program().parent if name == "program" else runtime.unpack(name)
        _say(f"{name:<8} {folder}")
    return 0


def _check() -> int:
    """Load one module out of every runtime, and look for the demo model; each that fails says why."""
    failed = 0
    for name, module in (
        ("net", "cryptography.hazmat.bindings._rust"),
        ("torch", "torch"),
        ("engine", "tokenizers"),
    ):
        try:
            runtime.ensure(name)
            __import__(module)
            if name == "engine" and not (runtime.assets_dir() / "demo").is_dir():
                raise HostError("the demo model is missing")
            _say(f"{name}: ok")
        except (LlorchError, ImportError) as error:
            failed += 1
            _say(f"{name}: {error}")
    if failed:
        raise HostError(f"{failed} of 3 runtimes cannot be used")
    return 0
