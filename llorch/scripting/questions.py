"""One question to a child: the checked answer, or the one reason why there is none."""

from __future__ import annotations

from llorch.core.effects import Ask
from llorch.core.hooks import Answer, PolicyFault, read_answer
from llorch.scripting.faults import ChildDied, Reason, ScriptFault
from llorch.scripting.link import Link, Reply


class NoAnswer(Exception):
    """The script gave none that can be used."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail

    @property
    def link_is_lost(self) -> bool:
        """The child is dead, or still busy with the question: the link must be closed."""
        return self.reason in (Reason.DEADLINE, Reason.DEATH)


async def put(link: Link, ask: Ask, limit_s: float) -> tuple[Answer, Reply]:
    """The script's answer and how it came about. Raises NoAnswer, within `limit_s`."""
    try:
        reply = await link.call(ask.hook, ask.arguments, limit_s)
        return read_answer(ask.hook, ask.arguments, reply.raw), reply
    except ScriptFault as fault:
        raise NoAnswer(Reason.ERROR, str(fault)) from None
    except PolicyFault as fault:
        raise NoAnswer(Reason.INVALID, str(fault)) from None
    except TimeoutError:
        raise NoAnswer(Reason.DEADLINE, f"no answer within {limit_s * 1000:.0f} ms") from None
    except ChildDied as death:
        raise NoAnswer(Reason.DEATH, str(death)) from None
