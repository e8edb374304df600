"""`llorch policy`: is a script good, put it in force or away, which one is, what would it change."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llorch.base.commands import Parser
from llorch.orchestratord import rehearsal_cli

if TYPE_CHECKING:
    from llorch.client.sync import Client

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
    _reaching(showing)
    showing.add_argument("--source", action="store_true", help="print the script itself")
    showing.set_defaults(run=show)
    deploy_help = "put a script in force, now and after the next start"
    deploying = commands.add_parser("deploy", help=deploy_help, description=deploy_help)
    deploying.add_argument("file", metavar="FILE", help="the script; - reads stdin")
    _reaching(deploying)
    deploying.set_defaults(run=deploy)
    remove_help = "take the deployed script away: the built-in policy answers everything"
    removing = commands.add_parser("remove", help=remove_help, description=remove_help)
    _reaching(removing)
    removing.set_defaults(run=remove)
    rehearsal_cli.add_commands(commands)
    return made


def _reaching(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--orchestrator", metavar="URL", help="orchestratord's URL")
    parser.add_argument("--key-file", metavar="FILE", help="file with the client key (default: LLORCH_API_KEY)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def check(arguments: argparse.Namespace) -> int:
    """Problems go to stderr as FILE:LINE:COLUMN, what is good to stdout."""
    from llorch.host import runtime
    from llorch.orchestratord.policy_file import plain_report
    from llorch.scripting.check import check as examine

    name, source = _read(arguments)
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
    policy = _client(arguments).policy()
    if arguments.source and not arguments.json:
        sys.stdout.write(policy.get("source") or "")
        return 0
    return _told(policy, arguments)


def deploy(arguments: argparse.Namespace) -> int:
    """The script is in force; a bad one changes nothing."""
    _, source = _read(arguments)
    return _told(_client(arguments).deploy_policy(source), arguments)


def remove(arguments: argparse.Namespace) -> int:
    """The built-in policy is in force."""
    return _told(_client(arguments).remove_policy(), arguments)


def _read(arguments: argparse.Namespace) -> tuple[str, str]:
    """The script's name and source. Raises ConfigError."""
    from llorch.orchestratord.policy_file import read_script

    if arguments.file == "-":
        return "stdin", sys.stdin.read()
    return arguments.file, read_script(Path(arguments.file))


def _client(arguments: argparse.Namespace) -> Client:
    from llorch.client.endpoint import DEFAULT_URL, configured_url, read_key
    from llorch.client.sync import Client

    url = configured_url(os.environ, arguments.orchestrator) or DEFAULT_URL
    return Client(url, key=read_key(os.environ, arguments.key_file))


def _told(policy: dict[str, Any], arguments: argparse.Namespace) -> int:
    if arguments.json:
        _say(json.dumps(policy))
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
