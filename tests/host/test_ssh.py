"""SSH against a real sshd: argv arrive unchanged, host keys are checked, exit codes pass, nothing survives a stop."""

from __future__ import annotations

import asyncio
import getpass
import json
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from llorch.base.errors import ConfigError, NotFound, SshFailed, UsageError
from llorch.host import quote, ssh
from llorch.host.ssh import Remote
from llorch.host.targets import SshTarget, find_target, find_targets
from tests.remote.sshd import SSHD, Sshd, key_file, running_sshd

HOSTILE = "'\"\\$`!~*?[]{}()<>|&;#%^=@ \t\n\r\a\b\x1b\x7fäß漢🦙-+,.:/ \udcff\udc80az09"
DUMP = "import sys,os,json; json.dump([os.fsencode(a).hex() for a in sys.argv[1:]], sys.stdout); print()"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """A real sshd for this file."""
    if not SSHD.exists():
        pytest.skip("needs OpenSSH's server: apt-get install openssh-server")
    with running_sshd(tmp_path_factory.mktemp("sshd")) as running:
        yield running


@pytest.fixture
def sshd(server: Sshd, monkeypatch: pytest.MonkeyPatch) -> Sshd:
    """The server, seen from its own client home."""
    monkeypatch.setenv("HOME", str(server.home))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return server


def target(sshd: Sshd, host: str = "127.0.0.1") -> SshTarget:
    return SshTarget("test", host, getpass.getuser(), sshd.port)


class Output:
    """What a command printed and returned."""

    def __init__(self) -> None:
        self.out = b""
        self.err = b""
        self.code: int | None = None

    def take_out(self, data: bytes) -> None:
        self.out += data

    def take_err(self, data: bytes) -> None:
        self.err += data


async def run_on(remote: Remote, argv: list[str], stdin: bytes = b"") -> Output:
    output = Output()
    output.code = await remote.run(argv, out=output.take_out, err=output.take_err, stdin=stdin)
    return output


def sh(script: str) -> list[str]:
    return ["/bin/sh", "-c", script]


def run(where: SshTarget, argv: list[str], stdin: bytes = b"") -> Output:
    async def go() -> Output:
        async with ssh.connect(where) as remote:
            return await run_on(remote, argv, stdin)

    return asyncio.run(go())


def hostile_argvs(seed: int, count: int) -> list[list[str]]:
    """`count` argvs of words that try to break out of quotes, lines and encodings; also empty ones."""
    rng = random.Random(seed)
    return [
        ["".join(rng.choices(HOSTILE, k=rng.randrange(12))) for _ in range(rng.randrange(1, 6))] for _ in range(count)
    ]


def test_ten_thousand_hostile_argvs_arrive_unchanged(sshd: Sshd) -> None:
    """quote() is exact: whatever the words, the remote program's argv has the same bytes."""
    seed, channels, per_channel = 20261121, 50, 200

    async def one(remote: Remote, number: int) -> None:
        argvs = hostile_argvs(seed + number, per_channel)
        # One printf per channel prints them all, each argv led by its length; every word is quoted for itself.
        words = [word for argv in argvs for word in (str(len(argv)), *argv)]
        got = await run_on(remote, ["printf", "%s\\0", *words])
        assert got.code == 0, (seed + number, got.err)
        fields = iter(got.out.split(b"\0"))
        for argv in argvs:
            arrived = [next(fields) for _ in range(int(next(fields)))]
            assert arrived == [word.encode("utf-8", "surrogateescape") for word in argv], f"seed={seed + number}"

    async def everything() -> None:
        async with ssh.connect(target(sshd)) as remote:
            for first in range(0, channels, 8):  # sshd allows many sessions, two cores do not
                await asyncio.gather(*(one(remote, n) for n in range(first, min(first + 8, channels))))

    asyncio.run(everything())


@pytest.mark.parametrize("shell", ["dash", "bash", "zsh", "fish", "ksh", "busybox"])
def test_every_shell_reads_the_same_words(sshd: Sshd, shell: str) -> None:
    """The quoting means the same in every login shell that is installed here, fish's odd backslash included."""
    import shutil

    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    argv = [word for argv in hostile_argvs(5, 100) for word in argv] + ["", "\\", "'", "\\'", "'\\''", "\n", "!"]
    inner = [shell, "sh", "-c"] if shell == "busybox" else [shell, "-c"]
    line = quote.line([sys.executable, "-c", DUMP, *argv]).decode("utf-8", "surrogateescape")
    got = run(target(sshd), [*inner, line])
    assert [bytes.fromhex(h) for h in json.loads(got.out)] == [w.encode("utf-8", "surrogateescape") for w in argv]


def test_what_no_line_can_carry_is_refused() -> None:
    """NUL and lines beyond the kernel's limit are usage errors, before anything is sent."""
    with pytest.raises(UsageError):
        quote.line(["a\0b"])
    with pytest.raises(UsageError, match="too long"):
        quote.line(["x" * quote.LINE_SIZE_MAX, "y"])
    assert quote.line(["", "a b", "it's"]) == b"'' 'a b' 'it'\\''s'"


def test_streams_codes_and_stdin_pass_through(sshd: Sshd) -> None:
    """stdout and stderr stay apart and exact, stdin arrives whole, exit codes and signals come back as numbers."""
    got = run(target(sshd), sh("cat; printf 'e\\377' >&2; exit 7"), stdin=b"a\0\xff\n" * 50_000)
    assert (got.out, got.err, got.code) == (b"a\0\xff\n" * 50_000, b"e\xff", 7)
    assert run(target(sshd), sh("kill -TERM $$")).code == 128 + 15


def test_addresses_of_the_session(sshd: Sshd) -> None:
    """Our end and the host's end are what a worker calls back to and binds to; behind a jump ours is unknown."""

    async def ends(where: SshTarget) -> tuple[str | None, str]:
        async with ssh.connect(where) as remote:
            return remote.local_address, await remote.server_address()

    assert asyncio.run(ends(target(sshd))) == ("127.0.0.1", "127.0.0.1")
    plain = (sshd.home / ".ssh" / "config").read_text()
    jump = f"Host inner\n  HostName 127.0.0.1\n  Port {sshd.port}\n  ProxyJump pool-a\n"
    with config_as(sshd, plain + jump):
        assert asyncio.run(ends(SshTarget("inner", "inner"))) == (None, "127.0.0.1")


def test_a_session_that_never_answers_is_not_waited_for(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    """Login scripts may hang: asking for the address has a limit, and the message says what was waited for."""
    monkeypatch.setattr(ssh, "ADDRESS_TIMEOUT_S", 0.3)
    keys = sshd.log.with_name("authorized_keys")
    before = keys.read_text()
    keys.write_text(f'command="sleep 600" {before}')

    async def go() -> str:
        async with ssh.connect(target(sshd)) as remote:
            return await remote.server_address()

    try:
        with pytest.raises(SshFailed, match="no command was answered"):
            asyncio.run(asyncio.wait_for(go(), 20))
    finally:
        keys.write_text(before)


def test_ssh_config_is_honoured(sshd: Sshd) -> None:
    """Alias, HostName, Port, User, IdentityFile and ProxyJump come from ~/.ssh/config."""
    key, moved = sshd.home / ".ssh" / "id_ed25519", sshd.home / "other_key"
    alias = (sshd.home / ".ssh" / "config").read_text() + f"  IdentityFile {moved}\n"
    inner = f"Host inner\n  HostName 127.0.0.1\n  Port {sshd.port}\n  ProxyJump pool-a\n  IdentityFile {moved}\n"
    logins = sshd.log.read_text().count("Accepted publickey")
    key.rename(moved)
    try:
        with config_as(sshd, alias + inner):
            assert run(SshTarget("pool-a", "pool-a"), ["echo", "alias"]).out == b"alias\n"
            assert run(SshTarget("inner", "inner"), ["true"]).code == 0
    finally:
        moved.rename(key)
    assert sshd.log.read_text().count("Accepted publickey") - logins == 3, "alias, hop, inner"


def test_the_agents_keys_are_used(sshd: Sshd, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A key that only ssh-agent holds logs in."""
    key, away = sshd.home / ".ssh" / "id_ed25519", sshd.home / "in_agent"
    socket_path = tmp_path / "agent"
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", socket_path], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10
        while not socket_path.exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        monkeypatch.setenv("SSH_AUTH_SOCK", str(socket_path))
        subprocess.run(["ssh-add", "-q", key], check=True)
        key.rename(away)
        assert run(target(sshd), ["true"]).code == 0
    finally:
        if away.exists():
            away.rename(key)
        agent.terminate()
        agent.wait()


@contextmanager
def known_hosts_as(sshd: Sshd, text: str) -> Iterator[None]:
    before = sshd.known_hosts.read_text()
    sshd.known_hosts.write_text(text)
    try:
        yield
    finally:
        sshd.known_hosts.write_text(before)


@contextmanager
def config_as(sshd: Sshd, text: str) -> Iterator[None]:
    config = sshd.home / ".ssh" / "config"
    before = config.read_text()
    config.write_text(text)
    try:
        yield
    finally:
        config.write_text(before)


def test_an_unknown_host_key_refuses_with_the_way_out(sshd: Sshd) -> None:
    """Unknown: 255 and the ssh command that shows and accepts the key; the command never ran."""
    with known_hosts_as(sshd, ""), pytest.raises(SshFailed, match="host key not verified") as failure:
        run(target(sshd), ["touch", "never"])
    assert f"ssh -p {sshd.port} {getpass.getuser()}@127.0.0.1 true" in failure.value.message
    assert "SHA256:" in failure.value.message and failure.value.exit_code == 255


def test_a_changed_host_key_refuses_with_the_way_out(sshd: Sshd, tmp_path: Path) -> None:
    """Changed: 255, a warning, and the exact ssh-keygen -R line that forgets the old key."""
    entry = f"[127.0.0.1]:{sshd.port}"
    other = f"{entry} {key_file(tmp_path / 'other')}\n"
    with known_hosts_as(sshd, other), pytest.raises(SshFailed, match="CHANGED") as failure:
        run(target(sshd), ["touch", "never"])
    assert f"ssh-keygen -R '{entry}'" in failure.value.message


def test_host_key_checks_cannot_be_switched_off(sshd: Sshd) -> None:
    """`UserKnownHostsFile none`, here or for a jump host, is refused; StrictHostKeyChecking no changes nothing."""
    plain = (sshd.home / ".ssh" / "config").read_text()
    lax = "Host *\n  StrictHostKeyChecking no\n" + plain
    with known_hosts_as(sshd, ""), config_as(sshd, lax), pytest.raises(SshFailed, match="not verified"):
        run(SshTarget("pool-a", "pool-a"), ["true"])
    with config_as(sshd, plain + "  UserKnownHostsFile none\nHost inner\n  ProxyJump pool-a\n"):
        for name in ("pool-a", "inner"):
            with pytest.raises(SshFailed, match="always checked"):
                run(SshTarget(name, name), ["true"])


def test_failures_say_what_to_do(sshd: Sshd, tmp_path: Path) -> None:
    """Refused connections, unknown names and refused keys are SshFailed (255), named by the host as typed."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        with pytest.raises(SshFailed, match=r"^test: .*refused"):
            run(SshTarget("test", "127.0.0.1", None, held.getsockname()[1]), ["true"])
    key = sshd.home / ".ssh" / "id_ed25519"
    kept = key.read_bytes()
    try:
        key.unlink()
        key_file(key)
        with pytest.raises(SshFailed, match=r"permission denied.*ssh-copy-id -p"):
            run(target(sshd), ["true"])
    finally:
        key.write_bytes(kept)


def test_cancelling_stops_the_remote_command(sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After Ctrl-C nothing of the command is left over there, not even one that shrugs INT off."""
    monkeypatch.setattr(ssh, "STOP_STEPS", (("INT", 1.0), ("TERM", 5.0), ("KILL", 5.0)))
    for number, trap in enumerate(["", "trap '' INT; "]):
        pid_file = tmp_path / f"pid{number}"
        script = f"{trap}echo $$ > {pid_file}; echo started; while :; do sleep 0.2; done"

        async def go(argv: list[str]) -> None:
            async with ssh.connect(target(sshd)) as remote:
                started = asyncio.Event()
                job = asyncio.ensure_future(remote.run(argv, out=lambda _: started.set(), err=lambda _: None))
                await started.wait()
                job.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await job

        asyncio.run(go(sh(script)))
        deadline = time.monotonic() + 5
        while Path(f"/proc/{int(pid_file.read_text())}").exists():
            assert time.monotonic() < deadline, "the remote command survived"
            time.sleep(0.02)


def test_the_remote_program_is_looked_for_in_order(sshd: Sshd) -> None:
    """Profile path, PATH, ~/.local/bin, a bare ~/llorch with `pool`; 127 and a hint when there is none."""

    def place(path: Path, answer: str) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'#!/bin/sh\necho {answer} "$@" "$LLORCH_COLUMNS"\n')
        path.chmod(0o755)
        return path

    def found(program: str | None) -> tuple[bytes, int | None]:
        got = run(target(sshd), quote.pool_argv(["a b"], program=program, env={"LLORCH_COLUMNS": "7 7"}))
        return got.out + got.err, got.code

    message, code = found(None)
    assert code == 127 and b"scp llorch" in message
    bare = place(sshd.remote_home / "llorch", "bare")
    assert found(None) == (b"bare pool a b 7 7\n", 0)
    local = place(sshd.remote_home / ".local/bin/llorch-pool", "local")
    assert found(None) == (b"local a b 7 7\n", 0)
    on_path = place(sshd.remote_bin / "llorch-pool", "path")
    assert found(None) == (b"path a b 7 7\n", 0)
    odd = place(sshd.remote_home / "odd dir" / "llorch-1.2", "odd")
    assert found("~/odd dir/llorch-1.2") == (b"odd pool a b 7 7\n", 0)
    message, code = found("/nowhere/llorch-pool")
    assert code == 0 and b"path a b" in message and b"looking elsewhere" in message
    for path in (bare, local, on_path, odd):
        path.unlink()


def test_short_names() -> None:
    """A name is a profile first, then what was typed; `all` is every profile; each target comes once."""
    config = {"pools": {"mac": {"host": "mac.home.arpa", "user": "vince", "port": 2222, "path": "~/l"}, "blep": {}}}
    mac = SshTarget("mac", "mac.home.arpa", "vince", 2222, "~/l")
    assert find_target("mac", config) == mac
    assert find_target("me@box", config) == SshTarget("me@box", "box", "me")
    assert find_targets(["all", "mac,box"], config) == [mac, SshTarget("blep", "blep"), SshTarget("box", "box")]
    assert mac.ssh_words == ["-p", "2222", "vince@mac.home.arpa"]
    with pytest.raises(NotFound, match="pool register"):
        find_targets(["all"], {})
    for bad in ("", "-oProxyCommand=x", "a b", "@h", "me@-x"):
        with pytest.raises(UsageError):
            find_target(bad, {})
    with pytest.raises(ConfigError):
        find_target("x", {"pools": {"x": {"port": "22"}}})


def test_a_certificate_logs_in(sshd: Sshd, tmp_path: Path) -> None:
    """A key that the host does not know, signed by an authority that it trusts: its -cert.pub file is used."""
    with running_sshd(tmp_path / "host", more=f"TrustedUserCAKeys {tmp_path}/ca.pub") as host:
        (tmp_path / "ca.pub").write_text(key_file(tmp_path / "ca") + "\n")
        (host.log.parent / "authorized_keys").write_text("")
        key = sshd.home / ".ssh" / "signed"
        key.with_name("signed.pub").write_text(key_file(key) + "\n")
        sign = ["ssh-keygen", "-q", "-s", tmp_path / "ca", "-I", "me", "-n", getpass.getuser(), f"{key}.pub"]
        subprocess.run(sign, check=True, capture_output=True)
        named = f"Host signed\n  HostName 127.0.0.1\n  Port {host.port}\n  IdentityFile {key}\n"
        with config_as(sshd, named), known_hosts_as(sshd, f"[127.0.0.1]:{host.port} {host.host_key}\n"):
            assert run(SshTarget("signed", "signed"), ["true"]).code == 0
            key.with_name("signed-cert.pub").unlink()
            with pytest.raises(SshFailed, match="permission denied"):
                run(SshTarget("signed", "signed"), ["true"])


def test_match_blocks_are_honoured(sshd: Sshd) -> None:
    """`Match host` and `Match exec` apply as ssh reads them."""
    text = f'Match host matched exec "true"\n  HostName 127.0.0.1\n  Port {sshd.port}\n  User {getpass.getuser()}\n'
    with config_as(sshd, text):
        assert run(SshTarget("matched", "matched"), ["echo", "x"]).out == b"x\n"


def test_known_hosts_files_are_the_users_and_the_machines(sshd: Sshd, tmp_path: Path) -> None:
    """A key in GlobalKnownHostsFile counts beside the user's own file; hashed names are understood."""
    machine = tmp_path / "ssh_known_hosts"
    machine.write_text(sshd.known_hosts.read_text())
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", machine], check=True, capture_output=True)
    plain = (sshd.home / ".ssh" / "config").read_text()
    with known_hosts_as(sshd, ""), config_as(sshd, plain + f"  GlobalKnownHostsFile {machine}\n"):
        assert run(SshTarget("pool-a", "pool-a"), ["true"]).code == 0
    with config_as(sshd, plain + f"  GlobalKnownHostsFile {tmp_path}/none\n"):
        assert run(SshTarget("pool-a", "pool-a"), ["true"]).code == 0


def test_a_host_that_does_not_answer_is_not_waited_for(sshd: Sshd) -> None:
    """ConnectTimeout of ~/.ssh/config is heeded by a port that accepts and says nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=1) as silent:
        port = silent.getsockname()[1]
        with config_as(sshd, f"Host silent\n  HostName 127.0.0.1\n  Port {port}\n  ConnectTimeout 1\n"):
            began = time.monotonic()
            with pytest.raises(SshFailed, match="silent: "):
                asyncio.run(asyncio.wait_for(_connect_only(SshTarget("silent", "silent")), 30))
            assert time.monotonic() - began < 10


async def _connect_only(where: SshTarget) -> None:
    async with ssh.connect(where):
        pass
