"""Texts of a model whose tokens are letters."""

from __future__ import annotations

from typing import Any


class Letters:
    """Texts whose ids are code points."""

    eos_ids = frozenset({0})

    def encode(self, prompt: str | None, messages: Any) -> tuple[int, ...]:
        return tuple(map(ord, prompt or ""))

    def decode(self, token_ids: list[int]) -> str:
        return "".join(map(chr, token_ids))
