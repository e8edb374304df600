"""Limits that a process sets on itself before it touches what it does not trust; there is no way back."""

from __future__ import annotations

import os
import resource
import sys

from llorch.base.errors import HostError


def confine(*, memory_bytes: int, descriptors: int) -> None:
    """From now on: so much address space, no written byte, no core file, no descriptor numbered `descriptors` or more.

    The environment is emptied. Where a system refuses the bound on memory (macOS), the others still hold.
    Raises HostError.
    """
    os.environ.clear()
    os.chdir("/")
    try:
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    except (OSError, ValueError) as error:
        if sys.platform.startswith("linux"):
            raise HostError(f"cannot bound the memory: {error}") from error
    for limit, value in (
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, descriptors),
    ):
        try:
            resource.setrlimit(limit, (value, value))
        except (OSError, ValueError) as error:
            raise HostError(f"cannot set limit {limit}: {error}") from error
