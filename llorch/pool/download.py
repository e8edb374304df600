"""`models download`: from the hub's repository at one commit to verified files and a catalog entry.

Interrupted at any point, the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import os

from llorch.base.config import did_you_mean
from llorch.base.errors import HostError, ModelNotFound, UsageError
from llorch.base.home import Home, find_home
from llorch.host import disk, hub
from llorch.pool import arrival, catalog_file, progress
from llorch.pool.models import model_body
from llorch.pool.terminal import Terminal
from llorch.wire.catalog import Catalog, ModelEntry, built_in, id_from_repo, split_revision


def download_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        metavar="ID|ORG/REPO[@REV]",
        help="a model of the catalog, or any repository of the hub; @REV as --revision",
    )
    parser.add_argument("--revision", metavar="REV", help="branch, tag or commit (default: the repository's default)")
    parser.add_argument("--force", action="store_true", help="ask the hub again, although it is downloaded")
    parser.epilog = (
        "Only safetensors, JSON, tokenizer.model and chat_template.jinja are fetched, each checked by its checksum; "
        "the catalog keeps the commit. HF_TOKEN (for gated models), HF_ENDPOINT and the other variables of the hub's "
        "own tools are honoured. Interrupted, the same command goes on. Through 'llorch pool … --host', the other "
        "registered pools are asked first: --from POOL names one, --no-lan asks none."
    )


def download(arguments: argparse.Namespace, terminal: Terminal) -> int:
    """JSON: progress lines, then {"type": "done", "model": model_body, "already": bool}."""
    home = find_home(os.environ)
    target, revision = _target(arguments)
    entry = _find(catalog_file.load(home), target)
    if entry.embedded:
        return finish(home, entry, arguments, already=True)
    if not entry.repo:
        raise HostError(f"model '{entry.id}' has no repository: register --id {entry.id} --repo ORG/REPO")
    shown = progress.choose(terminal, arguments.json, 0)

    def waiting() -> None:
        shown.note(f"another process is downloading {entry.id}; waiting for it")

    with disk.locked(home.model_lock_path(entry.id), timeout_s=arrival.LOCK_TIMEOUT_S, waiting=waiting):
        entry = catalog_file.load(home).find_id(entry.id) or entry
        if not arguments.force and revision in (None, entry.revision) and arrival.is_here(home, entry):
            return finish(home, entry, arguments, already=True)
        snapshot = hub.look_up(entry.repo, revision)
        shown = progress.choose(terminal, arguments.json, snapshot.size_bytes)
        try:
            entry = arrival.bring(home, entry, snapshot, hub.HubSource(snapshot), shown)
        finally:
            shown.close()
    return finish(home, entry, arguments, already=False)


def _target(arguments: argparse.Namespace) -> tuple[str, str | None]:
    """What is to be downloaded, and at which revision. Raises UsageError."""
    target, revision = split_revision(arguments.model)
    if revision == "" or (revision and arguments.revision not in (None, revision)):
        raise UsageError("name one revision: ORG/REPO@REVISION, or --revision REVISION")
    return target, revision or arguments.revision


def _find(catalog: Catalog, target: str) -> ModelEntry:
    """The entry to download; a repository that no entry names gets one."""
    if "/" not in target:
        # A hidden built-in is shown again by downloading it.
        found = catalog.find(target) or built_in(target)
        if found is None:
            known = [name for entry in catalog.entries() for name in (entry.id, *entry.aliases)]
            hint = did_you_mean(target, known) or "; a repository is downloaded by ORG/REPO"
            raise ModelNotFound(f"no model '{target[:96]}' in the catalog{hint}")
        return found
    if (by_repo := catalog.by_repo(target)) is not None:
        return by_repo
    model_id = id_from_repo(target)
    if catalog.find_id(model_id) is not None:
        raise HostError(f"'{model_id}' is another model already: register --id OTHER --repo {target}, then download it")
    return ModelEntry(model_id, target.rsplit("/", 1)[-1], target, "", path="")


def finish(home: Home, entry: ModelEntry, arguments: argparse.Namespace, *, already: bool) -> int:
    """Say that the model is there; the exit code."""
    if arguments.json:
        print(json.dumps({"type": "done", "model": model_body(home, entry), "already": already}))
    elif entry.embedded:
        print(f"Model {entry.id} is part of llorch: nothing to download")
    else:
        size = progress.megabytes(entry.size_bytes)
        what = "is downloaded already" if already else "downloaded and verified"
        print(f"Model {entry.id} {what} ({size}, revision {entry.revision[:12] or 'none'})")
    return 0
