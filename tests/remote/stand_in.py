"""A program that can be installed in place of the frozen file: lays itself out as that does, and runs the sources."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path
from shlex import quote

_SCRIPT = """#!/bin/sh
# {build}
if [ "$1 $2" = "self install" ]; then
  prefix=$HOME/.local; if [ "$3" = --prefix ]; then prefix=$4; fi
  lib=$prefix/lib/llorch; folder=$lib/0.1.0-{build}; before=$(readlink "$prefix/bin/llorch")
  mkdir -p "$folder" "$prefix/bin" || exit 1
  {extra}
  if [ ! -f "$folder/llorch" ]; then
    cp "$0" "$folder/llorch" && chmod 755 "$folder/llorch"
    sha256sum < "$0" | cut -d ' ' -f 1 > "$folder/origin.sha256"
  fi
  before=${{before%/llorch}}
  if [ -n "$before" ] && [ "$before" != "$folder" ]; then ln -sfn "${{before##*/}}" "$lib/previous"; fi
  for name in llorch llorch-pool; do ln -sfn "$folder/llorch" "$prefix/bin/$name"; done
  exit 0
fi
if [ "$1 $2" = "self version" ]; then
  echo '{{"version": "0.1.0", "build_id": "{build}", "protocol": 1}}'; exit 0
fi
{settings}
case ${{0##*/}} in
  llorch-pool) exec {python} -m llorch pool "$@" ;;
  *) exec {python} -m llorch "$@" ;;
esac
"""


def write(path: Path, build: str, *, filler_bytes: int = 0, extra: str = ":", settings: str = "") -> Path:
    """The program as an executable file of build `build` (12 hex digits); `extra` is run at its installation.

    `settings` are shell lines that run before the sources do.
    """
    words = _SCRIPT.format(build=build, extra=extra, settings=settings, python=quote(sys.executable))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(words.encode() + b"exit 0\n#" + os.urandom(filler_bytes // 2).hex().encode() + b"\n")
    path.chmod(0o755)
    return path


def sha256(path: Path) -> str:
    """The file's hash."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
