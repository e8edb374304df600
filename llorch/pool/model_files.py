"""`models verify|delete|import`: commands that read or change the files of a model."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

from llorch.base import ids
from llorch.base.errors import HostError, NotFound, UsageError
from llorch.base.home import Home, find_home
from llorch.base.ids import ModelId
from llorch.host import disk, fetch
from llorch.pool import catalog_file, progress, records
from llorch.pool.download import PARTIAL_DIR
from llorch.pool.models import model_body
from llorch.pool.output import print_json
from llorch.pool.terminal import Terminal
from llorch.wire.catalog import ModelEntry, ModelFile, downloaded_as


def verify_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="ID")


def verify(arguments: argparse.Namespace, terminal: Terminal) -> int:
    """Exit 1 when a file is missing or changed. JSON: {id, ok, problems: [{path, problem}]}."""
    home = find_home(os.environ)
    entry = catalog_file.load(home).get(arguments.model)
    if not entry.downloaded or (not entry.files and not entry.embedded):
        raise NotFound(
            f"model '{entry.id}' is not downloaded: nothing to verify (llorch-pool models download {entry.id})"
        )
    shown = progress.choose(terminal, False, sum(file.size_bytes for file in entry.files))
    problems = [] if arguments.json and not entry.files else _problems(home, entry, shown)
    if arguments.json:
        rows = [{"path": path, "problem": problem} for path, problem in problems]
        print_json({"id": entry.id, "ok": not problems, "problems": rows})
    elif problems:
        print("\n".join(f"{path}: {problem}" for path, problem in problems))
        print(f"Model {entry.id} is damaged: run llorch-pool models download {entry.id} --force")
    else:
        print(f"Model {entry.id} is intact ({len(entry.files)} files)")
    return 1 if problems else 0


def _problems(home: Home, entry: ModelEntry, shown: progress.Progress) -> list[tuple[str, str]]:
    folder = catalog_file.directory(home, entry)
    problems = []
    done_bytes = 0
    for file in entry.files:
        path = folder / file.path
        shown.start(file.path, done_bytes)
        if not path.is_file():
            problems.append((file.path, "missing"))
        elif path.stat().st_size != file.size_bytes:
            problems.append((file.path, f"has {path.stat().st_size} bytes instead of {file.size_bytes}"))
        elif fetch.hash_file(path, shown.advance) != file.sha256:
            problems.append((file.path, "wrong checksum"))
        done_bytes += file.size_bytes
    shown.close()
    return problems


def delete_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="ID")
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask")


def delete(arguments: argparse.Namespace, terminal: Terminal) -> int:
    """Delete the files (partial ones, too); the entry stays, as not downloaded. JSON: {id, freed_bytes}."""
    home = find_home(os.environ)
    entry = catalog_file.load(home).get(arguments.model)
    if entry.embedded:
        raise HostError(f"model '{entry.id}' is part of llorch and cannot be deleted (unregister hides it)")
    users = [record.worker_id for record in records.load_all(home) if record.model == entry.id and record.is_alive()]
    if users:
        raise HostError(f"model '{entry.id}' is in use by {', '.join(users)}: stop first")
    folder = catalog_file.directory(home, entry)
    size_bytes = disk.size_bytes(folder)
    if not arguments.yes and not _confirmed(f"Delete {folder} ({progress.megabytes(size_bytes)})?"):
        return 1
    with disk.locked(home.models_dir / f".{entry.id}.lock", timeout_s=5.0):
        gone = replace(entry, downloaded=False, size_bytes=0, files=(), revision="")
        # Not ours to keep in the catalog when it is a built-in that nobody stored.
        catalog_file.change(home, lambda c: c.with_entry(gone) if entry in c.models else c)
        shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        raise HostError(f"{folder} could not be deleted completely")
    if arguments.json:
        print_json({"id": entry.id, "freed_bytes": size_bytes})
    else:
        print(f"Model {entry.id} deleted, {progress.megabytes(size_bytes)} freed")
    return 0


def _confirmed(question: str) -> bool:
    """Ask on a terminal; UsageError when there is nobody to ask."""
    if not sys.stdin.isatty():
        raise UsageError("nobody to ask: add -y to delete without a question")
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def import_model_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", metavar="DIR", help="a directory with config.json and *.safetensors")
    parser.add_argument("--id", metavar="ID", help="id in the catalog (default: the directory's name)")
    parser.add_argument("--name", metavar="NAME", help="name for people")
    parser.add_argument("--architecture", metavar="ARCH", help="template hint")
    parser.epilog = "The files are hard-linked or copied into the model root; the directory itself is left alone."


def import_model(arguments: argparse.Namespace, terminal: Terminal) -> int:
    """JSON: {model: model_body}."""
    home = find_home(os.environ)
    source = Path(arguments.directory).resolve()
    if not (source / "config.json").is_file() or not any(source.glob("*.safetensors")):
        raise NotFound(f"{source} holds no model: config.json and *.safetensors are needed")
    model_id = arguments.id or source.name.lower()
    if not ids.MODEL_ID.fullmatch(model_id):
        raise UsageError(f"'{model_id[:96]}' is not a model id: name one with --id")
    known = catalog_file.load(home).find_id(model_id)
    if known is not None and known.downloaded:
        raise HostError(f"model '{model_id}' has files already: choose another --id, or delete it first")
    with disk.locked(home.models_dir / f".{model_id}.lock", timeout_s=5.0):
        folder = home.model_dir(model_id, "")
        files = _take_in(source, folder, terminal)
        name = arguments.name or (known.name if known else model_id)
        blank = known or ModelEntry(ModelId(model_id), name, "", "", path="")
        named = replace(blank, name=name, architecture=arguments.architecture or blank.architecture)
        path = catalog_file.stored_path(home, folder)
        entry = downloaded_as(named, path=path, revision="", files=files)
        catalog_file.change(home, lambda catalog: catalog.with_entry(entry))
    if arguments.json:
        print_json({"model": model_body(home, entry)})
    else:
        print(f"Model {entry.id} imported ({progress.megabytes(entry.size_bytes)})")
    return 0


def _take_in(source: Path, folder: Path, terminal: Terminal) -> tuple[ModelFile, ...]:
    """Link or copy the wanted files into `folder` and take their checksums."""
    if source == folder:
        raise HostError("the directory is the model's own place already; import from elsewhere")
    wanted = sorted(path for path in source.iterdir() if path.is_file() and fetch.is_wanted(path.name))
    total = sum(path.stat().st_size for path in wanted)
    disk.make_dir(folder)
    shown = progress.choose(terminal, False, total)
    files = []
    done_bytes = 0
    for path in wanted:
        shown.start(path.name, done_bytes)
        (folder / path.name).unlink(missing_ok=True)
        disk.link_or_copy(path.resolve(), folder / path.name)
        files.append(ModelFile(path.name, path.stat().st_size, fetch.hash_file(folder / path.name, shown.advance)))
        done_bytes += path.stat().st_size
    shown.close()
    shutil.rmtree(folder / PARTIAL_DIR, ignore_errors=True)
    return tuple(files)
