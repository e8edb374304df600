"""Questions to a policy script: put, waited for a limited time, answered once or not at all.

A question never blocks a turn. What it is about stays as it is until the answer comes back as an event; with no answer
that counts the built-in one stands in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llorch.core.effects import Ask
from llorch.core.events import PolicyAnswered, PolicyFailed, PolicyLoaded
from llorch.core.hooks import Answer, LocalTime, task_argument
from llorch.core.policy import Hook, Rejection, WhenFull
from llorch.core.state import LiveJob, State
from llorch.core.timers import Bell


@dataclass(frozen=True, slots=True)
class Unanswered:
    """There is no answer that counts, for this reason."""

    reason: str


Then = Callable[[Answer | Unanswered], None]


@dataclass(frozen=True, slots=True)
class Question:
    """A question that is open: about which job (None: about the fleet), and what to do when it is answered."""

    hook: Hook
    job: LiveJob | None
    then: Then


def loaded(state: State, event: PolicyLoaded) -> None:
    """A script is there from now on, or gone; open questions wait for their own answers."""
    state.scripted, state.policy_name = event.hooks, event.name


def ask(state: State, job: LiveJob, hook: Hook, then: Then, **arguments: object) -> None:
    """Put a question about a job; `task` is put before the given arguments."""
    job.questions.add(_put(state, Question(hook, job, then), {"task": _task(state, job), **arguments}))


def ask_about_fleet(state: State, hook: Hook, then: Then, **arguments: object) -> None:
    """Put a question that is about no job in particular."""
    _put(state, Question(hook, None, then), arguments)


def _put(state: State, question: Question, arguments: dict[str, object]) -> int:
    state.asked += 1
    state.questions[state.asked] = question
    state.timers.set(Bell.ASK, str(state.asked), state.now + state.settings.ask_limit_s)
    state.do(Ask(state.asked, question.hook, arguments))
    return state.asked


def _task(state: State, job: LiveJob) -> dict[str, object]:
    time = LocalTime.at(state.now, state.utc_offset_s)
    return task_argument(job.view, time, state.now - job.record.accepted_at)


def answered(state: State, event: PolicyAnswered) -> None:
    """The script answered; an answer nobody waits for any more changes nothing."""
    question = _close(state, event.ask_id)
    if question is not None:
        _note(state, question, told(question.hook, event.answer))
        question.then(event.answer)


def failed(state: State, event: PolicyFailed) -> None:
    """The script did not answer."""
    question = _close(state, event.ask_id)
    if question is not None:
        _note(state, question, f"built-in answer ({event.reason})")
        question.then(Unanswered(event.reason))


def limit(state: State, name: str) -> None:
    """The shell said nothing at all."""
    failed(state, PolicyFailed(int(name), "no answer in time"))


def drop(state: State, job: LiveJob) -> None:
    """Nothing that is asked about this job matters any more."""
    for ask_id in sorted(job.questions):
        _close(state, ask_id)


def _close(state: State, ask_id: int) -> Question | None:
    question = state.questions.pop(ask_id, None)
    if question is not None:
        state.timers.clear(Bell.ASK, str(ask_id))
        if question.job is not None:
            question.job.questions.discard(ask_id)
    return question


def _note(state: State, question: Question, answer: str) -> None:
    """Keep what was said for `explain`; of a job at the door until it is in, for it may never be."""
    if question.job is not None:
        question.job.said.append(f"{question.hook.value} by {state.policy_name}: {answer}")


NOTHING = {Hook.ADMIT: "let in", Hook.CHOOSE_WORKER: "none of them, later", Hook.RETRY: "give up"}


def told(hook: Hook, answer: Answer) -> str:
    """An answer in words."""
    match answer:
        case None:
            return NOTHING[hook]
        case Rejection():
            return f"rejected, {answer.message}"
        case WhenFull():
            return answer.value
        case float() | str():
            return str(answer)
        case tuple():
            return ", ".join(answer) or "none"
        case _:
            return ", ".join(f"{name} {value}" for name, value in answer.changes) or "unchanged"


def explain(state: State, job: LiveJob) -> None:
    """Persist what the script said about a job that is in."""
    for words in job.said:
        state.explain(job.id, "policy", None, (), words)
    job.said.clear()
