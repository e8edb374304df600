"""Sessions over HTTP: declared, listed, closed, budgets that hold, and all of it over kill -9."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from daemons import Cluster, Daemon, ended, until
from job_bench import Bench

from tests.orchestratord.test_access import bearer, keys
from tests.orchestratord.test_durability import port_of


def test_a_session_is_opened_shown_listed_and_closed(shared_orchestratord: Daemon) -> None:
    """201 with all of it and a fresh id; the list has it; after DELETE it is not known any more."""
    made = shared_orchestratord.post("/v2/sessions", {"ttl_s": 60, "tokens_max": 100, "time_max_s": 2.5})
    assert made.status == 201
    session = made.json
    assert session["session_id"].startswith("session-")
    assert (session["ttl_s"], session["tokens_max"], session["time_max_s"]) == (60.0, 100, 2.5)
    assert (session["turns"], session["tokens_used"], session["time_used_s"]) == (0, 0, 0.0)
    path = f"/v2/sessions/{session['session_id']}"
    assert shared_orchestratord.get(path).json == session
    assert session in shared_orchestratord.get("/v2/sessions").json["sessions"]
    assert shared_orchestratord.delete(path).json == session
    for gone in (shared_orchestratord.get(path), shared_orchestratord.delete(path)):
        assert (gone.status, gone.code) == (404, "SESSION_NOT_FOUND")
    assert session not in shared_orchestratord.get("/v2/sessions").json["sessions"]


def test_a_session_of_ones_own_name_takes_new_limits(shared_orchestratord: Daemon) -> None:
    """The client may name it; naming it again is 200 and changes its limits. No body: the defaults."""
    assert shared_orchestratord.post("/v2/sessions", {"session_id": "chat-1"}).status == 201
    again = shared_orchestratord.post("/v2/sessions", {"session_id": "chat-1", "tokens_max": 7})
    assert (again.status, again.json["tokens_max"], again.json["ttl_s"]) == (200, 7, 3600.0)
    assert shared_orchestratord.post("/v2/sessions").status == 201


@pytest.mark.parametrize(
    "body",
    [
        {"session_id": "../x"},
        {"ttl_s": 0},
        {"ttl_s": "long"},
        {"tokens_max": 0},
        {"tokens_max": 1.5},
        {"time_max_s": -1},
        {"time_max_s": True},
    ],
    ids=str,
)
def test_bad_sessions_are_400(shared_orchestratord: Daemon, body: dict[str, Any]) -> None:
    """A bad field and a misspelt one are reported together."""
    answer = shared_orchestratord.post("/v2/sessions", {**body, "tokens_maxx": 1})
    assert (answer.status, answer.code) == (400, "INVALID_REQUEST")
    problems = {problem["field"]: problem["message"] for problem in answer.json["error"]["details"]["problems"]}
    assert set(problems) == {*body, "tokens_maxx"} and "did you mean 'tokens_max'" in problems["tokens_maxx"]


def test_ids_that_are_none_are_404(shared_orchestratord: Daemon) -> None:
    """What no session can be called is simply not found."""
    for name in ("x" * 200, "%20", "a%2Fb"):
        assert shared_orchestratord.get(f"/v2/sessions/{name}").status == 404


def test_budgets_count_and_hold(bench: Bench) -> None:
    """Jobs of a session count their turns and tokens; when the budget is used up the next one is a 429."""
    bench.worker()
    bench.orchestratord.post("/v2/sessions", {"session_id": bench.model, "tokens_max": 10})
    path = f"/v2/sessions/{bench.model}"
    ended(bench.orchestratord, bench.submit(session_id=bench.model, max_tokens=4))
    session = bench.orchestratord.get(path).json
    assert session["turns"] == 1 and session["tokens_used"] >= 4
    while session["tokens_used"] < 10:
        ended(bench.orchestratord, bench.submit(session_id=bench.model, max_tokens=4))
        session = bench.orchestratord.get(path).json
    refused = bench.orchestratord.post("/v2/tasks", bench.body(session_id=bench.model))
    assert (refused.status, refused.code) == (429, "QUOTA_EXCEEDED")


def test_tenants_do_not_see_each_others_sessions(cluster: Cluster) -> None:
    """Another tenant's is a 404 and in no list; two keys of one tenant see the same."""
    alice = keys(cluster, "create", "alice").stdout.strip()
    laptop = keys(cluster, "create", "laptop", "--tenant", "alice").stdout.strip()
    bob = keys(cluster, "create", "bob").stdout.strip()
    daemon = cluster.orchestratord("--mode", "lab")
    assert daemon.post("/v2/sessions", {"session_id": "s"}).status == 401
    assert daemon.post("/v2/sessions", {"session_id": "s"}, headers=bearer(alice)).status == 201
    assert daemon.get("/v2/sessions/s", headers=bearer(laptop)).status == 200
    assert daemon.get("/v2/sessions/s", headers=bearer(bob)).code == "SESSION_NOT_FOUND"
    assert daemon.delete("/v2/sessions/s", headers=bearer(bob)).code == "SESSION_NOT_FOUND"
    assert daemon.get("/v2/sessions", headers=bearer(bob)).json == {"sessions": []}
    assert daemon.post("/v2/sessions", {"session_id": "s"}, headers=bearer(bob)).status == 201, "a name of his own"


def test_a_session_ends_with_its_time(cluster: Cluster) -> None:
    """Unused for its ttl_s it is forgotten, here and on disk: a restart does not bring it back."""
    daemon = cluster.orchestratord()
    daemon.post("/v2/sessions", {"session_id": "short", "ttl_s": 1})
    until(lambda: daemon.get("/v2/sessions/short").status == 404, "its time is over")
    daemon.kill()
    assert cluster.orchestratord().get("/v2/sessions").json == {"sessions": []}


def test_kill_9_keeps_sessions_usage_and_budgets(cluster: Cluster, benches: Callable[[Daemon], Bench]) -> None:
    """What was answered is there after kill -9, at once: limits, turns, tokens of session and day; closed stays so."""
    bench = benches(cluster.orchestratord())
    bench.worker()
    first = bench.orchestratord
    first.post("/v2/sessions", {"session_id": "kept", "tokens_max": 4, "ttl_s": 900})
    first.post("/v2/sessions", {"session_id": "closed"})
    first.delete("/v2/sessions/closed")
    ended(first, bench.submit(session_id="kept", max_tokens=5))
    session, usage = first.get("/v2/sessions/kept").json, first.get("/v2/usage").json
    assert session["turns"] == 1 and usage["tenants"][0]["days"][0]["jobs"] == 1
    first.kill()
    again = cluster.orchestratord(port=port_of(first))
    assert again.get("/v2/sessions").json == {"sessions": [session]}
    assert again.get("/v2/usage").json == usage
    refused = again.post("/v2/tasks", bench.body(session_id="kept"))
    assert (refused.status, refused.code) == (429, "QUOTA_EXCEEDED")


def test_a_tenant_has_so_many_sessions(cluster: Cluster) -> None:
    """One too many is a 429; an open one can still get new limits, and a closed one makes room."""
    daemon = cluster.orchestratord()
    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(lambda _: daemon.post("/v2/sessions").status, range(1000))) == {201}
    refused = daemon.post("/v2/sessions")
    assert (refused.status, refused.code) == (429, "QUOTA_EXCEEDED")
    listed = daemon.get("/v2/sessions").json["sessions"]
    name = listed[-1]["session_id"]
    assert len(listed) == 1000 and daemon.post("/v2/sessions", {"session_id": name}).status == 200
    assert daemon.delete(f"/v2/sessions/{name}").status == 200
    assert daemon.post("/v2/sessions").status == 201
