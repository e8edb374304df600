"""Start-up progress for whoever started us: the service manager, and the file that `LLORCH_STATUS_FILE` names.

The file is rewritten whole each time:
{"state":"loading","progress":0.4} -> {"state":"ready","url":...} or {"state":"failed","error":...}
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from llorch.host.notify import Notifier

STATUS_FILE_ENV = "LLORCH_STATUS_FILE"
PROGRESS_STEP = 0.01


class StatusFile:
    """Writes the file when one is named. A reader sees a whole JSON object, always."""

    def __init__(self, env: Mapping[str, str], notifier: Notifier) -> None:
        self._notifier = notifier
        named = env.get(STATUS_FILE_ENV)
        self._path = Path(named) if named else None
        self._written = -1.0

    def loading(self, progress: float) -> None:
        """`progress` 0 to 1; steps below one percent are not worth a write."""
        if progress - self._written >= PROGRESS_STEP or progress >= 1.0:
            self._written = progress
            self._notifier.status(f"loading {progress:.0%}")
            self._write({"state": "loading", "progress": round(progress, 3)})

    def ready(self, url: str) -> None:
        """Loaded and listening."""
        self._notifier.ready(f"serving at {url}")
        self._write({"state": "ready", "url": url})

    def failed(self, error: str) -> None:
        """It will not come up, and why."""
        self._notifier.status(f"failed: {error}")
        self._write({"state": "failed", "error": error})

    def _write(self, body: dict[str, object]) -> None:
        if self._path is None:
            return
        beside = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        try:
            beside.write_text(json.dumps(body) + "\n", encoding="utf-8")
            beside.replace(self._path)
        except OSError:
            self._path = None  # the one who wanted it has taken its place away
