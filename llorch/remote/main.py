"""The commands of `llorch`, and where each one lives."""

from __future__ import annotations

import sys

from llorch.base.commands import CommandTable, Leaf

COMMANDS = CommandTable(
    about="operate the cluster: pools over SSH, jobs over HTTP",
    leaves={
        ("infer",): Leaf("llorch.remote.infer:infer", "one prompt straight to one worker"),
        ("jobs", "submit"): Leaf("llorch.remote.jobs:submit", "submit a job and stream its answer"),
        ("jobs", "list"): Leaf("llorch.remote.jobs:list_jobs", "show jobs, newest first"),
        ("jobs", "show"): Leaf("llorch.remote.jobs:show", "show one job"),
        ("jobs", "watch"): Leaf("llorch.remote.jobs:watch", "stream a job's answer from its first word"),
        ("jobs", "cancel"): Leaf("llorch.remote.jobs:cancel", "cancel a job"),
        ("jobs", "explain"): Leaf("llorch.remote.jobs:explain", "show every decision taken on a job"),
        ("sessions", "list"): Leaf("llorch.remote.sessions:list_sessions", "show your open sessions"),
        ("sessions", "open"): Leaf("llorch.remote.sessions:open_session", "open a session, with limits of its own"),
        ("sessions", "show"): Leaf("llorch.remote.sessions:show", "show one session"),
        ("sessions", "close"): Leaf("llorch.remote.sessions:close", "be done with a session; its jobs go on"),
        ("usage",): Leaf("llorch.remote.usage:usage", "what your tenant took by day, and what it has now"),
        ("status",): Leaf("llorch.remote.status:status", "the cluster at a glance"),
        ("pool", "register"): Leaf("llorch.remote.register:register", "give a pool a short name, in llorch.toml"),
        ("service", "install"): Leaf(
            "llorch.remote.service:install", "have orchestratord or a worker stay, as a service"
        ),
        ("service", "uninstall"): Leaf("llorch.remote.service:uninstall", "stop a service and remove it"),
        ("service", "status"): Leaf("llorch.remote.service:status", "how the services of this machine do"),
        ("service", "logs"): Leaf("llorch.remote.service:logs", "what a service said"),
        ("demo",): Leaf("llorch.remote.demo:demo", "the whole system on this machine, in one minute"),
    },
    groups={
        "jobs": "jobs of the orchestrator",
        "sessions": "lines of jobs that belong together, with limits of their own",
        "service": "daemons that stay: systemd units, launchd agents",
        "pool": "pools over SSH: any llorch-pool command with --host",
    },
    not_yet=("run", "bench", "dev", "init"),
)
_POOL_NOT_YET = ("install", "uninstall", "upgrade", "rollback")


def main(argv: list[str], *, prog: str) -> int:
    """Run one command; the exit code. Raises LlorchError for what the operator should read."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    if argv[:1] == ["keys"]:
        from llorch.remote import keys

        return keys.forward(argv)
    if argv[:1] == ["pool"] and argv[1:2] != ["register"]:
        from llorch.base.errors import UsageError
        from llorch.remote import pools

        if argv[1:] and argv[1] in _POOL_NOT_YET:
            raise UsageError(f"'pool {argv[1]}' is not there yet in this version")
        return pools.forward(argv[1:], prog=prog)
    parsed = COMMANDS.parse(argv, prog)
    return 0 if parsed is None else parsed.run(parsed.arguments)
