"""Chat templates: a conversation becomes prompt text in segments, so that content cannot forge control tokens.

Templates are Jinja, sandboxed: the seven built-in ones and the model's own `chat_template` run through the same door.
They never see what people wrote: each content is replaced by a mark of private-use characters, and the output is cut
at the marks afterwards. What a template wrote may name control tokens; what a person wrote is plain text, always.
Nothing here depends on the date or on chance: the same conversation gives the same prompt on every worker, unless the
caller passes today's date to those templates that ask for it.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, NoReturn

from llorch.base.config import did_you_mean
from llorch.base.errors import ConfigError, InvalidRequest
from llorch.wire.messages import Message

if TYPE_CHECKING:
    import jinja2
    from jinja2.ext import Extension
    from jinja2.nodes import Node
    from jinja2.parser import Parser

TEMPLATE_SIZE_MAX = 1 << 18
RENDERED_SIZE_MAX = 1 << 23
_MARK_OPEN, _MARK_CLOSE = "\U000f0000", "\U000f0001"
# j: the content stands inside a JSON string; a: inside one that is ASCII only.
_MARK = re.compile(f"{_MARK_OPEN}([0-9]+[ja]?){_MARK_CLOSE}")
_ASCII_MARK = re.compile(r"\\udb80\\udc00([0-9]+)\\udb80\\udc01")
# strftime's codes for 26 July 2024, the date that Llama 3.1's own template falls back to.
_FIXED_DATE = {
    "%d": "26",
    "%e": "26",
    "%b": "Jul",
    "%B": "July",
    "%m": "07",
    "%Y": "2024",
    "%y": "24",
    "%a": "Fri",
    "%A": "Friday",
    "%j": "208",
    "%F": "2024-07-26",
    "%H": "00",
    "%I": "12",
    "%M": "00",
    "%S": "00",
    "%p": "AM",
    "%T": "00:00:00",
    "%%": "%",
}
# Templates of reasoning models cut an earlier answer at these; they open no turn, so they may stay visible there.
_THINK_TAGS = re.compile(r"(</?think>)")


class Origin(Enum):
    """Who wrote a segment: the template (may name control tokens) or a person (plain text)."""

    TEMPLATE = "template"
    CONTENT = "content"


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of prompt text and who wrote it."""

    text: str
    origin: Origin


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """A template and where it was found; `name` is a built-in name, "explicit" or "model"."""

    name: str
    source: str


CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
# Llama 2 and Mistral have no system turn: it is put in front of the first user message.
_SYSTEM_FIRST = (
    "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] | trim %}"
    "{% set turns = messages[1:] %}{% else %}{% set system = '' %}{% set turns = messages %}{% endif %}"
)
LLAMA2 = _SYSTEM_FIRST + (
    "{% for m in turns %}{% if m['role'] == 'assistant' %}{{ ' ' + m['content'] | trim + ' ' + eos_token }}"
    "{% else %}{{ bos_token + '[INST] ' }}"
    "{% if loop.first and system %}{{ '<<SYS>>\n' + system + '\n<</SYS>>\n\n' }}{% endif %}"
    "{{ m['content'] | trim + ' [/INST]' }}{% endif %}{% endfor %}"
)
MISTRAL = _SYSTEM_FIRST + (
    "{{ bos_token }}{% for m in turns %}{% if m['role'] == 'assistant' %}{{ m['content'] | trim + eos_token }}"
    "{% else %}{{ '[INST] ' }}{% if loop.first and system %}{{ system + '\n\n' }}{% endif %}"
    "{{ m['content'] | trim + ' [/INST]' }}{% endif %}{% endfor %}"
)
PHI3 = (
    "{% for m in messages %}{% set role = 'user' if m['role'] == 'tool' else m['role'] %}"
    "{{ '<|' + role + '|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
ZEPHYR = (
    "{% for m in messages %}{% set role = 'user' if m['role'] == 'tool' else m['role'] %}"
    "{{ '<|' + role + '|>\n' + m['content'] + eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
RAW = "{% for m in messages %}{{ m['content'] }}{% if not loop.last %}{{ '\n\n' }}{% endif %}{% endfor %}"

BUILT_IN: Mapping[str, str] = {
    "chatml": CHATML,
    "llama2": LLAMA2,
    "llama3": LLAMA3,
    "mistral": MISTRAL,
    "phi3": PHI3,
    "zephyr": ZEPHYR,
    "raw": RAW,
}
_ALIASES = {"qwen": "chatml", "llama-2": "llama2", "llama-3": "llama3", "phi-3": "phi3", "tinyllama": "zephyr"}
# A control token that gives a template away, whatever the architecture is called.
_BY_TOKEN = {"<|start_header_id|>": "llama3", "<|im_start|>": "chatml"}
TELLING_TOKENS = tuple(_BY_TOKEN)
_BY_ARCHITECTURE = {"qwen": "chatml", "llama": "llama2", "mistral": "mistral", "phi": "phi3", "tinyllama": "zephyr"}


def choose(
    *, explicit: str = "", own: str | None = None, architecture: str = "", control_tokens: Collection[str] = ()
) -> ChatTemplate:
    """The template of a model: explicit (a built-in name or Jinja) -> the model's own -> architecture default -> raw.

    `architecture` is the catalog's hint or config.json's model_type. Raises ConfigError for an unknown name.
    """
    if explicit:
        return _explicit(explicit)
    if own is not None:
        return ChatTemplate("model", own)
    for token, name in _BY_TOKEN.items():
        if token in control_tokens:
            return ChatTemplate(name, BUILT_IN[name])
    lowered = architecture.lower()
    name = next((n for start, n in _BY_ARCHITECTURE.items() if lowered.startswith(start)), "raw")
    return ChatTemplate(name, BUILT_IN[name])


def _explicit(explicit: str) -> ChatTemplate:
    if "{" in explicit:
        return ChatTemplate("explicit", explicit)
    name = _ALIASES.get(explicit.lower(), explicit.lower())
    if name not in BUILT_IN:
        hint = did_you_mean(name, list(BUILT_IN))
        raise ConfigError(f"no built-in chat template '{explicit[:64]}'{hint}; known: {', '.join(BUILT_IN)}")
    return ChatTemplate(name, BUILT_IN[name])


def own_template(value: object) -> str | None:
    """The `chat_template` of a tokenizer_config.json: a string, or the "default" of its list of named templates."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        named = {row.get("name"): row.get("template") for row in value if isinstance(row, dict)}
        template = named.get("default")
        return template if isinstance(template, str) else None
    return None


def fixed_date(format_: str) -> str:
    """A `strftime_now` for templates that writes the same date for ever."""
    return re.sub("%.", lambda code: _FIXED_DATE.get(code.group(), ""), format_)


def render(
    template: ChatTemplate,
    messages: Sequence[Message],
    special_tokens: Mapping[str, str] | None = None,
    strftime_now: Callable[[str], str] = fixed_date,
) -> tuple[Segment, ...]:
    """The conversation as prompt segments, ending where the answer begins.

    `special_tokens` maps names such as bos_token and eos_token to their text; `strftime_now` writes the date in the
    format a template asks for. Raises InvalidRequest when the template
    refuses the conversation, and when it takes a content apart so that its author cannot be told any more.
    """
    contents: list[str] = []
    masked = [{"role": m.role, "content": _mask(m, contents)} for m in messages]
    variables: dict[str, Any] = {"bos_token": "", "eos_token": "", "unk_token": "", "pad_token": ""}
    variables.update(special_tokens or {})
    text = _run(template.source, {**variables, "strftime_now": strftime_now, "messages": masked})
    return _cut(text, contents)


def as_text(segments: Sequence[Segment]) -> str:
    """The whole prompt."""
    return "".join(segment.text for segment in segments)


def _mask(message: Message, contents: list[str]) -> str:
    """The content as the template sees it: marks for text; white space at the edges stays, for templates that trim."""
    pieces = _THINK_TAGS.split(message.content) if message.role == "assistant" else [message.content]
    return "".join(piece if _THINK_TAGS.fullmatch(piece) else _mask_piece(piece, contents) for piece in pieces)


def _mask_piece(piece: str, contents: list[str]) -> str:
    core = piece.strip()
    if not core:
        return piece
    start = piece.index(core)
    contents.append(core)
    return f"{piece[:start]}{_MARK_OPEN}{len(contents) - 1}{_MARK_CLOSE}{piece[start + len(core) :]}"


def _cut(text: str, contents: Sequence[str]) -> tuple[Segment, ...]:
    segments: list[Segment] = []
    # re.split with one group: template text at even places, mark numbers at odd ones.
    for place, piece in enumerate(_MARK.split(text)):
        if place % 2:
            number = int(piece.rstrip("ja"))
            if number >= len(contents):
                raise InvalidRequest("the model's chat template writes marks of its own; use 'prompt'")
            content = contents[number]
            if piece.endswith(("j", "a")):
                content = json.dumps(content, ensure_ascii=piece.endswith("a"))[1:-1]
            segments.append(Segment(content, Origin.CONTENT))
        elif _MARK_OPEN in piece or _MARK_CLOSE in piece:
            raise InvalidRequest("the model's chat template takes contents apart; use 'prompt'")
        elif piece:
            segments.append(Segment(piece, Origin.TEMPLATE))
    if sum(len(segment.text) for segment in segments) > RENDERED_SIZE_MAX:
        raise InvalidRequest("the model's chat template renders too much text")
    return tuple(segments)


def _run(source: str, variables: Mapping[str, Any]) -> str:
    import jinja2

    try:
        return _compile(source).render(**variables, add_generation_prompt=True, tools=None, documents=None)
    except jinja2.TemplateSyntaxError as error:
        raise InvalidRequest(f"the model's chat template is not valid: {_clean(error.message)}") from None
    except jinja2.TemplateError as error:
        raise InvalidRequest(f"the model's chat template refuses these messages: {_clean(error.message)}") from None
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, ArithmeticError, RecursionError):
        raise InvalidRequest("the model's chat template fails on these messages") from None


def _clean(message: str | None) -> str:
    """A template's own words, bounded, without the marks."""
    return _MARK.sub("...", message or "no reason given")[:200]


@functools.lru_cache(maxsize=32)
def _compile(source: str) -> jinja2.Template:
    from jinja2.ext import LoopControlExtension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    if len(source) > TEMPLATE_SIZE_MAX:
        raise InvalidRequest("the model's chat template is too large")
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[LoopControlExtension, _generation_blocks()]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _refuse
    return environment.from_string(source)


@functools.cache
def _generation_blocks() -> type[Extension]:
    """`{% generation %}` ... `{% endgeneration %}`: the part a model is trained to write; here it is just text."""
    from jinja2.ext import Extension
    from jinja2.nodes import Scope

    class GenerationBlocks(Extension):
        tags = {"generation"}  # noqa: RUF012  (jinja's own declaration is a mutable set)

        def parse(self, parser: Parser) -> Node | list[Node]:
            line = next(parser.stream).lineno
            return Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)

    return GenerationBlocks


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Plain JSON: the environment's own filter escapes for HTML, and a prompt is no page."""
    text = json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    if ensure_ascii:
        return _ASCII_MARK.sub(rf"{_MARK_OPEN}\1a{_MARK_CLOSE}", text)
    return _MARK.sub(rf"{_MARK_OPEN}\1j{_MARK_CLOSE}", text)


def _refuse(message: str) -> NoReturn:
    import jinja2

    raise jinja2.TemplateError(message)
