"""`self install`: the running program as a one-folder install under PREFIX, with its names linked onto PATH.

PREFIX/lib/llorch/<version>-<build id>/ holds the program and, inside its executable, the payloads, so that a lost cache
can be filled again. Installing the same build twice changes nothing; another build only moves the links, and
PREFIX/lib/llorch/previous then names the one before. Builds older than that go, unless a live process uses them.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import llorch
from llorch.base.config import cache_dir, home_dir
from llorch.base.errors import HostError
from llorch.host import executable, program, prune, runtime

PREVIOUS = "previous"


@dataclass(frozen=True, slots=True)
class Installed:
    """Where things went; `shadowed_by` is what a shell finds first instead, if that is not our link.

    `previous` is the version to roll back to, `removed` the older ones and their unpacked runtimes.
    """

    program: Path
    links: tuple[Path, ...]
    is_on_path: bool
    shadowed_by: Path | None
    previous: Path | None
    removed: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class Places:
    """Directories of installed versions, of links, of links to manual pages."""

    versions: Path
    bin_dir: Path
    man_dir: Path


def places(env: Mapping[str, str], prefix: Path | None) -> Places:
    """Under PREFIX, by default ~/.local; LLORCH_BIN_DIR moves the links of the latter."""
    root = prefix.absolute() if prefix is not None else home_dir(env) / ".local"
    named = env.get("LLORCH_BIN_DIR", "") if prefix is None else ""
    bin_dir = Path(named).absolute() if named else root / "bin"
    return Places(root / "lib" / "llorch", bin_dir, root / "share" / "man" / "man1")


def install(env: Mapping[str, str], prefix: Path | None, names: Sequence[str]) -> Installed:
    """Lay this program out and link `names` to it. Raises HostError if it is not frozen or a place is unwritable."""
    if not runtime.is_frozen():
        raise HostError("only the frozen file can install itself: build it with ./install.sh")
    where = places(env, prefix)
    folder = where.versions / f"{llorch.__version__}-{runtime.build().build_id}"
    try:
        if not folder.is_dir():
            _lay_out(folder)
        _remember(where, names[0], folder)
        links = tuple(_link(where.bin_dir / name, folder / "llorch") for name in names)
        for page in (folder / "_internal" / "man").glob("*.1"):
            _link(where.man_dir / page.name, page)
        before = previous(where)
        removed = prune.prune(where.versions, cache_dir(env), {folder, *([before] if before else [])})
    except OSError as error:
        raise HostError(f"cannot install to {error.filename or folder}: {error.strerror or error}") from error
    found = shutil.which(names[0], path=env.get("PATH", ""))
    other = Path(found) if found and Path(found).resolve() != (folder / "llorch").resolve() else None
    is_on_path = _is_listed(where.bin_dir, env.get("PATH", ""))
    return Installed(folder / "llorch", links, is_on_path, other, before, tuple(removed))


def previous(where: Places) -> Path | None:
    """The folder of the version before the current one, None when there is none any more."""
    link = where.versions / PREVIOUS
    return where.versions / link.readlink().name if link.is_symlink() and link.is_dir() else None


def _remember(where: Places, name: str, folder: Path) -> None:
    """Note the version that the links lead to, before they lead to `folder`."""
    before = (where.bin_dir / name).resolve().parent
    if before not in (folder, folder.resolve()) and before.parent == where.versions.resolve() and before.is_dir():
        _link(where.versions / PREVIOUS, Path(before.name))


def _is_listed(bin_dir: Path, path: str) -> bool:
    return any(entry and Path(entry).resolve() == bin_dir.resolve() for entry in path.split(os.pathsep))


def _lay_out(folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        if runtime.is_one_folder():
            shutil.copytree(Path(runtime.one_folder_program()).parent, place, symlinks=True, dirs_exist_ok=True)
        else:
            package = executable.read_package(executable.running_file())
            executable.write_one_folder(package, place, executable.Payloads.KEEP)
            (place / program.ORIGIN_SHA256).write_text(program.sha256_of(package.path) + "\n")
        place.chmod(0o755)
        place.rename(folder)
    except OSError as error:
        if not (error.errno in (errno.ENOTEMPTY, errno.EEXIST) and folder.is_dir()):  # another install was faster
            raise
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _link(link: Path, target: Path) -> Path:
    """Point `link` to `target` in one step, whatever it was; a real directory or file of that name is refused."""
    if link.exists() and not link.is_symlink():
        raise HostError(f"{link} exists and is not a link: remove it or choose another --prefix")
    link.parent.mkdir(parents=True, exist_ok=True)
    fresh = link.with_name(f".{link.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    fresh.replace(link)
    return link
