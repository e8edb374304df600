"""One log line per fact, on stderr, as text or JSON; the correlation id of the current request rides along."""

from __future__ import annotations

import contextvars
import json
import logging
import sys
from enum import Enum
from typing import Any

from llorch.base.log_file import LogFile

correlation: contextvars.ContextVar[str | None] = contextvars.ContextVar("correlation", default=None)


class LogFormat(Enum):
    TEXT = "text"
    JSON = "json"


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = "".join(f" {k}={v}" for k, v in _fields(record).items())
        line = f"{self.formatTime(record)} {record.levelname.lower()} {record.name} {record.getMessage()}{fields}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "at": self.formatTime(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields: dict[str, Any] = dict(getattr(record, "fields", None) or {})
    if (cid := correlation.get()) is not None:
        fields.setdefault("correlation_id", cid)
    return fields


class _Rotating(logging.StreamHandler[Any]):
    """Writes to stderr, which is a file of ours: looks after its size with every line."""

    def __init__(self, file: LogFile) -> None:
        super().__init__(sys.stderr)
        self._file = file

    def emit(self, record: logging.LogRecord) -> None:
        super().emit(record)
        self._file.rotate_when_full()


def set_up(level: str = "info", form: LogFormat = LogFormat.TEXT, file: LogFile | None = None) -> None:
    """Send the logs of this process to stderr, which becomes `file`; call once. Raises HostError."""
    if file is not None:
        file.take_over()
    handler: logging.StreamHandler[Any] = logging.StreamHandler(sys.stderr) if file is None else _Rotating(file)
    handler.setFormatter(_Json() if form is LogFormat.JSON else _Text())
    logging.getLogger().handlers[:] = [handler]
    set_level(level)


def set_level(level: str) -> None:
    """The least level that is logged from now on."""
    root = logging.getLogger()
    root.setLevel(level.upper())
    logging.getLogger("asyncssh").setLevel(max(root.level, logging.WARNING))  # it tells of every connection


def get(name: str) -> logging.Logger:
    """The logger of one module."""
    return logging.getLogger(name)


def event(logger: logging.Logger, message: str, level: int = logging.INFO, **fields: object) -> None:
    """Log `message` with named fields; never pass prompts, keys or tokens."""
    if logger.isEnabledFor(level):
        logger.log(level, message, extra={"fields": fields})
