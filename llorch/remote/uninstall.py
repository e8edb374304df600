"""`llorch pool uninstall --host H`: no program file and no process of ours stays; models only go with --purge.

First every host is asked what runs there, then the person, once; nothing is touched before that. What an earlier
uninstall kept, or a copy that was cut off left, is removed by the program, too: it is brought back for that.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from llorch.base.errors import HostError, LlorchError, UsageError
from llorch.host import ssh, upload
from llorch.host.ssh import Remote, Sink
from llorch.host.targets import SshTarget
from llorch.remote import pools, terminal
from llorch.remote.install import Installer, add_host_arguments, naming, say, targets_of
from llorch.remote.upgrade import Pool

GRACE_S = 30.0
_LEAD = "\x1e"  # no line of a login script begins with it
# Is anything of ours left there? $1 is `purge` or empty.
_LEFT = r"""
look() {
  d=$1; shift
  for name in "$@"; do for p in "$d"/$name; do if [ -e "$p" ]; then printf '\036%s\n' "$d"; return; fi; done; done
}
look "${LLORCH_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/llorch}" '.upload-*' '.tmp-*' 'app-*' 'net-*' 'engine-*' 'torch-*'
if [ -n "$1" ]; then
  look "${LLORCH_HOME:-${XDG_DATA_HOME:-$HOME/.local/share}/llorch}" .catalog.lock catalog.json models workers home-id
  look "${LLORCH_STATE:-${XDG_STATE_HOME:-$HOME/.local/state}/llorch}" worker-token orchestratord.sqlite segments
fi
exit 0
"""


def uninstall_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `llorch pool uninstall`."""
    add_host_arguments(parser)
    parser.add_argument("--purge", action="store_true", help="remove models, workers' logs and state, too")
    parser.add_argument("--yes", action="store_true", help="do not ask before stopping what runs there")
    parser.add_argument("--binary", type=Path, metavar="FILE", help="what removes remains of another platform's host")


def uninstall(arguments: argparse.Namespace) -> int:
    """JSON of one host: {state: removed|absent, processes, removed}."""
    targets = targets_of(arguments)
    if not arguments.yes and not _may_stop(targets, arguments):
        terminal.tell("nothing was touched")
        return 1
    installer = Installer(arguments.binary, arguments.prefix, alone=len(targets) == 1)

    async def work(target: SshTarget, out: Sink, err: Sink) -> int:
        with naming(target):
            async with ssh.connect(target) as remote:
                body = await _Uninstalling(installer, remote, arguments).carry_out(err)
        if arguments.json:
            say(out, json.dumps(body))
        elif body["state"] == "absent":
            say(out, "llorch is not installed there")
        else:
            ended = f", {len(body['processes'])} processes ended" if body["processes"] else ""
            say(out, f"uninstalled{ended}" + ("" if arguments.purge else "; models and logs stay (see --purge)"))
        return 0

    return pools.on_each(targets, work, gather=arguments.json)


def _may_stop(targets: list[SshTarget], arguments: argparse.Namespace) -> bool:
    """Does nothing run there, or does the person agree to stop it? Raises UsageError when there is nobody to ask.

    A host that cannot be asked is left to the main run, which says why.
    """
    installer = Installer(None, arguments.prefix, alone=False)
    running: dict[str, list[dict[str, Any]]] = {}

    async def look(target: SshTarget) -> None:
        try:
            async with ssh.connect(target) as remote:
                running[target.name] = await _Uninstalling(installer, remote, arguments).running()
        except LlorchError:
            running[target.name] = []

    async def look_everywhere() -> None:
        for target in targets:
            await look(target)

    ssh.run_interruptible(look_everywhere)
    busy = {name: rows for name, rows in running.items() if rows}
    if not busy:
        return True
    for name, rows in busy.items():
        for row in rows:
            terminal.tell(f"{name}: process {row.get('pid')} runs: {row.get('command')}")
    if not sys.stdin.isatty():
        raise UsageError(f"processes of llorch run on {', '.join(busy)}: give --yes to stop them")
    sys.stderr.write("Stop them and uninstall? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


class _Uninstalling:
    """The removal from one host."""

    def __init__(self, installer: Installer, remote: Remote, arguments: argparse.Namespace) -> None:
        self._installer = installer
        self._remote = remote
        self._arguments = arguments

    async def running(self) -> list[dict[str, Any]]:
        """The processes that an uninstall would end: {pid, command}."""
        facts = await self._installer.look(self._remote)
        if not facts.installed:
            return []
        pool = Pool(self._remote, f"{facts.versions.path}/{facts.current or facts.installed[-1].name}/llorch")
        workers = [{"pid": row.get("pid"), "command": f"worker {row.get('worker_id')}"} for row in await pool.workers()]
        known = {row["pid"] for row in workers}
        body = await self._self_uninstall(facts.versions.path, facts.current or facts.installed[-1].name, "--dry-run")
        return workers + [row for row in body["processes"] if row.get("pid") not in known]

    async def carry_out(self, err: Sink) -> dict[str, Any]:
        """Stop the workers by their records, then let the program remove itself. Raises HostError, SshFailed."""
        facts = await self._installer.look(self._remote)
        if not facts.installed:
            left = await self._left()
            if not left:
                return {"state": "absent", "processes": [], "removed": []}
            say(
                err,
                f"not installed, but {', '.join(left)} is left: the program is brought there once more to remove it",
            )
            facts = (await self._installer.install(self._remote, err)).facts
            if not self._arguments.yes and (running := await self.running()):
                raise HostError(f"process {running[0].get('pid')} of llorch runs there: give --yes to stop it")
        name = facts.current or facts.installed[-1].name
        pool = Pool(self._remote, f"{facts.versions.path}/{name}/llorch")
        stopped = await pool.workers()
        answer = await pool.run("worker", "stop-all", "--grace", f"{GRACE_S:g}")
        if answer.code != 0:
            raise HostError(f"its workers could not be stopped: {upload.last_line(answer.err or answer.out)}")
        body = await self._self_uninstall(facts.versions.path, name, "--yes")
        ended = [{"pid": row.get("pid"), "command": f"worker {row.get('worker_id')}"} for row in stopped]
        after = await self._installer.look(self._remote)
        if after.installed:
            raise HostError(
                f"{after.versions.path}/{after.installed[0].name} is still there: run the same command again"
            )
        return {"state": "removed", "processes": ended + body["processes"], "removed": body["removed"]}

    async def _left(self) -> list[str]:
        """Folders that hold something of ours where the program is not installed; data counts with --purge only."""
        purge = "purge" if self._arguments.purge else ""
        answer = await self._remote.ask(["/bin/sh", "-c", _LEFT, "sh", purge])
        return [line[1:] for line in answer.out.split("\n") if line.startswith(_LEAD)]

    async def _self_uninstall(self, versions: str, name: str, word: str) -> dict[str, Any]:
        arguments = self._arguments
        flags = [word, "--json", *(["--purge"] if arguments.purge else [])]
        if arguments.prefix is not None:
            flags += ["--prefix", versions.removesuffix("/lib/llorch")]
        answer = await self._remote.ask([f"{versions}/{name}/llorch", "self", "uninstall", *flags])
        try:
            body = json.loads(answer.out)
        except ValueError:
            body = None
        if answer.code != 0 or not isinstance(body, dict):
            raise HostError(f"cannot uninstall: {upload.last_line(answer.err)}")
        return body
