"""Text to token ids and back, from a model directory's tokenizer.json and tokenizer_config.json."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from collections.abc import Sequence as Items
from enum import Enum
from pathlib import Path
from typing import Any

import tokenizers

from llorch.base.errors import InvalidModel
from llorch.model.config import read_json

TOKENIZER_NAME = "tokenizer.json"
CONFIG_NAME = "tokenizer_config.json"
TEMPLATE_NAME = "chat_template.jinja"
SPECIAL_NAMES = ("bos_token", "eos_token", "unk_token", "pad_token")
_LONG_CHARS = 16 << 10


class SpecialTokens(Enum):
    """ADD puts the beginning-of-text token first where the model's tokenizer does so and the text lacks it."""

    ADD = "add"
    LEAVE = "leave"


class SegmentKind(Enum):
    """TEMPLATE text may name control tokens; CONTENT comes from outside and never becomes one."""

    TEMPLATE = "template"
    CONTENT = "content"


class Tokenizer:
    """Safe to use from several threads.

    `special_tokens`: role (`bos_token`, ...) to text. `chat_template`: the text of the model's template file,
    else what its configuration says, as it stands there (None: nothing); wire.templates knows what that may be.
    """

    def __init__(self, directory: Path) -> None:
        try:
            self._tokenizer = tokenizers.Tokenizer.from_buffer((directory / TOKENIZER_NAME).read_bytes())
        except FileNotFoundError:
            raise InvalidModel(f"there is no {TOKENIZER_NAME} in the model directory") from None
        except (OSError, ValueError) as problem:
            raise InvalidModel(f"{TOKENIZER_NAME} cannot be read: {problem}") from None
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        config = read_json(directory / CONFIG_NAME)
        self.special_tokens = _special_tokens(config)
        self.chat_template: object = _template_file(directory) or config.get("chat_template")
        self._control_ids = frozenset(i for i, t in self._tokenizer.get_added_tokens_decoder().items() if t.special)
        self._bos_id = self._leading_id(config)
        self._lock = threading.Lock()

    @property
    def eos_ids(self) -> frozenset[int]:
        """The id of `eos_token`, if the tokenizer has one; the model's configuration may name more."""
        found = self._tokenizer.token_to_id(self.special_tokens.get("eos_token", ""))
        return frozenset() if found is None else frozenset((found,))

    def encode(self, text: str, special: SpecialTokens = SpecialTokens.ADD) -> list[int]:
        """Ids of a raw prompt; control tokens written out in it count as such."""
        return self._with_bos(self._encode(text).ids, special)

    def encode_segments(
        self, segments: Items[tuple[str, SegmentKind]], special: SpecialTokens = SpecialTokens.ADD
    ) -> list[int]:
        """Ids of a rendered conversation, as if it were one text, except that CONTENT never yields a control token."""
        encoding = self._encode("".join(text for text, _ in segments))
        ids: list[int] = encoding.ids
        if self._forged(encoding, segments):
            ids = []
            for text, kind in segments:
                ids += self._encode(text).ids if kind is SegmentKind.TEMPLATE else self._encode_plain(text)
        return self._with_bos(ids, special)

    def decode(self, ids: list[int]) -> str:
        """The text of ids, control tokens left out; an unfinished character shows as U+FFFD."""
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True)
        return text

    def _encode(self, text: str) -> tokenizers.Encoding:
        with self._lock:
            return self._encoding(text)

    def _encoding(self, text: str) -> tokenizers.Encoding:
        """Under the lock. `encode` keeps all other threads waiting, 5 s for 3 MB: no heartbeat; a batch does not."""
        if len(text) <= _LONG_CHARS:
            return self._tokenizer.encode(text, add_special_tokens=False)
        return self._tokenizer.encode_batch([text], add_special_tokens=False)[0]

    def _encode_plain(self, text: str) -> list[int]:
        with self._lock:
            self._tokenizer.encode_special_tokens = True
            try:
                ids: list[int] = self._encoding(text).ids
            finally:
                self._tokenizer.encode_special_tokens = False
        return ids

    def _forged(self, encoding: tokenizers.Encoding, segments: Items[tuple[str, SegmentKind]]) -> bool:
        """True when a control token covers a character of CONTENT, white space beside it aside."""
        text = "".join(part for part, _ in segments)
        is_content = b"".join((b"\1" if kind is SegmentKind.CONTENT else b"\0") * len(part) for part, kind in segments)
        for number, token_id in enumerate(encoding.ids):
            if token_id in self._control_ids:
                start, end = encoding.token_to_chars(number) or (0, 0)
                if any(is_content[at] and not text[at].isspace() for at in range(start, end)):
                    return True
        return False

    def _with_bos(self, ids: list[int], special: SpecialTokens) -> list[int]:
        if special is SpecialTokens.LEAVE or self._bos_id is None or ids[:1] == [self._bos_id]:
            return ids
        return [self._bos_id, *ids]

    def _leading_id(self, config: Mapping[str, Any]) -> int | None:
        """The beginning-of-text id if every text starts with it: tokenizer_config.json decides, else the tokenizer."""
        bos = self._tokenizer.token_to_id(self.special_tokens.get("bos_token", ""))
        wanted = config.get("add_bos_token")
        if wanted is None:
            wanted = bos is not None and self._tokenizer.encode("", add_special_tokens=True).ids[:1] == [bos]
        return bos if wanted else None


def _special_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    found = {}
    for name in SPECIAL_NAMES:
        value = config.get(name)
        if isinstance(value, dict):
            value = value.get("content")
        if isinstance(value, str):
            found[name] = value
    return found


def _template_file(directory: Path) -> str | None:
    path = directory / TEMPLATE_NAME
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as problem:
        raise InvalidModel(f"{TEMPLATE_NAME} cannot be read: {problem}") from None
