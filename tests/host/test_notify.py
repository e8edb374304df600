"""sd_notify's messages and variables."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from llorch.host import notify
from tests.notified import notify_socket


def test_messages_are_lines_of_one_datagram(tmp_path: Path) -> None:
    """A status cannot smuggle in another assignment."""
    with notify_socket(tmp_path) as manager:
        notify.Notifier(manager.address).ready("serving\nMAINPID=1")
        assert manager.said("READY") == {"READY": "1", "STATUS": "serving MAINPID=1"}


def test_the_variables_are_taken_out() -> None:
    """No child of ours may speak in our name; the watchdog is fed at half its period."""
    env = {"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid()), "HOME": "/h"}
    assert notify.take(env).watchdog_s == 1.5
    assert env == {"HOME": "/h"}


@pytest.mark.parametrize(
    "env",
    [
        {},
        {"WATCHDOG_USEC": "3000000"},
        {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "0"},
        {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "soon"},
        {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"},
    ],
)
def test_who_is_not_watched_feeds_no_watchdog(env: dict[str, str]) -> None:
    """No manager, no period, or another process is meant."""
    assert notify.take(env).watchdog_s is None


def test_a_manager_that_is_gone_costs_nothing(tmp_path: Path) -> None:
    """A daemon goes on when nobody listens."""
    notifier = notify.Notifier(str(tmp_path / "gone"))
    notifier.ready("x")
    notifier.alive()
