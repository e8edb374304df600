"""Writes the tables of settings in spec/operations.md from THE table; a test fails while they differ.

Run: python build/render_settings.py
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from llorch.base import settings_table  # noqa: E402  (the checkout is not always installed)
from llorch.base.settings import Kind, Setting  # noqa: E402

SPEC = ROOT / "spec" / "operations.md"


def table(rows: tuple[Setting, ...], *, of_sections: bool = False) -> str:
    """A markdown table of one section's settings; `of_sections`: only the file has them, and all are live."""
    lines = ["| key | default | what | flag, variable | changes count |", "| --- | --- | --- | --- | --- |"]
    if of_sections:
        lines = ["| key | default | what |", "| --- | --- | --- |"]
    for row in rows:
        default = "" if row.default is None else f"`{_shown(row)}`"
        cells = [f"`{row.key}`", default, row.help]
        if not of_sections:
            where = ", ".join(f"`{word}`" for word in (row.flag_word, row.variable) if word)
            cells += [where, row.change.value]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _shown(row: Setting) -> str:
    return str(row.default).lower() if row.kind is Kind.SWITCH else str(row.default)


def render(text: str) -> str:
    """The same text with every `<!-- settings NAME -->` block filled anew."""
    blocks = {
        **{name: table(rows) for name, rows in settings_table.SECTIONS.items()},
        **{name: table(rows, of_sections=True) for name, rows in settings_table.FAMILIES.items()},
    }
    for name, content in blocks.items():
        block = re.compile(f"(<!-- settings {name} -->\n).*?(<!-- /settings -->)", re.DOTALL)
        assert block.search(text), f"{SPEC.name} has no block {name}"
        text = block.sub(lambda found, content=content: f"{found[1]}{content}\n{found[2]}", text)
    return text


if __name__ == "__main__":
    SPEC.write_text(render(SPEC.read_text()))
