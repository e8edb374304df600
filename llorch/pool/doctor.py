"""`doctor` and `cleanup`: what is wrong on this host, what of ours is left over, and the end of it.

Nothing is signalled but processes that carry this home's own random id; nothing is deleted that somebody may miss.
"""

from __future__ import annotations

import argparse
import os

from llorch.base.home import find_home
from llorch.pool import check_files, check_host, check_processes
from llorch.pool.findings import Finding, Level, Repair
from llorch.pool.output import host_name, print_json
from llorch.pool.terminal import Terminal
from llorch.pool.workers import add_grace


def doctor_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--fix", action="store_true", help="mend what can be mended safely")
    parser.add_argument("--caller-clock", type=float, metavar="UNIX", help="the time over there, to compare clocks")
    parser.add_argument("--caller-version", metavar="V[+BUILD]", help="llorch's version over there")
    add_grace(parser)
    parser.epilog = "Exit code 1 when something is left to do. With --host, clock and version are the caller's."


def doctor(arguments: argparse.Namespace, terminal: Terminal) -> int:
    """JSON: {host, findings: [{check, level, detail, mend, fixed, pid}], open}."""
    home, repair = find_home(os.environ), Repair.MEND if arguments.fix else Repair.LOOK
    found = [
        *check_processes.look(home, repair, os.environ, arguments.grace),
        *check_files.look(home, repair, os.environ),
        *check_host.look(
            home, os.environ, caller_clock=arguments.caller_clock, caller_version=arguments.caller_version
        ),
    ]
    return _report(found, arguments)


def cleanup_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="say what would be done")
    add_grace(parser)


def cleanup(arguments: argparse.Namespace, terminal: Terminal) -> int:
    """End orphans and remove what belongs to nobody; JSON as of `doctor`, without what is no left-over."""
    home, repair = find_home(os.environ), Repair.LOOK if arguments.dry_run else Repair.MEND
    found = [
        *check_processes.look(home, repair, os.environ, arguments.grace),
        *check_files.look(home, repair, os.environ),
    ]
    return _report([finding for finding in found if finding.check in _LEFT_OVERS], arguments)


_LEFT_OVERS = ("orphans", "records", "left-overs", "downloads", "caches")


def _report(found: list[Finding], arguments: argparse.Namespace) -> int:
    """Print the findings, the worst first; 1 when somebody has to do something."""
    order = [Level.PROBLEM, Level.WARNING, Level.NOTE]
    found = sorted(found, key=lambda finding: (not finding.is_open, order.index(finding.level)))
    still_open = sum(finding.is_open for finding in found)
    if arguments.json:
        print_json({"host": host_name(), "findings": [finding.body() for finding in found], "open": still_open})
        return 1 if still_open else 0
    for finding in found:
        print(f"{'fixed' if finding.fixed else finding.level.value:<8} {finding.check:<12} {finding.detail}")
        if finding.mend and not finding.fixed:
            print(f"{'':<21} -> {finding.mend}")
    if not still_open:
        print("All is well" if not any(finding.fixed for finding in found) else "All is well now")
    return 1 if still_open else 0
