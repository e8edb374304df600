"""On the chosen pool: bring the model where it is missing, start a worker, make it known to orchestratord."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from llorch.base import callback, worker_token
from llorch.base.addresses import is_loopback
from llorch.base.errors import HostError, InvalidRequest, LlorchError, TryLater
from llorch.client.sync import Client
from llorch.host import ssh
from llorch.host.pool_session import Done, open_session
from llorch.remote import served, survey, terminal
from llorch.remote.survey import Backend, Offer, Place
from llorch.wire import strict_json

ANNOUNCE_WAIT_S = 6.0  # a worker that finds nobody looks again after at most 5 s
LOAD_WAIT_S = 600.0
_LOOK_AGAIN_S = 5.0
_POLL_S = 0.05


def _watched() -> Callable[[bytes], None] | None:
    """Where the progress of a command goes: on a terminal it is shown as it comes, elsewhere nobody looks at it."""
    if not sys.stderr.isatty():
        return None

    def show(data: bytes) -> None:
        sys.stderr.buffer.write(data)
        sys.stderr.flush()

    return show


def _look() -> dict[str, str]:
    """What the output of a command on a pool should look like: progress bars need a terminal on stderr."""
    look = terminal.for_remote(os.environ)
    if sys.stderr.isatty():
        return {**look, "LLORCH_COLUMNS": str(terminal.columns())}
    return {name: value for name, value in look.items() if name != "LLORCH_COLUMNS"}


async def bring(offer: Offer, wanted: str, config: Mapping[str, Any]) -> None:
    """The files of model `wanted` to the offer's pool: from another pool where one has them, else from the hub."""
    size = f" ({survey.gigabytes(offer.size_bytes)})" if offer.size_bytes else ""
    terminal.tell(f"{offer.place.name}: bringing {offer.model}{size}; interrupted, the same command goes on")
    words = ["models", "download", wanted]
    if offer.place.target is not None and await _over_the_lan(offer.place, words, config):
        return
    async with open_session(offer.place.target, look=_look()) as session:
        done = await session.run(words, heard=_watched())
    _check(offer.place, done)


async def _over_the_lan(place: Place, words: list[str], config: Mapping[str, Any]) -> bool:
    """Did another registered pool have it?"""
    from llorch.remote import lan  # only downloads to other machines need it

    assert place.target is not None
    download = lan.prepare(words, config)
    if download is None:
        return False
    code = await download.copy_to(place.target, lambda data: None, _watched() or (lambda data: None))
    return code == 0


async def spawn(place: Place, model: str, backend: Backend, url: str, *, is_named: bool) -> Mapping[str, Any]:
    """Start a worker of `model` and wait until it is ready; its record.

    It will announce itself to the orchestratord at `url`: told so on another machine and where a flag named the URL
    (`is_named`), found by itself here. Raises HostError after the worker's last words.
    """
    terminal.tell(f"{place.name}: starting a worker for {model} on {backend.name}")
    words = ["worker", "spawn", backend.name, "--model", model, "--json"]
    async with open_session(place.target, look=_look()) as session:
        stdin = b""
        if place.target is not None or is_named:
            ends = await session.ends()
            token = worker_token.find_or_create(os.environ)
            back, bind = callback.url_for(url, ends.local, ends.server), ends.server
            if place.tunnel is not None:
                back, bind = callback.NOBODY, callback.LOOPBACK
            stdin, words = callback.stdin_line(token, back, bind), [*words, callback.STDIN_FLAG]
        done = await session.run(words, stdin=stdin, heard=_watched())
    _check(place, done)
    record = _object(done).get("worker")
    if not isinstance(record, dict) or not isinstance(record.get("url"), str) or not record.get("worker_id"):
        raise HostError(f"{place.name}: llorch-pool there does not say which worker it started")
    return record


def _check(place: Place, done: Done) -> None:
    """Raises the command's error; what it said before its last line goes to stderr if nobody has seen it yet."""
    if done.exit_code == 0:
        return
    said = done.err.decode("utf-8", "replace").rstrip().rpartition("\n")[0]
    if said and not sys.stderr.isatty():
        print(said, file=sys.stderr, flush=True)
    raise _spoken(place, done)


def _spoken(place: Place, done: Done) -> LlorchError:
    told = _object(done).get("error")
    error = survey.failure_of(place, done)
    if isinstance(told, dict) and isinstance(told.get("message"), str):
        error.message = told["message"]
    return error


def _object(done: Done) -> dict[str, Any]:
    try:
        return strict_json.parse_object(done.out)
    except InvalidRequest:
        return {}


async def alive_at(place: Place, model: str) -> list[Mapping[str, Any]]:
    """Records of the workers that serve `model` on a pool, loading ones included. Raises LlorchError."""
    async with open_session(place.target) as session:
        done = await session.run(["worker", "list", "--json"])
    if done.exit_code != 0:
        raise survey.failure_of(place, done)
    rows = _object(done).get("workers") or []
    return [row for row in rows if row.get("model") == model and row.get("status") != "Dead"]


def await_known(
    client: Client, place: Place, records: Collection[Mapping[str, Any]], model: str, *, wait_s: float
) -> str:
    """Until orchestratord may use one of these workers of `place`, which it then is.

    One that does not announce itself in time (it cannot reach us, or was told of another orchestratord) is added by
    its URL. Raises WorkersEnded when none of them lives any more, TryLater after `wait_s`.
    """
    wanted = {str(record["worker_id"]) for record in records}
    began = time.monotonic()
    look_at = began + _LOOK_AGAIN_S
    is_silent = place.tunnel is not None or all(_is_deaf(client, record) for record in records)
    add_at = began if is_silent else began + ANNOUNCE_WAIT_S
    while time.monotonic() < began + wait_s:
        found = [worker_id for worker_id in served.ready(client, model) if worker_id in wanted]
        if found:
            return found[0]
        if time.monotonic() >= add_at:
            add_at = time.monotonic() + _LOOK_AGAIN_S
            for record in records:
                _add(client, str(record["url"]), place.tunnel)
        if time.monotonic() >= look_at:
            _check_alive(place, wanted, model)
            look_at = time.monotonic() + _LOOK_AGAIN_S
        time.sleep(_POLL_S)
    raise TryLater(f"orchestratord at {client.url} does not see the worker {', '.join(sorted(wanted))} (llorch status)")


class WorkersEnded(HostError):
    """The workers that were waited for ended before orchestratord could use them."""


def _check_alive(place: Place, wanted: Collection[str], model: str) -> None:
    """Raises WorkersEnded when the pool lists none of the `wanted` workers; one that does not answer says nothing."""
    try:
        alive = ssh.run_interruptible(lambda: alive_at(place, model))
    except LlorchError:
        return
    if not {str(record["worker_id"]) for record in alive}.intersection(wanted):
        where = "" if place.target is None else f" --host {place.name}"
        name = sorted(wanted)[0]
        raise WorkersEnded(
            f"{place.name}: {', '.join(sorted(wanted))} ended before it served {model} "
            f"(why: llorch pool worker logs {name}{where})"
        )


def _is_deaf(client: Client, record: Mapping[str, Any]) -> bool:
    """Is the worker on another machine, and orchestratord on this one's loopback?"""
    return is_loopback(client.endpoint.host) and not is_loopback(urlsplit(str(record["url"])).hostname or "")


def _add(client: Client, url: str, tunnel: str | None) -> None:
    """Fails as long as the worker loads, and is tried again."""
    with suppress(LlorchError):
        host = urlsplit(url).hostname or ""
        if not is_loopback(host):
            client.register_pool(host)
        client.add_worker(url, pool=tunnel)
