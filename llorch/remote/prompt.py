"""The options that describe a prompt and how to sample, shared by `infer` and `jobs submit`."""

from __future__ import annotations

import argparse
import math
import sys
from typing import Any

from llorch.base.errors import UsageError

PROMPT_SIZE_MAX = 16 << 20
_NUMBERS = ("temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty")
_INTEGERS = ("max_tokens", "top_k", "seed")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--prompt and the sampling options; what is not given is left to the service."""
    parser.add_argument("--prompt", metavar="TEXT", required=True, help="the prompt; - reads it from stdin")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="stop after N tokens")
    parser.add_argument("--temperature", type=finite, metavar="X", help="0 to 2; 0 always takes the likeliest token")
    parser.add_argument("--top-p", type=finite, metavar="X")
    parser.add_argument("--top-k", type=int, metavar="N")
    parser.add_argument("--min-p", type=finite, metavar="X")
    parser.add_argument("--repetition-penalty", type=finite, metavar="X")
    parser.add_argument("--presence-penalty", type=finite, metavar="X", help="-2 to 2; above 0: less of what came")
    parser.add_argument("--frequency-penalty", type=finite, metavar="X", help="-2 to 2; by how often it came")
    parser.add_argument("--seed", type=int, metavar="N", help="the same seed gives the same text")
    parser.add_argument("--stop", action="append", metavar="TEXT", help="stop before this text (up to 4 times)")


def finite(text: str) -> float:
    """An option's number. Raises ArgumentTypeError, also for nan and inf, which JSON cannot carry."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"'{text}' is not a number")
    return value


def read_body(arguments: argparse.Namespace) -> dict[str, Any]:
    """The body fields that were given. Raises UsageError for an unreadable or empty prompt."""
    given = {name: getattr(arguments, name) for name in (*_NUMBERS, *_INTEGERS, "stop")}
    return {"prompt": _read_prompt(arguments.prompt), **{k: v for k, v in given.items() if v is not None}}


def _read_prompt(text: str) -> str:
    if text == "-":
        text = read_stdin()
    try:
        size = len(text.encode("utf-8"))
    except UnicodeEncodeError:
        raise UsageError("the prompt is not UTF-8") from None
    if not text or size > PROMPT_SIZE_MAX:
        raise UsageError("the prompt is empty" if not text else f"the prompt has more than {PROMPT_SIZE_MAX} bytes")
    return text


def read_stdin() -> str:
    """All of stdin, up to a little more than is allowed; empty when it is closed. Raises UsageError."""
    try:
        return "" if sys.stdin is None else sys.stdin.buffer.read(PROMPT_SIZE_MAX + 1).decode("utf-8")
    except UnicodeDecodeError:
        raise UsageError("the prompt on stdin is not UTF-8") from None
