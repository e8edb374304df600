"""The cluster's worker token: one secret per cluster, in a file of the state directory, made by whoever needs it first.

`LLORCH_WORKER_TOKEN_FILE` names another file; that one is never created here.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from llorch.base.config import state_dir
from llorch.base.errors import HostError

FILE_ENV = "LLORCH_WORKER_TOKEN_FILE"
FILE_NAME = "worker-token"
SIZE_MAX = 4096


def find(env: Mapping[str, str], state: Path | None = None) -> str | None:
    """The token, or None when the state directory has none yet. Raises HostError for a file that holds no token.

    `state` is the state directory when a flag named it.
    """
    named = env.get(FILE_ENV)
    path = Path(named) if named else (state or state_dir(env)) / FILE_NAME
    if not named and not path.exists():
        return None
    return read(path)


def find_or_create(env: Mapping[str, str], state: Path | None = None) -> str:
    """The token; a fresh one is stored with mode 0600 when there is none. Two callers at once get the same one."""
    found = find(env, state)
    if found is not None:
        return found
    path = (state or state_dir(env)) / FILE_NAME
    temporary = path.with_name(f".{FILE_NAME}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(fd, "w", encoding="ascii") as file:
            file.write(secrets.token_urlsafe(32) + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)  # unlike a rename it does not replace a token made meanwhile
        except FileExistsError:
            pass
        finally:
            temporary.unlink()
    except OSError as error:
        raise HostError(f"cannot create the worker token {path}: {error.strerror}") from None
    return read(path)


def read(path: Path) -> str:
    """The token in a file. Raises HostError when it holds none."""
    try:
        with open(path, encoding="ascii") as file:
            token = file.read(SIZE_MAX + 1).strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not ASCII text"
        raise HostError(f"worker token file {path}: {reason}") from None
    if not token or len(token) > SIZE_MAX or any(c.isspace() for c in token):
        raise HostError(f"worker token file {path} does not hold one token")
    return token
