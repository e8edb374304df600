"""Reads, plays and writes transcripts: blocks of commands, `----`, and what the brain answered.

A command is a word, a subject and options: `submit j1 attached priority=batch`. `wait 3` lets three seconds pass,
ringing whenever the brain asked for it; `restart` throws the brain away and starts a new one from what was kept.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import demand_commands

from llorch.base.ids import DEFAULT_TENANT, JobId, ModelId, PoolId, SessionId, TenantId, WorkerId
from llorch.core import effects as to_do
from llorch.core import events as happened
from llorch.core.brain import Brain, BrainSettings
from llorch.core.effects import Effect
from llorch.core.events import Event
from llorch.core.hooks import read_answer
from llorch.core.job import Ending, Failure, FailureKind, JobRecord, JobSpec, OnDisconnect, Priority, Result, Wishes
from llorch.core.policy import Hook
from llorch.core.session import SessionLimits, SessionRecord
from llorch.core.tenant import TenantLimits, UsageRecord
from llorch.core.worker import Load, WorkerRecord, WorkerSpec

SEPARATOR = "----"
Words = list[str]
Options = dict[str, str]


class Player:
    """Plays one transcript from its first line on; time starts at 0."""

    def __init__(self) -> None:
        self.settings = BrainSettings()
        self.now = 0.0
        self.limits: dict[TenantId, TenantLimits] = {}
        self.demand = demand_commands.Demand()
        self.brain = self._new_brain()
        self.jobs: dict[str, JobRecord] = {}
        self.workers: dict[str, WorkerRecord] = {}
        self.usage: dict[tuple[TenantId, int], UsageRecord] = {}
        self.sessions: dict[tuple[TenantId, SessionId], SessionRecord] = {}
        self.frames: dict[JobId, int] = {}
        self.asked: dict[int, to_do.Ask] = {}
        self.sequence = 0
        self.names = demand_commands.Names()

    def play(self, text: str) -> str:
        """The same transcript with the answers as they are now."""
        blocks = []
        for block in text.strip("\n").split("\n\n"):
            lines = block.split("\n")
            commands = lines[: lines.index(SEPARATOR)] if SEPARATOR in lines else lines
            if all(line.startswith("#") for line in commands):
                blocks.append("\n".join(commands))
                continue
            answers = [line for command in commands if not command.startswith("#") for line in self.answers(command)]
            blocks.append("\n".join([*commands, SEPARATOR, *answers]))
        return "\n\n".join(blocks) + "\n"

    def answers(self, line: str) -> list[str]:
        """What a command comes to, with short names."""
        return [self.names.shown(told) for told in self.command(self.names.meant(line))]

    def command(self, line: str) -> list[str]:
        """Carry out one command."""
        words = [word for word in line.split() if "=" not in word]
        options = dict(word.split("=", 1) for word in line.split() if "=" in word)
        if words[0] == "settings":
            kinds = {field.name: type(getattr(self.settings, field.name)) for field in fields(self.settings)}
            values = {key: kinds[key](value) for key, value in options.items()}
            self.settings = BrainSettings(**values)
            self.brain = self._new_brain()
            return []
        if words[0] == "wait":
            return self._wait(self.now + float(words[1]))
        if words[0] == "lease":
            return self._hold_leases(words[1].split(","), float(words[2]))
        if words[0] == "show":
            return self._show(words[1])
        if words[0] == "restart":
            self.brain = self._new_brain()
            return self._decide(self._restarted())
        return self._decide(COMMANDS[words[0]](self, words[1:], options))

    def _new_brain(self) -> Brain:
        brain = Brain(self.settings)
        brain.decide(happened.CatalogRead(frozenset({ModelId("demo")})), self.now)
        brain.decide(happened.TenantsRead(dict(self.limits)), self.now)
        if self.demand.settings is not None:
            brain.decide(self.demand.read(), self.now)
        return brain

    def _decide(self, event: Event) -> list[str]:
        effects = self.brain.decide(event, self.now)
        for effect in effects:
            if isinstance(effect, to_do.Persist):
                self._keep(effect.record)
            elif isinstance(effect, to_do.Ask):
                self.asked[effect.ask_id] = effect
        return [f"{self.now:g} {told(effect)}" for effect in effects]

    def _keep(self, record: to_do.Record) -> None:
        if isinstance(record, JobRecord):
            self.jobs[record.spec.job_id] = record
        elif isinstance(record, WorkerRecord):
            self.workers[record.spec.worker_id] = record
        elif isinstance(record, to_do.WorkerForgotten):
            self.workers.pop(record.worker_id, None)
        elif isinstance(record, UsageRecord):
            self.usage[record.tenant, record.day] = record
        elif isinstance(record, SessionRecord):
            self.sessions[record.tenant, record.session_id] = record
        elif isinstance(record, to_do.SessionForgotten):
            self.sessions.pop((record.tenant, record.session_id), None)

    def _wait(self, until: float) -> list[str]:
        lines = []
        while (at := self.brain.next_wakeup()) is not None and at <= until:
            self.now = max(self.now, at)
            lines += self._decide(happened.TimePassed())
        self.now = until
        return lines

    def _hold_leases(self, workers: list[str], seconds: float) -> list[str]:
        """`lease w1,w2 60`: a minute passes, and these workers give signs of life in it."""
        lines = []
        until = self.now + seconds
        while self.now < until:
            lines += self._wait(min(until, self.now + 2.0))
            for name in workers:
                if self.brain.worker(WorkerId(name)) is not None:
                    lines += self._decide(happened.HeartbeatReceived(WorkerId(name), Load()))
        return lines

    def _show(self, job_id: str) -> list[str]:
        record, place = self.brain.job(JobId(job_id)), self.brain.position(JobId(job_id))
        if record is None:
            return [f"{job_id} is not live"]
        return [f"{job_id} is {record.state.value}" + (f", {place.queue_position} ahead" if place else "")]

    def _restarted(self) -> happened.Restarted:
        live = sorted((r for r in self.jobs.values() if not r.state.terminal), key=lambda record: record.sequence)
        relayed = {job_id: happened.Relayed(frames, frames) for job_id, frames in self.frames.items()}
        sessions, usage = tuple(self.sessions.values()), tuple(self.usage.values())
        return happened.Restarted(tuple(live), tuple(self.workers.values()), (), relayed, (), sessions, usage)


def _submit(player: Player, words: Words, options: Options) -> Event:
    spec = JobSpec(
        job_id=JobId(words[0]),
        payload=b"{}",
        prompt_sha256="",
        prompt_bytes=int(options.get("bytes", 10)),
        prompt_tokens=int(options["prompt"]) if "prompt" in options else None,
        seed=1,
        prefixes=_names(options, "prefix"),
        model=None if options.get("model") == "any" else ModelId(options.get("model", "demo")),
        max_tokens=int(options.get("max", 20)),
        priority=Priority(options.get("priority", "interactive")),
        tenant=TenantId(options.get("tenant", DEFAULT_TENANT)),
        session_id=SessionId(options["session"]) if "session" in options else None,
        deadline_s=float(options["deadline"]) if "deadline" in options else None,
        timeout_s=float(options["timeout"]) if "timeout" in options else None,
        wishes=Wishes(pin_pool=options.get("pool"), pin_worker=options.get("worker")),
        idempotency_key=options.get("key"),
        on_disconnect=OnDisconnect.CANCEL if "attached" in words else OnDisconnect.KEEP,
        attached="attached" in words,
    )
    return happened.JobSubmitted(spec)


def _worker(player: Player, words: Words, options: Options) -> Event:
    name = words[0]
    spec = WorkerSpec(
        worker_id=WorkerId(name),
        url=options.get("url", f"http://{name}"),
        model=ModelId(options.get("model", "demo")),
        backend="cpu",
        pool=PoolId(options.get("pool", "local")),
        slots_total=int(options.get("slots", 1)),
        context_length=int(options.get("context", 2048)),
        vram_bytes=0,
        version="1",
        protocol=1,
    )
    return happened.WorkerAnnounced(spec)


def _beat(player: Player, words: Words, options: Options) -> Event:
    load = Load(int(options.get("busy", 0)), 0.0, 0, "draining" in words)
    return happened.HeartbeatReceived(WorkerId(words[0]), load, frozenset(_names(options, "holds")))


def _names(options: Options, name: str) -> tuple[str, ...]:
    return tuple(options[name].split(",")) if name in options else ()


def _attempt(player: Player, name: str) -> tuple[JobId, int]:
    """`j1` is the current attempt of j1, `j1#2` its second."""
    job_id, _, number = name.partition("#")
    return JobId(job_id), int(number) if number else player.jobs[job_id].attempts


def _end(player: Player, words: Words, options: Options) -> Event:
    prompt_tokens = int(options["prompt"]) if "prompt" in options else None
    decode_ms = int(options.get("ms", 0))
    result = Result(options.get("reason", "EOS"), int(options.get("tokens", 3)), prompt_tokens, decode_ms)
    return happened.AttemptEnded(*_attempt(player, words[0]), result)


def _first(player: Player, words: Words, options: Options) -> Event:
    job_id, attempt = _attempt(player, words[0])
    player.frames[job_id] = player.frames.get(job_id, 0) + 1
    return happened.FirstTokenSeen(job_id, attempt)


def _fail(player: Player, words: Words, options: Options) -> Event:
    retry_after_s = float(options["after"]) if "after" in options else None
    failure = Failure(FailureKind(words[1]), options.get("code", "WORKER_LOST"), "as told", retry_after_s)
    job_id, attempt = _attempt(player, words[0])
    frames = player.frames.get(job_id, 0)
    return happened.AttemptFailed(job_id, attempt, failure, frames, frames)


def _stopped(player: Player, words: Words, options: Options) -> Event:
    job_id, attempt = _attempt(player, words[0])
    return happened.AttemptStopped(job_id, attempt, player.frames.get(job_id, 0))


def _answer(player: Player, words: Words, options: Options) -> Event:
    """`answer 3 "w1"`: the script's return value as JSON without blanks."""
    ask = player.asked[int(words[0])]
    return happened.PolicyAnswered(ask.ask_id, read_answer(ask.hook, ask.arguments, json.loads(words[1])))


def _tenant(player: Player, words: Words, options: Options) -> Event:
    limits: dict[str, Any] = {key: float(value) if "." in value else int(value) for key, value in options.items()}
    player.limits[TenantId(words[0])] = TenantLimits(**limits)
    return happened.TenantsRead(dict(player.limits))


def _session(player: Player, words: Words, options: Options) -> Event:
    limits: dict[str, Any] = {key: int(value) for key, value in options.items() if key != "tenant"}
    tenant = TenantId(options.get("tenant", DEFAULT_TENANT))
    return happened.SessionOpened(tenant, SessionId(words[0]), SessionLimits(**limits))


COMMANDS: dict[str, Callable[[Player, Words, Options], Event]] = {
    "submit": _submit,
    "worker": _worker,
    "beat": _beat,
    "end": _end,
    "first": _first,
    "fail": _fail,
    "stopped": _stopped,
    "started": lambda player, words, options: happened.AttemptStarted(*_attempt(player, words[0])),
    "counted": lambda player, words, options: happened.TokensCounted(JobId(words[0]), int(options["tokens"])),
    "cancel": lambda player, words, options: happened.CancelRequested(JobId(words[0])),
    "disconnect": lambda player, words, options: happened.ClientDisconnected(JobId(words[0])),
    "attach": lambda player, words, options: happened.ClientAttached(JobId(words[0])),
    "drain": lambda player, words, options: happened.DrainStarted(),
    "drain-worker": lambda player, words, options: happened.WorkerDrainRequested(WorkerId(words[0])),
    "forget-worker": lambda player, words, options: happened.WorkerForgetRequested(WorkerId(words[0])),
    "script": lambda player, words, options: happened.PolicyLoaded(frozenset(map(Hook, words[1:])), words[0]),
    "answer": _answer,
    "fault": lambda player, words, options: happened.PolicyFailed(int(words[0]), words[1]),
    "tenant": _tenant,
    "session": _session,
    "close-session": lambda player, words, options: happened.SessionClosed(
        TenantId(options.get("tenant", DEFAULT_TENANT)), SessionId(words[0])
    ),
    "demand": lambda player, words, options: player.demand.set(words, options),
    "model": lambda player, words, options: player.demand.model(words, options),
    "facts": lambda player, words, options: demand_commands.facts(words, options),
    "spawn": lambda player, words, options: demand_commands.heard(words, options),
    "pool": lambda player, words, options: happened.PoolRegistered(PoolId(words[0]), "draining" in words),
}


def told(effect: Effect) -> str:
    """One effect as one line."""
    match effect:
        case to_do.Persist(record):
            return _kept(record)
        case to_do.Dispatch():
            return f"dispatch {effect.job_id}#{effect.attempt} to {effect.worker_id}{' early' if effect.early else ''}"
        case to_do.CancelAttempt():
            return f"cancel-attempt {effect.job_id}#{effect.attempt} on {effect.worker_id}, {effect.cause.value}"
        case to_do.Finish():
            return f"finish {effect.job_id} {_ending(effect.ending)}"
        case to_do.Accept() | to_do.Announce():
            eta = "" if effect.eta_s is None else f", in {effect.eta_s:.1f} s"
            return f"{type(effect).__name__.lower()} {effect.job_id}, {effect.queue_position} ahead{eta}"
        case to_do.Refuse():
            after = "" if effect.retry_after_s is None else f", again after {effect.retry_after_s:.1f} s"
            return f"refuse {effect.job_id} {effect.code}: {effect.message}{after}"
        case to_do.RefuseWorker():
            return f"refuse-worker {effect.worker_id} at {effect.url} {effect.code}"
        case to_do.Duplicate():
            return f"duplicate {effect.job_id} of {effect.of}"
        case to_do.CountTokens():
            return f"count {effect.job_id} on {effect.worker_id}"
        case to_do.DrainWorker():
            return f"drain {effect.worker_id}"
        case to_do.Ask():
            return _asked(effect)
        case _:
            return demand_commands.told(effect) or repr(effect)


def _asked(ask: to_do.Ask) -> str:
    arguments: dict[str, Any] = ask.arguments
    workers = [worker["worker_id"] for worker in arguments.get("workers", ())]
    of = f" of {', '.join(workers)}" if workers else ""
    about = f" {arguments['task']['job_id']}" if "task" in arguments else ""
    return f"ask {ask.ask_id} {ask.hook.value}{about}{of}"


def _kept(record: Any) -> str:
    match record:
        case JobRecord():
            return f"keep {record.spec.job_id} {record.state.value}"
        case WorkerRecord():
            return f"keep {record.spec.worker_id} {record.state.value}"
        case to_do.WorkerForgotten():
            return f"keep no {record.worker_id}"
        case UsageRecord():
            tokens = f"{record.prompt_tokens}+{record.tokens_out} tokens"
            return f"keep usage of {record.tenant} on day {record.day}: {record.jobs} jobs, {tokens}"
        case SessionRecord():
            used = f"{record.turns} turns, {record.tokens_used} tokens, {record.time_used_s:g} s"
            return f"keep session {record.session_id} of {record.tenant}: {used}"
        case to_do.SessionForgotten():
            return f"keep no session {record.session_id} of {record.tenant}"
        case to_do.Decision():
            reasons = "".join(f" ({name}: {reason})" for name, reason in record.reasons)
            chosen = f" {record.chosen}" if record.chosen else ""
            return f"note {record.job_id} {record.kind}{chosen}{reasons}{' ' + record.note if record.note else ''}"
        case _:
            return f"keep {record}"


def _ending(ending: Ending) -> str:
    partial = f", {ending.result.tokens_out} tokens" if ending.result else ""
    reason = ending.result.stop_reason if ending.result and ending.error_code is None else ending.error_code
    return f"{ending.state.value} {reason}{partial}"
