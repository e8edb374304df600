"""Version skew: does the program of a pool, or of a worker, differ from the one that asks?"""

from __future__ import annotations

import json
import re
from typing import Any

import llorch
from llorch.host import runtime

SEEN_SIZE_MAX = 1 << 20
_LINE = re.compile(r"^Version\s+llorch (\S+), protocol (\d+), build (\S+)", re.MULTILINE)


class Watch:
    """Reads along with what `llorch-pool status` prints, as text or JSON."""

    def __init__(self) -> None:
        self._seen = bytearray()

    def feed(self, data: bytes) -> None:
        """Bytes of its output as they come."""
        if len(self._seen) < SEEN_SIZE_MAX:
            self._seen += data

    def warning(self, host: str) -> str | None:
        """One line on how `host` differs from us, None when it does not or does not say."""
        facts = _facts(self._seen.decode("utf-8", "replace"))
        if facts is None:
            return None
        mend = f"llorch pool upgrade --host {host}"
        return difference(host, facts.get("version"), facts.get("protocol"), facts.get("build_id"), mend)


def difference(what: str, version: object, protocol: object, build_id: object, mend: str) -> str | None:
    """One line when `what` runs another version or protocol than we do, or another frozen build of the same."""
    ours = runtime.build().build_id
    if protocol is not None and protocol != llorch.PROTOCOL:
        return f"{what} speaks protocol {protocol} (llorch {version}), this is {llorch.PROTOCOL}: {mend}"
    if version is not None and version != llorch.__version__:
        return f"{what} runs llorch {version}, this is {llorch.__version__}: {mend}"
    is_comparable = build_id is not None and "source" not in (build_id, ours)
    if is_comparable and build_id != ours:
        return f"{what} runs build {build_id} of llorch {version}, this is build {ours}: {mend}"
    return None


def _facts(text: str) -> dict[str, Any] | None:
    if found := _LINE.search(text):
        return {"version": found[1], "protocol": int(found[2]), "build_id": found[3]}
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
