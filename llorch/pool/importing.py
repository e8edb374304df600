"""`models import`: files that are on this host already become a model, linked or copied, checked like a download."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from llorch.base import ids
from llorch.base.errors import HostError, InvalidModel, NotFound, UsageError
from llorch.base.home import Home, find_home
from llorch.base.ids import ModelId
from llorch.host import disk, fetch, hub
from llorch.host.fetch import RemoteFile, Snapshot
from llorch.pool import catalog_file, progress
from llorch.pool.arrival import PARTIAL_DIR
from llorch.pool.models import model_body
from llorch.pool.output import print_json
from llorch.pool.terminal import Terminal
from llorch.wire.catalog import REVISION, SHA256, ModelEntry, ModelFile, downloaded_as, id_from_repo, split_revision

_HEADER_BYTES_MAX = 100 << 20
_SPARE_BYTES = 64 << 20
_CACHE_FOLDER = re.compile(r"models--([A-Za-z0-9._-]+?)--([A-Za-z0-9._-]+)")
_GIT_BLOB = re.compile(r"[0-9a-f]{40}")


def import_model_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "paths", nargs="*", metavar="DIR|FILE", help="a directory with config.json, tokenizer and *.safetensors"
    )
    parser.add_argument("--hf", metavar="ORG/REPO[@REV]", help="take it from the hub's own cache on this host")
    parser.add_argument("--id", metavar="ID", help="id in the catalog (default: the directory's name)")
    parser.add_argument("--name", metavar="NAME", help="name for people")
    parser.add_argument("--architecture", metavar="ARCH", help="template hint")
    parser.epilog = (
        "The files are hard-linked, reflinked or copied into the model root, never linked symbolically; where they "
        "came from is left alone. Weights that are cut short, and files of the hub's cache with a wrong checksum, are "
        "refused."
    )


@dataclass(frozen=True, slots=True)
class _Found:
    """The files to take in, the id they suggest, and where they are from when the hub's cache says so."""

    files: tuple[Path, ...]
    suggested_id: str
    repo: str = ""
    revision: str = ""


def import_model(arguments: argparse.Namespace, terminal: Terminal) -> int:
    """JSON: {model: model_body}."""
    home = find_home(os.environ)
    found = _find(arguments)
    _check(found.files)
    known = _known(home, found, arguments)
    with disk.locked(home.model_lock_path(known.id), timeout_s=5.0):
        folder = home.model_dir(known.id, "")
        files = _take_in(found.files, folder, terminal)
        named = replace(
            known,
            name=arguments.name or known.name,
            architecture=arguments.architecture or known.architecture,
            repo=known.repo or found.repo,
        )
        revision = found.revision if named.repo == found.repo else ""
        entry = downloaded_as(named, path=catalog_file.stored_path(home, folder), revision=revision, files=files)
        catalog_file.change(home, lambda catalog: catalog.with_entry(entry))
    if arguments.json:
        print_json({"model": model_body(home, entry)})
    else:
        print(f"Model {entry.id} imported ({progress.megabytes(entry.size_bytes)})")
    return 0


def _find(arguments: argparse.Namespace) -> _Found:
    """Raises UsageError, NotFound."""
    if bool(arguments.hf) == bool(arguments.paths):
        raise UsageError("name a directory or files, or a repository of the hub's cache with --hf")
    if arguments.hf:
        repo, revision = split_revision(arguments.hf)
        return _in_folder(hub.cached_snapshot(repo, revision or None))
    paths = [Path(path).absolute() for path in arguments.paths]
    if len(paths) == 1 and paths[0].is_dir():
        return _in_folder(paths[0])
    if missing := [path for path in paths if not path.is_file()]:
        raise NotFound(f"{missing[0]} is not a file")
    if refused := [path for path in paths if not fetch.is_wanted(path.name)]:
        raise UsageError(f"{refused[0].name} is neither safetensors nor JSON nor a tokenizer; it is not imported")
    if len({path.name for path in paths}) != len(paths):
        raise UsageError("two files have the same name")
    return _Found(tuple(sorted(paths)), paths[0].parent.name.lower())


def _in_folder(folder: Path) -> _Found:
    """The wanted files of a folder; one of the hub's cache says which repository and commit they are."""
    listed = [path for path in folder.iterdir() if path.is_file()]
    names = {file.path for file in fetch.select([RemoteFile(path.name, 0, "", "") for path in listed])}
    files = tuple(sorted(path for path in listed if path.name in names))
    if not (folder / "config.json").is_file() or not files:
        raise NotFound(f"{folder} holds no model: config.json, a tokenizer and *.safetensors are needed")
    cache = _CACHE_FOLDER.fullmatch(folder.parent.parent.name) if folder.parent.name == "snapshots" else None
    if cache is None or not REVISION.fullmatch(folder.name):
        return _Found(files, folder.resolve().name.lower())
    repo = f"{cache[1]}/{cache[2]}"
    return _Found(files, id_from_repo(repo), repo, folder.name)


def _known(home: Home, found: _Found, arguments: argparse.Namespace) -> ModelEntry:
    """The entry that the files are for: one without files of its own, or a new one. Raises UsageError, HostError."""
    catalog = catalog_file.load(home)
    by_repo = catalog.by_repo(found.repo) if found.repo and arguments.id is None else None
    model_id = by_repo.id if by_repo is not None else arguments.id or found.suggested_id
    if not ids.MODEL_ID.fullmatch(model_id):
        raise UsageError(f"'{model_id[:96]}' is not a model id: name one with --id")
    known = by_repo or catalog.find_id(model_id)
    if known is not None and known.downloaded:
        raise HostError(f"model '{model_id}' has files already: choose another --id, or delete it first")
    return known or ModelEntry(ModelId(model_id), model_id, found.repo, "", path="")


def _check(files: tuple[Path, ...]) -> None:
    """Raises InvalidModel when something of a model is missing, or a weights file is not whole."""
    names = {path.name for path in files}
    if "config.json" not in names or not any(name.endswith(".safetensors") for name in names):
        raise InvalidModel("config.json and *.safetensors are needed")
    if not names & {"tokenizer.json", "tokenizer.model"}:
        raise InvalidModel("a tokenizer is needed: tokenizer.json or tokenizer.model")
    for path in files:
        if path.suffix == ".safetensors":
            _check_weights(path)
        elif path.name == "config.json" or path.name.endswith(".safetensors.index.json"):
            listed = _read_object(path).get("weight_map", {})
            missing = {str(name) for name in listed.values()} - names if isinstance(listed, dict) else set()
            if missing:
                raise InvalidModel(f"{path.name} names {sorted(missing)[0]}, which is not there")


def _read_object(path: Path) -> dict[str, object]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InvalidModel(f"{path} cannot be read: {error}") from None
    if not isinstance(value, dict):
        raise InvalidModel(f"{path} is not a JSON object")
    return value


def _check_weights(path: Path) -> None:
    """A safetensors file is: length of the header (u64, little endian), the header in JSON, the tensors' bytes."""
    size = path.stat().st_size
    try:
        with open(path, "rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
            if not 2 <= header_bytes <= min(size - 8, _HEADER_BYTES_MAX):
                raise ValueError
            rows = json.loads(file.read(header_bytes))
        ends = [int(row["data_offsets"][1]) for name, row in rows.items() if name != "__metadata__"]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise InvalidModel(f"{path} is not a safetensors file") from None
    expected = 8 + header_bytes + max(ends, default=0)
    if size != expected:
        raise InvalidModel(f"{path} is not whole: it has {size} bytes and speaks of {expected}")


def _take_in(sources: tuple[Path, ...], folder: Path, terminal: Terminal) -> tuple[ModelFile, ...]:
    """Link or copy the files into `folder` and take their checksums; they get in place together, at the end."""
    if any(path.parent.resolve() == folder for path in sources):
        raise HostError("that is the model's own place already; import from elsewhere")
    wanted = tuple(_stated(path) for path in sources)
    snapshot = Snapshot("", "", wanted)
    partial_dir = folder / PARTIAL_DIR
    disk.make_dir(partial_dir)
    if sources[0].stat().st_dev != folder.stat().st_dev and snapshot.size_bytes + _SPARE_BYTES > disk.free_bytes(
        folder
    ):
        raise HostError(f"not enough disk space for a copy of {progress.megabytes(snapshot.size_bytes)}")
    shown = progress.choose(terminal, False, snapshot.size_bytes)
    files = []
    done_bytes = 0
    try:
        for path, file in zip(sources, wanted, strict=True):
            shown.start(path.name, done_bytes)
            partial = fetch.partial_path(file, partial_dir)
            partial.unlink(missing_ok=True)
            disk.link_or_copy(path.resolve(), partial)
            sha256 = fetch.checked_sha256(file, partial, shown) if file.key else fetch.hash_file(partial, shown.advance)
            files.append(ModelFile(path.name, file.size_bytes, sha256))
            done_bytes += file.size_bytes
        fetch.publish(snapshot, folder, partial_dir)
    finally:
        shown.close()
        shutil.rmtree(partial_dir, ignore_errors=True)
    return tuple(files)


def _stated(path: Path) -> RemoteFile:
    """The file with the checksum that its name in the hub's cache states, if it lies there."""
    real = path.resolve()
    name = real.name if real.parent.name == "blobs" else ""
    sha256 = name if SHA256.fullmatch(name) else ""
    git_sha1 = name if _GIT_BLOB.fullmatch(name) else ""
    return RemoteFile(path.name, real.stat().st_size, sha256, git_sha1)
