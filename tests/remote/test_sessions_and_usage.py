"""`llorch sessions` and `llorch usage` against a real orchestratord: tables for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemons import Cluster, environment
from fakes import FakeWorker

from tests.remote.cli import Done, llorch


class Desk:
    """An operator's shell beside one orchestratord."""

    def __init__(self, home: Path) -> None:
        self.cluster = Cluster(home)
        self.daemon = self.cluster.orchestratord()
        self.env = {**environment(home), "LLORCH_ORCHESTRATOR": self.daemon.url}

    def __call__(self, *words: str) -> Done:
        return llorch(*words, env=self.env)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """One for the whole file."""
    made = Desk(tmp_path_factory.mktemp("desk"))
    yield made
    made.cluster.close()


def test_a_session_from_open_to_close(desk: Desk) -> None:
    """open prints the id; list and show tell its limits; close ends it, and a second time is 'not found' (4)."""
    made = desk("sessions", "open", "--id", "chat", "--ttl-s", "90", "--tokens-max", "500")
    assert (made.code, made.out, made.err) == (0, "chat\n", "")
    fresh = desk("sessions", "open", "--json")
    assert json.loads(fresh.out)["session_id"].startswith("session-")
    listed = desk("sessions", "list")
    head, *rows = (line.split() for line in listed.out.splitlines())
    assert head[0] == "SESSION" and ["chat", "0", "0", "500"] in [row[:4] for row in rows]
    assert {"chat"} < {
        session["session_id"] for session in json.loads(desk("sessions", "list", "--json").out)["sessions"]
    }
    assert "ttl_s: 90.0\n" in desk("sessions", "show", "chat").out
    assert json.loads(desk("sessions", "show", "chat", "--json").out)["tokens_max"] == 500
    assert desk("sessions", "close", "chat").out == "closed chat\n"
    for words in (("show", "chat"), ("close", "chat")):
        gone = desk("sessions", *words)
        assert (gone.code, gone.out) == (4, "") and gone.err.startswith("llorch: No such session")


def test_a_bad_limit_is_one_clear_line(desk: Desk) -> None:
    """What orchestratord refuses is told by field; what is no number is a usage error."""
    refused = desk("sessions", "open", "--ttl-s", "0")
    assert refused.code == 1 and "ttl_s" in refused.err and len(refused.err.splitlines()) == 1
    assert desk("sessions", "open", "--tokens-max", "many").code == 2


def test_usage_by_day_and_now(desk: Desk) -> None:
    """A table of days, then one of this moment; --json is what orchestratord said; --days is checked here."""
    worker = FakeWorker(worker_id="w", model="m").start(desk.daemon.url)
    try:
        submitted = desk("jobs", "submit", "--prompt", "x", "--model", "m", "--max-tokens", "3", "--session", "none")
        assert submitted.code == 0, submitted.err
    finally:
        worker.stop()
    shown = [line.split() for line in desk("usage").out.splitlines()]
    assert shown[0] == ["TENANT", "DAY", "JOBS", "PROMPT", "TOKENS", "GENERATED"]
    assert (shown[1][0], shown[1][2], shown[1][4]) == ("default", "1", "3")
    assert shown[-1] == ["default", "0", "0", "0", "-"]
    found = json.loads(desk("usage", "--json", "--days", "30").out)
    assert found["days"] == 30 and found["tenants"][0]["now"]["running"] == 0
    assert desk("usage", "--days", "0").code == 2


def test_an_orchestratord_that_is_away(desk: Desk) -> None:
    """Exit 5 and the URL, as with every command."""
    away = desk("usage", "--orchestrator", "http://127.0.0.1:9")
    assert away.code == 5 and "127.0.0.1:9" in away.err
