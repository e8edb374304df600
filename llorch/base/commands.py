"""A table of command-line leaves: which words call which function, help and `did you mean` from the same rows.

Only the parser of the command typed is built, and only its module is imported: start-up time is a promise.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from llorch.base.config import did_you_mean
from llorch.base.errors import UsageError

HELP = ("-h", "--help", "help")


@dataclass(frozen=True, slots=True)
class Leaf:
    """One command: `module:function` runs it, `FUNCTION_arguments(parser)` beside it declares its arguments."""

    target: str
    help: str


@dataclass(frozen=True, slots=True)
class Parsed:
    """The function to call and what was typed."""

    run: Callable[..., int]
    arguments: argparse.Namespace


class _Help(argparse.HelpFormatter):
    """argparse's own, but it does not ask shutil for the width: that import is 3 ms of every start."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=_columns() - 2)


def _columns() -> int:
    if (named := os.environ.get("COLUMNS", "")).isdecimal() and int(named) > 20:
        return int(named)
    try:
        return max(40, os.get_terminal_size(1).columns)
    except OSError:
        return 80


class Parser(argparse.ArgumentParser):
    """argparse that reports a usage error as UsageError, with the option that was probably meant."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"formatter_class": _Help, **kwargs})

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Options may stand between the words of a list, too (`run MODEL --seed 3 WORD …`)."""
        if any(not action.option_strings and action.nargs == argparse.ZERO_OR_MORE for action in self._actions):
            return self.parse_intermixed_args(args, namespace)
        return super().parse_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """One line, with a suggestion when an option was mistyped."""
        hint = ""
        if unknown := re.search(r"unrecognized arguments: (--[^\s=]+)", message):
            hint = did_you_mean(unknown[1], [flag for flag in _flags(self) if flag.startswith("--")])
        elif wrong := re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)$", message):
            hint = did_you_mean(wrong[1], [word.strip("'") for word in wrong[2].split(", ")])
        raise UsageError(f"{self.prog}: {message}{hint} (see {self.prog} --help)")


def _flags(parser: argparse.ArgumentParser) -> list[str]:
    """Its own and those of its commands: what a command does not know is reported by the parser above it."""
    below = [choice for action in parser._actions for choice in _commands_of(action)]
    return [*parser._option_string_actions, *(flag for choice in below for flag in _flags(choice))]


def _commands_of(action: argparse.Action) -> list[argparse.ArgumentParser]:
    return list(action.choices.values()) if isinstance(action, argparse._SubParsersAction) else []


@dataclass(frozen=True, slots=True)
class CommandTable:
    """Leaves of one or two words; `groups` explains the first word of the latter.

    `aliases` are other spellings of a first word; `declare_everywhere` adds the arguments that every leaf has.
    """

    about: str
    leaves: Mapping[tuple[str, ...], Leaf]
    groups: Mapping[str, str] = field(default_factory=dict)
    footer: str = ""
    aliases: Mapping[str, str] = field(default_factory=dict)
    declare_everywhere: Callable[[argparse.ArgumentParser], None] | None = None

    def parse(self, words: Sequence[str], prog: str) -> Parsed | None:
        """The command in `words`; None when help was asked for and printed. Raises UsageError."""
        words = [self.aliases.get(words[0], words[0]), *words[1:]] if words else []
        name = self._leaf_name(words, prog)
        if name is None:
            return None
        leaf = self.leaves[name]
        parser = Parser(prog=" ".join((prog, *name)), description=_sentence(leaf.help), allow_abbrev=False)
        run = self._declare(parser, leaf)
        return Parsed(run, parser.parse_args(words[len(name) :]))

    def _leaf_name(self, words: Sequence[str], prog: str) -> tuple[str, ...] | None:
        if not words or words[0] in HELP:
            _say(self.help_text(prog))
            return None
        first = words[0]
        if (first,) in self.leaves:
            return (first,)
        if first not in self.groups:
            raise _unknown(first, [*self.groups, *(name[0] for name in self.leaves if len(name) == 1)], "commands")
        if len(words) == 1 or words[1] in HELP:
            _say(self.help_text(prog, first))
            return None
        if (first, words[1]) not in self.leaves:
            known = [name[1] for name in self.leaves if name[0] == first and len(name) == 2]
            raise _unknown(words[1], known, f"commands of {first}")
        return (first, words[1])

    def help_text(self, prog: str, group: str | None = None) -> str:
        """The list of commands, of all or of one group."""
        rows = [(" ".join(name), leaf.help) for name, leaf in self.leaves.items() if group in (None, name[0])]
        width = max(len(words) for words, _ in rows)
        about = self.groups[group] if group else self.about
        lines = [f"usage: {prog} {group or 'COMMAND'} [ARGUMENT ...]", "", _sentence(about), "", "commands:"]
        lines += [f"  {words:<{width}}  {text}" for words, text in rows]
        lines += ["", f"{prog} COMMAND --help explains one."]
        return "\n".join(lines + ([self.footer] if self.footer else []))

    def parser(self, prog: str) -> argparse.ArgumentParser:
        """The parser of all commands at once, for manual pages."""
        top = Parser(prog=prog, description=_sentence(self.about), allow_abbrev=False)
        commands = top.add_subparsers(metavar="COMMAND", required=True)
        places: dict[str, Any] = {
            name: commands.add_parser(name, help=text, description=_sentence(text)).add_subparsers(required=True)
            for name, text in self.groups.items()
        }
        for name, leaf in self.leaves.items():
            place = places[name[0]] if len(name) == 2 else commands
            self._declare(place.add_parser(name[-1], help=leaf.help, description=_sentence(leaf.help)), leaf)
        return top

    def _declare(self, parser: argparse.ArgumentParser, leaf: Leaf) -> Callable[..., int]:
        """Add the arguments of `leaf`; the function that runs it."""
        module_name, _, function = leaf.target.partition(":")
        module = __import__(module_name, fromlist=[function])
        declare = getattr(module, f"{function}_arguments", None)
        if declare is not None:
            declare(parser)
        if self.declare_everywhere is not None:
            self.declare_everywhere(parser)
        run: Callable[..., int] = getattr(module, function)
        return run


def _unknown(word: str, known: Iterable[str], what: str) -> UsageError:
    names = list(known)
    return UsageError(f"unknown command '{word}'{did_you_mean(word, names)}; {what}: {', '.join(names)}")


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
