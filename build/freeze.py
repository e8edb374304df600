"""Freeze llorch into one file: `python build/freeze.py [--release]` writes build/out/llorch.

The pieces of the recipe that pyinstaller.spec uses are here: what the light part imports, which shared libraries it
can do without, and the facts that the program knows of its build.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import man
import payloads

ROOT = payloads.ROOT
WORK = ROOT / "build" / "work"
OUT = ROOT / "build" / "out"
FACTS = WORK / "llorch-build.json"
DEFERRED_TABLE = WORK / "llorch-deferred.txt"
STAMP = WORK / "frozen.json"

# Standard modules that nothing here can use; the rest is frozen whole, for PyInstaller cannot see what torch imports.
UNUSED_STDLIB = (
    *(
        "_msi",
        "_scproxy",
        "_tkinter",
        "_winapi",
        "antigravity",
        "distutils",
        "ensurepip",
        "idlelib",
        "lib2to3",
        "msilib",
    ),
    *(
        "msvcrt",
        "nt",
        "ntpath_",
        "pydoc_data",
        "test",
        "this",
        "tkinter",
        "turtle",
        "turtledemo",
        "venv",
        "winreg",
        "winsound",
    ),
    *(
        "curses",
        "_curses",
        "_curses_panel",
        "dbm",
        "_dbm",
        "_gdbm",
        "readline",
        "nis",
        "spwd",
        "ossaudiodev",
        "audioop",
    ),
    *(
        "dbm.dumb",
        "dbm.gnu",
        "dbm.ndbm",
        "crypt",
        "_crypt",
        "_overlapped",
        "nturl2path",
        "imghdr",
        "sndhdr",
        "_testcapi",
        "_xxsubinterpreters",
    ),
)
# Packages of the development environment that optional imports would drag in.
UNWANTED = (
    *("numpy", "transformers", "openai", "pydantic", "pydantic_core", "rich", "typer", "pygments", "sympy", "mpmath"),
    *("networkx", "setuptools", "pkg_resources", "pip", "wheel", "pytest", "_pytest", "hypothesis", "mypy", "ruff"),
    *("PyInstaller", "IPython", "zstandard", "brotli", "trio", "regex"),
)
# Shared libraries of modules left out, and those every Linux has.
UNNEEDED_LIBRARIES = (
    *("libreadline", "libtinfo", "libncurses", "libpanel", "libgdbm", "libdb-", "libtirpc", "libnsl"),
    *("libk5crypto", "libkrb5", "libgssapi", "libkeyutils", "libcom_err", "libstdc++", "libgcc_s", "libcrypt."),
)
UNNEEDED_EXTENSIONS = ("_codecs_", "_multibytecodec", "_test", "_xx", "xx", "_crypt", "_curses")


# Libraries and extension modules that only some commands need, besides those of every package but psutil: the large
# ones, and those nobody tries to import in passing (`_bz2`, say, has shutil do that).
# ctypes: PyInstaller's bootstrap would import it at every start if it found it.
DEFERRED = (
    *("libcrypto", "libssl", "libsqlite3", "libexpat", "_ssl.", "_hashlib.", "_sqlite3.", "_ctypes.", "_decimal."),
    *("_elementtree.", "pyexpat.", "unicodedata.", "_asyncio.", "_csv.", "_multiprocessing.", "_posixshmem."),
    *("_lsprof.", "_zoneinfo.", "_statistics.", "cmath.", "mmap.", "syslog."),
)
LATER = "later/"  # name of deferred entries in the frozen file, see llorch/host/executable.py


# What only code in payloads or in child processes imports.
ASKED_FOR_LATE = ("backports.zstd", "typing_extensions", "starlark.starlark")


def hidden_imports() -> list[str]:
    """All of llorch, all of the standard library, and what is asked for late."""
    stdlib = [name for name in sys.stdlib_module_names if name not in UNUSED_STDLIB and not name.startswith("_test")]
    return sorted({*stdlib, *_submodules(), *_own_modules(), *ASKED_FOR_LATE})


def _submodules() -> set[str]:
    from PyInstaller.utils.hooks import collect_submodules

    whole = [
        *("asyncio", "collections", "concurrent", "ctypes", "email", "encodings", "http", "importlib", "json"),
        *("logging", "multiprocessing", "unittest", "urllib", "wsgiref", "xml", "zoneinfo"),
    ]
    return {name for package in whole for name in collect_submodules(package) if ".test" not in name}


def _own_modules() -> set[str]:
    sources = (ROOT / "llorch").rglob("*.py")
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in sources}
    return names - {"llorch.__main__"}


def excludes() -> list[str]:
    """What must stay out of the light part."""
    return [*payloads.packages(), *UNWANTED, *UNUSED_STDLIB]


def own_data() -> list[tuple[str, str]]:
    """llorch's data files other than assets (those are a payload), as (source, folder)."""
    found = []
    for path in sorted((ROOT / "llorch").rglob("*")):
        name = path.relative_to(ROOT / "llorch")
        is_code = path.suffix in (".py", ".pyc") or path.name == "py.typed"
        if path.is_file() and not is_code and name.parts[0] != "assets":
            found.append((str(path), str(Path("llorch") / name.parent)))
    return [*found, (str(FACTS), "."), (str(DEFERRED_TABLE), ".")]


def binaries(found: list[tuple[str, str, str]]) -> tuple[list[tuple[str, str, str]], list[tuple[str, str, str]]]:
    """(unpacked at every start, deferred to the one-folder copy), as stripped copies without the unneeded.

    Each megabyte of the former is paid at every start: pyenv's libpython is 23 MB before stripping, 6 after.
    """
    folder = WORK / "stripped"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    now, later = [], []
    for name, source, kind in found:
        base = Path(name).name
        if base.startswith(UNNEEDED_LIBRARIES) or base.startswith(UNNEEDED_EXTENSIONS):
            continue
        copy = folder / name.replace("/", "__")
        shutil.copy(source, copy)
        if is_deferred(name):
            later.append((LATER + name, str(copy), "PKG"))
        else:
            now.append((name, str(copy), kind))
    payloads.strip([source for _, source, _ in now + later])
    _note_glibc([Path(source) for _, source, _ in now + later])
    _write_deferred_table([(name.removeprefix(LATER), source) for name, source, _ in later])
    return now, later


def _note_glibc(libraries: list[Path]) -> None:
    """Add to the facts of this build the newest glibc that any of our libraries asks for, as `2.35`."""
    wanted = {
        (int(found[1]), int(found[2]))
        for path in [*libraries, *(OUT / "kernels").glob("*.so")]
        for found in re.finditer(rb"\0GLIBC_(\d+)\.(\d+)", path.read_bytes())
    }
    if wanted:
        newest = max(wanted)
        FACTS.write_text(json.dumps({**json.loads(FACTS.read_text()), "glibc": f"{newest[0]}.{newest[1]}"}))


def is_deferred(name: str) -> bool:
    """Can a light command do without this library?"""
    base = Path(name).name
    is_package = "/" in name and not name.startswith("python3")
    return (is_package and not name.startswith("psutil/")) or base.startswith(DEFERRED)


def _write_deferred_table(files: list[tuple[str, str]]) -> None:
    """Lines of module, file and the deferred libraries it links to, as llorch/host/deferred.py reads them."""
    libraries = {
        Path(name).name: (name, source) for name, source in files if ".cpython-" not in name and ".abi3." not in name
    }
    lines = []
    for name, source in files:
        if Path(name).name not in libraries:
            module = re.sub(r"^python3[^/]*/lib-dynload/", "", name).partition(".")[0].replace("/", ".")
            lines.append(" ".join([module, name, *_linked(source, libraries)]))
    DEFERRED_TABLE.write_text("\n".join(lines) + "\n")


def _linked(source: str, libraries: dict[str, tuple[str, str]]) -> list[str]:
    """Those of `libraries` that `source` needs, dependencies first."""
    from PyInstaller.depend.bindepend import get_imports

    found: list[str] = []
    for wanted, _ in sorted(get_imports(source)):
        if (library := libraries.get(Path(wanted).name)) is not None:
            found += [name for name in [*_linked(library[1], libraries), library[0]] if name not in found]
    return found


def manual_pages() -> list[tuple[str, str, str]]:
    """Entries for the manual pages, which `self install` links."""
    return [(f"{LATER}man/{page.name}", str(page), "PKG") for page in man.write_all()]


def prepare(effort: payloads.Effort) -> dict[str, payloads.Built]:
    """Build the payloads and write down the facts of this build."""
    built = payloads.build_all(effort)
    digest = hashlib.sha256(inputs_hash().encode())
    rows: dict[str, dict[str, object]] = {}
    for name, payload in sorted(built.items()):
        digest.update(payload.sha256.encode())
        rows[name] = {"entry": payload.entry, "size_bytes": payload.size_bytes, "sha256": payload.sha256}
    facts = {
        "build_id": digest.hexdigest()[:12],
        "torch": metadata.version("torch"),
        "backends": ["cpu", "metal"] if sys.platform == "darwin" else ["cpu"],
        "payloads": rows,
    }
    FACTS.write_text(json.dumps(facts))
    DEFERRED_TABLE.touch()
    return built


def inputs_hash() -> str:
    """A hash of all that goes in but the payloads: sources, Python, locked packages, recipe."""
    digest = hashlib.sha256(platform.python_version().encode())
    recipe = [ROOT / "pyinstaller.spec", *(ROOT / "build").glob("*.py"), *(ROOT / "build").glob("*.txt")]
    sources = [path for path in (ROOT / "llorch").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    for path in sorted([*recipe, *sources]):
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def is_up_to_date(effort: payloads.Effort) -> bool:
    """Is build/out/llorch what a new run would make, or the same better compressed?"""
    if not STAMP.is_file() or not (OUT / "llorch").is_file():
        return False
    stamp = json.loads(STAMP.read_text())
    return bool(stamp["inputs"] == inputs_hash()) and payloads.Effort[stamp["effort"]].value >= effort.value


def main() -> int:
    """The command line; the file appears in build/out complete or not at all."""
    arguments = argparse.ArgumentParser(description="Freeze llorch into build/out/llorch.")
    arguments.add_argument("--release", action="store_true", help="best compression: minutes instead of seconds")
    effort = payloads.Effort.RELEASE if arguments.parse_args().release else payloads.Effort.QUICK
    WORK.mkdir(parents=True, exist_ok=True)
    with open(WORK / "freeze.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two at once would write over each other's pieces
        return freeze(effort)


def freeze(effort: payloads.Effort) -> int:
    """Freeze unless nothing has changed; the exit code."""
    if is_up_to_date(effort):
        print("build/out/llorch is up to date")
        return 0
    inputs = inputs_hash()
    command = [sys.executable, "-m", "PyInstaller", "--noconfirm", "--log-level", "WARN"]
    command += [
        "--distpath",
        str(WORK / "dist"),
        "--workpath",
        str(WORK / "pyinstaller"),
        str(ROOT / "pyinstaller.spec"),
    ]
    environment = {**os.environ, "LLORCH_EFFORT": effort.name, "PYTHONHASHSEED": "0"}
    if subprocess.run(command, check=False, cwd=ROOT, env=environment).returncode != 0:
        sys.exit("llorch: PyInstaller failed, see above")
    OUT.mkdir(parents=True, exist_ok=True)
    (WORK / "dist" / "llorch").replace(OUT / "llorch")
    STAMP.write_text(json.dumps({"inputs": inputs, "effort": effort.name}))
    size = (OUT / "llorch").stat().st_size
    print(f"build/out/llorch: {size / 1e6:.0f} MB, build {json.loads(FACTS.read_text())['build_id']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
