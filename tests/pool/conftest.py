"""A pool of its own for each test: a temporary home, the real command in a real process, a hub on loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hub import Hub, Repository, serve

ROOT = Path(__file__).resolve().parents[2]
REPO = "Qwen/Qwen2.5-0.5B-Instruct"


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
        argv = [sys.executable, "-m", "llorch", "llorch-pool", *words]
        pipe = subprocess.PIPE
        return subprocess.Popen(argv, env=self.env, cwd=ROOT, text=True, stdout=pipe, stderr=pipe, **more)

    def run(self, *words: str, stdin: str = "", **env: str) -> Ran:
        argv = [sys.executable, "-m", "llorch", "llorch-pool", *words]
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


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Pool]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("LLORCH_", "HF_", "XDG_", "LC_", "LANG"))}
    env = {
        **kept,
        "HOME": str(tmp_path / "user"),
        "LLORCH_HOME": str(tmp_path / "home"),
        "HF_HOME": str(tmp_path / "hf"),
        "HF_ENDPOINT": "http://127.0.0.1:9",  # nothing listens on the discard port
        "OMP_NUM_THREADS": "1",
    }
    made = Pool(tmp_path / "home", env)
    yield made
    if (made.home / "workers").is_dir():
        made.run("worker", "stop-all", "--grace", "1")


@pytest.fixture
def model_files(tmp_path: Path) -> Path:
    """A directory that looks like a model's repository, with things that must not be downloaded."""
    folder = tmp_path / "repository"
    (folder / "original").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 1200)
    (folder / "config.json").write_text('{"model_type": "qwen2"}')
    (folder / "tokenizer.json").write_text("{}" * 500)
    (folder / "tokenizer.model").write_bytes(b"\x0a\x0b")
    (folder / "pytorch_model.bin").write_bytes(b"code")
    (folder / "README.md").write_text("hello")
    (folder / "original" / "params.json").write_text("{}")
    return folder


@pytest.fixture
def hub(model_files: Path, pool: Pool) -> Iterator[Hub]:
    """A hub that serves `model_files` as REPO; the pool talks to it."""
    with serve(Hub({REPO: Repository(model_files)})) as served:
        pool.env["HF_ENDPOINT"] = served.url
        yield served
