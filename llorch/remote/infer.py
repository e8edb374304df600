"""`llorch infer`: one prompt straight to one worker, no orchestrator between; Ctrl-C frees the worker's slot."""

from __future__ import annotations

import argparse
import os

from llorch.base import ids, worker_token
from llorch.client.worker import WorkerClient
from llorch.remote import prompt
from llorch.remote.answer import Form, show
from llorch.wire.execute import parse_execute


def infer_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `llorch infer`."""
    parser.add_argument("--worker", metavar="HOST:PORT", required=True, help="the worker, for example localhost:8001")
    prompt.add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print the events, one JSON object per line")


def infer(arguments: argparse.Namespace) -> int:
    """Stream the text to stdout; ttft and tok/s end on stderr."""
    request = parse_execute({"job_id": ids.new_job_id(), **prompt.read_body(arguments)})
    worker = WorkerClient(arguments.worker, token=worker_token.find(os.environ))
    with worker.execute(request) as events:
        return show(events, Form.JSON if arguments.json else Form.TEXT)
