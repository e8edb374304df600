"""The file that holds the policy script: loaded at start, reloaded when it changes, written by a deployment.

A script that is bad never takes the place of one that works; what is wrong is logged once and told until it is mended.
"""

from __future__ import annotations

import asyncio
import logging
import os
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from llorch.base import log
from llorch.base.errors import ConfigError, Forbidden, InvalidRequest, LlorchError, StorageUnavailable
from llorch.base.file_mark import file_mark
from llorch.scripting.check import Problem, Report, check
from llorch.scripting.link import SCRIPT_MAX_BYTES, Command
from llorch.scripting.policy import Condition, ScriptedPolicy
from llorch.store.backup import SCRIPT

logger = log.get(__name__)

LOOK_EVERY_S = 1.0


class Owner(Enum):
    """Who says what the policy is."""

    DEPLOYMENTS = "deployments"  # the file in the state directory, written by POST /v2/policy/deploy
    OPERATOR = "operator"  # a file of the operator's, named by --policy
    NOBODY = "nobody"  # platform mode: the built-in policy, immutable


@dataclass(frozen=True, slots=True)
class PolicyPlace:
    """Where the script is, and whose it is."""

    owner: Owner
    path: Path


class PolicyFile:
    """Keeps the script in force the same as the file."""

    def __init__(self, place: PolicyPlace, command: Command, scripted: ScriptedPolicy) -> None:
        self.place, self.scripted = place, scripted
        self.last_error: str | None = None
        self._command = command
        self._seen: object = None
        self._wanted = asyncio.Event()
        self._lock = asyncio.Lock()

    @property
    def condition(self) -> Condition:
        """The script's; degraded, too, when the file holds one that is not good."""
        return Condition.DEGRADED if self.last_error is not None else self.scripted.condition

    async def start(self) -> None:
        """Load what is there. A file that the operator named must be good: raises ConfigError."""
        if self.place.owner is Owner.NOBODY:
            return
        if self.place.owner is Owner.OPERATOR or self.place.path.exists():
            await self.reload()
        if self.place.owner is Owner.OPERATOR and self.last_error is not None:
            raise ConfigError(f"--policy {self.place.path}: {self.last_error}")

    def want_reload(self) -> None:
        """Look at the file now, changed or not (SIGHUP)."""
        self._seen = None
        self._wanted.set()

    async def watch(self) -> None:
        """Reload whenever the file has changed, for ever."""
        while self.place.owner is not Owner.NOBODY:
            try:
                async with asyncio.timeout(LOOK_EVERY_S):
                    await self._wanted.wait()
            except TimeoutError:
                pass
            self._wanted.clear()
            if self._mark() != self._seen:
                await self.reload()

    async def reload(self) -> None:
        """Take over the file's script if it is good; else keep the one before and say why."""
        async with self._lock:
            self._seen = self._mark()
            try:
                report = await self.scripted.load(self.place.path.name, read_script(self.place.path))
            except LlorchError as error:
                self._note(error.message)
            else:
                self._note(first_line(report))

    def _note(self, error: str | None) -> None:
        self.last_error = error
        name = self.place.path.name
        loaded = self.scripted.loaded
        if error is None and loaded is not None:
            hooks = ",".join(sorted(loaded.hooks))
            log.event(logger, "policy script loaded", name=name, sha256=loaded.sha256[:12], hooks=hooks)
        elif loaded is None:
            log.event(logger, f"the policy script is not used: {error}", level=logging.ERROR, name=name)
        else:
            log.event(logger, f"the policy script stays as it was: {error}", level=logging.ERROR, name=name)

    async def check(self, source: str) -> Report:
        """Try a script without using it. Raises Forbidden, HostError."""
        self.must_be_open()
        return await check(self._command, source)

    async def deploy(self, source: str) -> Report:
        """Use a script from now on and after the next start.

        Raises Forbidden, InvalidRequest (a bad script; a policy that is the operator's file), StorageUnavailable.
        """
        self._must_be_ours()
        async with self._lock:
            fresh = self._written(source)
            try:
                report = await self.scripted.load(self.place.path.name, source)
                if not report.is_good:
                    raise InvalidRequest(f"the script is not good: {first_line(report)}", details=plain_report(report))
                fresh.replace(self.place.path)
            except OSError as error:
                raise StorageUnavailable(f"the script is in force, but cannot be kept: {error.strerror}") from None
            finally:
                fresh.unlink(missing_ok=True)
            self._seen = self._mark()
            self._note(None)
        return report

    async def remove(self) -> None:
        """Back to the built-in policy, now and after the next start; nothing happens when it is in force already.

        Raises Forbidden, InvalidRequest (a policy that is the operator's file), StorageUnavailable.
        """
        self._must_be_ours()
        async with self._lock:
            try:
                self.place.path.unlink(missing_ok=True)
            except OSError as error:
                raise StorageUnavailable(f"the script cannot be removed: {error.strerror}") from None
            if self.scripted.loaded is not None:
                await self.scripted.unload()
                log.event(logger, "policy script removed", name=self.place.path.name)
            self.last_error = None
            self._seen = self._mark()

    def _must_be_ours(self) -> None:
        """Deployments have the word. Raises Forbidden, InvalidRequest."""
        self.must_be_open()
        if self.place.owner is Owner.OPERATOR:
            raise InvalidRequest(f"the policy is the operator's file {self.place.path.name}: change it there")

    def must_be_open(self) -> None:
        """Raises Forbidden in platform mode."""
        if self.place.owner is Owner.NOBODY:
            raise Forbidden("in platform mode the policy is built in and immutable")

    def _written(self, source: str) -> Path:
        """The source in a file beside its place."""
        fresh = self.place.path.with_name(f".{self.place.path.name}.{os.getpid()}")
        try:
            fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(source.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise StorageUnavailable(f"the script cannot be stored: {error.strerror}") from None
        return fresh

    def _mark(self) -> object:
        mark = file_mark(self.place.path)
        if mark is None and (self.scripted.loaded is not None or self.last_error is not None):
            return "gone"
        return mark


def read_script(path: Path) -> str:
    """A script's source. Raises ConfigError with one clear line."""
    try:
        with open(path, "rb") as file:
            data = file.read(SCRIPT_MAX_BYTES + 1)
        if len(data) > SCRIPT_MAX_BYTES:
            raise ConfigError(f"{path} is larger than {SCRIPT_MAX_BYTES >> 10} KiB")
        return data.decode("utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8") from None


def first_line(report: Report) -> str | None:
    """The first problem in words, None without one."""
    return None if report.is_good else shown(report.problems[0])


def shown(problem: Problem) -> str:
    """`line 3, column 5: …`, or the message alone."""
    return f"line {problem.line}, column {problem.column}: {problem.message}" if problem.line else problem.message


def plain_report(report: Report) -> dict[str, object]:
    """A report as JSON has it."""
    return {
        "ok": report.is_good,
        "hooks": [hook.value for hook in report.hooks],
        "problems": [
            {"message": problem.message, "line": problem.line or None, "column": problem.column or None}
            for problem in report.problems
        ],
        "tried": report.tried,
        "printed": report.printed,
    }


def place_of(named: Path | None, state_dir: Path, *, is_open: bool) -> PolicyPlace:
    """Whose file counts; a named one inside the state directory is for deployments, too."""
    path = named or state_dir / SCRIPT
    if not is_open:
        return PolicyPlace(Owner.NOBODY, path)
    is_ours = named is None or named.resolve().is_relative_to(state_dir.resolve())
    return PolicyPlace(Owner.DEPLOYMENTS if is_ours else Owner.OPERATOR, path)
