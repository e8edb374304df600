"""`llorch pool install|rollback --host H`: our program onto other machines, with nothing there but SSH.

One survey, one copy checked by its hash, and the copy's own `self install`. The same build is not copied again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from llorch.base import config
from llorch.base.errors import HostError, UsageError
from llorch.host import program, ssh, survey, upload
from llorch.host.ssh import Remote, Sink
from llorch.host.targets import SshTarget, find_targets
from llorch.remote import pools
from llorch.remote.copying import Copying, megabytes


class Outcome(Enum):
    """What an installation did to a host."""

    INSTALLED = "installed"
    SWITCHED = "switched"  # the build was there, and is the current one now
    UNCHANGED = "unchanged"


@dataclass(frozen=True, slots=True)
class Report:
    """One host after an installation; `version` is what the program there says of itself."""

    outcome: Outcome
    facts: survey.HostFacts
    version: dict[str, Any]
    program: str
    previous: str | None
    copied_bytes: int

    @property
    def name(self) -> str:
        """The build, for people."""
        return f"llorch {self.version.get('version')} (build {self.version.get('build_id')})"

    def body(self) -> dict[str, Any]:
        """The JSON of `pool install`."""
        facts = self.facts
        return {
            "outcome": self.outcome.value,
            **{key: self.version.get(key) for key in ("version", "build_id", "protocol")},
            "program": self.program,
            "previous": self.previous,
            "copied_bytes": self.copied_bytes,
            "host": {
                "platform": str(facts.platform),
                "libc": facts.libc,
                "cores": facts.cores,
                "cpu_features": list(facts.cpu_features),
                "gpus": list(facts.gpus),
            },
        }


class Installer:
    """Installs on hosts; what all of them have in common."""

    def __init__(self, binary: Path | None, prefix: str | None, *, alone: bool) -> None:
        """`prefix` as typed, None for ~/.local there; `alone`: there is one host only. Raises UsageError."""
        if prefix is not None and not (prefix.startswith(("/", "~/")) and prefix.isprintable()):
            raise UsageError("--prefix must be an absolute path, or begin with ~/")
        self._binary = binary.absolute() if binary is not None else None
        self._prefix = prefix if prefix is None else prefix.rstrip("/") or prefix
        self._alone = alone
        self._choosing = asyncio.Lock()

    async def look(self, remote: Remote) -> survey.HostFacts:
        """What the host is and has. Raises HostError, SshFailed."""
        answer = await remote.ask(["/bin/sh", "-c", survey.SCRIPT, "sh", self._prefix or ""])
        return survey.parse(answer.out)

    async def install(self, remote: Remote, err: Sink) -> Report:
        """Bring our program onto the host and make it the current one. Raises HostError, SshFailed."""
        facts = await self.look(remote)
        async with self._choosing:  # hashed once, however many hosts wait for it
            chosen = await asyncio.to_thread(program.choose, facts.platform, self._binary)
        there = facts.find(chosen)
        if there is not None:
            outcome = Outcome.UNCHANGED if there.name == facts.current else Outcome.SWITCHED
            await self.make_current(remote, facts, f"{facts.versions.path}/{there.name}")
            return await self._report(remote, facts, outcome, 0)
        why = survey.why_not(facts, chosen)
        if why is not None:
            raise HostError(f"cannot install: {why}")
        shown = Copying(chosen.size_bytes, err, alone=self._alone)
        async with upload.copied(remote, chosen, facts.cache.path, shown.show) as folder:
            await self.make_current(remote, facts, folder, TMPDIR=folder)  # /tmp may be noexec
        return await self._report(remote, facts, Outcome.INSTALLED, chosen.size_bytes)

    async def make_current(self, remote: Remote, facts: survey.HostFacts, folder: str, **env: str) -> None:
        """Run `self install` of the program in `folder` over there, with `env`. Raises HostError."""
        chosen = [] if self._prefix is None else ["--prefix", facts.prefix]
        settings = [f"{name}={value}" for name, value in env.items()]
        answer = await remote.ask(["env", *settings, f"{folder}/llorch", "self", "install", *chosen])
        if answer.code == 0:
            return
        if needed := re.search(r"GLIBC_([\d.]+)' not found", answer.err):
            raise HostError(f"cannot install: the host's {facts.libc} is too old: this build needs glibc {needed[1]}")
        raise HostError(f"cannot install: {upload.last_line(answer.err)}")

    async def _report(self, remote: Remote, before: survey.HostFacts, outcome: Outcome, copied_bytes: int) -> Report:
        facts = await self.look(remote)
        if facts.current is None:
            raise HostError(f"cannot install: {before.bin_dir.path}/llorch does not lead to the installed program")
        place = f"{facts.versions.path}/{facts.current}/llorch"
        answer = await remote.ask([place, "self", "version", "--json"])
        try:
            version = json.loads(answer.out)
        except ValueError:
            version = None
        if answer.code != 0 or not isinstance(version, dict):
            raise HostError(f"{place} is installed but does not start: {upload.last_line(answer.err)}")
        return Report(outcome, facts, version, place, facts.previous, copied_bytes)


@contextmanager
def naming(target: SshTarget) -> Iterator[None]:
    """Errors of this host say whose they are."""
    try:
        yield
    except HostError as error:
        if not error.message.startswith(f"{target.name}: "):
            error.message = f"{target.name}: {error.message}"
        raise


def add_host_arguments(parser: argparse.ArgumentParser) -> None:
    """What all of these commands take."""
    parser.add_argument("--host", action="append", required=True, metavar="HOST[,HOST…|all]", help="which machines")
    parser.add_argument("--prefix", metavar="DIR", help="where it is installed there (default: ~/.local)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def install_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `llorch pool install`."""
    add_host_arguments(parser)
    parser.add_argument("--binary", type=Path, metavar="FILE", help="what to copy, instead of this program itself")


def targets_of(arguments: argparse.Namespace) -> list[SshTarget]:
    """The hosts that --host names. Raises UsageError, ConfigError, NotFound."""
    return find_targets(arguments.host, config.load_file(config.config_path(os.environ)))


def say(sink: Sink, *lines: str) -> None:
    """Whole lines to one end of a host's output."""
    sink("".join(f"{line}\n" for line in lines).encode("utf-8", "replace"))


def describe(report: Report, target: SshTarget, out: Sink, err: Sink) -> None:
    """The report for people, with what they should know beyond it."""
    words = {
        Outcome.INSTALLED: f"installed {report.name} in {report.facts.prefix}, {megabytes(report.copied_bytes)} copied",
        Outcome.SWITCHED: f"{report.name} was there and is the current one again",
        Outcome.UNCHANGED: f"{report.name} is installed already",
    }
    kept = f"; kept for rollback: {report.previous}" if report.previous else ""
    say(out, words[report.outcome] + kept)
    pool = f"{report.facts.bin_dir.path}/llorch-pool"
    usual = report.facts.bin_dir.path.endswith(("/.local/bin", "/usr/local/bin"))
    if target.program is None and not usual:
        say(err, f"note: if that is not on PATH there: llorch pool register {target.name} --path {pool}")
    elif target.program is not None and not target.program.endswith(pool.rpartition("/.local/")[2]):
        say(err, f"note: the profile's path= is {target.program}; to use what is installed, set it to {pool}")


def install(arguments: argparse.Namespace) -> int:
    """Install on every host named. JSON of one host: `Report.body`; of several: as `pool … --host A,B --json`."""
    targets = targets_of(arguments)
    installer = Installer(arguments.binary, arguments.prefix, alone=len(targets) == 1)

    async def work(target: SshTarget, out: Sink, err: Sink) -> int:
        with naming(target):
            async with ssh.connect(target) as remote:
                report = await installer.install(remote, err)
        if arguments.json:
            say(out, json.dumps(report.body()))
        else:
            describe(report, target, out, err)
        return 0

    return pools.on_each(targets, work, gather=arguments.json)


def rollback_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `llorch pool rollback`."""
    add_host_arguments(parser)


def rollback(arguments: argparse.Namespace) -> int:
    """Make the version before the current one. JSON of one host: {current, previous}."""
    targets = targets_of(arguments)
    installer = Installer(None, arguments.prefix, alone=len(targets) == 1)

    async def work(target: SshTarget, out: Sink, err: Sink) -> int:
        with naming(target):
            async with ssh.connect(target) as remote:
                facts = await installer.look(remote)
                if facts.previous is None:
                    raise HostError(f"no version before {facts.current or 'this one'} is kept there")
                await installer.make_current(remote, facts, f"{facts.versions.path}/{facts.previous}")
                facts = await installer.look(remote)
        if arguments.json:
            say(out, json.dumps({"current": facts.current, "previous": facts.previous}))
        else:
            say(out, f"rolled back to {facts.current}; {facts.previous} is kept", "workers that run go on as they are")
        return 0

    return pools.on_each(targets, work, gather=arguments.json)
