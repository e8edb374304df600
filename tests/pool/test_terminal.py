"""What the output looks like follows from the terminal, or from what a remote caller says of its own."""

from __future__ import annotations

import io

import pytest

from llorch.pool import terminal


class Tty(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


UTF8 = {"LANG": "de_DE.UTF-8", "TERM": "xterm"}


@pytest.mark.parametrize(
    ("env", "stream", "utf8", "interactive"),
    [
        (UTF8, Tty(), True, True),
        ({"LANG": "C", "TERM": "xterm"}, Tty(), False, True),
        ({"LANG": "de_DE.UTF-8", "LC_ALL": "POSIX"}, Tty(), False, True),
        ({**UTF8, "TERM": "dumb"}, Tty(), True, False),
        (UTF8, io.StringIO(), False, False),
        ({"LLORCH_COLUMNS": "100", "LLORCH_UTF8": "1"}, io.StringIO(), True, True),
        ({"LLORCH_COLUMNS": "100", "LLORCH_UTF8": "0", **UTF8}, io.StringIO(), False, True),
        ({"LLORCH_COLUMNS": "wide"}, io.StringIO(), False, False),
    ],
)
def test_check_marks_and_bars(env: dict[str, str], stream: io.StringIO, utf8: bool, interactive: bool) -> None:
    """Marks need a UTF-8 terminal, bars one that moves; the caller's word wins over our own stream."""
    screen = terminal.look(env, stream, stream)
    assert (screen.utf8, screen.interactive) == (utf8, interactive)


def test_the_callers_width_is_used() -> None:
    """LLORCH_COLUMNS is the width; without it and without a terminal it is 80."""
    assert terminal.look({"LLORCH_COLUMNS": "123"}, io.StringIO(), io.StringIO()).columns == 123
    assert terminal.look({}, io.StringIO(), io.StringIO()).columns == 80


def test_no_color_is_honoured() -> None:
    """NO_COLOR, when not empty, means no colour even on a terminal."""
    assert terminal.look(UTF8, Tty(), Tty()).colour
    assert not terminal.look({**UTF8, "NO_COLOR": "1"}, Tty(), Tty()).colour
