"""A bench: one orchestratord, a model of this test's own, and fake workers that serve it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

from daemons import Daemon, stream, until
from fakes import FakeWorker

PROMPT = "Once upon a time"


_numbers = itertools.count(1)


@dataclass
class Bench:
    """One orchestratord and this test's own model: other tests' workers and jobs do not interfere."""

    orchestratord: Daemon
    model: str = field(default_factory=lambda: f"m{next(_numbers)}")
    workers: list[FakeWorker] = field(default_factory=list)

    def worker(self, **settings: Any) -> FakeWorker:
        """Start a fake worker and wait until it may be used."""
        settings = {"worker_id": f"{self.model}-{len(self.workers) + 1}", "model": self.model, **settings}
        worker = FakeWorker(**settings).start(self.orchestratord.url)
        self.workers.append(worker)
        self.wait_for(worker)
        return worker

    def wait_for(self, worker: FakeWorker) -> None:
        """Wait until a worker may be used."""
        path = f"/v2/workers/{worker.worker_id}"
        until(lambda: self.orchestratord.get(path).json.get("state") == "ready", f"{worker.worker_id} ready")

    def wait_for_heartbeats(self) -> None:
        """Wait until orchestratord has heard from every worker what holds now."""
        heard = [(worker, worker.heartbeats) for worker in self.workers]
        # One may be on its way already, and say what held before.
        until(lambda: all(worker.heartbeats >= before + 2 for worker, before in heard), "two heartbeats of each")

    def body(self, **fields: Any) -> dict[str, Any]:
        """A task for this test's model."""
        return {"prompt": PROMPT, "model": self.model, **fields}

    def submit(self, **fields: Any) -> str:
        """A 202; the job's id."""
        answer = self.orchestratord.post("/v2/tasks", self.body(**fields))
        assert answer.status == 202, answer.body
        return str(answer.json["job_id"])

    def job(self, job_id: str) -> dict[str, Any]:
        """GET one."""
        return dict(self.orchestratord.get(f"/v2/tasks/{job_id}").json)

    def stream(self, **fields: Any) -> Any:
        """Open a streaming POST."""
        return stream(self.orchestratord.url, "POST", "/v2/tasks", self.body(**fields))

    def events(self, job_id: str, after: int | None = None) -> Any:
        """Open a job's events."""
        headers = {} if after is None else {"Last-Event-ID": str(after)}
        return stream(self.orchestratord.url, "GET", f"/v2/tasks/{job_id}/events", None, headers)

    def close(self) -> None:
        """Stop the workers."""
        for worker in self.workers:
            worker.stop()
