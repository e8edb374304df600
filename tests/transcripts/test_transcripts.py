"""Stories of the brain, told as transcripts; `--rewrite` tells them anew, and the diff is the review."""

from __future__ import annotations

from pathlib import Path

import pytest
from transcript_player import Player

STORIES = sorted(Path(__file__).parent.glob("*.txt"))


@pytest.mark.parametrize("path", STORIES, ids=lambda path: path.stem)
def test_the_story_is_told_as_it_was(path: Path, pytestconfig: pytest.Config) -> None:
    """The brain answers every command as recorded."""
    recorded = path.read_text()
    told = Player().play(recorded)
    if pytestconfig.getoption("--rewrite"):
        path.write_text(told)
    assert told == path.read_text(), "if this is meant: python -m pytest tests/transcripts --rewrite, and read the diff"
