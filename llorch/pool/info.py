"""`models info`: what is known of one model, what it would take to run it, and whether this machine has that now."""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any

from llorch.base.errors import HostError
from llorch.base.home import Home, find_home
from llorch.host import devices, disk
from llorch.pool import catalog_file, fit, listing, measured, records
from llorch.pool.models import model_body
from llorch.pool.output import print_json
from llorch.pool.progress import megabytes
from llorch.pool.terminal import Terminal
from llorch.wire.catalog import ModelEntry, id_from_repo, split_revision


def info_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="ID|ORG/REPO")
    parser.add_argument("--template", action="store_true", help="print the chat template only, as workers use it")
    parser.add_argument("--hub", action="store_true", help="ask the hub for size, commit, licence and consent, too")


def info(arguments: argparse.Namespace, terminal: Terminal) -> int:
    """Everything about one model. JSON: model_body and

    config (the model's config.json, null when not there) · measured [{backend, slots, context, …, memory_bytes}] ·
    fit [{backend, needed_bytes, free_bytes, fits, origin: measured|estimated|unknown}] of the backends that work here ·
    disk {free_bytes, missing_bytes, fits} (null when it is not known how much is missing) ·
    workers [worker_id of those that serve it here] · hub {revision, size_bytes, licence, gated, current} with --hub
    """
    home = find_home(os.environ)
    entry, revision = _find(home, arguments.model)
    if arguments.template:
        return _print_template(home, entry, arguments)
    body = {**model_body(home, entry), "config": read_config(home, entry) or None}
    body["hub"] = _ask_hub(entry, revision) if arguments.hub else None
    body["measured"] = [row.to_body() for row in measured.of_model(home, entry)]
    body["fit"] = _fit(home, entry, body["hub"])
    body["disk"] = _disk(home, entry, body["hub"])
    body["workers"] = [r.worker_id for r in records.load_all(home) if r.model == entry.id and r.is_alive()]
    if arguments.json:
        print_json(body)
    else:
        print("\n".join(f"{key:<24} {value}" for key, value in _rows(body) if value not in ("", None)))
    return 0


def _find(home: Home, target: str) -> tuple[ModelEntry, str | None]:
    """The entry, and the revision that was typed; a repository that is not in the catalog gets an entry for now."""
    name, revision = split_revision(target)
    catalog = catalog_file.load(home)
    if "/" not in name:
        return catalog.get(name), revision
    found = catalog.by_repo(name)
    return found or ModelEntry(id_from_repo(name), name.rsplit("/", 1)[-1], name, "", path=""), revision


def _ask_hub(entry: ModelEntry, revision: str | None) -> dict[str, Any] | None:
    """What a download would fetch now; None for a model without a repository."""
    if not entry.repo or entry.embedded:
        return None
    from llorch.host import hub

    snapshot = hub.look_up(entry.repo, revision)
    return {
        "revision": snapshot.revision,
        "size_bytes": snapshot.size_bytes,
        "licence": snapshot.licence,
        "gated": snapshot.gated,
        "current": entry.downloaded and entry.revision == snapshot.revision,
    }


def _fit(home: Home, entry: ModelEntry, hub: dict[str, Any] | None) -> list[dict[str, Any]]:
    size_bytes = catalog_file.present_bytes(home, entry) or (hub["size_bytes"] if hub else 0)
    rows = []
    for backend in devices.backends():
        if backend.reason is None:
            need = fit.need(home, entry, measured.Shape(backend.name), size_bytes)
            free = fit.free_bytes(backend.name, 0)
            fits = need.size_bytes <= free if need.size_bytes else None
            row = {"backend": backend.name, "needed_bytes": need.size_bytes or None, "free_bytes": free, "fits": fits}
            rows.append({**row, "origin": need.origin.value})
    return rows


def _disk(home: Home, entry: ModelEntry, hub: dict[str, Any] | None) -> dict[str, Any]:
    free = disk.free_bytes(home.models_dir)
    missing = 0 if entry.downloaded else hub["size_bytes"] if hub else None
    return {"free_bytes": free, "missing_bytes": missing, "fits": None if missing is None else missing <= free}


def _rows(body: dict[str, Any]) -> list[tuple[str, Any]]:
    """The body as lines for people: (name, value)."""
    config = body["config"] or {}
    gated = {None: "", True: "yes (needs HF_TOKEN)", False: "no"}
    names = ("id", "name", "repo", "architecture", "downloaded", "path", "revision", "licence")
    rows: list[tuple[str, Any]] = [(key, body[key]) for key in names]
    rows += [("gated", gated[body["gated"]]), ("aliases", ", ".join(body["aliases"]))]
    rows.append(("size", listing.gigabytes(body["size_bytes"]) if body["size_bytes"] else ""))
    rows += [("file", f"{file['path']} ({megabytes(file['size_bytes'])})") for file in body["files"]]
    rows += [(key, config.get(key)) for key in ("model_type", "max_position_embeddings", "torch_dtype")]
    if (hub := body["hub"]) is not None:
        rows += [("hub revision", hub["revision"] + (" (the one that is here)" if hub["current"] else ""))]
        rows += [("hub size", listing.gigabytes(hub["size_bytes"])), ("hub licence", hub["licence"])]
        rows.append(("hub gated", gated[hub["gated"]]))
    rows += [("measured", measured.describe(row)) for row in body["measured"]]
    rows += [(f"fits ({row['backend']})", _fit_line(row)) for row in body["fit"]]
    rows.append(("disk", _disk_line(body["disk"])))
    return [*rows, ("workers", ", ".join(body["workers"]))]


def _fit_line(row: dict[str, Any]) -> str:
    if row["fits"] is None:
        return f"not known before its size is (--hub); {megabytes(row['free_bytes'])} of memory are free"
    verdict = "yes" if row["fits"] else "no"
    return (
        f"{verdict}: {megabytes(row['needed_bytes'])} needed ({row['origin']}), {megabytes(row['free_bytes'])} free now"
    )


def _disk_line(row: dict[str, Any]) -> str:
    if not row["missing_bytes"]:
        return f"{megabytes(row['free_bytes'])} free"
    verdict = "enough" if row["fits"] else "NOT enough"
    return f"{megabytes(row['free_bytes'])} free, {verdict} for {megabytes(row['missing_bytes'])}"


def read_config(home: Home, entry: ModelEntry) -> dict[str, Any]:
    """The model's config.json; empty when it is not there."""
    return _read_object(home, entry, "config.json")


def _read_object(home: Home, entry: ModelEntry, name: str) -> dict[str, Any]:
    if not entry.downloaded:
        return {}
    try:
        value = json.loads((catalog_file.directory(home, entry) / name).read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise HostError(f"model '{entry.id}': {name} cannot be read: {error}") from error
    return value if isinstance(value, dict) else {}


def _print_template(home: Home, entry: ModelEntry, arguments: argparse.Namespace) -> int:
    """The template as a worker chooses it. JSON: {id, origin: catalog|model|built-in, name, template}."""
    from llorch.wire import templates  # the other commands need not wait for it

    own = _own_template(home, entry)
    chosen = templates.choose(
        explicit=entry.template,
        own=own,
        architecture=str(read_config(home, entry).get("model_type") or entry.architecture),
        control_tokens=_control_tokens(home, entry),
    )
    origin = "catalog" if entry.template else "built-in" if own is None else "model"
    if origin == "built-in" and not entry.downloaded:
        print(f"llorch-pool: {entry.id} is not downloaded; it may bring a template of its own", file=sys.stderr)
    if arguments.json:
        print_json({"id": entry.id, "origin": origin, "name": chosen.name, "template": chosen.source})
    else:
        print(chosen.source)
    return 0


def _own_template(home: Home, entry: ModelEntry) -> str | None:
    """What the model's files say; a file of its own goes before the tokenizer's configuration."""
    from llorch.host import fetch
    from llorch.wire.templates import own_template

    if entry.downloaded:
        path = catalog_file.directory(home, entry) / fetch.TEMPLATE_FILE
        try:
            return path.read_text(encoding="utf-8")
        except FileNotFoundError:
            pass
        except (OSError, UnicodeDecodeError) as error:
            raise HostError(f"model '{entry.id}': {path.name} cannot be read: {error}") from error
    return own_template(_read_object(home, entry, "tokenizer_config.json").get("chat_template"))


def _control_tokens(home: Home, entry: ModelEntry) -> list[str]:
    """The control tokens that the model's tokenizer knows by name."""
    rows = _read_object(home, entry, "tokenizer.json").get("added_tokens")
    return [str(row.get("content")) for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
