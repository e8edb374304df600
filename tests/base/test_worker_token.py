"""The worker token is made once, privately, and read back strictly."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from llorch.base import worker_token
from llorch.base.errors import HostError


def test_created_once_and_private(tmp_path: Path) -> None:
    """Many callers at once get the same token; the file is 0600 and nothing else is left beside it."""
    env = {"LLORCH_STATE": str(tmp_path / "state")}
    assert worker_token.find(env) is None
    with ThreadPoolExecutor(16) as pool:
        tokens = set(pool.map(lambda _: worker_token.find_or_create(env), range(64)))
    assert len(tokens) == 1 and len(tokens.pop()) >= 43
    assert [(p.name, p.stat().st_mode & 0o777) for p in (tmp_path / "state").iterdir()] == [("worker-token", 0o600)]


def test_a_named_file_is_read_and_never_made(tmp_path: Path) -> None:
    """LLORCH_WORKER_TOKEN_FILE wins; a missing, empty or odd file is an error."""
    path = tmp_path / "token"
    env = {"LLORCH_WORKER_TOKEN_FILE": str(path), "LLORCH_STATE": str(tmp_path)}
    for content in (None, b"", b"\n", b"a b", b"two\nlines", "é".encode(), b"\xff", b"x" * 5000):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(HostError):
            worker_token.find_or_create(env)
    path.write_text("secret\n")
    assert worker_token.find(env) == "secret"
