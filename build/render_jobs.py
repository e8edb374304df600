"""Writes the tables of spec/jobs.md from the code; a test fails while they differ. Run: python build/render_jobs.py"""

from __future__ import annotations

import re
import sys
from dataclasses import fields
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from llorch.core.demand_settings import DemandSettings, ModelLimits  # noqa: E402
from llorch.core.job import JobState  # noqa: E402  (the checkout is not always installed)
from llorch.core.settings import BrainSettings  # noqa: E402
from llorch.core.transitions import HEARD, JOB_TRANSITIONS, Happening  # noqa: E402

SPEC = ROOT / "spec" / "jobs.md"


def table(head: list[str], rows: list[list[str]]) -> str:
    """A markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def transitions() -> str:
    """State by happening; an empty cell cannot happen."""
    states = [state for state in JobState if not state.terminal]
    rows = []
    for happening in Happening:
        cells = [JOB_TRANSITIONS[state].get(happening) for state in states]
        rows.append([f"{happening.name} ({happening.value})", *(cell.value if cell else "" for cell in cells)])
    return table(["what happens", *(state.value for state in states)], rows)


def heard() -> str:
    """State by outside event; an empty cell changes nothing."""
    kinds = sorted({kind for heard in HEARD.values() for kind in heard}, key=lambda kind: kind.__name__)
    rows = [[kind.__name__, *("heard" if kind in HEARD[state] else "" for state in JobState)] for kind in kinds]
    return table(["event", *(state.value for state in JobState)], rows)


def settings() -> str:
    """The bounds and their defaults."""
    return bounds(BrainSettings())


def demand() -> str:
    """The bounds of loading on demand, and what a model has that is not named in llorch.toml."""
    return bounds(DemandSettings()) + "\n\n" + bounds(ModelLimits())


def bounds(defaults: object) -> str:
    """The fields of a dataclass and their defaults."""
    rows = []
    for field in fields(defaults):
        value = getattr(defaults, field.name)
        shown = "none" if value in (None, ()) else f"{value:g}" if isinstance(value, (int, float)) else str(value)
        rows.append([f"`{field.name}`", shown])
    return table(["setting", "default"], rows)


def render(text: str) -> str:
    """The same text with every `<!-- NAME -->` … `<!-- /NAME -->` block filled anew."""
    for name, content in (
        ("transitions", transitions()),
        ("heard", heard()),
        ("settings", settings()),
        ("demand", demand()),
    ):
        block = re.compile(f"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        assert block.search(text), f"spec/jobs.md has no block {name}"
        text = block.sub(lambda found, content=content: found[1] + content + "\n" + found[2], text)
    return text


if __name__ == "__main__":
    SPEC.write_text(render(SPEC.read_text()))
