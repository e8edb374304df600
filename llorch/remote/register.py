"""`llorch pool register`: a short name for a machine, as a `[pools.NAME]` section of llorch.toml.

The rest of the file stays as it is, comments included; a result that does not read back as meant is not written.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import tomllib
from pathlib import Path
from typing import Any

from llorch.base import config
from llorch.base.errors import ConfigError, UsageError
from llorch.host.disk import locked, make_dir, write_atomic
from llorch.host.targets import EVERY, find_target
from llorch.remote import terminal

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
_KEYS = ("host", "user", "port", "path", "repo", "labels", "mac", "tunnel")


def register_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `llorch pool register`."""
    parser.add_argument("name", metavar="NAME", help="the short name, for --host NAME")
    parser.add_argument("--host", metavar="HOST", help="name or address for SSH (default: the name itself)")
    parser.add_argument("--user", metavar="USER", help="default: what ssh would take")
    parser.add_argument("--port", type=int, metavar="N", help="SSH port, default: what ssh would take")
    parser.add_argument("--path", metavar="FILE", help="where llorch-pool (or llorch) is over there")
    parser.add_argument("--repo", metavar="DIR", help="source checkout over there")
    parser.add_argument("--mac", metavar="ADDRESS", help="its network card's address, for waking it")
    parser.add_argument("--label", dest="labels", action="append", metavar="LABEL", help="may be given several times")
    parser.add_argument(
        "--tunnel",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="workers there stay on its loopback, and orchestratord reaches them through SSH",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def register(arguments: argparse.Namespace) -> int:
    """Add the profile, or change the given keys of one that is there."""
    name = arguments.name
    if not _NAME.fullmatch(name) or name == EVERY:
        raise UsageError(f"'{name}' cannot be a pool's name: letters, digits, - and _ (and not '{EVERY}')")
    path = config.config_path(os.environ)
    make_dir(path.parent)
    with locked(path.with_name(f".{path.name}.lock")):
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        data = config.load_file(path)
        old = data.get("pools", {}).get(name, {})
        given = {key: getattr(arguments, key) for key in _KEYS if getattr(arguments, key) is not None}
        profile = {**old, **given}
        profile.setdefault("host", name)
        wanted = {**data, "pools": {**data.get("pools", {}), name: profile}}
        find_target(name, wanted)  # refuses what could not be used
        write_atomic(path, _edited(before, name, profile, wanted, path).encode("utf-8"), _mode(path))
    if arguments.json:
        terminal.write_json({"name": name, "profile": profile, "file": str(path)})
    else:
        print(f"{'Changed' if old else 'Added'} pool '{name}' ({profile['host']}) in {path}")
    return 0


def _mode(path: Path) -> int:
    return path.stat().st_mode & 0o777 if path.exists() else 0o600


def _edited(text: str, name: str, profile: dict[str, Any], wanted: dict[str, Any], path: Path) -> str:
    """`text` with the section of `name` replaced or added. Raises ConfigError when it would not read as `wanted`."""
    plain = {key: value for key, value in profile.items() if not isinstance(value, dict)}
    section = [f"[pools.{name}]", *(f"{key} = {_toml(value)}" for key, value in plain.items())]
    lines = text.splitlines()
    header = re.compile(rf"\s*\[\s*pools\s*\.\s*[\"']?{re.escape(name)}[\"']?\s*\]\s*(#.*)?")
    start = next((i for i, line in enumerate(lines) if header.fullmatch(line)), None)
    if start is None:
        lines += ([""] if lines and lines[-1].strip() else []) + section
    else:
        following = (i for i, line in enumerate(lines[start + 1 :], start + 1) if line.lstrip().startswith("["))
        end = next(following, len(lines))
        while end > start + 1 and (not lines[end - 1].strip() or lines[end - 1].lstrip().startswith("#")):
            end -= 1  # blank lines and comments there belong to what follows
        lines[start:end] = section
    result = "\n".join(lines) + "\n"
    try:
        if tomllib.loads(result) == wanted:
            return result
    except tomllib.TOMLDecodeError:
        pass
    raise ConfigError(f"cannot change {path} safely; please edit [pools.{name}] by hand")


def _toml(value: object) -> str:
    """A TOML value; JSON's strings, numbers and lists are TOML's, but for the escape of DEL."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
