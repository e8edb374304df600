"""What can go wrong with a script: its own mistakes, and the death of the process that runs it."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Why a question was not answered by the script; the label of `llorch_policy_fallback_total`."""

    ERROR = "error"  # the script failed
    DEADLINE = "deadline"  # it took too long and was killed
    DEATH = "death"  # its process ended, or could not be started
    INVALID = "invalid"  # it answered what cannot be used
    BREAKER = "breaker"  # it failed too often and is not asked for a while
    BUSY = "busy"  # too many questions wait, or this one waited too long


class ScriptFault(ValueError):
    """The script's own mistake; line and column count from 1, 0: unknown."""

    def __init__(self, message: str, line: int = 0, column: int = 0) -> None:
        super().__init__(message)
        self.message, self.line, self.column = message, line, column

    def __str__(self) -> str:
        """The message, and where."""
        return f"{self.message} (line {self.line})" if self.line else self.message


class ChildDied(RuntimeError):
    """The process that runs the script has ended; the message says how."""
