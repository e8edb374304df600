"""Model files from the hub: what a repository holds at one commit, and each file resumed, verified and moved in place.

The library gives the metadata, the credentials and the cache; the transfer itself is ours, because the library (2.x)
throws a partial file away when the process ends, and a download of gigabytes must go on where it stopped.
Only safetensors, JSON, tokenizer.model and the chat template are ever fetched: nothing that would run outside of the
templates' sandbox.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from llorch.base.errors import HostError, NotFound, Unreachable
from llorch.host import disk, runtime

TEMPLATE_FILE = "chat_template.jinja"  # where newer repositories keep what tokenizer_config.json held
READ_TIMEOUT_S = 30.0
LOOK_UP_TIMEOUT_S = 20.0
RETRIES_MAX = 6  # in a row, without a single byte between them
_BACKOFF_S = 0.5
_BACKOFF_MAX_S = 8.0
_CHUNK_BYTES = 1 << 20
_BUSY = (408, 429, 500, 502, 503, 504)


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file of a commit. `sha256` is known for large files, else `git_sha1` is the id of its git blob."""

    path: str
    size_bytes: int
    sha256: str
    git_sha1: str

    @property
    def key(self) -> str:
        """Names the content, so that a partial file is only ever continued with the same content."""
        return (self.sha256 or self.git_sha1)[:16]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The files to fetch from `repo` at the commit `revision` (40 hex digits)."""

    repo: str
    revision: str
    files: tuple[RemoteFile, ...]

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)


class Watcher(Protocol):
    """Who wants to see a download's progress."""

    def advance(self, done_bytes: int) -> None:
        """`done_bytes` of the current file are on disk."""

    def note(self, text: str) -> None:
        """Something worth a line, such as a broken connection that is resumed."""


def is_wanted(path: str) -> bool:
    """Weights and JSON at the top of the repository, tokenizer.model and template; never pickled weights or code."""
    return "/" not in path and (path.endswith((".safetensors", ".json")) or path in ("tokenizer.model", TEMPLATE_FILE))


def select(files: Sequence[RemoteFile]) -> tuple[RemoteFile, ...]:
    """The wanted files; empty when there are no safetensors weights among them.

    A `consolidated*.safetensors` beside `model*.safetensors` is the same weights once more and is left out.
    """
    wanted = [file for file in files if is_wanted(file.path)]
    if any(file.path.startswith("model") and file.path.endswith(".safetensors") for file in wanted):
        wanted = [file for file in wanted if not file.path.startswith("consolidated")]
    if not any(file.path.endswith(".safetensors") for file in wanted):
        return ()
    return tuple(sorted(wanted, key=lambda file: (file.size_bytes, file.path)))


def look_up(repo: str, revision: str | None = None) -> Snapshot:
    """What to fetch of `repo` at `revision` (branch, tag or commit; None is the default branch), pinned to a commit.

    Raises NotFound (no such repository or revision), Unreachable (offline) or HostError (gated, no safetensors).
    """
    runtime.ensure("net")
    from huggingface_hub import HfApi

    with _hub_errors(repo):
        info = HfApi(library_name="llorch").model_info(
            repo, revision=revision, files_metadata=True, timeout=LOOK_UP_TIMEOUT_S
        )
    listed = [_remote_file(sibling) for sibling in info.siblings or ()]
    files = select([file for file in listed if file is not None])
    if not files or not info.sha:
        raise HostError(f"{repo} has no safetensors weights; other formats can hold code and are not downloaded")
    return Snapshot(repo, info.sha, files)


def _remote_file(sibling: Any) -> RemoteFile | None:
    """A listed file; None when the hub states neither size nor hash, so that it could not be verified."""
    sha256 = sibling.lfs.sha256 if sibling.lfs is not None else ""
    if sibling.size is None or not (sha256 or sibling.blob_id):
        return None
    return RemoteFile(sibling.rfilename, int(sibling.size), sha256, sibling.blob_id or "")


@contextmanager
def _hub_errors(repo: str) -> Iterator[None]:
    """The hub's and the network's errors in the operator's words."""
    import httpx2
    from huggingface_hub import constants, errors

    hub = constants.ENDPOINT
    try:
        yield
    except errors.GatedRepoError:
        raise HostError(
            f"{repo} is gated: accept its licence at {hub}/{repo}, then set HF_TOKEN to a token of that account"
        ) from None
    except errors.RepositoryNotFoundError:
        raise NotFound(f"no repository {repo} at {hub} (a private one needs HF_TOKEN)") from None
    except (errors.RevisionNotFoundError, errors.RemoteEntryNotFoundError):
        raise NotFound(f"{repo} has no such revision or file") from None
    except errors.HFValidationError:
        raise NotFound(f"'{repo}' is not a repository name") from None
    except errors.OfflineModeIsEnabled:
        raise Unreachable("HF_HUB_OFFLINE is set, so the hub is not asked; unset it to download") from None
    except errors.HfHubHTTPError as error:
        raise HostError(f"{hub} answered {error.response.status_code} for {repo}") from None
    except (httpx2.TransportError, httpx2.InvalidURL) as error:
        reason = str(error) or type(error).__name__
        raise Unreachable(f"the hub {hub} does not answer ({reason}); are we offline?") from None


def partial_path(file: RemoteFile, partial_dir: Path) -> Path:
    """Where the bytes of `file` gather until they are verified."""
    return partial_dir / f"{file.path}.{file.key}"


def present_bytes(file: RemoteFile, directory: Path, partial_dir: Path) -> int:
    """Bytes of `file` that need not be fetched any more (not verified yet)."""
    for path in (partial_path(file, partial_dir), directory / file.path):
        if path.is_file():
            return min(path.stat().st_size, file.size_bytes)
    return 0


def fetch_file(snapshot: Snapshot, file: RemoteFile, directory: Path, partial_dir: Path, watcher: Watcher) -> str:
    """Bring `file` to `partial_path`, verified; returns its SHA-256 in hex.

    Taken in this order: the partial file, the same file in `directory`, the hub's cache on this host, the network.
    Interrupted at any point, the next call goes on. Raises HostError when the content is wrong twice.
    """
    partial = partial_path(file, partial_dir)
    if not partial.exists():
        _adopt(directory / file.path, partial, file)
    if not partial.exists() and (cached := _cached(snapshot, file)) is not None:
        disk.link_or_copy(cached, partial)
    for _ in range(2):
        digest = _Digest(file)
        if partial.exists():
            digest.read(partial, watcher)
        if digest.count != file.size_bytes:
            _transfer(snapshot, file, partial, digest, watcher)
        if digest.matches():
            return digest.sha256.hexdigest()
        partial.unlink()
        watcher.note(f"{file.path}: wrong checksum, fetching it again")
    raise HostError(f"{file.path} of {snapshot.repo} does not have the checksum that the hub states")


def _adopt(existing: Path, partial: Path, file: RemoteFile) -> None:
    """Use a file already in place (of another revision, or of a lost catalog) when its content is the wanted one."""
    if existing.is_file() and not existing.is_symlink() and existing.stat().st_size == file.size_bytes:
        digest = _Digest(file)
        digest.read(existing, None)
        if digest.matches():
            disk.link_or_copy(existing, partial)


def _cached(snapshot: Snapshot, file: RemoteFile) -> Path | None:
    """The file in the hub library's own cache, if it is whole."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(snapshot.repo, file.path, revision=snapshot.revision)
    if not isinstance(found, str):
        return None
    path = Path(found).resolve()
    return path if path.is_file() and path.stat().st_size == file.size_bytes else None


class _Digest:
    """The hashes of the bytes seen so far, whether they came from disk or from the network."""

    def __init__(self, file: RemoteFile) -> None:
        self._file = file
        self.reset()

    def reset(self) -> None:
        self.count = 0
        self.sha256 = hashlib.sha256()
        self._git = hashlib.sha1(b"blob %d\0" % self._file.size_bytes, usedforsecurity=False)

    def update(self, data: bytes) -> None:
        self.count += len(data)
        self.sha256.update(data)
        if not self._file.sha256:
            self._git.update(data)

    def read(self, path: Path, watcher: Watcher | None) -> None:
        with open(path, "rb") as source:
            while data := source.read(_CHUNK_BYTES):
                self.update(data)
                if watcher is not None:
                    watcher.advance(self.count)

    def matches(self) -> bool:
        if self.count != self._file.size_bytes:
            return False
        if self._file.sha256:
            return self.sha256.hexdigest() == self._file.sha256
        return self._git.hexdigest() == self._file.git_sha1


def _transfer(snapshot: Snapshot, file: RemoteFile, partial: Path, digest: _Digest, watcher: Watcher) -> None:
    """Append what is missing of `file` to `partial`, through broken connections, as long as each brings something."""
    import httpx2

    idle = 0
    while digest.count < file.size_bytes:
        before = digest.count
        try:
            _stream(snapshot, file, partial, digest, watcher)
        except (httpx2.TransportError, _Busy) as error:
            idle = 0 if digest.count > before else idle + 1
            if idle >= RETRIES_MAX:
                raise Unreachable(
                    f"{file.path}: the hub does not deliver ({error}); run the same command to go on"
                ) from None
            delay = min(_BACKOFF_S * 2**idle, _BACKOFF_MAX_S)
            watcher.note(f"{file.path}: connection lost at {digest.count} bytes, going on in {delay:g} s")
            time.sleep(delay)


class _Busy(Exception):
    """The hub answered with a status that passes, or ended a body early."""


def _stream(snapshot: Snapshot, file: RemoteFile, partial: Path, digest: _Digest, watcher: Watcher) -> None:
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    url = hf_hub_url(snapshot.repo, file.path, revision=snapshot.revision)
    headers = {**build_hf_headers(library_name="llorch"), "Accept-Encoding": "identity"}
    if digest.count:
        headers["Range"] = f"bytes={digest.count}-"
    with get_session().stream("GET", url, headers=headers, timeout=READ_TIMEOUT_S) as response:
        if response.status_code in _BUSY:
            raise _Busy(f"status {response.status_code}")
        if response.status_code >= 400:
            response.read()
            with _hub_errors(snapshot.repo):
                hf_raise_for_status(response)
        resumed = response.status_code == 206
        if not resumed:
            digest.reset()
        with open(partial, "ab" if resumed else "wb") as target:
            _append(response.iter_raw(), target, file, digest, watcher)
    if digest.count < file.size_bytes:
        raise _Busy("the body ended early")


def _append(chunks: Iterator[bytes], target: Any, file: RemoteFile, digest: _Digest, watcher: Watcher) -> None:
    try:
        for chunk in chunks:
            if digest.count + len(chunk) > file.size_bytes:
                raise HostError(f"{file.path}: the hub sends more bytes than it stated")
            target.write(chunk)
            target.flush()
            digest.update(chunk)
            watcher.advance(digest.count)
        os.fsync(target.fileno())
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise HostError(f"the disk is full at {file.path}; make room and run the same command to go on") from None
        raise


def publish(snapshot: Snapshot, directory: Path, partial_dir: Path) -> None:
    """Move every verified file into `directory` and remove the folder of partial files."""
    for file in snapshot.files:
        partial_path(file, partial_dir).replace(directory / file.path)
    disk.sync_dir(directory)
    shutil.rmtree(partial_dir, ignore_errors=True)


def hash_file(path: Path, on_bytes: Callable[[int], None]) -> str:
    """The SHA-256 of a file, in hex; `on_bytes` is told the bytes read so far."""
    digest = hashlib.sha256()
    count = 0
    with open(path, "rb") as source:
        while data := source.read(_CHUNK_BYTES):
            digest.update(data)
            count += len(data)
            on_bytes(count)
    return digest.hexdigest()
