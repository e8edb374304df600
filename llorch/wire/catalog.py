"""`catalog.json` of a pool: which models this host knows, where their files are, what was verified.

Pure bytes ↔ values, shared by llorch-pool (reads and writes) and the worker (reads). Built-in entries are part of every
catalog unless hidden, so that a model can be downloaded or spawned without being registered first.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from llorch.base import ids
from llorch.base.config import did_you_mean
from llorch.base.errors import ModelNotFound
from llorch.base.ids import ModelId
from llorch.wire import strict_json
from llorch.wire.fields import Fields, Unknown

FORMAT_VERSION = 1
EMBEDDED = "embedded:"
REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
REVISION = re.compile(r"[0-9a-f]{40}")
SHA256 = re.compile(r"[0-9a-f]{64}")
ARCHITECTURE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_FILES_MAX = 4096
_SIZE_BYTES_MAX = 1 << 50
_TEXT_BYTES_MAX = 256


def gigabytes(size_bytes: int) -> float:
    """GB of 10^9 bytes; four decimals, so that the smallest model is not nothing."""
    return round(size_bytes / 1e9, 4)


@dataclass(frozen=True, slots=True)
class ModelFile:
    """One file of a model: path relative to the model's directory, size in bytes, lower-case hex SHA-256."""

    path: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One model. `path` is relative to the directory of `catalog.json`; `embedded:NAME` is part of llorch itself.

    `revision` is the pinned commit hash, "" until downloaded. `architecture` is a template hint only: the family is
    decided by the model's config.json. `licence` and `gated` are as the hub last said ("", None: not known).
    `unknown` keeps fields that a newer version wrote.
    """

    id: ModelId
    name: str
    repo: str
    architecture: str
    path: str
    format: str = "safetensors"
    downloaded: bool = False
    size_bytes: int = 0
    revision: str = ""
    files: tuple[ModelFile, ...] = ()
    aliases: tuple[str, ...] = ()
    template: str = ""
    licence: str = ""
    gated: bool | None = None
    unknown: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @property
    def size_gb(self) -> float:
        """Size in GB (10^9 bytes)."""
        return gigabytes(self.size_bytes)

    @property
    def embedded(self) -> bool:
        """True for a model that ships inside llorch."""
        return self.path.startswith(EMBEDDED)

    def to_body(self) -> dict[str, Any]:
        """The JSON object stored in `catalog.json`."""
        return {
            **self.unknown,
            "id": self.id,
            "name": self.name,
            "repo": self.repo,
            "architecture": self.architecture,
            "path": self.path,
            "format": self.format,
            "downloaded": self.downloaded,
            "size_gb": self.size_gb,
            "size_bytes": self.size_bytes,
            "revision": self.revision,
            "aliases": list(self.aliases),
            "template": self.template,
            "licence": self.licence,
            "gated": self.gated,
            "files": [{"path": f.path, "size_bytes": f.size_bytes, "sha256": f.sha256} for f in self.files],
        }


def _builtin(model_id: str, name: str, repo: str, architecture: str, *aliases: str) -> ModelEntry:
    return ModelEntry(ModelId(model_id), name, repo, architecture, path="", aliases=aliases)


BUILT_IN: tuple[ModelEntry, ...] = (
    ModelEntry(
        ModelId("demo"),
        "Demo stories (embedded)",
        "",
        "llama",
        path=EMBEDDED + "demo",
        downloaded=True,
        size_bytes=6_000_000,  # about: a listing should not unpack the program's assets to weigh them
    ),
    _builtin("qwen-0.5b", "Qwen2.5 0.5B Instruct", "Qwen/Qwen2.5-0.5B-Instruct", "qwen"),
    _builtin("tinyllama", "TinyLlama 1.1B Chat", "TinyLlama/TinyLlama-1.1B-Chat-v1.0", "llama"),
    _builtin("phi3", "Phi-3 Mini 4K Instruct", "microsoft/Phi-3-mini-4k-instruct", "phi"),
    _builtin("mistral", "Mistral 7B Instruct v0.2", "mistralai/Mistral-7B-Instruct-v0.2", "mistral"),
    _builtin("llama3-8b", "Llama 3 8B Instruct", "meta-llama/Meta-Llama-3-8B-Instruct", "llama", "llama3"),
)
_BUILT_IN_BY_ID = {entry.id: entry for entry in BUILT_IN}


@dataclass(frozen=True, slots=True)
class Catalog:
    """What `catalog.json` says: stored entries, and the built-in ids that were unregistered."""

    models: tuple[ModelEntry, ...] = ()
    hidden: tuple[str, ...] = ()

    def entries(self) -> tuple[ModelEntry, ...]:
        """Every visible model: the built-in ones first in their order, then the others as registered."""
        stored = {entry.id: entry for entry in self.models}
        first = tuple(stored.pop(e.id, e) for e in BUILT_IN if e.id in stored or e.id not in self.hidden)
        return first + tuple(stored.values())

    def find_id(self, model_id: str) -> ModelEntry | None:
        """The visible entry with exactly this id, else None."""
        return next((entry for entry in self.entries() if entry.id == model_id), None)

    def find(self, id_or_alias: str) -> ModelEntry | None:
        """The visible entry with this id, else the one with this alias, else None."""
        named = (entry for entry in self.entries() if id_or_alias in entry.aliases)
        return self.find_id(id_or_alias) or next(named, None)

    def get(self, id_or_alias: str) -> ModelEntry:
        """Like `find`; raises ModelNotFound with a suggestion."""
        entry = self.find(id_or_alias)
        if entry is None:
            known = [name for e in self.entries() for name in (e.id, *e.aliases)]
            raise ModelNotFound(f"no model '{id_or_alias[:96]}' in the catalog{did_you_mean(id_or_alias, known)}")
        return entry

    def by_repo(self, repo: str) -> ModelEntry | None:
        """The visible entry that is downloaded from this hub repository."""
        return next((entry for entry in self.entries() if entry.repo == repo), None)

    def with_entry(self, entry: ModelEntry) -> Catalog:
        """This catalog with `entry` added, or put in the place of the one with its id; it becomes visible."""
        if any(known.id == entry.id for known in self.models):
            models = tuple(entry if known.id == entry.id else known for known in self.models)
        else:
            models = (*self.models, entry)
        return Catalog(models, tuple(h for h in self.hidden if h != entry.id))

    def without(self, model_id: str) -> Catalog:
        """This catalog without the entry; a built-in one becomes hidden."""
        models = tuple(known for known in self.models if known.id != model_id)
        hide = model_id in _BUILT_IN_BY_ID and model_id not in self.hidden
        return Catalog(models, (*self.hidden, model_id) if hide else self.hidden)


def built_in(model_id: str) -> ModelEntry | None:
    """The built-in entry with this id, hidden or not."""
    return _BUILT_IN_BY_ID.get(ModelId(model_id))


def parse_catalog(data: bytes) -> Catalog:
    """Read `catalog.json`. Raises InvalidRequest, naming the entry and the field, when it is not a catalog."""
    body = strict_json.parse_object(data)
    fields = Fields(body, (), Unknown.IGNORE)
    version = fields.integer("version", 1, FORMAT_VERSION)
    rows = body.get("models")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        fields.problem("models", "must be a list of objects")
        rows = []
    hidden = fields.texts("hidden", count_max=_FILES_MAX)
    fields.done()
    del version
    models = tuple(_parse_entry(row, index) for index, row in enumerate(rows))
    if len({entry.id for entry in models}) != len(models):
        fields.problem("models", "has the same id twice")
        fields.done()
    return Catalog(models, hidden)


_KNOWN = (
    "id", "name", "repo", "architecture", "path", "format", "downloaded", "size_gb", "size_bytes", "revision",
    "aliases", "template", "licence", "gated", "files",
)  # fmt: skip


def _parse_entry(row: dict[str, Any], index: int) -> ModelEntry:
    fields = Fields(row, (), Unknown.IGNORE)
    for name in ("id", "path"):
        if row.get(name) is None:
            fields.problem(f"models[{index}].{name}", "is required")
    model_id = ModelId(fields.pattern("id", ids.MODEL_ID) or "")
    size_gb = fields.number("size_gb", 0, _SIZE_BYTES_MAX / 1e9) or 0.0
    size_bytes = fields.integer("size_bytes", 0, _SIZE_BYTES_MAX)
    entry = ModelEntry(
        id=model_id,
        name=fields.text("name", size_max=_TEXT_BYTES_MAX) or model_id,
        repo=_optional(fields, "repo", REPO),
        architecture=_optional(fields, "architecture", ARCHITECTURE),
        path=_checked_path(fields, fields.text("path", size_max=4096) or ""),
        format=fields.text("format", size_max=_TEXT_BYTES_MAX) or "safetensors",
        downloaded=fields.switch("downloaded"),
        size_bytes=int(size_gb * 1e9) if size_bytes is None else size_bytes,
        revision=_optional(fields, "revision", REVISION),
        files=_parse_files(fields, row.get("files")),
        aliases=fields.texts("aliases", count_max=64),
        template=fields.text("template", size_max=1 << 16) or "",
        licence=fields.text("licence", size_max=_TEXT_BYTES_MAX) or "",
        gated=fields.switch("gated") if fields.has("gated") else None,
        unknown={key: value for key, value in row.items() if key not in _KNOWN},
    )
    fields.done()
    return entry


def parse_entry(row: dict[str, Any]) -> ModelEntry:
    """One entry as `to_body` makes it, from another pool. Raises InvalidRequest that names the field."""
    return _parse_entry(row, 0)


def _optional(fields: Fields, name: str, rule: re.Pattern[str]) -> str:
    return "" if fields.raw(name) == "" else fields.pattern(name, rule) or ""


def _checked_path(fields: Fields, path: str) -> str:
    if path and not path.startswith(EMBEDDED) and not is_inside(path):
        fields.problem("path", "must be a relative path without '..'")
    return path


def _parse_files(fields: Fields, rows: object) -> tuple[ModelFile, ...]:
    if rows is None:
        return ()
    if not isinstance(rows, list) or len(rows) > _FILES_MAX or not all(isinstance(row, dict) for row in rows):
        fields.problem("files", f"must be a list of at most {_FILES_MAX} objects")
        return ()
    return tuple(_parse_file(fields, row) for row in rows)


def _parse_file(fields: Fields, row: dict[str, Any]) -> ModelFile:
    one = Fields(row, (), Unknown.IGNORE)
    path = one.required_text("path", size_max=1024)
    if not is_inside(path):
        one.problem("path", "must be a relative path without '..'")
    parsed = ModelFile(path, one.integer("size_bytes", 0, _SIZE_BYTES_MAX) or 0, one.pattern("sha256", SHA256) or "")
    for problem in one.problems:
        fields.problem(f"files.{problem['field']}", problem["message"])
    return parsed


def is_inside(path: str) -> bool:
    """True for a relative path that names something below its root by its text alone (no '..', NUL or backslash)."""
    parts = path.split("/")
    return not any(part in ("", ".", "..") for part in parts) and "\0" not in path and "\\" not in path


def format_catalog(catalog: Catalog) -> bytes:
    """The bytes of `catalog.json`, indented for people."""
    body = {
        "version": FORMAT_VERSION,
        "models": [entry.to_body() for entry in catalog.models],
        "hidden": list(catalog.hidden),
    }
    return (json.dumps(body, ensure_ascii=False, indent=2) + "\n").encode("utf-8")


def id_from_repo(repo: str) -> ModelId:
    """A model id for an unregistered repository: its name in lower case; raises ModelNotFound if none can be made."""
    text = re.sub(r"[^a-z0-9._-]+", "-", repo.rsplit("/", 1)[-1].lower()).strip("-._")[:64]
    if not REPO.fullmatch(repo) or not ids.MODEL_ID.fullmatch(text):
        raise ModelNotFound(f"'{repo[:96]}' is not a hub repository (expected ORGANISATION/NAME)")
    return ModelId(text)


def split_revision(target: str) -> tuple[str, str | None]:
    """`ID@REVISION` or `ORG/REPO@REVISION` apart; None when no revision is named."""
    name, at, revision = target.partition("@")
    return name, revision if at else None


def downloaded_as(entry: ModelEntry, *, path: str, revision: str, files: tuple[ModelFile, ...]) -> ModelEntry:
    """`entry` with its files in place under `path`."""
    size_bytes = sum(file.size_bytes for file in files)
    return replace(entry, path=path, revision=revision, files=files, size_bytes=size_bytes, downloaded=True)
