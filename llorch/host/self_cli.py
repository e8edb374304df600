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
