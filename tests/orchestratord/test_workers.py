"""Announcements, leases, the operator's list of workers and pools, and what can be served."""

from __future__ import annotations

from conftest import Bench
from daemons import call, ended, until
from fakes import FakeWorker


def test_announcing_twice_is_one_worker(bench: Bench) -> None:
    """A duplicate ready from the same address is no error and no second worker, on all three paths."""
    worker = bench.worker()
    for path in ("/v2/workers/ready", "/workers/ready", "/workers/register"):
        assert bench.orchestratord.post(path, worker.announcement().to_body()).status == 200
    listed = bench.orchestratord.get("/v2/workers").json["workers"]
    assert sum(row["worker_id"] == worker.worker_id for row in listed) == 1


def test_an_id_in_use_is_a_conflict(bench: Bench) -> None:
    """Another live worker has the id: 409 for the newcomer."""
    worker = bench.worker()
    body = worker.announcement().to_body() | {"url": "http://127.0.0.1:1"}
    answer = bench.orchestratord.post("/v2/workers/ready", body)
    assert (answer.status, answer.code) == (409, "WORKER_ALREADY_REGISTERED")


def test_an_unknown_heartbeat_asks_for_an_announcement(bench: Bench) -> None:
    """404 for a worker that is not on the list; a known one may send an empty body."""
    assert bench.orchestratord.post("/v2/workers/nobody/heartbeat", {}).code == "WORKER_NOT_FOUND"
    worker = bench.worker()
    assert bench.orchestratord.post(f"/v2/workers/{worker.worker_id}/heartbeat").status == 200


def test_a_forgotten_worker_comes_back(bench: Bench) -> None:
    """DELETE takes it off the list; since it lives, its next heartbeat brings it back."""
    worker = bench.worker()
    path = f"/v2/workers/{worker.worker_id}"
    assert bench.orchestratord.delete(path).status == 200
    until(lambda: len(worker.announced) == 2, "it announced itself again")
    bench.wait_for(worker)


def test_a_draining_worker_gets_nothing_new(bench: Bench) -> None:
    """After drain a worker takes no job; another one does."""
    first = bench.worker()
    assert bench.orchestratord.post(f"/v2/workers/{first.worker_id}/drain").status == 202
    second = bench.worker()
    ended(bench.orchestratord, bench.submit(max_tokens=1))
    assert not first.executions and len(second.executions) == 1


def test_a_worker_added_by_url_is_kept_alive(bench: Bench) -> None:
    """POST /v2/workers reads the worker's /health and renews its lease by asking again."""
    quiet = FakeWorker(worker_id=f"{bench.model}-q", model=bench.model).start()
    bench.workers.append(quiet)
    added = bench.orchestratord.post("/v2/workers", {"url": quiet.url})
    assert added.status == 201 and added.json["model"] == bench.model
    ended(bench.orchestratord, bench.submit(max_tokens=1))
    assert len(quiet.executions) == 1
    path = f"/v2/workers/{quiet.worker_id}"
    until(lambda: bench.orchestratord.get(path).json["lease_left_s"] < 4.4, "some of the lease is over")
    until(lambda: bench.orchestratord.get(path).json["lease_left_s"] > 4.6, "the lease was renewed")
    assert bench.orchestratord.post("/v2/workers", {"url": "http://127.0.0.1:1"}).code == "WORKER_UNAVAILABLE"
    assert bench.orchestratord.post("/v2/workers", {"url": "file:///etc/passwd"}).status == 400


def test_another_protocol_is_listed_but_not_used(bench: Bench) -> None:
    """A worker of another protocol version is on the list and gets no job."""
    odd = FakeWorker(worker_id=f"{bench.model}-odd", model=bench.model, protocol=99).start(bench.orchestratord.url)
    bench.workers.append(odd)
    until(lambda: odd.announced == [200], "announced")
    good = bench.worker()
    ended(bench.orchestratord, bench.submit(max_tokens=1))
    assert not odd.executions and good.executions
    assert bench.orchestratord.get(f"/v2/workers/{odd.worker_id}").json["protocol_ok"] is False


def test_models_and_pools_are_views_of_the_workers(bench: Bench) -> None:
    """/v2/models sums up the workers of each model; a host with a live worker is a pool."""
    bench.worker(slots=3)
    bench.worker(slots=2)
    models = {row["id"]: row for row in bench.orchestratord.get("/v2/models").json["models"]}
    assert models[bench.model]["workers"] == 2 and models[bench.model]["slots_total"] == 5
    assert models[bench.model]["state"] == "ready"
    pools = {row["id"]: row for row in bench.orchestratord.get("/v2/pools").json["pools"]}
    assert {worker.worker_id for worker in bench.workers} <= set(pools["127.0.0.1"]["workers"])


def test_pools_are_registered_drained_and_forgotten(bench: Bench) -> None:
    """The life of a registered pool."""
    url, name = bench.orchestratord.url, f"{bench.model}.home.arpa"
    assert call(url, "POST", "/v2/pools", {"id": name}).status == 201
    assert call(url, "POST", f"/v2/pools/{name}/drain").status == 202
    shown = next(row for row in call(url, "GET", "/v2/pools").json["pools"] if row["id"] == name)
    assert shown["draining"] is True
    assert call(url, "DELETE", f"/v2/pools/{name}").status == 200
    assert call(url, "DELETE", f"/v2/pools/{name}").code == "POOL_NOT_FOUND"
    assert call(url, "POST", "/v2/pools", {"id": "no host"}).status == 400


def test_a_bad_announcement_names_every_problem(bench: Bench) -> None:
    """Missing and wrong fields are reported together."""
    answer = bench.orchestratord.post("/v2/workers/ready", {"worker_id": "a b", "url": "ftp://x", "slots_total": 0})
    fields = {problem["field"] for problem in answer.json["error"]["details"]["problems"]}
    assert {"worker_id", "url", "slots_total", "model", "context_length", "protocol"} <= fields
