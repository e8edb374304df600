"""One policy script, evaluated: which hooks it defines, and what they answer. The only importer of starlark.

Runs in the child process only. What a script does beyond an error of its own (too much memory, a crash) ends the
process; nothing here tries to survive it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass

import starlark
from starlark import DialectTypes, LibraryExtension, StarlarkError

from llorch.core.policy import Hook
from llorch.scripting.faults import ScriptFault
from llorch.scripting.signatures import entry_name, entry_source

FILE_NAME = "policy.star"
_PLACE = re.compile(rf"^ *--> {re.escape(FILE_NAME)}:(\d+):(\d+)", re.MULTILINE)
PRINTED_MAX = 4096
MESSAGE_MAX = 500
CALL_DEPTH_MAX = 50


@dataclass(frozen=True, slots=True)
class Function:
    """A function at the script's top level; `parameters` None: any number (it takes `*args`)."""

    name: str
    line: int
    required: int
    parameters: int | None


class Script:
    """An evaluated, frozen script: no call can leave anything behind for the next."""

    def __init__(self, source: str) -> None:
        """Raises ScriptFault."""
        self._printed: list[str] = []
        self._printed_size = 0
        module = starlark.Module()
        module.add_callable("print", self._print)
        options = starlark.EvalOptions(max_callstack_size=CALL_DEPTH_MAX)
        globals_ = _globals()
        try:
            starlark.eval_with(options, module, starlark.parse(FILE_NAME, source, _dialect()), globals_)
            self.hooks = [hook for hook in Hook if _is_function(module, hook.value, globals_)]
            for hook in self.hooks:
                starlark.eval(module, starlark.parse("llorch", entry_source(hook), _dialect()), globals_)
        except StarlarkError as error:
            raise _fault(error) from None
        self.functions = top_functions(source)
        self._module = module.freeze()
        self._options = options

    def call(self, hook: Hook, arguments: Sequence[object]) -> object:
        """What the hook returns, as plain data. Raises ScriptFault."""
        try:
            return self._module.call_with(self._options, entry_name(hook), *arguments).value
        except StarlarkError as error:
            raise _fault(error) from None
        except ValueError as error:  # an integer of more digits than JSON readers take
            raise ScriptFault(str(error)[:MESSAGE_MAX]) from None

    def take_printed(self) -> str:
        """What `print` was called with since the last time, cut off after PRINTED_MAX characters."""
        printed = "\n".join(self._printed)[:PRINTED_MAX]
        self._printed, self._printed_size = [], 0
        return printed

    def _print(self, *values: object) -> None:
        if self._printed_size < PRINTED_MAX:
            line = " ".join(str(value) for value in values)[:PRINTED_MAX]
            self._printed.append(line)
            self._printed_size += len(line) + 1


def _dialect() -> starlark.Dialect:
    """Python's look, without `load`; annotations are read and mean nothing."""
    dialect = starlark.Dialect.extended()
    dialect.enable_load = False
    dialect.enable_load_reexport = False
    dialect.enable_f_strings = True
    dialect.enable_types = DialectTypes.PARSE_ONLY
    return dialect


def _globals() -> starlark.Globals:
    """The language's own functions, struct, map and filter. No clock, chance, file or network is among them."""
    return starlark.Globals.extended_by([LibraryExtension.StructType, LibraryExtension.Map, LibraryExtension.Filter])


def _is_function(module: starlark.Module, name: str, globals_: starlark.Globals) -> bool:
    """Raises ScriptFault when the name means something else."""
    try:
        kind = starlark.eval(module, starlark.parse("llorch", f"type({name})", _dialect()), globals_)
    except StarlarkError:
        return False
    if kind != "function":
        raise ScriptFault(f"{name} must be a function, not a {kind}")
    return True


def _fault(error: StarlarkError) -> ScriptFault:
    """The last word of a message that may hold a long traceback, and the innermost place in the script."""
    text = str(error)
    _, found, tail = text.rpartition("error: ")
    message = (tail if found else text).partition("\n")[0].strip()
    places = _PLACE.findall(text)
    line, column = map(int, places[-1]) if places else (0, 0)
    return ScriptFault(message[:MESSAGE_MAX], line, column)


def top_functions(source: str) -> list[Function]:
    """The functions at a script's top level; none where Python's parser cannot read it, which is rare."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    return [_function(node) for node in tree.body if isinstance(node, ast.FunctionDef)]


def _function(node: ast.FunctionDef) -> Function:
    positional = len(node.args.posonlyargs) + len(node.args.args)
    required = positional - len(node.args.defaults)
    return Function(node.name, node.lineno, required, None if node.args.vararg else positional)
