"""What a process that holds many streams asks of the interpreter and of the system."""

from __future__ import annotations

import gc
import resource

OPEN_FILES_WANTED = 65_536
GC_THRESHOLDS = (50_000, 10, 10)


def collect_seldom() -> None:
    """What is loaded stays, and jobs are no rubbish: looking through a long queue of them holds up every stream."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


def raise_file_limit() -> int:
    """The number of open files allowed from now on: the soft limit of most systems is for desktop programs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES_WANTED if hard == resource.RLIM_INFINITY else min(OPEN_FILES_WANTED, hard)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted
