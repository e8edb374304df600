"""Announcements, leases, the operator's list of workers and pools, and what can be served."""

from __future__ import annotations

from collections.abc import Callable

from daemons import Cluster, Daemon, call, ended, until
from fakes import FakeWorker, Fault, Trouble
from job_bench import Bench


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


def test_a_worker_added_by_url_is_found_again_after_a_restart(
    cluster: Cluster, benches: Callable[[Daemon], Bench]
) -> None:
    """It does not know of the restart, so it is asked again; once forgotten it is asked no more."""
    bench = benches(cluster.orchestratord())
    quiet = FakeWorker(worker_id="quiet", model=bench.model).start()
    bench.workers.append(quiet)
    assert bench.orchestratord.post("/v2/workers", {"url": quiet.url}).status == 201
    job_id = bench.submit(max_tokens=1)
    ended(bench.orchestratord, job_id)
    bench.orchestratord.kill()
    bench.orchestratord = cluster.orchestratord()
    bench.wait_for(quiet)
    ended(bench.orchestratord, bench.submit(max_tokens=1))
    assert len(quiet.executions) == 2
    assert bench.orchestratord.delete("/v2/workers/quiet").status == 200
    bench.orchestratord.kill()
    assert cluster.orchestratord().get("/v2/workers").json == {"workers": []}


def test_drain_and_health_calls_carry_a_correlation_id(bench: Bench) -> None:
    """What the operator's request was called is what the worker's log can say."""
    quiet = FakeWorker(worker_id=f"{bench.model}-q", model=bench.model).start()
    bench.workers.append(quiet)
    headers = {"X-Correlation-Id": "by-hand"}
    assert bench.orchestratord.post("/v2/workers", {"url": quiet.url}, headers=headers).status == 201
    assert bench.orchestratord.post(f"/v2/workers/{quiet.worker_id}/drain", headers=headers).status == 202
    until(lambda: ("/drain", "by-hand") in quiet.calls, "drained")
    assert quiet.calls[0] == ("/health", "by-hand")
    until(lambda: len(quiet.calls) > 3, "asked again")
    assert all(correlation_id for _, correlation_id in quiet.calls)


def test_the_log_of_a_job_has_its_correlation_id(bench: Bench) -> None:
    """A failed attempt and the end of a job are found by the id that the client sent."""
    bench.worker(troubles=[Trouble(Fault.DIE, 1)])
    answer = bench.orchestratord.post(
        "/v2/tasks", bench.body(max_tokens=3), headers={"X-Correlation-Id": f"trace-{bench.model}"}
    )
    ended(bench.orchestratord, answer.json["job_id"])
    lines = [line for line in bench.orchestratord.log.splitlines() if f"correlation_id=trace-{bench.model}" in line]
    assert any("attempt failed" in line for line in lines) and any("job ended" in line for line in lines)


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
