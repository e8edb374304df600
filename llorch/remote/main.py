"""The commands of `llorch`, and where each one lives."""

from __future__ import annotations

import sys

from llorch.base.commands import CommandTable, Leaf

COMMANDS = CommandTable(
    about="operate the cluster: pools over SSH, jobs over HTTP",
    leaves={
        ("run",): Leaf("llorch.remote.run:run", "talk to a model; whatever is missing is brought and started"),
        ("init",): Leaf("llorch.remote.init:init", "write a first llorch.toml, by three questions"),
        ("infer",): Leaf("llorch.remote.infer:infer", "one prompt straight to one worker"),
        ("bench",): Leaf("llorch.remote.bench:bench", "compare workers, by the same prompts in turns"),
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
        ("pool", "install"): Leaf("llorch.remote.install:install", "bring this program onto other machines"),
        ("pool", "upgrade"): Leaf("llorch.remote.upgrade:upgrade", "install, then restart the workers one at a time"),
        ("pool", "rollback"): Leaf("llorch.remote.install:rollback", "back to the version before the current one"),
        ("pool", "uninstall"): Leaf("llorch.remote.uninstall:uninstall", "remove the program from other machines"),
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
)
_POOL_WORDS = tuple(name[1] for name in COMMANDS.leaves if name[0] == "pool")


def main(argv: list[str], *, prog: str) -> int:
    """Run one command; the exit code. Raises LlorchError for what the operator should read."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    if argv[:1] == ["keys"]:
        from llorch.remote import keys

        return keys.forward(argv)
    if argv[:1] == ["pool"]:
        from llorch.remote import pools

        names, words = pools.split_hosts(argv[1:])
        if not words or words[0] not in _POOL_WORDS:
            return pools.forward(argv[1:], prog=prog)
        # These run here, and --host may stand before them as before any other.
        argv = ["pool", words[0], *(f"--host={name}" for name in names), *words[1:]]
    parsed = COMMANDS.parse(argv, prog)
    return 0 if parsed is None else parsed.run(parsed.arguments)
