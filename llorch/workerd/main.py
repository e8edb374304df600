"""The worker's entry point: read the launch, load the model, then listen, then announce."""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from llorch.base import config, log
from llorch.base.clock import SystemClock
from llorch.base.errors import LlorchError
from llorch.base.log_file import LogFile
from llorch.host import notify, runtime
from llorch.web.sockets import bound_socket, stays_local
from llorch.workerd import access, launch, target
from llorch.workerd.access import Tokens
from llorch.workerd.launch import Launch, Model
from llorch.workerd.status import StatusFile

if TYPE_CHECKING:
    from llorch.model import LoadedModel
    from llorch.workerd.target import Target

SWITCH_S = 0.0005  # the step thread wants the interpreter back between two calls; the default would cost it up to 5 ms
_log = log.get(__name__)


def main(argv: list[str], *, prog: str) -> int:
    """`llorch worker --model DIR_OR_ID ...`; the exit code. Raises LlorchError for what stops it before it serves."""
    asked = launch.read(argv, os.environ, prog=prog)
    runtime.become_one_folder(["llorch", "worker", *argv])
    log.set_up("info", asked.log_format, LogFile(asked.log_file) if asked.log_file else None)
    notifier = notify.take(os.environ)
    status = StatusFile(os.environ, notifier)
    try:
        return _run(asked, status, notifier)
    except LlorchError as error:
        status.failed(error.message)
        raise


def _run(asked: Launch, status: StatusFile, notifier: notify.Notifier) -> int:
    status.loading(0.0)
    tokens = access.find_tokens(
        os.environ, bind=asked.bind, token_file=asked.token_file, insecure_lan=asked.insecure_lan
    )
    if asked.insecure_lan and not stays_local(asked.bind):
        log.event(
            _log,
            "INSECURE: anyone who reaches this address may use, drain and stop this worker",
            logging.WARNING,
            bind=asked.bind,
        )
    launch.check_backend(asked.backend, runtime.build().backends)
    sys.setswitchinterval(SWITCH_S)
    find = target.finder(asked.callback_url, asked.orchestrator, config.state_dir(os.environ))
    with _importing("llorch.workerd.daemon"), bound_socket(asked.bind, asked.port) as sock:
        model = launch.find_model(asked.model, os.environ, runtime.assets_dir)
        log.event(_log, "loading", model=model.id)
        runtime.ensure("engine")
        from llorch.workerd import load

        loaded = load.load(asked, model, status.loading)
        if loaded.obstacle is not None:
            log.event(_log, "computing with torch, not with the native kernels", reason=loaded.obstacle)
        with asyncio.Runner(loop_factory=_loop_factory()) as loop:
            return loop.run(_serve(asked, model, loaded, tokens, sock, find, status, notifier))


@contextmanager
def _importing(name: str) -> Iterator[None]:
    """A module and what it needs, a quarter of a second of imports, beside the block: the weights are packed meanwhile.

    A process that ends while a thread of it imports compiled modules may crash, so the block is left with it done.
    """
    thread = threading.Thread(target=importlib.import_module, args=(name,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where it installs; it halves the tail latency of many streams."""
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


async def _serve(
    asked: Launch,
    model: Model,
    loaded: LoadedModel,
    tokens: Tokens,
    sock: socket.socket,
    find: Callable[[], Target | None],
    status: StatusFile,
    notifier: notify.Notifier,
) -> int:
    from llorch.workerd import announce, load
    from llorch.workerd.daemon import Daemon
    from llorch.workerd.service import Service

    loop, clock = asyncio.get_running_loop(), SystemClock()
    engine = load.engine_of(
        loaded,
        clock,
        publish=lambda updates: void(loop.call_soon_threadsafe(service.deliver, updates)),
        died=lambda: void(loop.call_soon_threadsafe(daemon.die)),
    )
    facts, texts = load.facts_of(loaded, asked, model), load.texts_of(loaded, model)
    service = Service(facts, texts, engine, lambda: loaded.weights_bytes + loaded.kv_bytes, clock)
    daemon = Daemon(service, engine, sock, bind=asked.bind, grace_s=asked.grace_s, notifier=notifier)
    announcer = announce.Announcer(
        find,
        daemon.announcement,
        daemon.heartbeat,
        bind=asked.bind,
        token=tokens.announce,
        told=service.changed,
    )
    listener = await daemon.serve(tokens)
    log.event(_log, "ready", url=daemon.url, model=facts.model, slots=facts.slots_total, context=facts.context_length)
    status.ready(daemon.url)
    return await daemon.live(listener, announcer)


def void(_: object) -> None:
    """Drop a result that a callback type does not want."""
