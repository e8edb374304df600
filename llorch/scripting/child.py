"""The process that runs a policy script: it confines itself, then reads the script and its questions from a socket.

Lines of JSON. First comes `{"source": …}`, answered by `{"hooks": […], "functions": […]}` or `{"fault": …}`. Then
questions `{"id", "hook", "arguments": […]}`, each answered by `{"id", "answer", "cpu_s"}` or `{"id", "fault": …}`;
`printed` is added when the script printed.
"""

from __future__ import annotations

import json
import os
import socket
import time
from dataclasses import asdict
from io import BufferedRWPair
from typing import Any

from llorch.base.errors import UsageError
from llorch.core.policy import Hook
from llorch.host.limits import confine
from llorch.host.process import bound_to
from llorch.scripting.faults import ScriptFault

MEMORY_MAX_BYTES = 128 << 20
DESCRIPTORS_MAX = 3
LINE_MAX_BYTES = 1 << 20
ANSWER_MAX_BYTES = 64 << 10
FUNCTIONS_MAX = 500


def main(argv: list[str], *, prog: str) -> int:
    """Answer until the other end hangs up; the exit code."""
    channel = _channel(prog)
    bound_to(os.getppid())()
    try:
        from llorch.scripting.script import Script
    except ImportError as error:
        _write(channel, {"fault": _plain(ScriptFault(f"scripts cannot run here: {error}"))})
        return 1
    confine(memory_bytes=MEMORY_MAX_BYTES, descriptors=DESCRIPTORS_MAX)
    _serve(channel, Script)
    return 0


def _channel(prog: str) -> BufferedRWPair:
    try:
        return socket.socket(fileno=0).makefile("rwb")
    except OSError:
        raise UsageError(f"{prog} is started by orchestratord, not by hand") from None


def _serve(channel: BufferedRWPair, script_type: Any) -> None:
    first = _read(channel)
    if first is None:
        return
    try:
        script = script_type(first["source"])
    except ScriptFault as fault:
        _write(channel, {"fault": _plain(fault)})
        return
    hooks = [hook.value for hook in script.hooks]
    functions = [asdict(function) for function in script.functions[:FUNCTIONS_MAX]]
    _write(channel, {"hooks": hooks, "functions": functions, "printed": script.take_printed()})
    while (question := _read(channel)) is not None:
        began = time.thread_time()
        try:
            answer = {"answer": script.call(Hook(question["hook"]), question["arguments"])}
            answer["cpu_s"] = time.thread_time() - began
            line = _encode(question["id"], answer, script.take_printed())
        except ScriptFault as fault:
            line = _encode(question["id"], {"fault": _plain(fault)}, script.take_printed())
        channel.write(line)
        channel.flush()


def _encode(question_id: int, answer: dict[str, Any], printed: str) -> bytes:
    more = {"printed": printed} if printed else {}
    try:
        line = json.dumps({"id": question_id, **answer, **more}).encode() + b"\n"
    except ValueError as error:  # an integer too long to be written
        raise ScriptFault(str(error)) from None
    if len(line) > ANSWER_MAX_BYTES:
        raise ScriptFault(f"the answer is larger than {ANSWER_MAX_BYTES >> 10} KiB")
    return line


def _plain(fault: ScriptFault) -> dict[str, object]:
    return {"message": fault.message, "line": fault.line, "column": fault.column}


def _read(channel: BufferedRWPair) -> dict[str, Any] | None:
    line = channel.readline(LINE_MAX_BYTES)
    return json.loads(line) if line.endswith(b"\n") else None


def _write(channel: BufferedRWPair, message: dict[str, Any]) -> None:
    channel.write(json.dumps(message).encode() + b"\n")
    channel.flush()
