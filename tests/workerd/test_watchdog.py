"""The worker's watchdog is fed only while the step thread does its work."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from types import SimpleNamespace

from llorch.host.notify import Notifier
from llorch.workerd.daemon import Daemon
from tests.notified import notify_socket


def test_a_step_thread_that_hangs_starves_the_watchdog(tmp_path: Path) -> None:
    """No WATCHDOG while the decode heartbeat is silent, although the event loop turns; again when it is sound."""
    service = SimpleNamespace(stepping=True)
    with notify_socket(tmp_path) as manager, socket.socket() as sock:
        notifier = Notifier(manager.address, 0.05)
        daemon = Daemon(service, None, sock, bind="127.0.0.1", grace_s=1, notifier=notifier)  # type: ignore[arg-type]

        async def main() -> None:
            async with asyncio.TaskGroup() as tasks:
                beating = tasks.create_task(daemon._beat())
                await asyncio.to_thread(manager.said, "WATCHDOG", 5)
                service.stepping = False
                await asyncio.to_thread(manager.silent_for, "WATCHDOG", 0.1)  # one may be on its way
                assert await asyncio.to_thread(manager.silent_for, "WATCHDOG", 0.4)
                service.stepping = True
                await asyncio.to_thread(manager.said, "WATCHDOG", 5)
                beating.cancel()

        asyncio.run(main())
