"""Whether a terminal shows UTF-8 follows from the locale's variables, in the order of POSIX."""

from __future__ import annotations

import pytest

from llorch.base.terminal import shows_utf8


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({"LANG": "de_DE.UTF-8"}, True),
        ({"LANG": "C.utf8"}, True),
        ({"LANG": "C"}, False),
        ({}, False),
        ({"LANG": "de_DE.UTF-8", "LC_CTYPE": "POSIX"}, False),
        ({"LANG": "C", "LC_CTYPE": "C", "LC_ALL": "en_GB.UTF-8"}, True),
        ({"LANG": "de_DE.UTF-8", "LC_ALL": ""}, True),
    ],
)
def test_the_locale_decides(env: dict[str, str], expected: bool) -> None:
    """LC_ALL before LC_CTYPE before LANG; an empty one does not count."""
    assert shows_utf8(env) is expected
