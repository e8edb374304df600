"""Backup and restore of a running orchestratord: what was live goes on elsewhere, what is in the way is never lost."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

from daemons import Cluster, Daemon, ended, environment, program, stream, text_of, until
from fakes import expected_text
from job_bench import PROMPT, Bench

from tests.orchestratord.test_access import bearer, keys
from tests.orchestratord.test_durability import port_of


def orchestratord(cluster: Cluster, *words: str) -> subprocess.CompletedProcess[str]:
    """Run one of its commands to its end."""
    argv = [*program("orchestratord"), *words]
    return subprocess.run(argv, env=environment(cluster.home), capture_output=True, text=True, timeout=60)


def test_what_was_live_goes_on_elsewhere(cluster: Cluster, benches: Callable[[Daemon], Bench]) -> None:
    """Backed up in the middle of a stream, restored into another directory: jobs, outputs, sessions, keys, usage."""
    key = keys(cluster, "create", "me").stdout.strip()
    bench = benches(cluster.orchestratord())
    worker = bench.worker(slots=1)
    first = bench.orchestratord
    done = bench.submit(max_tokens=3)
    ended(first, done)
    first.post("/v2/sessions", {"session_id": "s", "tokens_max": 100})
    usage = first.get("/v2/usage").json["tenants"][0]["days"]
    worker.token_delay_s = 0.05
    running = bench.submit(max_tokens=40)
    until(lambda: len(first.get(f"/v2/tasks/{running}").json["text"]) > 8, "some tokens are out")
    waiting = bench.submit(max_tokens=2)
    made = orchestratord(cluster, "backup", str(cluster.home / "b.tar"), "--state", str(cluster.state))
    assert made.returncode == 0 and "3 jobs (2 live)" in made.stdout, made.stderr
    assert (cluster.home / "b.tar").stat().st_mode & 0o777 == 0o600
    assert ended(first, running)["text"] == expected_text(PROMPT, 40), "the running one has not noticed"
    port = port_of(first)
    first.kill()
    old = cluster.state.rename(cluster.home / "old")
    back = orchestratord(cluster, "restore", str(cluster.home / "b.tar"), "--state", str(cluster.state))
    assert back.returncode == 0 and "3 jobs (2 live)" in back.stdout, back.stderr
    assert (cluster.state / "worker-token").read_text() == (old / "worker-token").read_text()
    for path in cluster.state.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path
    again = cluster.orchestratord(port=port)
    assert again.get(f"/v2/tasks/{done}").json["text"] == expected_text(PROMPT, 3)
    assert again.get("/v2/sessions/s").json["tokens_max"] == 100
    for job_id, count in ((running, 40), (waiting, 2)):
        assert ended(again, job_id)["text"] == expected_text(PROMPT, count)
        with stream(again.url, "GET", f"/v2/tasks/{job_id}/events") as events:
            assert text_of(events.rest()) == expected_text(PROMPT, count)
    assert again.get("/v2/usage").json["tenants"][0]["days"][0]["jobs"] == usage[0]["jobs"] + 2
    assert again.get("/v2/tasks", headers=bearer(key)).status == 200


def test_restore_refuses_what_it_would_overwrite(cluster: Cluster) -> None:
    """A running orchestratord, a directory with something in it: one line each, nothing changed; --force sets aside."""
    daemon = cluster.orchestratord()
    daemon.post("/v2/sessions", {"session_id": "mine"})
    tar, state = str(cluster.home / "b.tar"), str(cluster.state)
    assert orchestratord(cluster, "backup", tar, "--state", state).returncode == 0
    twice = orchestratord(cluster, "backup", tar, "--state", state)
    assert twice.returncode == 2 and "exists already" in twice.stderr
    for words in (("restore", tar), ("restore", tar, "--force")):
        refused = orchestratord(cluster, *words, "--state", state)
        assert refused.returncode == 1 and daemon.url in refused.stderr and len(refused.stderr.splitlines()) == 1
    daemon.delete("/v2/sessions/mine")
    daemon.kill()
    before = sorted(path.name for path in cluster.state.iterdir())
    refused = orchestratord(cluster, "restore", tar, "--state", state)
    assert refused.returncode == 2 and "not empty" in refused.stderr and len(refused.stderr.splitlines()) == 1
    (cluster.home / "bad.tar").write_bytes((cluster.home / "b.tar").read_bytes()[:20_000])
    broken = orchestratord(cluster, "restore", str(cluster.home / "bad.tar"), "--state", state, "--force")
    assert broken.returncode == 1 and "backup" in broken.stderr and "Traceback" not in broken.stderr
    assert sorted(path.name for path in cluster.state.iterdir()) == before
    forced = orchestratord(cluster, "restore", tar, "--state", state, "--force")
    assert forced.returncode == 0, forced.stderr
    (aside,) = cluster.state.glob("before-restore-*")
    assert str(aside) in forced.stdout and (aside / "orchestratord.sqlite").is_file()
    again = orchestratord(cluster, "restore", tar, "--state", state, "--force")
    assert again.returncode == 0, again.stderr
    assert len(list(cluster.state.glob("before-restore-*"))) == 2, "another name, however soon"
    assert cluster.orchestratord().get("/v2/sessions/mine").status == 200


def test_files_that_are_no_backup_are_one_clear_line(cluster: Cluster) -> None:
    """Absent, empty, garbage; a backup of a directory without a database. Help says that prompts are inside."""
    state = str(cluster.home / "new")
    (cluster.home / "garbage").write_bytes(b"garbage" * 1000)
    (cluster.home / "empty").touch()
    for name, code in (("absent", 4), ("garbage", 1), ("empty", 1)):
        refused = orchestratord(cluster, "restore", str(cluster.home / name), "--state", state)
        assert (refused.returncode, len(refused.stderr.splitlines())) == (code, 1), refused.stderr
    nothing = orchestratord(cluster, "backup", str(cluster.home / "b.tar"), "--state", state)
    assert nothing.returncode == 4 and "no orchestratord's database" in nothing.stderr
    assert "prompts" in orchestratord(cluster, "backup", "--help").stdout


def test_a_damaged_output_is_expired_not_short(cluster: Cluster, benches: Callable[[Daemon], Bench]) -> None:
    """An ended job whose segment lost its end: 410 on its events, no text, also after another restart."""
    bench = benches(cluster.orchestratord())
    bench.worker()
    sound, cut = bench.submit(max_tokens=6), bench.submit(max_tokens=6)
    for job_id in (sound, cut):
        ended(bench.orchestratord, job_id)
    bench.orchestratord.kill()
    segment = cluster.state / "segments" / f"{cut}.frames"
    data = segment.read_bytes()
    segment.write_bytes(data[: data.index(b"id: 5\n")])
    for _ in range(2):
        daemon = cluster.orchestratord()
        gone = daemon.get(f"/v2/tasks/{cut}/events")
        assert (gone.status, gone.code) == (410, "OUTPUT_EXPIRED")
        shown = daemon.get(f"/v2/tasks/{cut}").json
        assert (shown["status"], shown["text"]) == ("completed", None)
        assert daemon.get(f"/v2/tasks/{sound}").json["text"] == expected_text(PROMPT, 6)
        daemon.kill()
