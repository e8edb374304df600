"""Who serves a model now, as orchestratord sees it."""

from __future__ import annotations

from dataclasses import dataclass

from llorch.client.sync import Client


@dataclass(frozen=True, slots=True)
class Way:
    """How jobs get to the model: `worker_id` is set where only this one may serve; `is_warm`: nothing was started."""

    client: Client
    model: str
    worker_id: str | None
    is_warm: bool


def ready(client: Client, model: str) -> list[str]:
    """The workers that orchestratord may send jobs for `model` to. Raises LlorchError."""
    rows = client.workers().get("workers", [])
    usable = (row for row in rows if row.get("state") == "ready" and row.get("protocol_ok"))
    return [str(row["worker_id"]) for row in usable if row.get("model") == model]
