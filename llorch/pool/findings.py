"""What a look at this host turned up: one line each, with the command that mends it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any


class Level(Enum):
    """How bad it is. A note asks for nothing."""

    NOTE = "note"
    WARNING = "warning"
    PROBLEM = "problem"


class Repair(Enum):
    """Does the doctor change things?"""

    LOOK = "look"
    MEND = "mend"


@dataclass(frozen=True, slots=True)
class Finding:
    """`check` names what was looked at; `mend` is the command that mends it; `fixed`: it was mended just now."""

    check: str
    level: Level
    detail: str
    mend: str = ""
    fixed: bool = False
    pid: int | None = None

    @property
    def is_open(self) -> bool:
        """Does somebody have to do something?"""
        return self.level is not Level.NOTE and not self.fixed

    def body(self) -> dict[str, Any]:
        """As JSON."""
        about = {"check": self.check, "level": self.level.value, "detail": self.detail}
        return {**about, "mend": self.mend, "fixed": self.fixed, "pid": self.pid}
