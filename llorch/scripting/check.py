"""Is a script fit for use? It is evaluated and every hook tried with samples, in a child of its own."""

from __future__ import annotations

from dataclasses import dataclass

from llorch.core.hooks import PolicyFault, read_answer
from llorch.core.policy import Hook
from llorch.scripting.faults import ChildDied, ScriptFault
from llorch.scripting.link import Command, Link, Reply
from llorch.scripting.samples import samples
from llorch.scripting.signatures import SIGNATURES, misspelled, signature

CALL_LIMIT_S = 0.05
# A machine may be busy when a script is tried: what counts then is its processor time.
TRY_LIMIT_S = 2.0
PRINTED_MAX = 4096


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong; line and column count from 1, 0: unknown."""

    message: str
    line: int = 0
    column: int = 0

    @staticmethod
    def of(fault: ScriptFault, where: str = "") -> Problem:
        return Problem(where + fault.message, fault.line, fault.column)


@dataclass(frozen=True, slots=True)
class Report:
    """What was found: without problems the script may be used."""

    hooks: tuple[Hook, ...] = ()
    problems: tuple[Problem, ...] = ()
    tried: int = 0
    printed: str = ""

    @property
    def is_good(self) -> bool:
        return not self.problems


async def check(command: Command, source: str) -> Report:
    """Examine a script and throw the child away. Raises HostError when none can be started."""
    report, link = await examine(command, source)
    if link is not None:
        await link.close()
    return report


async def examine(command: Command, source: str) -> tuple[Report, Link | None]:
    """The report, and if it is good the child that was tried. Raises HostError."""
    try:
        link = await Link.open(command, source)
    except (ScriptFault, ChildDied, TimeoutError) as error:
        return Report(problems=(_why_not(error),)), None
    is_kept = False
    try:
        report = await _try(link)
        is_kept = report.is_good
    finally:
        if not is_kept:
            await link.close()
    return report, link if is_kept else None


def _why_not(error: ScriptFault | ChildDied | TimeoutError, where: str = "") -> Problem:
    if isinstance(error, ScriptFault):
        return Problem.of(error, where)
    if isinstance(error, ChildDied):
        return Problem(f"{where}the script ended its process (too much memory?): {error}")
    return Problem(f"{where}the script does not come to an end")


async def _try(link: Link) -> Report:
    hooks = tuple(hook for hook in Hook if hook in link.hooks)
    problems = _shape_problems(link, hooks)
    if problems:
        return Report(hooks, tuple(problems), printed=link.printed)
    tried, printed = 0, [link.printed]
    for hook in hooks:
        for words, arguments in samples(hook):
            tried += 1
            where = f"{hook.value}, tried with {words}: "
            try:
                reply = await link.call(hook, arguments, TRY_LIMIT_S)
                printed.append(reply.printed)
                problem = _answer_problem(hook, arguments, reply, where)
            except ScriptFault as fault:
                problem = Problem.of(fault, where)
            except (ChildDied, TimeoutError) as error:
                return Report(hooks, (*problems, _why_not(error, where)), tried, _joined(printed))
            if problem is not None:
                problems.append(problem)
                break
    return Report(hooks, tuple(problems), tried, _joined(printed))


def _joined(printed: list[str]) -> str:
    return "\n".join(filter(None, printed))[:PRINTED_MAX]


def _answer_problem(hook: Hook, arguments: dict[str, object], reply: Reply, where: str) -> Problem | None:
    try:
        read_answer(hook, arguments, reply.raw)
    except PolicyFault as fault:
        return Problem(f"{where}{fault}")
    if reply.cpu_s > CALL_LIMIT_S:
        return Problem(f"{where}takes {reply.cpu_s * 1000:.0f} ms; the limit is {CALL_LIMIT_S * 1000:.0f} ms")
    return None


def _shape_problems(link: Link, hooks: tuple[Hook, ...]) -> list[Problem]:
    """Names and parameters, before anything is called."""
    problems = []
    for function in link.functions:
        name, line = function["name"], function["line"]
        if name in hooks:
            wanted = len(SIGNATURES[Hook(name)])
            most = function["parameters"]
            if function["required"] > wanted or (most is not None and most < wanted):
                problems.append(Problem(f"this hook is called as {signature(Hook(name))}", line, 1))
        elif meant := misspelled(name, [hook.value for hook in hooks]):
            hint = f"did you mean '{meant.value}'? Begin the name with _ if not"
            problems.append(Problem(f"'{name}' is not a hook; {hint}", line, 1))
    if not hooks and not problems:
        problems.append(Problem("the script defines none of the hooks: " + ", ".join(Hook)))
    return problems
