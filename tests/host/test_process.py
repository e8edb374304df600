"""Detached processes live on and signals reach only the process they are meant for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llorch.base.errors import HostError
from llorch.host import process
from llorch.host.process import Outcome, Spawned

STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)"
)


def wait_for_text(path: Path, text: str, deadline_s: float = 10.0) -> str:
    """The file's content once `text` is in it."""
    end = time.monotonic() + deadline_s
    while text not in (content := path.read_text() if path.exists() else ""):
        assert time.monotonic() < end, f"no {text!r} in {content!r}"
        time.sleep(0.01)
    return content


@pytest.fixture
def sleeper(tmp_path: Path):
    """A detached process that does nothing for a minute."""
    spawned = process.spawn_detached(["sleep", "60"], log_path=tmp_path / "log")
    yield spawned
    process.terminate(spawned.pid, spawned.start_time, grace_s=1)


def test_a_spawned_process_leads_its_own_session_at_the_root(sleeper: Spawned) -> None:
    """A hang-up of our terminal cannot reach it, and it pins no directory."""
    assert os.getsid(sleeper.pid) == sleeper.pid
    assert os.readlink(f"/proc/{sleeper.pid}/cwd") == "/"


def test_it_survives_the_death_of_its_parent(tmp_path: Path) -> None:
    """The process that spawned it is killed; it goes on."""
    code = (
        "import sys; from pathlib import Path; from llorch.host.process import spawn_detached\n"
        "s = spawn_detached(['sleep', '60'], log_path=Path(sys.argv[1])); print(s.pid, s.start_time, flush=True)\n"
        "import os, signal; os.killpg(0, signal.SIGKILL)"
    )
    parent = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "log")], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert parent.returncode == -signal.SIGKILL
    pid, started = parent.stdout.split()
    assert process.is_alive(int(pid), float(started))
    assert process.terminate(int(pid), float(started), grace_s=5) is Outcome.STOPPED


def test_a_bound_process_ends_with_its_parent(tmp_path: Path) -> None:
    """Lifetime.OURS: whoever is killed takes what it started along, also when that ignores SIGTERM."""
    code = (
        "import sys, time; from pathlib import Path; from llorch.host.process import Lifetime, spawn_detached\n"
        "log = Path(sys.argv[1]); s = spawn_detached(sys.argv[2:], log_path=log, lifetime=Lifetime.OURS)\n"
        "print(s.pid, s.start_time, flush=True); time.sleep(60)"
    )
    log = tmp_path / "log"
    argv = [sys.executable, "-c", code, str(log), sys.executable, "-c", STUBBORN]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid, started = parent.stdout.readline().split()
        wait_for_text(log, "ready")
        assert process.is_alive(int(pid), float(started))
        parent.kill()
    deadline = time.monotonic() + 10
    while process.is_alive(int(pid), float(started)):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_kill_is_sure_and_only_for_the_one_meant(sleeper: Spawned) -> None:
    """SIGKILL reaches the very process, and no other that has its pid."""
    process.kill(Spawned(sleeper.pid, sleeper.start_time - 1))
    assert process.is_alive(sleeper.pid, sleeper.start_time)
    process.kill(sleeper)
    assert os.waitstatus_to_exitcode(os.waitpid(sleeper.pid, 0)[1]) == -signal.SIGKILL
    process.kill(sleeper)


def test_output_goes_to_the_log_and_stdin_carries_data(tmp_path: Path) -> None:
    """stdin ends after the data; stdout and stderr are appended to a private file."""
    log = tmp_path / "log"
    log.write_text("before\n")
    process.spawn_detached(["sh", "-c", "cat; echo err >&2"], log_path=log, stdin_data=b"secret\n")
    assert wait_for_text(log, "err") == "before\nsecret\nerr\n"
    process.spawn_detached(["sh", "-c", "cat; echo over"], log_path=tmp_path / "new")
    assert wait_for_text(tmp_path / "new", "over") == "over\n"
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o600


def test_env_is_laid_over_a_clean_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bootloader's variables stay behind, ours and the caller's arrive."""
    monkeypatch.setenv("_PYI_ARCHIVE_FILE", "/tmp/x")
    monkeypatch.setenv("KEPT", "1")
    process.spawn_detached(["sh", "-c", "env; echo over"], log_path=tmp_path / "log", env={"ADDED": "2"})
    lines = wait_for_text(tmp_path / "log", "over").splitlines()
    assert {"KEPT=1", "ADDED=2"} <= set(lines)
    assert not any(line.startswith("_PYI_") for line in lines)


def test_the_frozen_files_library_path_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A foreign program must find its own libraries, not ours."""
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.setenv("LD_LIBRARY_PATH", "/tmp/_MEI1")
    assert "LD_LIBRARY_PATH" not in process.clean_environment()
    monkeypatch.setenv("LD_LIBRARY_PATH_ORIG", "/opt/lib")
    assert process.clean_environment()["LD_LIBRARY_PATH"] == "/opt/lib"


def test_a_program_that_is_not_there_is_one_clear_error(tmp_path: Path) -> None:
    """No traceback for what an operator can mistype."""
    with pytest.raises(HostError, match="cannot start /no/such"):
        process.spawn_detached(["/no/such"], log_path=tmp_path / "log")


def test_start_time_names_a_living_process(sleeper: Spawned) -> None:
    """The same number as long as it lives; nothing for a pid that is free."""
    assert process.start_time(sleeper.pid) == sleeper.start_time
    assert process.is_alive(sleeper.pid, sleeper.start_time)
    assert process.start_time(0) is None
    assert process.start_time(2**22 + 1) is None


def test_a_zombie_is_dead() -> None:
    """It has ended, whether or not its parent has looked."""
    child = subprocess.Popen(["sleep", "60"])
    started = process.start_time(child.pid)
    assert started is not None
    child.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it is a zombie now, and stays one
    assert process.start_time(child.pid) is None
    assert not process.is_alive(child.pid, started)
    assert process.terminate(child.pid, started, grace_s=0) is Outcome.NOT_RUNNING
    child.wait()


def test_a_process_with_another_start_time_is_never_signalled(sleeper: Spawned) -> None:
    """The pid was given to a stranger: hands off."""
    assert process.terminate(sleeper.pid, sleeper.start_time - 1, grace_s=0) is Outcome.NOT_RUNNING
    assert process.is_alive(sleeper.pid, sleeper.start_time)


def test_terminate_asks_first_and_then_kills(tmp_path: Path, sleeper: Spawned) -> None:
    """SIGTERM suffices for most; who ignores it is killed after the grace time."""
    assert process.terminate(sleeper.pid, sleeper.start_time, grace_s=5) is Outcome.STOPPED
    assert process.terminate(sleeper.pid, sleeper.start_time, grace_s=5) is Outcome.NOT_RUNNING
    stubborn = process.spawn_detached([sys.executable, "-c", STUBBORN], log_path=tmp_path / "stubborn")
    wait_for_text(tmp_path / "stubborn", "ready")
    assert process.terminate(stubborn.pid, stubborn.start_time, grace_s=0.05) is Outcome.KILLED
    assert not process.is_alive(stubborn.pid, stubborn.start_time)


def test_without_a_pidfd_it_works_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Older kernels and other systems have no process handles."""
    monkeypatch.delattr(os, "pidfd_open", raising=False)
    spawned = process.spawn_detached(["sleep", "60"], log_path=tmp_path / "log")
    assert process.terminate(spawned.pid, spawned.start_time, grace_s=5) is Outcome.STOPPED


def test_memory_is_what_the_tightest_cgroup_leaves(tmp_path: Path) -> None:
    """Limit minus use plus reclaimable cache, of every level above us; `max` is no limit."""
    group = tmp_path / "fs" / "a" / "b"
    group.mkdir(parents=True)
    for folder, limit, usage in ((group, "max", "10"), (group.parent, "1000", "600")):
        (folder / "memory.max").write_text(limit + "\n")
        (folder / "memory.current").write_text(usage + "\n")
        (folder / "memory.stat").write_text("anon 5\ninactive_file 100\n")
    membership = tmp_path / "cgroup"
    membership.write_text("0::/a/b\n")
    assert process._cgroup_headrooms(membership, tmp_path / "fs") == [500]
    assert process.available_memory_bytes() > 0


def test_processors_are_what_the_tightest_cgroup_leaves(tmp_path: Path) -> None:
    """cpu.max of every level above us, rounded up to whole processors; `max` is no limit."""
    group = tmp_path / "fs" / "a" / "b"
    group.mkdir(parents=True)
    (group / "cpu.max").write_text("max 100000\n")
    (group.parent / "cpu.max").write_text("150000 100000\n")
    (tmp_path / "cpu.max").write_text("1000 100000\n")  # outside of what is mounted
    membership = tmp_path / "cgroup"
    membership.write_text("1:memory:/x\n0::/a/b\n")
    assert process._cgroup_processors(membership, tmp_path / "fs") == [2]
    (group.parent / "cpu.max").write_text("1000 100000\n")
    assert process._cgroup_processors(membership, tmp_path / "fs") == [1]
    assert process.processors_allowed() >= 1
