"""A process that loads a model once and then measures on request: JSON lines in, JSON lines out, idle in between."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import psutil

from llorch.base.errors import HostError

LOAD_S = 300.0
ANSWER_S = 300.0
FOLDERS = (Path(__file__).resolve().parents[1], Path(__file__).resolve().parents[3])
Measure = Callable[..., dict[str, Any]]


class Child:
    """The asking side. Use it as a context manager; the first answer, `facts`, comes when the model is loaded."""

    def __init__(self, script: str, argv: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        self.name = f"{script} {' '.join(argv[2:])}".strip()
        program = Path(__file__).with_name(f"{script}.py")
        path = os.pathsep.join([*map(str, FOLDERS), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._process = subprocess.Popen(
            [sys.executable, str(program), *argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path, **(env or {})},
            bufsize=0,
        )
        self._rest = b""
        try:
            self.facts = self._answer(LOAD_S)
        except HostError:
            self.close()
            raise
        self._idle_since = time.monotonic()
        self._used = self._cpu_s()
        self.idle_share = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, what: str, **arguments: Any) -> dict[str, Any]:
        """Measure once. Raises HostError when the child fails, dies or takes too long."""
        idle = time.monotonic() - self._idle_since
        if idle > 1.0:
            self.idle_share = max(self.idle_share, (self._cpu_s() - self._used) / idle)
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": what, **arguments}).encode() + b"\n")
        except BrokenPipeError:
            raise HostError(f"{self.name}: it has ended") from None
        answer = self._answer(ANSWER_S)
        self._idle_since, self._used = time.monotonic(), self._cpu_s()
        return answer

    def close(self) -> None:
        """End it, and wait so that its CPU time is counted as ours."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def _cpu_s(self) -> float:
        try:
            times = psutil.Process(self._process.pid).cpu_times()
        except psutil.NoSuchProcess:
            return 0.0
        return times.user + times.system

    def _answer(self, timeout_s: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        give_up_at = time.monotonic() + timeout_s
        while b"\n" not in self._rest:
            left = give_up_at - time.monotonic()
            if left <= 0 or not select.select([self._process.stdout], [], [], left)[0]:
                self._process.kill()
                raise HostError(f"{self.name}: no answer within {timeout_s:.0f} s")
            data = self._process.stdout.read(65536)
            if not data:
                raise HostError(f"{self.name}: it ended with exit code {self._process.wait()}")
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise HostError(f"{self.name}: {answer['error']}")
        return answer


def serve(load: Callable[[], tuple[dict[str, Any], Mapping[str, Measure]]]) -> None:
    """The answering side: load, then measure until stdin ends. What libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    try:
        facts, measures = load()
        print(json.dumps(facts), file=answers)
        for line in sys.stdin:
            request = json.loads(line)
            print(json.dumps(measures[request.pop("do")](**request)), file=answers)
    except (RuntimeError, ValueError, OSError, MemoryError) as problem:
        print(json.dumps({"error": f"{type(problem).__name__}: {problem}"}), file=answers)
