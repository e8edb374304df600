"""`llorch policy check FILE | show | replay | simulate`: is a script good, which is in force, what would it change."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from llorch.base.commands import Parser
from llorch.orchestratord import rehearsal_cli

BAD_SCRIPT = 2


def main(argv: list[str], *, prog: str) -> int:
    """Run one command; the exit code. Raises LlorchError."""
    arguments = parser(prog).parse_args(argv)
    run: Callable[[argparse.Namespace], int] = arguments.run
    return run(arguments)


def parser(prog: str) -> argparse.ArgumentParser:
    """Every command about policy scripts."""
    made = Parser(prog=prog, description="Policy scripts: see spec/policy.md.", allow_abbrev=False)
    commands = made.add_subparsers(title="commands", metavar="COMMAND", required=True)
    check_help = "evaluate a script and try every hook it defines; 0: good, 2: not"
    checking = commands.add_parser("check", help=check_help, description=check_help)
    checking.add_argument("file", metavar="FILE", help="the script; - reads stdin")
    checking.add_argument("--json", action="store_true", help="print JSON instead of text")
    checking.set_defaults(run=check)
    show_help = "the script that orchestratord uses, and how it does"
    showing = commands.add_parser("show", help=show_help, description=show_help)
    showing.add_argument("--orchestrator", metavar="URL", help="orchestratord's URL")
    showing.add_argument("--key-file", metavar="FILE", help="file with the client key (default: LLORCH_API_KEY)")
    showing.add_argument("--source", action="store_true", help="print the script itself")
    showing.add_argument("--json", action="store_true", help="print JSON instead of text")
    showing.set_defaults(run=show)
    rehearsal_cli.add_commands(commands)
    return made


def check(arguments: argparse.Namespace) -> int:
    """Problems go to stderr as FILE:LINE:COLUMN, what is good to stdout."""
    from llorch.host import runtime
    from llorch.orchestratord.policy_file import plain_report, read_script
    from llorch.scripting.check import check as examine

    name = "stdin" if arguments.file == "-" else arguments.file
    source = sys.stdin.read() if arguments.file == "-" else read_script(Path(arguments.file))
    report = asyncio.run(examine(partial(runtime.daemon_command, "policy-child"), source))
    if arguments.json:
        _say(json.dumps(plain_report(report)))
    elif report.is_good:
        _say(f"{name}: good; defines {', '.join(report.hooks)} ({report.tried} calls tried)")
    else:
        for problem in report.problems:
            place = f":{problem.line}:{problem.column}" if problem.line else ""
            sys.stderr.write(f"{name}{place}: {problem.message}\n")
    if report.printed and not arguments.json:
        sys.stderr.write("it printed:\n" + "\n".join(f"  {line}" for line in report.printed.splitlines()) + "\n")
    return 0 if report.is_good else BAD_SCRIPT


def show(arguments: argparse.Namespace) -> int:
    """Name, hash, hooks and state; counters by hook."""
    from llorch.client.endpoint import DEFAULT_URL, configured_url, read_key
    from llorch.client.sync import Client

    url = configured_url(os.environ, arguments.orchestrator) or DEFAULT_URL
    policy = Client(url, key=read_key(os.environ, arguments.key_file)).policy()
    if arguments.json:
        _say(json.dumps(policy))
    elif arguments.source:
        sys.stdout.write(policy.get("source") or "")
    else:
        _print(policy)
    return 0


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")


def _print(policy: dict[str, Any]) -> None:
    name = policy.get("name")
    if name is None:
        _say("the built-in policy answers everything")
    else:
        _say(f"{name} ({policy['state']}), sha256 {policy['sha256'][:12]}, hooks: {', '.join(policy['hooks'])}")
    if policy.get("last_error"):
        _say(f"the last change was refused: {policy['last_error']}")
    counters = policy.get("counters", {})
    for hook, calls in sorted(counters.get("calls", {}).items()):
        _say(f"  {hook}: {calls} calls")
    for hook, reasons in sorted(counters.get("fallbacks", {}).items()):
        _say(f"  {hook}: built-in answers: " + ", ".join(f"{count} {reason}" for reason, count in reasons.items()))
