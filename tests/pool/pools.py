"""Runs `llorch-pool`, from sources or frozen (`LLORCH_FROZEN`), in a home of its own."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.daemons import ROOT, program

REPO = "Qwen/Qwen2.5-0.5B-Instruct"


def safetensors(data: bytes) -> bytes:
    """A whole weights file with one tensor whose bytes are `data`."""
    header = json.dumps({"w": {"dtype": "U8", "shape": [len(data)], "data_offsets": [0, len(data)]}}).encode()
    return len(header).to_bytes(8, "little") + header + data


@dataclass
class Ran:
    """What a command said, and its exit code."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class Pool:
    """Runs `llorch-pool` with a home of its own."""

    home: Path
    env: dict[str, str]

    def popen(self, *words: str, **more: Any) -> subprocess.Popen[str]:
        argv = [*program("llorch-pool"), *words]
        pipe = subprocess.PIPE
        return subprocess.Popen(argv, env=self.env, cwd=ROOT, text=True, stdout=pipe, stderr=pipe, **more)

    def run(self, *words: str, stdin: str = "", **env: str) -> Ran:
        argv = [*program("llorch-pool"), *words]
        done = subprocess.run(
            argv,
            env={**self.env, **env},
            cwd=ROOT,
            text=True,
            input=stdin,
            capture_output=True,
            timeout=120,
            check=False,
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    def ok(self, *words: str, **env: str) -> Ran:
        ran = self.run(*words, **env)
        assert ran.code == 0, ran.err
        return ran
