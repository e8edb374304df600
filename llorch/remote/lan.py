"""`models download … --host H`: before the internet is asked, the other registered pools are."""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llorch.base.commands import Parser
from llorch.base.errors import LlorchError, NotFound, UsageError
from llorch.host import quote, ssh
from llorch.host.ssh import Sink
from llorch.host.targets import EVERY, SshTarget, find_target, find_targets
from llorch.remote import model_copy, terminal
from llorch.wire.catalog import REVISION, split_revision

_LEAVES = (["models", "download"], ["model", "download"])
ASK_TIMEOUT_S = 10.0
_ANSWER_BYTES_MAX = 16 << 20
_ABBREVIATED_MIN = 7


@dataclass(frozen=True, slots=True)
class LanDownload:
    """A download that another pool may spare. `words` are for llorch-pool, without what is ours.

    `named`: the operator named the one source, so that its failure is not mended by the hub.
    """

    words: tuple[str, ...]
    model: str
    revision: str | None
    sources: tuple[SshTarget, ...]
    named: bool
    form: model_copy.Form

    async def copy_to(self, target: SshTarget, out: Sink, err: Sink) -> int | None:
        """Copy from a pool that has the model; the exit code, None when the hub is to be asked after all."""
        found = await self._find_source(target)
        if found is None:
            return None
        source, model_id = found
        terminal.tell(f"{target.name}: {self.model} comes from pool {source.name} (--no-lan asks the hub instead)")
        try:
            code = await model_copy.copy(source, target, model_id, model_copy.Way.BEST, self.form, out, err)
        except LlorchError as error:
            if self.named:
                raise
            terminal.tell(error.message)
            code = error.exit_code
        if code == 0 or self.named:
            return code
        terminal.tell(f"{target.name}: the copy failed; the hub is asked")
        return None

    async def _find_source(self, target: SshTarget) -> tuple[SshTarget, str] | None:
        """The first source that has the wanted revision, and the model's id there; None if the target has it itself."""
        others = [source for source in self.sources if source.name != target.name]
        if not others:
            return None
        found: tuple[SshTarget, str] | None = None
        async with asyncio.TaskGroup() as tasks:
            here = tasks.create_task(self._id_at(target))
            asked = [tasks.create_task(self._offer(source)) for source in others]
            if await here is not None:
                others = []
            for answer in asyncio.as_completed(asked) if others else ():
                if (found := await answer) is not None:
                    break  # a pool that sleeps is not waited for
            for task in asked:
                task.cancel()
        if not others:
            return None
        if found is None and self.named:
            raise NotFound(f"pool {others[0].name} does not have {self.model}{self._at()} (or does not answer)")
        return found

    def _at(self) -> str:
        return f" at revision {self.revision}" if self.revision else ""

    async def _offer(self, pool: SshTarget) -> tuple[SshTarget, str] | None:
        model_id = await self._id_at(pool)
        return None if model_id is None else (pool, model_id)

    async def _id_at(self, pool: SshTarget) -> str | None:
        """The wanted model's id on a pool that has it; one that does not answer in time has not."""
        answer = bytearray()

        def keep(data: bytes) -> None:
            if len(answer) + len(data) > _ANSWER_BYTES_MAX:
                raise LlorchError(f"{pool.name}: the answer is too large")
            answer.extend(data)

        argv = quote.pool_argv(["models", "list", "--json"], program=pool.program, env={})
        try:
            async with asyncio.timeout(ASK_TIMEOUT_S), ssh.connect(pool) as remote:
                await remote.run(argv, out=keep, err=lambda data: None)
            rows = json.loads(answer)["models"]
            return next((str(row["id"]) for row in rows if self._is_wanted(row)), None)
        except (LlorchError, TimeoutError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def _is_wanted(self, row: Mapping[str, Any]) -> bool:
        named = self.model in (row.get("id"), row.get("repo"), *(row.get("aliases") or ()))
        revision = str(row.get("revision") or "")
        return named and bool(row.get("files")) and (self.revision is None or revision.startswith(self.revision))


def prepare(words: Sequence[str], config: Mapping[str, Any]) -> LanDownload | None:
    """What the other pools are to be asked for when `words` are a download, else None. Raises UsageError."""
    if list(words[:2]) not in _LEAVES or any(word in ("-h", "--help") for word in words):
        return None
    ours, rest = _split(words[2:])
    model, typed = split_revision(ours.model or "")
    revision = typed or ours.revision
    if ours.source is not None and (ours.no_lan or ours.force):
        raise UsageError("--from names a pool to copy from; --no-lan and --force do without one")
    profiles = config.get("pools", {})
    if ours.source is not None:
        sources = [find_target(ours.source, config)]
    else:
        sources = find_targets([EVERY], config) if profiles and _may_ask(ours, revision) else []
    form = model_copy.Form.JSON if "--json" in rest else model_copy.Form.TEXT
    passed = (*words[:2], *rest)
    return LanDownload(passed, model, revision, tuple(sources), ours.source is not None, form)


def _may_ask(ours: argparse.Namespace, revision: str | None) -> bool:
    """A branch or tag means what the hub says it means; only a commit, or no matter which, is known without it."""
    if ours.no_lan or ours.force or not ours.model:
        return False
    return revision is None or (
        len(revision) >= _ABBREVIATED_MIN and REVISION.fullmatch(revision.ljust(40, "0")) is not None
    )


def _split(words: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Our flags, and the words for llorch-pool in their order. What is wrong with the latter it says itself."""
    flags = Parser(prog="llorch pool models download", add_help=False, allow_abbrev=False)
    flags.add_argument("--from", dest="source", metavar="POOL")
    flags.add_argument("--no-lan", action="store_true")
    ours, rest = flags.parse_known_args(list(words))
    seen = Parser(prog="llorch pool models download", add_help=False, allow_abbrev=False)
    seen.add_argument("model", nargs="?")
    seen.add_argument("--revision")
    seen.add_argument("--force", action="store_true")
    seen.parse_known_args(rest, namespace=ours)
    return ours, rest
