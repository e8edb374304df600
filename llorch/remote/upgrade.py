"""`llorch pool upgrade --host H`: install, then restart the workers of older builds there, one at a time.

A worker is drained first, so that no job is lost; one that does not come up again ends the upgrade of its host, and
those that were not touched go on with the old build.
"""

from __future__ import annotations

import argparse
import json
import os
from typing import Any

from llorch.base.errors import HostError
from llorch.host import quote, ssh, upload
from llorch.host.ssh import Remote, Sink
from llorch.host.targets import SshTarget
from llorch.remote import pools, terminal
from llorch.remote.install import Installer, Report, describe, install_arguments, naming, say, targets_of

GRACE_S = 60.0


def upgrade_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `llorch pool upgrade`."""
    install_arguments(parser)
    parser.add_argument(
        "--grace", type=float, default=GRACE_S, metavar="S", help="seconds each worker's jobs may take to end (60)"
    )


def upgrade(arguments: argparse.Namespace) -> int:
    """JSON of one host: `Report.body` and `workers`: [{worker_id, outcome, error}]."""
    targets = targets_of(arguments)
    installer = Installer(arguments.binary, arguments.prefix, alone=len(targets) == 1)

    async def work(target: SshTarget, out: Sink, err: Sink) -> int:
        with naming(target):
            async with ssh.connect(target) as remote:
                report = await installer.install(remote, err)
                if not arguments.json:
                    describe(report, target, out, err)
                shown = None if arguments.json else out
                rows = await _restart_all(remote, report, arguments.grace, shown, err)
        failed = [row for row in rows if row["error"] is not None]
        if arguments.json:
            say(out, json.dumps({**report.body(), "workers": rows}))
        elif not rows:
            say(out, "no worker runs an older build")
        if failed and not arguments.json:
            say(err, f"stopped there; to go back: llorch pool rollback --host {target.name}")
        return 1 if failed else 0

    return pools.on_each(targets, work, gather=arguments.json)


async def _restart_all(
    remote: Remote, report: Report, grace_s: float, out: Sink | None, err: Sink
) -> list[dict[str, Any]]:
    """One after the other, until one fails; a row for each that was to be restarted."""
    pool = Pool(remote, f"{report.facts.bin_dir.path}/llorch-pool")
    rows: list[dict[str, Any]] = []
    old = [one for one in await pool.workers() if one.get("build_id") != report.version.get("build_id")]
    for one in old:
        worker_id = str(one.get("worker_id"))
        if rows and rows[-1]["error"] is not None:
            rows.append({"worker_id": worker_id, "outcome": "untouched", "error": None})
            continue
        error = await pool.restart(worker_id, grace_s, err)
        rows.append({"worker_id": worker_id, "outcome": "failed" if error else "restarted", "error": error})
        if out is not None:
            say(out, f"worker {worker_id}: {error or 'restarted on the new build'}")
    return rows


class Pool:
    """The llorch-pool of one host, by its path."""

    def __init__(self, remote: Remote, path: str) -> None:
        self._remote = remote
        self._path = path

    async def run(self, *words: str) -> ssh.Answer:
        """One command and what it said."""
        argv = quote.pool_argv(words, program=self._path, env=terminal.for_remote(os.environ))
        return await self._remote.ask(argv)

    async def workers(self) -> list[dict[str, Any]]:
        """The live workers of the host. Raises HostError."""
        answer = await self.run("worker", "list", "--json")
        try:
            rows = json.loads(answer.out)["workers"]
        except (ValueError, KeyError, TypeError):
            raise HostError(f"cannot list its workers: {upload.last_line(answer.err)}") from None
        return [row for row in rows if isinstance(row, dict) and row.get("status") != "Dead"]

    async def restart(self, worker_id: str, grace_s: float, err: Sink) -> str | None:
        """Drain the worker, wait, and start the same again; why that failed."""
        answer = await self.run("worker", "restart", worker_id, "--grace", f"{grace_s:g}", "--json")
        if answer.code == 0:
            return None
        say(err, *(f"  {line}" for line in answer.err.splitlines()[-12:]))
        return upload.last_line(answer.err)
