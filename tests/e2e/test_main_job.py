"""The main job with nothing faked: real orchestratord, real workers, the demo model, curl."""

from __future__ import annotations

import concurrent.futures
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemons import Cluster, Daemon, call, ended, stream, text_of, until, workers_ready

pytestmark = pytest.mark.e2e

PROMPT = "Once upon a time"
GREEDY = {"prompt": PROMPT, "temperature": 0, "max_tokens": 120}
NEIGHBOURS = 7


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A fresh home; every process started in it is reaped."""
    made = Cluster(tmp_path)
    yield made
    made.close()


def execute(worker: Daemon, job_id: str, **fields: object) -> str:
    """The text of one job sent straight to a worker."""
    with stream(worker.url, "POST", "/execute", {"job_id": job_id, **fields}) as events:
        return text_of(events.rest())


def orchestrated(orchestratord: Daemon, **fields: object) -> str:
    """The text of one job sent through the orchestrator."""
    with stream(orchestratord.url, "POST", "/v2/tasks", {"model": "demo", **fields}) as events:
        seen = events.rest()
    assert seen[-1].data["type"] == "end", seen[-1]
    return text_of(seen)


def test_the_same_prompt_gives_the_same_text_everywhere(cluster: Cluster) -> None:
    """Alone, beside 7 neighbours, through the orchestrator and over a killed worker: one text, letter by letter."""
    orchestratord = cluster.orchestratord()
    first, second = cluster.worker("--slots", "8"), cluster.worker("--slots", "8")
    workers_ready(orchestratord, 2)
    alone = execute(first, "alone", **GREEDY)
    assert len(alone) > 80

    with concurrent.futures.ThreadPoolExecutor(NEIGHBOURS) as pool:
        others = [
            pool.submit(execute, first, f"other-{n}", prompt="The fox " * n, temperature=1.0, seed=n, max_tokens=150)
            for n in range(1, NEIGHBOURS + 1)
        ]
        assert execute(first, "crowded", **GREEDY) == alone
        assert all(other.result() for other in others)

    assert orchestrated(orchestratord, **GREEDY) == alone

    with stream(orchestratord.url, "POST", "/v2/tasks", {"model": "demo", **GREEDY}) as events:
        seen = events.take(20)
        started = next(event.data for event in seen if event.data["type"] == "started")
        victim = first if started["worker_id"].endswith(first.url.rpartition(":")[2]) else second
        victim.kill()
        seen += events.rest()
    assert text_of(seen) == alone
    assert [event.data["type"] for event in seen].count("started") == 1
    assert [event.id for event in seen if event.id is not None] == list(range(len(text_of_ids(seen)) + 3))


def text_of_ids(events: list[object]) -> list[int]:
    """The indexes of all token frames."""
    return [event.data["i"] for event in events if event.data["type"] == "token"]  # type: ignore[attr-defined]


def test_seeded_sampling_survives_its_worker(cluster: Cluster) -> None:
    """A sampled stream whose worker is killed goes on as the same seed would have gone on undisturbed."""
    sampled = {**GREEDY, "temperature": 1.0, "seed": 2**53 + 11, "top_p": 0.95}
    orchestratord = cluster.orchestratord()
    first, second = cluster.worker(), cluster.worker()
    workers_ready(orchestratord, 2)
    undisturbed = orchestrated(orchestratord, **sampled)
    with stream(orchestratord.url, "POST", "/v2/tasks", {"model": "demo", **sampled}) as events:
        seen = events.take(10)
        name = next(event.data["worker_id"] for event in seen if event.data["type"] == "started")
        (first if name.endswith(first.url.rpartition(":")[2]) else second).kill()
        seen += events.rest()
    assert text_of(seen) == undisturbed


def test_200_batch_jobs_survive_kill_9(cluster: Cluster) -> None:
    """All 200 reach completed after kill -9 and a new start, each with one terminal event and one result."""
    orchestratord = cluster.orchestratord()
    worker = cluster.worker("--slots", "2")
    workers_ready(orchestratord, 1)
    body = {"prompt": PROMPT, "model": "demo", "priority": "batch", "max_tokens": 40, "temperature": 0}
    jobs = [orchestratord.post("/v2/tasks", body).json["job_id"] for _ in range(200)]
    assert len(set(jobs)) == 200
    until(lambda: worker.get("/health").json["slots_busy"] > 0, "some run")
    orchestratord.kill()
    again = cluster.orchestratord(port=int(orchestratord.url.rpartition(":")[2]))
    texts = set()
    for job_id in jobs:
        job = ended(again, job_id, 120)
        assert job["status"] == "completed", job
        with stream(again.url, "GET", f"/v2/tasks/{job_id}/events") as events:
            seen = events.rest()
        assert [event.data["type"] for event in seen if event.data["type"] in ("end", "error")] == ["end"]
        texts.add(text_of(seen))
    assert len(texts) == 1


def curl(*arguments: str) -> str:
    """What curl prints; its default Content-Type for -d is a form's, as for the users."""
    done = subprocess.run(["curl", "-s", *arguments], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_users_own_curl_lines(cluster: Cluster) -> None:
    """The seeds' curl lines work as written: three fields, no Content-Type, both cancels, both healths."""
    orchestratord = cluster.orchestratord()
    worker = cluster.worker()
    workers_ready(orchestratord, 1)
    direct = curl("-X", "POST", f"{worker.url}/execute", "-d", '{"job_id":"test-1","prompt":"Hello","max_tokens":20}')
    assert direct.startswith('data: {"type":"started","job_id":"test-1","model":"demo"')
    assert '"type":"end"' in direct
    assert "event:" not in direct

    health = json.loads(curl(f"{worker.url}/health"))
    assert health["status"] == "healthy"
    assert health["vram_bytes"] > 1_000_000
    assert json.loads(curl(f"{orchestratord.url}/health")) == {
        "status": "healthy",
        "pools": 1,
        "workers": 1,
        "queue_depth": 0,
    }

    task = '{"prompt":"Once upon a time","model":"demo","max_tokens":30}'
    tasks = f"{orchestratord.url}/v2/tasks"
    streamed = curl("-N", "-X", "POST", tasks, "-H", "Accept: text/event-stream", "-d", task)
    kinds = [json.loads(line[6:])["type"] for line in streamed.splitlines() if line.startswith("data: ")]
    kinds = [kind for n, kind in enumerate(kinds) if kind != "metrics" and (n == 0 or kinds[n - 1] != kind)]
    assert kinds == ["queued", "started", "token", "end"]

    accepted = json.loads(curl("-X", "POST", tasks, "-d", task))
    assert accepted["status"] == "queued"
    followed = curl("-N", f"{orchestratord.url}{accepted['events_url'].removeprefix(orchestratord.url)}")
    assert followed.rstrip().splitlines()[-1].startswith('data: {"type":"end"')

    cancelled = curl("-X", "POST", f"{tasks}/{accepted['job_id']}/cancel", "-w", "%{http_code}", "-o", "/dev/null")
    assert cancelled == "200"
    unknown = ["-X", "POST", f"{worker.url}/cancel", "-d", '{"job_id": "job-123"}']
    assert curl(*unknown, "-w", "%{http_code}", "-o", "/dev/null") == "404"
    assert call(worker.url, "POST", "/cancel", b'{"job_id": "test-1"}').status == 200
