"""`models catalog|list|register|alias|unregister`: commands that read or change the catalog and touch no model file."""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from typing import Any

from llorch.base import ids
from llorch.base.errors import HostError, UsageError
from llorch.base.home import Home, find_home
from llorch.base.ids import ModelId
from llorch.pool import catalog_file, listing
from llorch.pool.output import host_name, print_json
from llorch.pool.terminal import Terminal
from llorch.wire.catalog import ARCHITECTURE, REPO, Catalog, ModelEntry, built_in, gigabytes


def model_body(home: Home, entry: ModelEntry) -> dict[str, Any]:
    """The JSON of one model: its catalog entry with the absolute path and the size on disk.

    Its path is absolute when the model is downloaded, `embedded:NAME` when it is part of llorch, else empty.
    """
    size_bytes = catalog_file.present_bytes(home, entry)
    body = entry.to_body()
    if not entry.embedded:
        body["path"] = str(catalog_file.directory(home, entry)) if entry.downloaded else ""
    body["size_bytes"], body["size_gb"] = size_bytes, gigabytes(size_bytes)
    return body


def catalog(arguments: argparse.Namespace, terminal: Terminal) -> int:
    """Every known model. JSON: {host, models: [model_body]}."""
    home = find_home(os.environ)
    entries = catalog_file.load(home).entries()
    if arguments.json:
        print_json({"host": host_name(), "models": [model_body(home, entry) for entry in entries]})
    else:
        sized = [(entry, catalog_file.present_bytes(home, entry)) for entry in entries]
        print("\n".join(listing.catalog(host_name(), sized, terminal)))
    return 0


def list_downloaded(arguments: argparse.Namespace, terminal: Terminal) -> int:
    """The downloaded models. JSON as in `catalog`."""
    home = find_home(os.environ)
    entries = [entry for entry in catalog_file.load(home).entries() if entry.downloaded]
    if arguments.json:
        print_json({"host": host_name(), "models": [model_body(home, entry) for entry in entries]})
    else:
        rows = [(e, catalog_file.present_bytes(home, e), _place(home, e)) for e in entries]
        print("\n".join(listing.models(host_name(), rows)))
    return 0


def _place(home: Home, entry: ModelEntry) -> str:
    # Asking for the directory of an embedded model could unpack a runtime, which a listing must not wait for.
    return "(part of llorch)" if entry.embedded else str(catalog_file.directory(home, entry))


def register_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--id", required=True, metavar="ID", help="short name, such as qwen-0.5b")
    parser.add_argument("--name", metavar="NAME", help="name for people")
    parser.add_argument("--repo", metavar="ORG/REPO", help="repository on the hub")
    parser.add_argument("--architecture", metavar="ARCH", help="template hint: qwen, llama, mistral, phi, …")
    parser.add_argument("--alias", action="append", metavar="ID", help="another name of the model (may be repeated)")
    parser.epilog = "A known id is changed: what you do not name stays. The files of a model stay as they are."


def register(arguments: argparse.Namespace, terminal: Terminal) -> int:
    """Add an entry, or change a known one. JSON: {model, changed: added|updated}."""
    home = find_home(os.environ)
    _check_registration(arguments)
    known: list[ModelEntry | None] = []

    def edit(before: Catalog) -> Catalog:
        known[:] = [before.find_id(arguments.id)]
        return before.with_entry(_registered(known[0] or built_in(arguments.id), arguments))

    entry = catalog_file.change(home, edit).get(arguments.id)
    changed = "updated" if known[0] else "added"
    if arguments.json:
        print_json({"model": model_body(home, entry), "changed": changed})
    else:
        print(f"Model {entry.id} {changed}" + ("" if entry.downloaded else " (not downloaded)"))
    return 0


def _check_registration(arguments: argparse.Namespace) -> None:
    for name, flag in ((arguments.id, "--id"), *((alias, "--alias") for alias in arguments.alias or ())):
        if not ids.MODEL_ID.fullmatch(name):
            raise UsageError(f"{flag}: '{name[:96]}' is not a model id (lower case, must match {ids.MODEL_ID.pattern})")
    if arguments.repo is not None and not REPO.fullmatch(arguments.repo):
        raise UsageError(f"--repo: '{arguments.repo[:96]}' is not ORGANISATION/NAME")
    if arguments.architecture is not None and not ARCHITECTURE.fullmatch(arguments.architecture):
        raise UsageError("--architecture: letters, digits, '.', '_' and '-' only")
    if arguments.name is not None and (not arguments.name.isprintable() or len(arguments.name.encode()) > 200):
        raise UsageError("--name: at most 200 bytes of printable text")


def _registered(known: ModelEntry | None, arguments: argparse.Namespace) -> ModelEntry:
    if known is None:
        if arguments.repo is None:
            raise UsageError("--repo is needed for a new model (a directory on this host: models import DIR)")
        known = ModelEntry(ModelId(arguments.id), arguments.id, arguments.repo, "", path="")
    if known.embedded and arguments.repo:
        raise UsageError(f"'{known.id}' is part of llorch and has no repository; register yours under another id")
    moved = arguments.repo is not None and arguments.repo != known.repo
    return replace(
        known,
        name=arguments.name or known.name,
        repo=arguments.repo or known.repo,
        architecture=arguments.architecture or known.architecture,
        aliases=tuple(dict.fromkeys((*known.aliases, *(arguments.alias or ())))),
        # Files of another repository are not this model any more.
        downloaded=known.downloaded and not moved,
        revision="" if moved else known.revision,
    )


def alias_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help="the other name; without it, all are listed")
    parser.add_argument("model", nargs="?", metavar="ID", help="the model that it names")
    parser.add_argument("--remove", metavar="NAME", help="forget a name")


def alias(arguments: argparse.Namespace, terminal: Terminal) -> int:
    """Give a model another name, take one away, or list them. JSON: {aliases: {name: id}}."""
    home = find_home(os.environ)
    if arguments.name is not None and (arguments.model is None or arguments.remove is not None):
        raise UsageError("models alias NAME ID, models alias --remove NAME, or models alias alone to list")
    if arguments.remove is not None:
        catalog_file.change(home, lambda catalog: _without_alias(catalog, arguments.remove))
    elif arguments.name is not None:
        if not ids.MODEL_ID.fullmatch(arguments.name):
            raise UsageError(f"'{arguments.name[:96]}' is not a model name (it must match {ids.MODEL_ID.pattern})")
        catalog_file.change(home, lambda catalog: _with_alias(catalog, arguments.name, arguments.model))
    known = {name: entry.id for entry in catalog_file.load(home).entries() for name in entry.aliases}
    if arguments.json:
        print_json({"aliases": known})
    elif arguments.remove is not None:
        print(f"'{arguments.remove}' names no model any more")
    elif arguments.name is not None:
        print(f"'{arguments.name}' names model {known[arguments.name]} now")
    else:
        print("\n".join(f"{name:<24} {model_id}" for name, model_id in known.items()) or "No aliases")
    return 0


def _with_alias(catalog: Catalog, name: str, model: str) -> Catalog:
    entry = catalog.get(model)
    taken = catalog.find(name)
    if taken is not None and taken.id != entry.id:
        what = "is a model" if taken.id == name else f"names model {taken.id} (models alias --remove {name})"
        raise HostError(f"'{name}' {what} already")
    if entry.id == name:
        raise HostError(f"'{name}' is the model's own id")
    return catalog.with_entry(replace(entry, aliases=tuple(dict.fromkeys((*entry.aliases, name)))))


def _without_alias(catalog: Catalog, name: str) -> Catalog:
    entry = catalog.get(name)
    if name not in entry.aliases:
        raise HostError(f"'{name[:96]}' is no alias but the model's own id")
    return catalog.with_entry(replace(entry, aliases=tuple(known for known in entry.aliases if known != name)))


def unregister_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="ID")


def unregister(arguments: argparse.Namespace, terminal: Terminal) -> int:
    """Forget an entry, keep its files; a built-in one is hidden. JSON: {id, path}."""
    home = find_home(os.environ)
    removed: list[ModelEntry] = []

    def edit(before: Catalog) -> Catalog:
        removed[:] = [before.get(arguments.model)]
        return before.without(removed[0].id)

    catalog_file.change(home, edit)
    entry = removed[0]
    kept = "" if entry.embedded or not entry.downloaded else str(catalog_file.directory(home, entry))
    if arguments.json:
        print_json({"id": entry.id, "path": kept})
    else:
        print(f"Model {entry.id} removed from the catalog" + (f"; its files stay in {kept}" if kept else ""))
    return 0
