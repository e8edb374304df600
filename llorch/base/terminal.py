"""What the environment says of the terminal that a person looks at."""

from __future__ import annotations

from collections.abc import Mapping


def shows_utf8(env: Mapping[str, str]) -> bool:
    """Does the locale promise UTF-8? Python itself speaks it in the C locale, too; the terminal may not."""
    named = env.get("LC_ALL") or env.get("LC_CTYPE") or env.get("LANG") or ""
    return named.lower().replace("-", "").endswith("utf8")
