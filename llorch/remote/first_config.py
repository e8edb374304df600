"""The first llorch.toml: what three answers mean, and the text that says it. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from llorch.base.addresses import is_loopback, netloc, parse
from llorch.base.config import did_you_mean
from llorch.base.errors import UsageError
from llorch.host.targets import EVERY, find_target

MODES = {
    "home": "you and whom you trust; on this machine no key is needed",
    "lab": "several people, each with a key; policy scripts",
    "platform": "tenants with keys and quotas; the policy is fixed",
}
PORT = 8080
_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,253}[A-Za-z0-9])?")
_TARGET = re.compile(r"(?:(?P<user>[^@\s:]+)@)?(?P<host>\[[^\]\s]+\]|[^@\s:\[\]]+)(?::(?P<port>\d{1,5}))?")


@dataclass(frozen=True, slots=True)
class Pool:
    """A machine that SSH reaches; None leaves a value to ssh."""

    name: str
    host: str
    user: str | None
    port: int | None


@dataclass(frozen=True, slots=True)
class Listen:
    """Where orchestratord listens."""

    bind: str
    port: int

    @property
    def is_local(self) -> bool:
        """Can nobody but this machine reach it?"""
        return is_loopback(self.bind)


def read_mode(text: str) -> str:
    """One of the modes. Raises UsageError."""
    mode = text.strip().lower()
    if mode not in MODES:
        raise UsageError(f"'{text.strip()[:40]}' is none of {', '.join(MODES)}{did_you_mean(mode, list(MODES))}")
    return mode


def read_pools(text: str) -> list[Pool]:
    """`[USER@]HOST[:PORT]`, separated by commas or spaces; none is fine. Raises UsageError."""
    pools: list[Pool] = []
    for word in re.split(r"[,\s]+", text.strip()):
        if not word or word.lower() in ("none", "-", "no"):
            continue
        pool = _read_pool(word, {known.name for known in pools})
        if all((known.host, known.port) != (pool.host, pool.port) for known in pools):
            pools.append(pool)
    return pools


def _read_pool(word: str, taken: set[str]) -> Pool:
    found = _TARGET.fullmatch(word)
    host = found["host"].strip("[]") if found is not None else ""
    if found is None or not (_HOST_NAME.fullmatch(host) or parse(host)) or host == EVERY:
        raise UsageError(f"'{word[:80]}' is not a machine: [USER@]HOST[:PORT]")
    port = int(found["port"]) if found["port"] else None
    if port is not None and not 0 < port < 65536:
        raise UsageError(f"'{word[:80]}': a port is a number from 1 to 65535")
    find_target(host if found["user"] is None else f"{found['user']}@{host}", {})
    return Pool(_short_name(host, taken), host, found["user"], port)


def _short_name(host: str, taken: set[str]) -> str:
    """A name for --host that nobody has yet: a host's first label, or its address with dashes."""
    plain = host if parse(host) is not None else host.partition(".")[0]
    base = re.sub(r"[^A-Za-z0-9_-]+", "-", plain).strip("-_")[:48] or "pool"
    base = f"pool-{base}" if base == EVERY else base
    return next(name for n in range(1, len(taken) + 3) if (name := base if n == 1 else f"{base}-{n}") not in taken)


def read_listen(text: str) -> Listen:
    """`ADDRESS[:PORT]` or a port alone. Raises UsageError."""
    word = text.strip()
    if word.isdecimal():
        word = f"127.0.0.1:{word}"
    bind, port = word, str(PORT)
    if parse(word.strip("[]")) is None:
        bind, colon, after = word.rpartition(":")
        bind, port = (bind, after) if colon else (word, port)
    bind = bind.strip("[]")
    if not (parse(bind) or _HOST_NAME.fullmatch(bind)) or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UsageError(f"'{text.strip()[:80]}' is no place to listen: ADDRESS[:PORT], such as 127.0.0.1:{PORT}")
    return Listen(bind, int(port))


def default_listen(mode: str) -> str:
    """People of a lab or a platform come over the network."""
    return netloc("127.0.0.1" if mode == "home" else "0.0.0.0", PORT)


def text(mode: str, pools: Sequence[Pool], listen: Listen) -> str:
    """The file."""
    lines = [
        "# Written by llorch init. All settings with their defaults: orchestratord --help",
        "",
        "[orchestratord]",
        f'mode = "{mode}"  # {MODES[mode]}',
        f"bind = {_quoted(listen.bind)}{_about(listen)}",
        f"# port = {PORT}" if listen.port == PORT else f"port = {listen.port}",
    ]
    for pool in pools:
        lines += ["", f"[pools.{pool.name}]", f"host = {_quoted(pool.host)}"]
        lines += [] if pool.user is None else [f"user = {_quoted(pool.user)}"]
        lines += [] if pool.port is None else [f"port = {pool.port}"]
    return "\n".join(lines) + "\n"


def _about(listen: Listen) -> str:
    return "  # this machine only" if listen.is_local else ""


def _quoted(value: str) -> str:
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def next_steps(pools: Sequence[Pool], listen: Listen) -> list[str]:
    """What to do next, in order."""
    names = ",".join(pool.name for pool in pools)
    steps = [] if listen.is_local else ["orchestratord keys create NAME     (it starts there only once a key exists)"]
    steps += [f"llorch pool install --host {names}"] if pools else []
    return [*steps, "llorch run qwen-0.5b" + (" --host all" if pools else "")]
