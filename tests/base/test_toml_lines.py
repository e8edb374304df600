"""On which line a key of llorch.toml stands."""

from __future__ import annotations

import tomllib

from hypothesis import given
from hypothesis import strategies as st

from llorch.base.toml_lines import line_of, lines_of

TEXT = '''\
# a comment with [brackets]
orchestrator = "x"

[orchestratord]
port = 1          # [not.a.header]
note = """
[fake]
port = 2
"""
[tenants."a b".more]  # sections may be quoted
models = [
  "x",   # one = two
]
pools.den.host = "h"
[pools]
attic = { host = "h", limits = { a = 1 } }
'''


def test_keys_are_found_where_they_stand() -> None:
    """Sections, values over several lines, dotted keys, inline tables; text that only looks like a key is none."""
    lines = lines_of(TEXT)
    assert lines[("orchestrator",)] == 2 and lines[("orchestratord",)] == 4
    assert lines[("orchestratord", "port")] == 5 and lines[("orchestratord", "note")] == 6
    assert ("fake",) not in lines
    assert lines[("tenants", "a b", "more", "models")] == 11 and lines[("tenants", "a b")] == 10
    assert lines[("tenants", "a b", "more", "pools", "den", "host")] == 14
    assert lines[("pools", "attic", "limits", "a")] == 16


def test_a_key_that_is_not_there_has_the_line_of_what_it_belongs_to() -> None:
    """The nearest section above it; nothing for nothing."""
    lines = lines_of(TEXT)
    assert line_of(lines, ("orchestratord", "prot")) == 4
    assert line_of(lines, ("worker", "slots")) is None and line_of(lines, ()) is None


names = st.from_regex(r"\A[a-z]{1,6}\Z")


@given(st.dictionaries(names, st.dictionaries(names, st.integers(0, 9), min_size=1), max_size=5), st.integers(0, 3))
def test_lines_are_those_of_any_text(sections: dict[str, dict[str, int]], gap: int) -> None:
    """Every key of every section stands on the line that was written for it."""
    rows: list[str] = []
    wanted = {}
    for section, table in sections.items():
        rows += [*[""] * gap, f"[{section}]"]
        for key, value in table.items():
            rows.append(f"{key} = {value}")
            wanted[(section, key)] = len(rows)
    text = "\n".join(rows)
    assert tomllib.loads(text) == sections
    lines = lines_of(text)
    assert {key: lines[key] for key in wanted} == wanted
