"""The seven functions that a script may define, and how their arguments become what scripts read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches

from llorch.core.policy import Hook

SIGNATURES: Mapping[Hook, tuple[str, ...]] = {
    Hook.ADMIT: ("task", "ctx"),
    Hook.PRIORITIZE: ("task", "ctx"),
    Hook.CHOOSE_WORKER: ("task", "workers"),
    Hook.ON_QUEUE_FULL: ("task", "queue"),
    Hook.EVICT: ("workers", "need"),
    Hook.RETRY: ("task", "failure", "n"),
    Hook.TIMEOUT: ("task",),
}

# Scripts write `task.model`: dicts arrive, structs are passed on. It costs 3 µs a struct.
_AS_STRUCTS = {
    "task": "struct(**task)",
    "ctx": 'struct(**dict(ctx, tenant = struct(**ctx["tenant"]))) if "tenant" in ctx else struct(**ctx)',
    "workers": "[struct(**worker) for worker in workers]",
    "queue": "struct(**queue)",
    "failure": "struct(**failure)",
}
_ENTRY = "llorch_entry_"


def signature(hook: Hook) -> str:
    """`admit(task, ctx)`."""
    return f"{hook.value}({', '.join(SIGNATURES[hook])})"


def entry_name(hook: Hook) -> str:
    """The exported function that calls the hook with structs."""
    return _ENTRY + hook.value


def entry_source(hook: Hook) -> str:
    """Starlark source of that function."""
    names = SIGNATURES[hook]
    passed = ", ".join(_AS_STRUCTS.get(name, name) for name in names)
    return f"def {entry_name(hook)}({', '.join(names)}):\n    return {hook.value}({passed})\n"


def in_order(hook: Hook, arguments: Mapping[str, object]) -> list[object]:
    """The arguments as the function takes them. One that is missing is our own mistake."""
    return [arguments[name] for name in SIGNATURES[hook]]


def misspelled(name: str, defined: Sequence[str]) -> Hook | None:
    """The hook that a function of this name was probably meant to be."""
    if name.startswith("_") or name in SIGNATURES:
        return None
    close = get_close_matches(name, [hook.value for hook in Hook if hook.value not in defined], n=1, cutoff=0.75)
    return Hook(close[0]) if close else None
