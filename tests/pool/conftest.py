"""A pool of its own for each test: a temporary home, the real command in a real process, a hub on loopback."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pool.hub import Hub, Repository, serve
from tests.pool.pools import REPO, Pool, safetensors


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
    (folder / "model.safetensors").write_bytes(safetensors(bytes(range(256)) * 1200))
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
