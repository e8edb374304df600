"""`llorch jobs …`: submit, list, show, watch, cancel and explain, all by the SDK."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from llorch.base import ids
from llorch.base.errors import UsageError
from llorch.client.request import InferenceRequest
from llorch.remote import orchestrator, prompt, terminal
from llorch.remote.answer import Form
from llorch.remote.answer import show as show_answer
from llorch.wire.tasks import Placement, Priority

LIST_LIMIT = 50


def _common(parser: argparse.ArgumentParser, json_help: str = "print JSON instead of text") -> None:
    orchestrator.add_arguments(parser)
    parser.add_argument("--json", action="store_true", help=json_help)


def submit_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `llorch jobs submit`."""
    parser.add_argument("--model", metavar="ID", help="default: any that is ready")
    prompt.add_arguments(parser)
    parser.add_argument("--priority", choices=[p.value for p in Priority], help="default interactive")
    parser.add_argument("--session", metavar="ID", help="keep to the worker of this session where possible")
    parser.add_argument("--deadline-ms", type=int, metavar="N", help="no use to anybody later than this")
    parser.add_argument("--timeout-ms", type=int, metavar="N", help="give up after this")
    parser.add_argument("--worker", metavar="ID", help="only this worker")
    parser.add_argument("--pool", metavar="ID", help="only workers of this pool")
    parser.add_argument("--idempotency-key", metavar="KEY", help="the same key gives the same job")
    parser.add_argument("--detach", action="store_true", help="print the job's id and leave")
    _common(parser, "print the events, one JSON object per line")


def submit(arguments: argparse.Namespace) -> int:
    """Stream the answer, or print the id with --detach; Ctrl-C cancels the job."""
    body = prompt.read_body(arguments)
    pinned = arguments.worker or arguments.pool
    request = InferenceRequest(
        **body,
        model=arguments.model,
        priority=Priority(arguments.priority) if arguments.priority else None,
        session_id=arguments.session,
        deadline_ms=arguments.deadline_ms,
        timeout_ms=arguments.timeout_ms,
        placement=Placement(pin_worker=arguments.worker, pin_pool=arguments.pool) if pinned else None,
        idempotency_key=arguments.idempotency_key or ids.new_idempotency_key(),
    )
    client = orchestrator.connect(arguments)
    if arguments.detach:
        accepted = client.enqueue(request).accepted
        if arguments.json:
            terminal.write_json({"job_id": accepted.job_id, "queue_position": accepted.queue_position})
        else:
            print(accepted.job_id)
        return 0
    with client.stream(request) as events:
        if not arguments.json:
            terminal.tell(f"job {events.job_id}")
        return show_answer(events, Form.JSON if arguments.json else Form.TEXT)


def list_jobs_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `llorch jobs list`."""
    statuses = ("queued", "loading", "running", "completed", "failed", "cancelled")
    parser.add_argument("--status", choices=statuses, help="only jobs in this state")
    parser.add_argument("--limit", type=int, default=LIST_LIMIT, metavar="N", help=f"at most N (default {LIST_LIMIT})")
    _common(parser)


def list_jobs(arguments: argparse.Namespace) -> int:
    """Newest first."""
    if arguments.limit < 1:
        raise UsageError("--limit must be at least 1")
    client = orchestrator.connect(arguments)
    jobs: list[Mapping[str, Any]] = []
    cursor: str | None = None
    while len(jobs) < arguments.limit:
        page = client.jobs(status=arguments.status, limit=arguments.limit - len(jobs), cursor=cursor)
        jobs += page["tasks"]
        cursor = page.get("next")
        if cursor is None or not page["tasks"]:
            break
    if arguments.json:
        terminal.write_json({"tasks": jobs, "next": cursor})
        return 0
    rows = [
        [terminal.shown(job.get(key)) for key in ("job_id", "status", "model", "priority", "worker_id")] for job in jobs
    ]
    terminal.write_table(["JOB", "STATUS", "MODEL", "PRIORITY", "WORKER"], rows)
    if cursor is not None:
        terminal.tell(f"there are more; see --limit (now {arguments.limit})")
    return 0


def _one_job(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("job", metavar="JOB", help="the job's id")
    _common(parser)


show_arguments = cancel_arguments = explain_arguments = _one_job


def show(arguments: argparse.Namespace) -> int:
    """Everything orchestratord keeps about a job."""
    _print_object(orchestrator.connect(arguments).job(arguments.job), arguments)
    return 0


def cancel(arguments: argparse.Namespace) -> int:
    """Idempotent: an ended job stays as it ended."""
    answer = orchestrator.connect(arguments).cancel(arguments.job)
    if arguments.json:
        terminal.write_json(answer)
    else:
        print(terminal.shown(answer.get("status")))
    return 0


def explain(arguments: argparse.Namespace) -> int:
    """Candidates, refusals and their reasons."""
    found = orchestrator.connect(arguments).explain(arguments.job)
    if arguments.json:
        terminal.write_json(found)
        return 0
    facts: dict[str, Any] = {
        name: found[name] for name in ("job_id", "status", "model", "worker_id", "attempts") if name in found
    }
    _print_object(facts, arguments)
    decisions = found.get("decisions", ())
    rows: list[tuple[object, ...]] = []
    for decision in decisions:
        after_s = _seconds(decision["at"]) - _seconds(decisions[0]["at"])
        why = decision["note"] or _MEANINGS.get(decision["kind"], "")
        rows.append((decision["at"], f"{after_s:.3f}", decision["kind"], terminal.shown(decision["chosen"]), why))
        rows += [("", "", "", f"not {name}", reason) for name, reason in decision["refused"].items()]
    terminal.write_table(("AT", "AFTER s", "DECISION", "WORKER", "WHY"), rows)
    return 0


# What a decision means that comes without a note.
_MEANINGS = {"waiting": "no worker can take it now"}


def _seconds(at: str) -> float:
    return datetime.fromisoformat(at).timestamp()


def watch_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `llorch jobs watch`."""
    parser.add_argument("job", metavar="JOB", help="the job's id")
    _common(parser, "print the events, one JSON object per line")


def watch(arguments: argparse.Namespace) -> int:
    """From the first event on; leaving it leaves the job alone."""
    with orchestrator.connect(arguments).follow(arguments.job) as events:
        return show_answer(events, Form.JSON if arguments.json else Form.TEXT)


def _print_object(value: Mapping[str, Any], arguments: argparse.Namespace) -> None:
    """JSON on one line for programs; `key: value` lines, nested parts indented, for people."""
    if arguments.json:
        terminal.write_json(value)
        return
    for key, item in value.items():
        nested = isinstance(item, (dict, list)) and item
        terminal.write(f"{key}: {json.dumps(item, indent=2, ensure_ascii=False) if nested else terminal.shown(item)}\n")
