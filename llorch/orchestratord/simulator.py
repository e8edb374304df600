"""`POST /v2/policy/simulate`: a simulation computes for seconds, so it runs in a process of its own, one at a time."""

from __future__ import annotations

import asyncio
import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llorch.base import log
from llorch.base.errors import HostError, InvalidRequest, RateLimited, TimedOut
from llorch.host import runtime
from llorch.host.commands import Said, ask_within
from llorch.wire import strict_json

logger = log.get(__name__)

LIMIT_S = 30.0
DURATION_DEFAULT_S = 3600
DURATION_MAX_S = 366 * 86_400
_PREFIX = "llorch: "


@dataclass(frozen=True, slots=True)
class Wanted:
    """`fleet` is the content of a FLEET.toml (see fleet_file); `source` None: the built-in policy alone."""

    fleet: Any
    source: str | None
    seed: int
    duration_s: int


class Simulator:
    """Runs `llorch policy simulate` for clients."""

    def __init__(self, config: Path | None) -> None:
        """`config`: the llorch.toml whose settings and tenants hold in a simulation, too."""
        self._config = config
        self._running = asyncio.Lock()

    async def run(self, wanted: Wanted) -> dict[str, Any]:
        """What `llorch policy simulate --json` prints.

        Raises InvalidRequest (a bad fleet or script), RateLimited (another one runs), TimedOut, HostError.
        """
        if self._running.locked():
            raise RateLimited("another simulation is running", retry_after_s=LIMIT_S / 2)
        async with self._running:
            with tempfile.TemporaryDirectory(prefix="llorch-simulate-") as folder:
                try:
                    said = await ask_within(self._argv(wanted, Path(folder)), Path(folder), LIMIT_S)
                except TimeoutError:
                    raise TimedOut(f"the simulation did not end within {LIMIT_S:.0f} s: describe fewer jobs") from None
        return self._answer(said, folder)

    def _argv(self, wanted: Wanted, folder: Path) -> list[str]:
        fleet = folder / "fleet.json"
        fleet.write_bytes(strict_json.dump(wanted.fleet))
        argv = [*runtime.daemon_command("policy"), "simulate", "--json", "--fleet", str(fleet)]
        argv += ["--seed", str(wanted.seed), "--duration-s", str(wanted.duration_s)]
        if self._config is not None and self._config.exists():
            argv += ["--config", str(self._config)]
        if wanted.source is not None:
            script = folder / "new.star"
            script.write_text(wanted.source, encoding="utf-8")
            argv += ["--policy", str(script)]
        return argv

    def _answer(self, said: Said, folder: str) -> dict[str, Any]:
        """The result, or the program's own words about what is wrong with the request; no path of ours in them."""
        if said.code == 0:
            return strict_json.parse_object(said.out.encode())
        lines = [line for line in said.err.splitlines() if line.startswith(_PREFIX)]
        if not lines or str(self._config) in lines[-1]:
            log.event(logger, "a simulation failed", level=logging.ERROR, code=said.code, said=said.err[-1000:])
            raise HostError("the simulation failed; orchestratord's log says why")
        raise InvalidRequest(lines[-1].removeprefix(_PREFIX).replace(f"{folder}/", ""))
