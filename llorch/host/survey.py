"""What a host is and whether our program can live there: one small shell command, its parser, and the verdict.

The command is plain POSIX sh with the tools that every system has. It changes nothing: to see whether a place can be
written and run from, it puts a file of ten bytes into the nearest directory that exists, runs it and removes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from llorch.base.errors import HostError
from llorch.host.program import Glibc, Platform, Program, platform_of

# What a host needs beside the copied bytes: the laid out program is a little larger than the file.
LAID_OUT_FACTOR = 1.3
SPARE_BYTES = 32 << 20
_LEAD = "\x1e"  # no line of a login script begins with it

# $1 is the prefix, empty for ~/.local.
SCRIPT = r"""
say() { printf '\036%s=%s\n' "$1" "$2"; }
near() { d=$1; while [ ! -d "$d" ] && [ "$d" != / ]; do d=$(dirname "$d"); done; }
look() {
  near "$2"; say "$1" "$2"; t=$d/.llorch-probe-$$; s=unwritable
  df -Pk "$d" 2>/dev/null | while read -r fs size used free rest; do
    case $size.$free in 0.*|*[!0-9.]*|*.) ;; *) say "$1.free_kib" "$free"; say "$1.mount" "$fs ${rest#* }" ;; esac
  done
  if (printf '#!/bin/sh\n' >"$t" && chmod 700 "$t") 2>/dev/null; then
    s=noexec; if ("$t") >/dev/null 2>&1; then s=ok; fi
  fi
  rm -f "$t" 2>/dev/null; say "$1.state" "$s"
}
say os "$(uname -s)"; say machine "$(uname -m)"
say libc "$(getconf GNU_LIBC_VERSION 2>/dev/null || ldd --version 2>&1 | head -n 1)"
say cores "$(getconf _NPROCESSORS_ONLN 2>/dev/null)"
say cpu "$(grep -owE 'avx2|avx512f|amx_tile|asimd' /proc/cpuinfo 2>/dev/null | sort -u | tr '\n' ' ')"
cat /proc/driver/nvidia/gpus/*/information 2>/dev/null | while IFS=: read -r key value; do
  case $key in Model*) say gpu "$value" ;; esac
done
for tool in sha256sum shasum; do if command -v $tool >/dev/null 2>&1; then say sha256 $tool; break; fi; done
bin=; case $1 in
  '') prefix=$HOME/.local; bin=$LLORCH_BIN_DIR ;;
  '~') prefix=$HOME ;;
  '~/'*) prefix=$HOME/${1#"~/"} ;;
  *) prefix=$1 ;;
esac
lib=$prefix/lib/llorch; bin=${bin:-$prefix/bin}
say prefix "$prefix"
look versions "$lib"; look bin "$bin"
look cache "${LLORCH_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/llorch}"
say current "$(readlink "$bin/llorch" 2>/dev/null)"
say previous "$(readlink "$lib/previous" 2>/dev/null)"
for f in "$lib"/*/; do
  f=${f%/}; if [ -d "$f" ] && [ ! -h "$f" ]; then say installed "${f##*/} $(cat "$f/origin.sha256" 2>/dev/null)"; fi
done
say end 1
"""


class State(Enum):
    """What can be done in a place."""

    OK = "ok"
    NOEXEC = "noexec"
    UNWRITABLE = "unwritable"


@dataclass(frozen=True, slots=True)
class Place:
    """A directory that may not exist yet, and the file system that holds or will hold it."""

    path: str
    state: State
    free_bytes: int | None
    mount: str


@dataclass(frozen=True, slots=True)
class Installed:
    """A version under the prefix: its folder's name, `<version>-<build id>`, and its file's hash when it is known."""

    name: str
    sha256: str | None

    def is_build_of(self, program: Program) -> bool:
        """Is it made from `program`?"""
        if self.sha256 is not None and self.sha256 == program.sha256:
            return True
        return program.build_id is not None and self.name.rpartition("-")[2] == program.build_id


@dataclass(frozen=True, slots=True)
class HostFacts:
    """One host; `current` and `previous` are folder names, None when there is none."""

    platform: Platform
    libc: str
    glibc: Glibc | None
    cores: int | None
    cpu_features: tuple[str, ...]
    gpus: tuple[str, ...]
    sha256_tool: str | None
    prefix: str
    versions: Place
    bin_dir: Place
    cache: Place
    current: str | None
    previous: str | None
    installed: tuple[Installed, ...]

    def find(self, program: Program) -> Installed | None:
        """The installed version that is made from `program`, if any."""
        return next((one for one in self.installed if one.is_build_of(program)), None)


def parse(output: str) -> HostFacts:
    """The facts in what the command printed, whatever login scripts printed around them. Raises HostError."""
    rows = [line[1:].partition("=") for line in output.split("\n") if line.startswith(_LEAD)]
    one = {key: value.strip() for key, _, value in rows}
    if "end" not in one:
        raise HostError("it does not answer a POSIX shell's commands")
    gpus = tuple(value.strip() for key, _, value in rows if key == "gpu")
    found = [value.split() for key, _, value in rows if key == "installed"]
    installed = tuple(Installed(words[0], words[1] if len(words) > 1 else None) for words in found if words)
    names = {version.name for version in installed}
    versions = _place(one, "versions")
    current = one.get("current", "").removeprefix(f"{versions.path}/").partition("/")[0]
    previous = one.get("previous", "").rpartition("/")[2]
    return HostFacts(
        platform=platform_of(one.get("os", ""), one.get("machine", "")),
        libc=one.get("libc", ""),
        glibc=_glibc(one.get("libc", "")),
        cores=int(one["cores"]) if one.get("cores", "").isdecimal() else None,
        cpu_features=tuple(one.get("cpu", "").split()),
        gpus=gpus,
        sha256_tool=one.get("sha256"),
        prefix=one.get("prefix", ""),
        versions=versions,
        bin_dir=_place(one, "bin"),
        cache=_place(one, "cache"),
        current=current if current in names else None,
        previous=previous if previous in names else None,
        installed=installed,
    )


def _place(facts: dict[str, str], name: str) -> Place:
    free = facts.get(f"{name}.free_kib", "")
    state = State(facts.get(f"{name}.state", State.UNWRITABLE.value))
    free_bytes = int(free) << 10 if free.isdecimal() else None
    return Place(facts.get(name, ""), state, free_bytes, facts.get(f"{name}.mount", ""))


def _glibc(text: str) -> Glibc | None:
    """From `glibc 2.36` (getconf) or the first line of `ldd --version`; None for musl and everything else."""
    words = text.split()
    if not words or "musl" in text or not ("glibc" in text.lower() or "gnu libc" in text.lower()):
        return None
    major, _, minor = words[-1].partition(".")
    minor = minor.partition(".")[0]
    return (int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else None


def why_not(facts: HostFacts, program: Program) -> str | None:
    """Why `program` cannot be installed on that host, in one clear line; None when it can."""
    return _why_not_run(facts, program) or _why_not_written(facts, program)


def _why_not_run(facts: HostFacts, program: Program) -> str | None:
    if program.platform is None:
        return None
    if program.platform != facts.platform:
        return f"{program.path} is for {program.platform}, and the host is {facts.platform}"
    if facts.platform.os != "linux":
        return None
    if facts.glibc is None:
        return f"the host has no glibc ({facts.libc or 'unknown C library'}): llorch needs one, musl will not do"
    if program.glibc is not None and facts.glibc < program.glibc:
        return f"the host's glibc {_dotted(facts.glibc)} is too old: this build needs {_dotted(program.glibc)} or newer"
    return None


def _why_not_written(facts: HostFacts, program: Program) -> str | None:
    if facts.sha256_tool is None:
        return "the host has neither sha256sum nor shasum to check the copy with"
    for place in (facts.versions, facts.bin_dir, facts.cache):
        mend = "set LLORCH_CACHE there" if place is facts.cache else "choose another --prefix"
        if place.state is State.UNWRITABLE and place.free_bytes != 0:
            return f"{place.path} is not writable there: {mend}"
        if place.state is State.NOEXEC and place is not facts.bin_dir:
            return f"{place.path} is on a noexec file system there: {mend}"
    needs = {facts.cache.mount: program.size_bytes + SPARE_BYTES}
    laid_out = int(program.size_bytes * LAID_OUT_FACTOR)
    needs[facts.versions.mount] = needs.get(facts.versions.mount, SPARE_BYTES) + laid_out
    for place in (facts.versions, facts.cache):
        needed = needs[place.mount]
        if place.free_bytes is not None and place.free_bytes < needed:
            return f"{place.path} has {place.free_bytes // 10**6} MB free there, and {needed // 10**6} MB are needed"
    return None


def _dotted(version: Glibc) -> str:
    return f"{version[0]}.{version[1]}"
