"""SSH as this system uses it: one connection, one command, bytes both ways; host keys are always checked.

~/.ssh/config (aliases, User, Port, IdentityFile, ProxyJump), known_hosts and the agent are honoured. Every failure of
SSH itself is SshFailed with the command that mends it; the exit code of the remote program is a result, not an error.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llorch.base.errors import LlorchError, SshFailed
from llorch.host import host_keys, quote, ssh_library
from llorch.host.interrupts import Presses
from llorch.host.pid_mark import PidMark
from llorch.host.targets import SshTarget

if TYPE_CHECKING:
    import asyncssh

CONNECT_TIMEOUT_S = 15.0
LOGIN_TIMEOUT_S = 20.0
# One echo, but login scripts run before it.
ADDRESS_TIMEOUT_S = 20.0
# A peer that answers nothing for a minute is gone.
KEEPALIVE_INTERVAL_S = 15
KEEPALIVE_COUNT_MAX = 4
JUMPS_MAX = 8
READ_SIZE_MAX = 64 << 10
ANSWER_SIZE_MAX = 1 << 20
# A command that is told to stop gets INT, then TERM, then KILL, each with this much time: a spawn that is interrupted
# stops its worker first, which may take 5 s.
STOP_STEPS = (("INT", 8.0), ("TERM", 3.0), ("KILL", 1.0))

Sink = Callable[[bytes], None]


@dataclass(frozen=True, slots=True)
class Answer:
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str


class Remote:
    """An open connection to one host."""

    def __init__(self, target: SshTarget, connection: asyncssh.SSHClientConnection, local_address: str | None) -> None:
        """`local_address` is our end; None behind a jump host or proxy, where the other side does not see us."""
        self.target = target
        self.local_address = local_address
        self._connection = connection

    @property
    def connection(self) -> asyncssh.SSHClientConnection:
        """What other modules of this folder open channels on."""
        return self._connection

    async def server_address(self) -> str:
        """The host's own address that this session reached, as its sshd says: true behind NAT and jump hosts, too."""
        import asyncssh

        try:
            async with asyncio.timeout(ADDRESS_TIMEOUT_S):
                answer = await self._connection.run('echo "$SSH_CONNECTION"', encoding="utf-8", errors="replace")
        except TimeoutError:
            raise SshFailed(
                f"{self.target.name}: logged in, but no command was answered within {ADDRESS_TIMEOUT_S:g} s"
            ) from None
        except (OSError, asyncssh.Error) as error:
            raise _failed(self.target, error) from error
        words = str(answer.stdout).split()
        if len(words) != 4:
            raise SshFailed(f"{self.target.name}: its SSH server does not say which address it was reached at")
        return words[2]

    async def run(
        self,
        argv: Sequence[str],
        *,
        out: Sink,
        err: Sink,
        stdin: bytes = b"",
        open_until: asyncio.Event | None = None,
    ) -> int:
        """Run one command; its output goes to the sinks as it comes, `stdin` is written and closed.

        With `open_until` stdin is closed only when that is set: the command sees its end, also when we die or the
        connection breaks.
        Gives the exit code (128 + n after signal n). When cancelled, or when a sink raises, the remote command is
        stopped before this returns. Raises SshFailed when the connection breaks.
        """
        import asyncssh

        process = await self._start(quote.marked_line(argv))
        mark = PidMark(err)
        finished = False
        try:
            _feed(process, stdin, open_until)
            await _pump_both(process, out, mark.feed, open_until)
            await process.wait_closed()
            finished = True
        except asyncssh.Error as error:
            raise _failed(self.target, error) from error
        finally:
            mark.flush()
            if not finished:
                await self._stop(process, mark.pid)
        return self._exit_code(process)

    async def ask(self, argv: Sequence[str], *, stdin: bytes = b"") -> Answer:
        """Run one command that says little; what it said. Raises as `run`, and SshFailed when it says too much."""
        out, err = bytearray(), bytearray()

        def keep(into: bytearray) -> Sink:
            def sink(data: bytes) -> None:
                if len(into) + len(data) > ANSWER_SIZE_MAX:
                    raise SshFailed(f"{self.target.name}: the answer to {argv[0]} is too large")
                into.extend(data)

            return sink

        code = await self.run(argv, out=keep(out), err=keep(err), stdin=stdin)
        return Answer(code, out.decode("utf-8", "replace"), err.decode("utf-8", "replace"))

    @asynccontextmanager
    async def open_sftp(self) -> AsyncIterator[asyncssh.SFTPClient]:
        """File transfer over this connection. Raises SshFailed when the server has none, or when it fails inside."""
        import asyncssh

        try:
            async with asyncio.timeout(LOGIN_TIMEOUT_S):
                client = await self._connection.start_sftp_client()
        except (OSError, asyncssh.Error, TimeoutError) as error:
            mend = "enable 'Subsystem sftp internal-sftp' in its sshd_config"
            raise SshFailed(f"{self.target.name}: its SSH server offers no SFTP: {mend}") from error
        try:
            async with client:
                yield client
        except (ConnectionError, asyncssh.SFTPNoConnection, asyncssh.SFTPConnectionLost) as error:
            raise SshFailed(f"{self.target.name}: the connection was lost while copying") from error
        except asyncssh.SFTPError as error:
            why = f"copying failed: {error.reason or type(error).__name__} (is its disk full?)"
            raise SshFailed(f"{self.target.name}: {why}") from error
        except asyncssh.Error as error:
            raise _failed(self.target, error) from error

    async def _start(self, line: bytes) -> asyncssh.SSHClientProcess[bytes]:
        import asyncssh

        try:
            # asyncssh's type says str; it sends bytes as they are, which argv that is not UTF-8 needs.
            return await self._connection.create_process(line, encoding=None, request_pty=False)
        except (OSError, asyncssh.Error) as error:
            raise _failed(self.target, error) from error

    async def _stop(self, process: asyncssh.SSHClientProcess[bytes], pid: int | None) -> None:
        """End the remote command and its children, and wait until they have; a broken connection ends the wait.

        OpenSSH ignores SSH's own signal message for root and for forced commands, so a second session kills the group.
        """
        import asyncssh

        try:
            for name, wait_s in STOP_STEPS:
                if pid is None:
                    process.send_signal(name)
                else:
                    await self._connection.run(f"kill -{name} -{pid} 2>/dev/null || kill -{name} {pid} 2>/dev/null")
                try:
                    async with asyncio.timeout(wait_s):
                        await process.wait_closed()
                    return
                except TimeoutError:
                    continue
        except (OSError, asyncssh.Error):
            pass  # the connection is gone, and with it every way to reach the command
        process.close()

    def _exit_code(self, process: asyncssh.SSHClientProcess[bytes]) -> int:
        if process.exit_status is not None and process.exit_status >= 0:
            return process.exit_status
        if process.exit_signal is not None:
            number = getattr(signal, f"SIG{process.exit_signal[0]}", None)
            return 128 + int(number) if number is not None else 1
        raise SshFailed(f"{self.target.name}: the connection was lost before the command ended")


def _feed(process: asyncssh.SSHClientProcess[bytes], data: bytes, open_until: asyncio.Event | None) -> None:
    """Hand over all of stdin, and end it unless it stays open; a command that ended already does not want it."""
    with suppress(BrokenPipeError):
        if data:
            process.stdin.write(data)
        if open_until is None:
            process.stdin.write_eof()


async def _pump_both(
    process: asyncssh.SSHClientProcess[bytes], out: Sink, err: Sink, open_until: asyncio.Event | None
) -> None:
    """Copy both streams to their ends. A sink's own error comes out bare, not in a group."""
    try:
        async with asyncio.TaskGroup() as tasks:
            pumps = [tasks.create_task(_pump(process.stdout, out)), tasks.create_task(_pump(process.stderr, err))]
            if open_until is not None:
                ending = tasks.create_task(_end_when(process, open_until))
                await asyncio.wait(pumps)
                ending.cancel()
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None


async def _end_when(process: asyncssh.SSHClientProcess[bytes], event: asyncio.Event) -> None:
    await event.wait()
    with suppress(BrokenPipeError):
        process.stdin.write_eof()


async def _pump(source: asyncssh.SSHReader[bytes], sink: Sink) -> None:
    while data := await source.read(READ_SIZE_MAX):
        sink(data)


@asynccontextmanager
async def connect(target: SshTarget) -> AsyncIterator[Remote]:
    """An open, authenticated connection whose host key was checked. Raises SshFailed."""
    ssh_library.load()
    async with AsyncExitStack() as hops:
        connection = await _open(target, hops, None, 0)
        ours = connection.get_extra_info("sockname")
        is_direct = bool(ours) and not _jumps(_options(target))
        yield Remote(target, connection, str(ours[0]) if is_direct else None)


async def _open(
    target: SshTarget, hops: AsyncExitStack, through: asyncssh.SSHClientConnection | None, depth: int
) -> asyncssh.SSHClientConnection:
    """Connect to one host, by its jump hosts first; each hop is checked like the last one."""
    import asyncssh

    if depth > JUMPS_MAX:
        raise SshFailed(f"{target.name}: more than {JUMPS_MAX} jump hosts; does ProxyJump name itself?")
    options = _options(target)
    files = host_keys.files(options)
    configured = options.config.get("ConnectTimeout")
    connect_s = float(configured) if isinstance(configured, int) and configured > 0 else CONNECT_TIMEOUT_S
    for hop in _jumps(options) if through is None else []:
        through = await _open(hop, hops, through, depth + 1)
    seen: list[host_keys.SeenKey] = []
    try:
        connection = await asyncio.wait_for(
            asyncssh.connect(
                target.host,
                tunnel=through,
                options=options,
                known_hosts=files or b"",
                connect_timeout=connect_s,
                client_factory=lambda: host_keys.witness(files, seen),
            ),
            connect_s + LOGIN_TIMEOUT_S,
        )
    except TimeoutError as error:
        raise SshFailed(f"{target.name}: no answer within {connect_s:g} s") from error
    except (OSError, asyncssh.Error, ValueError) as error:
        raise _failed(target, error, seen[0] if seen else None) from error
    ssh_library.acknowledge_promptly(connection)
    hops.push_async_callback(connection.wait_closed)
    hops.callback(connection.close)
    return connection


def _options(target: SshTarget) -> asyncssh.SSHClientConnectionOptions:
    """What ~/.ssh/config and the target say. Refuses a config that switches host-key checks off."""
    import asyncssh

    given: dict[str, Any] = {"username": target.user, "port": target.port}
    try:
        options = asyncssh.SSHClientConnectionOptions(
            host=target.host,
            config=(),  # the default files; without it none is read
            connect_timeout=CONNECT_TIMEOUT_S,
            login_timeout=LOGIN_TIMEOUT_S,
            keepalive_interval=KEEPALIVE_INTERVAL_S,
            keepalive_count_max=KEEPALIVE_COUNT_MAX,
            agent_forwarding=False,
            x11_forwarding=False,
            command=None,
            **{name: value for name, value in given.items() if value is not None},
        )
    except (OSError, asyncssh.Error, ValueError) as error:
        raise _failed(target, error) from error
    if options.known_hosts is None:
        raise SshFailed(
            f"{target.name}: ~/.ssh/config says 'UserKnownHostsFile none' for this host; host keys are always checked"
        )
    return options


def _jumps(options: asyncssh.SSHClientConnectionOptions) -> list[SshTarget]:
    """The hops of ProxyJump, nearest first."""
    chain = options.tunnel if isinstance(options.tunnel, str) else ""
    hops = []
    for hop in (part.strip() for part in chain.split(",") if part.strip()):
        user, _, place = hop.rpartition("@")
        host, _, port = place.rpartition(":") if ":" in place and not place.endswith("]") else (place, "", "")
        hops.append(SshTarget(f"jump host {hop}", host.strip("[]"), user or None, int(port) if port else None))
    return hops


def _failed(target: SshTarget, error: Exception, key: host_keys.SeenKey | None = None) -> LlorchError:
    """What went wrong, and the command that mends it."""
    import shlex

    import asyncssh

    by_hand = shlex.join(["ssh", *target.ssh_words, "true"])
    if key is not None and key.is_changed:
        why = (
            f"the host key has CHANGED (now {key.algorithm} {key.fingerprint}); somebody may be listening in. "
            f"If the machine was set up anew, run: ssh-keygen -R {shlex.quote(key.entry)} && {by_hand}"
        )
    elif key is not None:
        why = f"host key not verified ({key.algorithm} {key.fingerprint}). To check and accept it, run: {by_hand}"
    elif isinstance(error, asyncssh.HostKeyNotVerifiable):
        why = f"host key not verified ({error.reason}). To see more, run: {by_hand}"
    elif isinstance(error, asyncssh.PermissionDenied):
        copy = shlex.join(["ssh-copy-id", *target.ssh_words])
        why = f"permission denied: no key of yours is accepted there. To install one, run: {copy}"
    elif isinstance(error, ConnectionRefusedError):
        why = "connection refused: nothing listens on that port"
    else:
        why = getattr(error, "reason", "") or getattr(error, "strerror", "") or str(error) or type(error).__name__
    return SshFailed(f"{target.name}: {why}")


def run_interruptible(main: Callable[[], Any]) -> Any:
    """`asyncio.run(main())`; SIGTERM, SIGHUP and Ctrl-C end it cleanly, remote commands too; a second one at once.

    Raises KeyboardInterrupt then. Main thread only.
    """
    presses = Presses()

    async def guarded() -> Any:
        task = asyncio.current_task()
        assert task is not None
        loop = asyncio.get_running_loop()
        ssh_library.tell_once(loop)

        def end(number: int) -> None:
            if presses.is_echo(number):
                return
            if task.cancelling():
                raise KeyboardInterrupt
            task.cancel()

        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            if signal.getsignal(number) is not signal.SIG_IGN:
                loop.add_signal_handler(number, end, number)
        return await main()

    before = signal.getsignal(signal.SIGINT)
    try:
        return asyncio.run(guarded())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    finally:
        signal.signal(signal.SIGINT, before)  # asyncio puts its own idea of the default there
