"""The same work on several things at once, so that one that takes its grace does not add to the others'."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from llorch.base.errors import HostError

Item = TypeVar("Item")
Result = TypeVar("Result")


def side_by_side(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result | HostError]:
    """What came of each, in their order: a HostError of one stops no other."""
    import threading  # most commands have nothing to do

    results: dict[int, Result | HostError] = {}

    def one(at: int) -> None:
        try:
            results[at] = work(items[at])
        except HostError as error:
            results[at] = error

    threads = [threading.Thread(target=one, args=(at,), daemon=True) for at in range(len(items))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [results[at] for at in range(len(items))]
