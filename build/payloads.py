"""The frozen file's embedded runtimes: slim, stripped, byte-compiled trees of installed packages as .tar.zst files.

`torch` and `net` come from the site-packages of the running interpreter, `engine` from there and from llorch/assets: it
is what every worker needs, so that one on the native kernels unpacks no torch. Each is kept under build/work/payloads
by the hash of what goes into it, so that only a change of packages, assets or recipe rebuilds it.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
import platform
import py_compile
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from enum import Enum
from importlib import metadata
from pathlib import Path

import kernels
from backports.zstd import CompressionParameter, ZstdFile

ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT / "build" / "work" / "payloads"
SITE = Path(sysconfig.get_path("purelib"))


class Effort(Enum):
    """How hard to compress: `quick` takes seconds, `release` minutes and a quarter less room."""

    QUICK = 3
    RELEASE = 19


@dataclass(frozen=True)
class Recipe:
    """What goes into one runtime: top-level names in site-packages, patterns left out, exceptions to those."""

    name: str
    packages: tuple[str, ...]
    dropped: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()


@dataclass(frozen=True)
class Built:
    """A finished payload: its file, the entry's name in the frozen file, unpacked size, hash of the file."""

    entry: str
    path: str
    size_bytes: int
    sha256: str


NEVER_NEEDED = (
    "*.pyi",
    "*.pyx",
    "*.pxd",
    "*.h",
    "*.hpp",
    "*.cpp",
    "*.cuh",
    "*.cu",
    "*.cmake",
    "*/py.typed",
    "*/__pycache__",
)

TORCH = Recipe(
    "torch",
    packages=("torch", "torchgen", "safetensors"),
    # `import torch` was tried without each of these, and a decoder run; what it cannot miss looks just as optional
    # (testing, distributed, fx, ao, jit, ...). Sources must stay: torch reads its own with inspect at import.
    dropped=(
        *NEVER_NEEDED,
        "torch/test",
        "torch/include",
        "torch/share",
        "torch/bin/*",
        "torch/lib/libtorchbind_test.so",
        "torch/lib/libjitbackend_test.so",
        "torch/lib/libbackend_with_compiler.so",
        "torch/lib/libaoti_custom_ops.so",
        "torch/lib/libshm",
        "torch/lib/libshm_windows",
        "torch/_dynamo",
        "torch/_inductor",
        "torch/_export/db",
        "torch/onnx",
        "torch/testing/_internal/common_*",
        "torch/testing/_internal/distributed",
        "torch/testing/_internal/generated",
        "torch/testing/_internal/jit_metaprogramming_utils.py",
        "torch/testing/_internal/opinfo",
        "torch/utils/benchmark",
        "torch/utils/bottleneck",
        "torch/utils/hipify",
        "torch/utils/model_dump",
        "torch/utils/tensorboard",
        "torchgen/packaged",
    ),
    kept=(
        "torch/bin/torch_shm_manager",  # never run, but the import checks that it exists
        "torch/testing/_internal/common_dtype.py",
        "torch/testing/_internal/common_utils.py",
        "torch/testing/_internal/common_cuda.py",
    ),
)

# SSH and model downloads, with everything only they need.
NET = Recipe(
    "net",
    packages=(
        *("asyncssh", "cryptography", "_cffi_backend*.so"),
        *("huggingface_hub", "hf_xet", "httpx2", "httpcore2", "h11", "anyio", "truststore", "filelock"),
        *("fsspec", "packaging", "yaml", "_yaml", "tqdm", "click"),
    ),
    dropped=(*NEVER_NEEDED, "*/tests", "fsspec/implementations", "huggingface_hub/templates"),
)

# Beside llorch/assets and the kernels, see _engine_files.
ENGINE = Recipe("engine", packages=("tokenizers",), dropped=NEVER_NEEDED)

RECIPES = (TORCH, NET, ENGINE)


def packages() -> list[str]:
    """Top-level modules that live in payloads and must stay out of the light part."""
    return [name.partition("*")[0] for recipe in RECIPES for name in recipe.packages]


def build_all(effort: Effort) -> dict[str, Built]:
    """Every payload, built or taken from the kept ones."""
    KEPT.mkdir(parents=True, exist_ok=True)
    for stale in KEPT.glob(".*-*"):  # of a build that was killed
        shutil.rmtree(stale)
    return {recipe.name: _build(recipe, effort, _engine_files() if recipe is ENGINE else {}) for recipe in RECIPES}


def _build(recipe: Recipe, effort: Effort, own_files: Mapping[str, Path]) -> Built:
    """A recipe's packages, and `own_files` by their names in the tree."""
    versions = sorted(_dist_infos(recipe))
    inputs = repr((recipe, [path.name for path in versions], platform.python_version(), platform.machine()))
    digest = hashlib.sha256(Path(__file__).read_bytes() + inputs.encode())
    for name, source in own_files.items():
        digest.update(b"\0" + name.encode() + b"\0" + source.read_bytes())
    key = digest.hexdigest()[:16]
    if (kept := _kept(recipe.name, key, effort)) is not None:
        return kept
    print(f"building the {recipe.name} runtime ({effort.name.lower()})", flush=True)
    with tempfile.TemporaryDirectory(dir=KEPT, prefix=f".{recipe.name}-") as scratch:
        tree = Path(scratch)
        for source in _files(recipe):
            target = tree / source.relative_to(SITE)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
            shutil.copymode(source, target)
        for info in versions:
            (tree / info.name).mkdir()
            shutil.copyfile(info / "METADATA", tree / info.name / "METADATA")
        _finish_files(tree)
        for name, source in own_files.items():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, tree / name)
        return _pack(tree, recipe.name, key, effort)


def _engine_files() -> dict[str, Path]:
    """llorch/assets as it is and the native kernels, by name in the engine's tree."""
    found = sorted(path for path in (ROOT / "llorch" / "assets").rglob("*") if path.is_file())
    assets = {p.relative_to(ROOT / "llorch").as_posix(): p for p in found if p.suffix not in (".py", ".pyc")}
    return assets | {f"kernels/{library.name}": library for library in kernels.build_all()}


def _kept(name: str, key: str, effort: Effort) -> Built | None:
    facts = KEPT / f"{name}-{effort.name.lower()}-{key}.json"
    if not facts.is_file():
        return None
    built = Built(**json.loads(facts.read_text()))
    return built if Path(built.path).is_file() else None


def _dist_infos(recipe: Recipe) -> list[Path]:
    """The .dist-info directories of a recipe's packages: run-time version checks read them, and they name versions."""
    owners = metadata.packages_distributions()
    tops = {name.partition("*")[0] for name in recipe.packages}
    names = {owner for top in tops for owner in owners.get(top, [])}
    return [Path(str(metadata.distribution(name).locate_file(""))) / _info_name(name) for name in sorted(names)]


def _info_name(name: str) -> str:
    files = metadata.distribution(name).files or []
    return next(file.parts[0] for file in files if file.parts[0].endswith(".dist-info"))


def _files(recipe: Recipe) -> Iterator[Path]:
    for pattern in recipe.packages:
        found = sorted(SITE.glob(pattern))
        if not found:
            sys.exit(f"llorch: package {pattern} is not installed in {SITE}: run ./install.sh dev")
        for top in found:
            if top.is_file():
                yield top
            else:
                yield from _walk(top, recipe)


def _walk(folder: Path, recipe: Recipe) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        name = path.relative_to(SITE).as_posix()
        is_dropped = any(fnmatch.fnmatch(name, pattern) for pattern in recipe.dropped) and name not in recipe.kept
        if path.is_dir() and not is_dropped:
            yield from _walk(path, recipe)
        elif path.is_file() and not is_dropped:
            yield path


def _finish_files(tree: Path) -> None:
    """Strip every library, byte-compile every source."""
    files = [path for path in tree.rglob("*") if path.is_file()]
    libraries = [str(path) for path in files if ".so" in path.name or path.parent.name == "bin"]
    sources = [str(path.relative_to(tree)) for path in files if path.suffix == ".py"]
    strip(libraries)
    with ProcessPoolExecutor() as pool:
        list(pool.map(_compile, [str(tree)] * len(sources), sources, chunksize=100))


def strip(libraries: list[str]) -> None:
    """Take symbols and debug data out of shared libraries, in place."""
    if sys.platform == "darwin":
        return  # it would break their signatures
    for path in libraries:
        subprocess.run(["strip", "--strip-unneeded", path], check=True)


def _compile(tree: str, name: str) -> None:
    # Unchecked hashes: the archive has no useful time stamps, and without .pyc the first import takes 3 s, not 1 s.
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    source = Path(tree) / name
    try:
        py_compile.compile(str(source), dfile=name, doraise=True, invalidation_mode=mode)
    except py_compile.PyCompileError:
        source.unlink()  # written for a newer Python: nobody can import it here


def _pack(tree: Path, name: str, key: str, effort: Effort) -> Built:
    stem = f"{name}-{effort.name.lower()}-{key}"
    for old in KEPT.glob(f"{name}-{effort.name.lower()}-*"):
        old.unlink()
    packed = KEPT / f"{stem}.tar.zst"
    fresh = packed.with_suffix(".part")
    size = 0
    with ZstdFile(fresh, "w", options=_options(effort)) as out, tarfile.open(fileobj=out, mode="w|") as archive:
        for path in sorted(path for path in tree.rglob("*") if path.is_file()):
            info = archive.gettarinfo(path, path.relative_to(tree).as_posix())
            info.mtime, info.uid, info.gid, info.uname, info.gname = 0, 0, 0, "", ""
            info.mode = 0o755 if os.access(path, os.X_OK) else 0o644
            size += info.size
            with open(path, "rb") as file:
                archive.addfile(info, file)
    fresh.replace(packed)
    with open(packed, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    built = Built(f"runtime-{name}.tar.zst", str(packed), size, sha256)
    (KEPT / f"{stem}.json").write_text(json.dumps(asdict(built)))
    print(f"  {name}: {size >> 20} MB, packed {packed.stat().st_size >> 20} MB", flush=True)
    return built


def _options(effort: Effort) -> dict[int, int]:
    # No long window: it saves 1 MB of 88 and makes zstd compress all of torch in one thread.
    options: dict[int, int] = {}
    options[CompressionParameter.compression_level] = effort.value
    options[CompressionParameter.nb_workers] = os.cpu_count() or 1
    return options


if __name__ == "__main__":
    build_all(Effort[sys.argv[1].upper()] if sys.argv[1:] else Effort.QUICK)
