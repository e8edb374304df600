"""The chat of `llorch run`: messages from the keyboard, answers as they come.

Ctrl-C means the answer while one comes, a message of several lines while one is typed, and at the prompt it leaves.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

from llorch.base.config import did_you_mean
from llorch.base.errors import ContextLengthExceeded, LlorchError, Unreachable
from llorch.host import interrupts
from llorch.remote import terminal
from llorch.remote.conversation import Conversation

PROMPT, MORE = ">>> ", "... "
_FENCE = '"""'
_HELP = """\
/clear   forget the conversation so far
/bye     leave (Ctrl-D, too)
A line that ends with \\ goes on in the next; so does all between two \"\"\".
Ctrl-C stops an answer; at the prompt it leaves."""
_COMMANDS = ("/help", "/clear", "/bye")
# Gives the next line without its end, after showing the prompt; None: there are no more.
ReadLine = Callable[[str], str | None]


def chat(talk: Conversation, prepare: Callable[[], None]) -> int:
    """Talk until the person leaves; 0. `prepare` is called before each question: somebody must be there to answer."""
    _prepare_keyboard()
    terminal.tell(f"chat with {talk.model}; /help says how, /bye leaves")
    with interrupts.as_exit():
        for message in messages(read_line):
            if message == "/clear":
                talk.clear()
                terminal.tell("the conversation begins anew")
            else:
                _answer(talk, message, prepare)
    return 0


def _answer(talk: Conversation, message: str, prepare: Callable[[], None]) -> None:
    """One answer, or one line that says why there is none."""
    try:
        prepare()
        reply = talk.ask(message, terminal.write)
    except KeyboardInterrupt:
        terminal.write("\n")
        terminal.tell("the answer was stopped")
        return
    except ContextLengthExceeded as error:
        hint = "/clear begins anew" if talk.has_turns else "say less, or give a smaller --max-tokens"
        terminal.tell(f"{error.message} ({hint})")
        return
    except Unreachable as error:
        terminal.write("\n")
        terminal.tell(f"{error.message}; ask again, and it is looked for again")
        return
    except LlorchError as error:
        terminal.write("\n")
        terminal.tell(error.message)
        return
    terminal.write("\n" if reply.text.endswith("\n") else "\n\n")
    if reply.end.stop_reason == "MAX_TOKENS":
        terminal.tell(f"cut off after {reply.end.tokens_out} tokens (--max-tokens)")
    elif reply.end.stop_reason == "CANCELLED":
        terminal.tell("somebody cancelled the answer")


def messages(read: ReadLine) -> Iterator[str]:
    """What the person says, and `/clear`; /help and unknown commands are answered here. Ends with /bye and at the end.

    KeyboardInterrupt at the first line of a message is the person's wish to leave, and passes.
    """
    while (line := read(PROMPT)) is not None:
        command = line.strip()
        if command == "/bye":
            return
        if command in ("/help", "/?"):
            print(_HELP, file=sys.stderr, flush=True)
        elif command == "/clear":
            yield command
        elif command.startswith("/") and command[1:].isalpha():
            terminal.tell(f"no command '{command}'{did_you_mean(command, _COMMANDS)}; /help lists them")
        else:
            try:
                message = _whole(line, read)
            except KeyboardInterrupt:
                print("", file=sys.stderr, flush=True)
                continue
            if message is None:
                return
            if message.strip():
                yield message


def _whole(line: str, read: ReadLine) -> str | None:
    """A message from its first line on; None when the keyboard is gone in the middle of it."""
    if line.lstrip().startswith(_FENCE):
        return _fenced(line.lstrip().removeprefix(_FENCE), read)
    lines = [line]
    while lines[-1].endswith("\\"):
        lines[-1] = lines[-1].removesuffix("\\")
        more = read(MORE)
        if more is None:
            return None
        lines.append(more)
    return "\n".join(lines)


def _fenced(line: str, read: ReadLine) -> str | None:
    lines = [line]
    while not lines[-1].rstrip().endswith(_FENCE):
        more = read(MORE)
        if more is None:
            return None
        lines.append(more)
    lines[-1] = lines[-1].rstrip().removesuffix(_FENCE)
    return "\n".join(lines).strip("\n")


def _prepare_keyboard() -> None:
    """Line editing with history where Python has it; bytes that are no text must not end the chat."""
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(errors="replace")
    try:
        import readline  # noqa: F401  (input() uses it once it is there; the frozen file has none)
    except ImportError:
        pass


def read_line(shown: str) -> str | None:
    """One line of the keyboard; None at its end.

    Without line editing input() is not used: it loses the end of a line that has a NUL (Ctrl-Space) in it.
    """
    if sys.stdout.isatty() and "readline" in sys.modules:
        try:
            return input(shown)
        except EOFError:
            print("", flush=True)
            return None
    screen = sys.stdout if sys.stdout.isatty() else sys.stderr
    print(shown, end="", file=screen, flush=True)
    line = sys.stdin.readline()
    if not line:
        print("", file=screen, flush=True)
    return line.removesuffix("\n").replace("\0", "") if line else None
