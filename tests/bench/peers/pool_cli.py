"""llorch-pool in a home of its own, as processes of a benchmark."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from daemons import program
from peers.cluster import environment

from llorch.base.errors import HostError
from llorch.base.home import Home, find_home

LIMIT_S = 180.0


@dataclass
class PoolCli:
    """Commands of the user whose home is `home`."""

    home: Path
    more: dict[str, str] = field(default_factory=dict)

    @property
    def env(self) -> dict[str, str]:
        """Of every command."""
        return environment(self.home, self.more)

    @property
    def files(self) -> Home:
        """Where catalog, models and workers are."""
        return find_home(self.env)

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        """A command in a session of its own, which can be killed as a whole."""
        quiet = subprocess.DEVNULL
        argv = [*program("llorch-pool"), *words]
        return subprocess.Popen(argv, env=self.env, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True)

    def ask(self, *words: str, fail_ok: bool = False) -> Any:
        """What a command says with --json. Raises HostError."""
        argv = [*program("llorch-pool"), *words, "--json"]
        done = subprocess.run(argv, env=self.env, capture_output=True, timeout=LIMIT_S, check=False)
        if done.returncode and not fail_ok:
            raise HostError(f"llorch-pool {' '.join(words)}: {done.stderr.decode(errors='replace').strip()[-500:]}")
        last = done.stdout.strip().rpartition(b"\n")[2] if words[:2] == ("models", "download") else done.stdout
        return json.loads(last or b"{}")
