"""`models fetch`: a model's files from a pool that serves them (`models serve`), each one checked by its checksum.

stdin brings one JSON line, {"token": "…", "model": {…}}: the catalog entry of the other pool with the checksums, by a
way that can be trusted (SSH). What the URL delivers is believed only as far as it agrees with them.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace

from llorch.base.errors import HostError, LlorchError, UsageError
from llorch.base.home import find_home
from llorch.host import disk
from llorch.host.fetch import RemoteFile, Snapshot, is_wanted
from llorch.host.peer import PeerSource
from llorch.pool import arrival, catalog_file, progress
from llorch.pool.download import finish
from llorch.pool.terminal import Terminal
from llorch.wire import strict_json
from llorch.wire.catalog import Catalog, ModelEntry, parse_entry
from llorch.wire.fields import Fields

_LINE_BYTES_MAX = 1 << 20


def fetch_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("url", metavar="URL", help="what models serve said on the other pool")
    parser.epilog = 'stdin brings {"token": "…", "model": {…}}. Started by llorch pool models copy.'


def fetch(arguments: argparse.Namespace, terminal: Terminal) -> int:
    """Exit 5 when the other pool cannot be reached. JSON as of `download`."""
    home = find_home(os.environ)
    token, offered = _read_line()
    files = tuple(RemoteFile(file.path, file.size_bytes, file.sha256, "") for file in offered.files)
    source = PeerSource(arguments.url, token, files)
    snapshot = Snapshot(offered.repo, offered.revision, files, offered.licence, offered.gated)
    entry = _entry_for(catalog_file.load(home), offered)
    shown = progress.choose(terminal, arguments.json, snapshot.size_bytes)

    def waiting() -> None:
        shown.note(f"another process is downloading {entry.id}; waiting for it")

    with disk.locked(home.model_lock_path(entry.id), timeout_s=arrival.LOCK_TIMEOUT_S, waiting=waiting):
        entry = _entry_for(catalog_file.load(home), offered)
        if set(entry.files) == set(offered.files) and arrival.is_here(home, entry):
            source.finish()
            return finish(home, entry, arguments, already=True)
        source.check()
        try:
            # Where both pools knew different things of it, ours stay; the repository comes with the files.
            entry = arrival.bring(home, replace(entry, repo=snapshot.repo), snapshot, source, shown)
        finally:
            shown.close()
        source.finish()
    return finish(home, entry, arguments, already=False)


def _read_line() -> tuple[str, ModelEntry]:
    """Token and offered model from stdin. Raises UsageError, without echoing them."""
    line = sys.stdin.buffer.readline(_LINE_BYTES_MAX + 1)
    try:
        body = strict_json.parse_object(line)
        fields = Fields(body, ("token", "model"))
        token = fields.required_text("token", size_max=1024)
        if not token.isascii() or not token.isprintable():
            fields.problem("token", "must be printable ASCII")
        if not isinstance(body.get("model"), dict):
            fields.problem("model", "must be an object")
        fields.done()
        offered = parse_entry({**body["model"], "path": ""})
    except LlorchError as error:
        raise UsageError(f"the line on stdin: {error.message}") from None
    if not offered.files or any(not is_wanted(f.path) or not f.sha256 for f in offered.files):
        raise UsageError("the line on stdin: model.files: only weights, JSON and tokenizers, each with its sha256")
    if len({file.path for file in offered.files}) != len(offered.files):
        raise UsageError("the line on stdin: model.files: one path twice")
    return token, offered


def _entry_for(catalog: Catalog, offered: ModelEntry) -> ModelEntry:
    """Our entry of the offered model, or one like the other pool's. Raises HostError when its id is another model."""
    known = (catalog.by_repo(offered.repo) if offered.repo else None) or catalog.find_id(offered.id)
    if known is None:
        free = tuple(name for name in offered.aliases if catalog.find(name) is None)
        return replace(
            offered, path="", downloaded=False, size_bytes=0, files=(), revision="", aliases=free, unknown={}
        )
    other = known.repo != offered.repo and (known.downloaded or bool(known.repo and offered.repo))
    if known.embedded or other:
        raise HostError(f"'{known.id}' is another model on this pool ({known.repo or 'imported'}): rename one of them")
    return known
