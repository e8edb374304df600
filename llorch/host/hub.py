"""What the hub says of a repository at one commit, and its files as a source to fetch from.

The library gives the metadata, the credentials and the cache; the transfer itself is ours, because the library (2.x)
throws a partial file away when the process ends, and a download of gigabytes must go on where it stopped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llorch.base.errors import HostError, NotFound, Unreachable
from llorch.host import runtime
from llorch.host.fetch import BUSY, Body, Interrupted, RemoteFile, Snapshot, select

READ_TIMEOUT_S = 30.0
LOOK_UP_TIMEOUT_S = 20.0
_LICENCE_TAG = "license:"


def look_up(repo: str, revision: str | None = None) -> Snapshot:
    """What to fetch of `repo` at `revision` (branch, tag or commit; None is the default branch), pinned to a commit.

    Raises NotFound (no such repository or revision), Unreachable (offline) or HostError (gated, no safetensors, not a
    hub's answer).
    """
    runtime.ensure("net")
    from huggingface_hub import HfApi

    with _hub_errors(repo), _nonsense(repo):
        info = HfApi(library_name="llorch").model_info(
            repo, revision=revision, files_metadata=True, timeout=LOOK_UP_TIMEOUT_S
        )
        listed = [_remote_file(sibling) for sibling in info.siblings or ()]
    files = select([file for file in listed if file is not None])
    if not files or not info.sha:
        raise HostError(f"{repo} has no safetensors weights; other formats can hold code and are not downloaded")
    gated = None if info.gated is None else bool(info.gated)
    return Snapshot(repo, info.sha, files, _licence(info.tags or ()), gated)


def _licence(tags: Sequence[str]) -> str:
    """The licence among a repository's tags, "" when there is none; cut to what the catalog takes."""
    named = (tag.removeprefix(_LICENCE_TAG) for tag in tags if tag.startswith(_LICENCE_TAG))
    return next(named, "")[:64]


def pinned(repo: str, revision: str, files: tuple[RemoteFile, ...]) -> HubSource:
    """The source of files that are known already, of one commit; the hub is not asked for their list."""
    runtime.ensure("net")
    return HubSource(Snapshot(repo, revision, files))


def cached_snapshot(repo: str, revision: str | None) -> Path:
    """The folder of the hub library's cache that holds `repo`; its name is the commit. Raises NotFound."""
    runtime.ensure("net")
    from huggingface_hub import constants, errors, snapshot_download

    try:
        return Path(snapshot_download(repo, revision=revision, local_files_only=True))
    except errors.LocalEntryNotFoundError:
        at = f" at revision {revision}" if revision else ""
        raise NotFound(f"{repo}{at} is not in the hub's cache {constants.HF_HUB_CACHE}") from None
    except errors.HFValidationError:
        raise NotFound(f"'{repo}' is not a repository name") from None


class HubSource:
    """The hub's files of one commit, through redirects and its own cache on this host."""

    name = "the hub"

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def cached(self, file: RemoteFile) -> Path | None:
        """The file in the hub library's own cache, if it is whole."""
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(self._snapshot.repo, file.path, revision=self._snapshot.revision)
        if not isinstance(found, str):
            return None
        path = Path(found).resolve()
        return path if path.is_file() and path.stat().st_size == file.size_bytes else None

    @contextmanager
    def open(self, file: RemoteFile, from_bytes: int) -> Iterator[Body]:
        """The file from a byte on. Raises Interrupted, and HostError for a refusal."""
        import httpx2
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

        url = hf_hub_url(self._snapshot.repo, file.path, revision=self._snapshot.revision)
        headers = {**build_hf_headers(library_name="llorch"), "Accept-Encoding": "identity"}
        if from_bytes:
            headers["Range"] = f"bytes={from_bytes}-"
        try:
            with get_session().stream("GET", url, headers=headers, timeout=READ_TIMEOUT_S) as response:
                if response.status_code in BUSY:
                    raise Interrupted(f"status {response.status_code}")
                if response.status_code >= 400:
                    response.read()
                    with _hub_errors(self._snapshot.repo):
                        hf_raise_for_status(response)
                yield Body(response.status_code == 206, response.iter_raw())
        except httpx2.TransportError as error:
            raise Interrupted(str(error) or type(error).__name__) from None


def _remote_file(sibling: Any) -> RemoteFile | None:
    """A listed file; None when the hub states neither size nor hash, so that it could not be verified."""
    sha256 = sibling.lfs.sha256 if sibling.lfs is not None else ""
    if sibling.size is None or not (sha256 or sibling.blob_id):
        return None
    return RemoteFile(sibling.rfilename, int(sibling.size), sha256, sibling.blob_id or "")


@contextmanager
def _nonsense(repo: str) -> Iterator[None]:
    """The library trusts what it is told: an answer that is no hub's, such as a login page, ends in any of these."""
    from huggingface_hub import constants, errors

    try:
        yield
    except (errors.HfHubHTTPError, errors.HFValidationError):
        raise
    except (ValueError, KeyError, TypeError, AttributeError):
        hint = "is HF_ENDPOINT right, and does this network want a login first?"
        raise HostError(f"{constants.ENDPOINT} does not answer as a hub when asked for {repo}; {hint}") from None


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
            f"{repo} is gated: accept its licence at {hub}/{repo}, make a token at {hub}/settings/tokens "
            "and set HF_TOKEN to it where llorch-pool runs (never as an argument: every user of the host sees those)"
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
        status = error.response.status_code
        hint = "; try again in a minute" if status in BUSY else ""
        raise HostError(f"{hub} answered {status} for {repo}{hint}") from None
    except (httpx2.TransportError, httpx2.InvalidURL) as error:
        reason = str(error) or type(error).__name__
        raise Unreachable(f"the hub {hub} does not answer ({reason}); are we offline?") from None
