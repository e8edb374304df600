"""A policy script in a real orchestratord: its routes, its file, its state in `/health`, and its end."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from daemons import Cluster, Daemon, environment, program, until

GOOD = 'def admit(task, ctx):\n    return "closed today" if task.tenant == "nobody" else True\n'
OTHER = "def timeout(task):\n    return {'queue_s': 5}\n"
BAD = "def admit(task):\n    return True\n"


def child_of(daemon: Daemon) -> int | None:
    """The policy child of a running orchestratord."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, ValueError, IndexError):
                continue
            if b"policy-child" in words and parent == daemon.pid:
                return int(entry.name)
    return None


def hooks(daemon: Daemon) -> list[str]:
    """The hooks that a script answers now."""
    return list(daemon.get("/v2/policy").json["hooks"])


def test_without_a_script_nothing_is_said(shared_orchestratord: Daemon) -> None:
    """The built-in policy is no news: `/health` keeps its keys, no child runs."""
    assert set(shared_orchestratord.get("/health").json) == {"status", "pools", "workers", "queue_depth"}
    assert b"llorch_policy" not in shared_orchestratord.get("/metrics").body
    policy = shared_orchestratord.get("/v2/policy").json
    assert (policy["state"], policy["name"], policy["hooks"]) == ("none", None, [])
    assert child_of(shared_orchestratord) is None


def test_a_script_is_tried_without_being_used(shared_orchestratord: Daemon) -> None:
    """`POST /v2/policy/check` says what is wrong and where; nothing changes by it."""
    good = shared_orchestratord.post("/v2/policy/check", {"source": GOOD}).json
    assert good["ok"] and good["hooks"] == ["admit"] and good["tried"] > 4
    bad = shared_orchestratord.post("/v2/policy/check", {"source": BAD}).json
    assert not bad["ok"]
    assert bad["problems"] == [{"message": "this hook is called as admit(task, ctx)", "line": 1, "column": 1}]
    assert shared_orchestratord.post("/v2/policy/check", {"source": "#" * 70_000}).status == 400
    assert hooks(shared_orchestratord) == []


def test_a_deployed_script_is_kept(cluster: Cluster) -> None:
    """A deployment is in force at once and after a restart; a bad one changes nothing."""
    daemon = cluster.orchestratord()
    deployed = daemon.post("/v2/policy/deploy", {"source": GOOD})
    assert deployed.status == 200 and deployed.json["hooks"] == ["admit"]
    digest = hashlib.sha256(GOOD.encode()).hexdigest()
    assert deployed.json["sha256"] == digest
    health = daemon.get("/health").json
    assert health["policy"] == "ok"
    assert health["policy_script"] == {"name": "policy.star", "sha256": digest[:12], "hooks": ["admit"]}
    refused = daemon.post("/v2/policy/deploy", {"source": BAD})
    assert refused.status == 400 and "admit(task, ctx)" in refused.json["error"]["message"]
    assert (cluster.state / "policy.star").read_text() == GOOD
    assert [path.name for path in cluster.state.iterdir() if ".star" in path.name] == ["policy.star"]
    assert (cluster.state / "policy.star").stat().st_mode & 0o777 == 0o600
    daemon.stop()
    again = cluster.orchestratord()
    assert hooks(again) == ["admit"]


def test_a_deployed_script_can_be_taken_away(cluster: Cluster, tmp_path: Path) -> None:
    """`llorch policy deploy` and `remove`: the built-in policy is back, also after a restart; the child is gone."""
    daemon = cluster.orchestratord()
    script = tmp_path / "mine.star"
    script.write_text(GOOD)
    told = policy_words(tmp_path, "deploy", str(script), "--orchestrator", daemon.url)
    assert told.returncode == 0 and "hooks: admit" in told.stdout, told.stderr
    assert child_of(daemon) is not None
    script.write_text(BAD)
    told = policy_words(tmp_path, "deploy", str(script), "--orchestrator", daemon.url)
    assert told.returncode == 1 and "admit(task, ctx)" in told.stderr
    assert hooks(daemon) == ["admit"]
    for _ in range(2):  # the second time there is nothing to take away
        told = policy_words(tmp_path, "remove", "--orchestrator", daemon.url)
        assert (told.returncode, told.stdout) == (0, "the built-in policy answers everything\n"), told.stderr
    assert child_of(daemon) is None and "policy" not in daemon.get("/health").json
    assert daemon.post("/v2/tasks", {"prompt": "x", "model": "demo"}).status == 202
    daemon.stop()
    assert hooks(cluster.orchestratord()) == []


def policy_words(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`llorch policy WORDS`, run to its end."""
    return subprocess.run(
        [*program("policy"), *words], env=environment(home), capture_output=True, text=True, check=False, timeout=60
    )


FLEET = {
    "workers": [{"model": "demo", "slots": 1, "tokens_per_s": 50}],
    "arrivals": [
        {"tenant": "alice", "model": "demo", "per_minute": 6, "tokens_out": 100},
        {"tenant": "bob", "priority": "batch", "model": "demo", "per_minute": 30, "tokens_out": 100},
    ],
}


def test_a_script_is_simulated_over_http(shared_orchestratord: Daemon) -> None:
    """`POST /v2/policy/simulate` answers with both accounts; what is wrong with fleet or script is said as 400."""
    wanted = {"fleet": FLEET, "duration_s": 600, "seed": 3}
    one = shared_orchestratord.post("/v2/policy/simulate", {**wanted, "source": OTHER})
    assert one.status == 200 and [policy["title"] for policy in one.json["policies"]] == ["built-in", "new"]
    assert shared_orchestratord.post("/v2/policy/simulate", {**wanted, "source": OTHER}).json == one.json
    for wrong, said in (
        ({"fleet": {**FLEET, "workerz": []}}, "workers"),
        ({"fleet": FLEET, "source": BAD}, "admit(task, ctx)"),
        ({"fleet": "two machines"}, "fleet"),
        ({"fleet": FLEET, "seeds": 1}, "seed"),
    ):
        refused = shared_orchestratord.post("/v2/policy/simulate", wrong)
        assert refused.status == 400 and said in str(refused.json["error"]), refused.json
        assert "/tmp" not in str(refused.json)


def test_the_file_is_watched(cluster: Cluster, tmp_path: Path) -> None:
    """A changed file is loaded by itself and on SIGHUP; a bad one leaves the old script and shows; mending heals."""
    script = tmp_path / "my.star"
    script.write_text(GOOD)
    daemon = cluster.orchestratord("--policy", str(script))
    assert hooks(daemon) == ["admit"]
    script.write_text(OTHER)
    until(lambda: hooks(daemon) == ["timeout"], "the changed file is loaded")
    script.write_text(BAD)
    os.kill(daemon.pid, signal.SIGHUP)
    until(lambda: daemon.get("/health").json["policy"] == "degraded", "the bad file shows")
    policy = daemon.get("/v2/policy").json
    assert policy["hooks"] == ["timeout"] and "admit(task, ctx)" in policy["last_error"]
    assert daemon.log.count("the policy script stays as it was") == 1
    script.unlink()
    os.kill(daemon.pid, signal.SIGHUP)
    until(lambda: "cannot be read" in daemon.get("/v2/policy").json["last_error"], "the missing file shows")
    assert hooks(daemon) == ["timeout"]
    script.write_text(GOOD)
    until(lambda: daemon.get("/health").json["policy"] == "ok", "the mended file is loaded")
    refused = daemon.post("/v2/policy/deploy", {"source": OTHER})
    assert refused.status == 400 and "operator" in refused.json["error"]["message"]
    assert daemon.process.poll() is None


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_no_child_outlives_its_orchestratord(cluster: Cluster, end: str) -> None:
    """However orchestratord ends, the script's process ends with it."""
    daemon = cluster.orchestratord()
    daemon.post("/v2/policy/deploy", {"source": GOOD})
    pid = until(lambda: child_of(daemon), "the child runs")
    os.kill(daemon.pid, signal.SIGTERM if end == "stop" else signal.SIGKILL)
    daemon.process.wait(20)
    until(lambda: not Path(f"/proc/{pid}").exists() or is_zombie(pid), "the child is gone")


def is_zombie(pid: int) -> bool:
    """Does it only wait to be reaped?"""
    try:
        return " Z " in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True


def run(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """One command to its end."""
    argv = [*program(words[0]), *words[1:]]
    return subprocess.run(argv, env=environment(home), capture_output=True, text=True, timeout=60, check=False)


def test_a_named_script_must_be_good(tmp_path: Path) -> None:
    """orchestratord refuses to start on a script that is missing or bad, in one line with exit code 2."""
    state = ("--port", "0", "--state", str(tmp_path / "state"))
    bad = tmp_path / "bad.star"
    bad.write_text(BAD)
    for path, word in ((tmp_path / "none.star", "cannot be read"), (bad, "admit(task, ctx)")):
        ended = run(tmp_path, "orchestratord", *state, "--policy", str(path))
        assert ended.returncode == 2 and word in ended.stderr.splitlines()[-1], ended.stderr


def test_platform_mode_has_no_script(cluster: Cluster, tmp_path: Path) -> None:
    """There the policy is built in: a script is refused on the command line, over HTTP, and in the state directory."""
    ended = run(tmp_path, "orchestratord", "--mode", "platform", "--policy", "x.star")
    assert ended.returncode == 2 and "immutable" in ended.stderr
    made = run(tmp_path, "orchestratord", "keys", "--state", str(cluster.state), "create", "alice")
    headers = {"Authorization": f"Bearer {made.stdout.strip()}"}
    (cluster.state / "policy.star").write_text(GOOD)
    daemon = cluster.orchestratord("--mode", "platform")
    assert daemon.get("/v2/policy", headers=headers).json["name"] is None
    for path in ("/v2/policy/check", "/v2/policy/deploy"):
        answer = daemon.post(path, {"source": GOOD}, headers=headers)
        assert (answer.status, answer.code) == (403, "FORBIDDEN")
    assert daemon.get("/v2/policy").status == 401


def test_the_command_line_checks_and_shows(cluster: Cluster, tmp_path: Path) -> None:
    """`llorch policy check` exits 0 or 2 and names the place; `show` tells what is in force."""
    script = tmp_path / "my.star"
    script.write_text(GOOD)
    good = run(tmp_path, "policy", "check", str(script))
    assert good.returncode == 0 and "good; defines admit" in good.stdout
    script.write_text("def admit(task, ctx):\n    return task.modl\n")
    bad = run(tmp_path, "policy", "check", str(script))
    assert bad.returncode == 2 and bad.stderr.startswith(f"{script}:2:12: ") and "did you mean" in bad.stderr
    daemon = cluster.orchestratord()
    assert "built-in policy" in run(tmp_path, "policy", "show", "--orchestrator", daemon.url).stdout
    daemon.post("/v2/policy/deploy", {"source": GOOD})
    shown = run(tmp_path, "policy", "show", "--orchestrator", daemon.url)
    assert shown.stdout.startswith("policy.star (ok), sha256 ") and "hooks: admit" in shown.stdout
    assert run(tmp_path, "policy", "show", "--source", "--orchestrator", daemon.url).stdout == GOOD


def turned_away(daemon: Daemon) -> dict[str, Any]:
    """The counters of built-in answers given in place of the script's."""
    return dict(daemon.get("/v2/policy").json["counters"]["fallbacks"])


def test_a_script_answers_for_real_jobs(cluster: Cluster) -> None:
    """A job is turned away by the script's own words; when its process is killed, the built-in policy stands in."""
    daemon = cluster.orchestratord("--queue-capacity", "10")
    source = 'def admit(task, ctx):\n    return "no batch here" if task.priority == "batch" else True\n'
    assert daemon.post("/v2/policy/deploy", {"source": source}).status == 200
    answer = daemon.post("/v2/tasks", {"prompt": "x", "model": "demo", "priority": "batch"})
    assert (answer.status, answer.code) == (429, "ADMISSION_REJECTED")
    assert answer.json["error"]["message"] == "no batch here"
    assert daemon.post("/v2/tasks", {"prompt": "x", "model": "demo"}).status == 202
    os.kill(until(lambda: child_of(daemon), "the child runs"), signal.SIGKILL)
    assert daemon.post("/v2/tasks", {"prompt": "x", "model": "demo", "priority": "batch"}).status == 202
    assert turned_away(daemon) == {"admit": {"death": 1}}
    assert daemon.get("/health").json["policy"] == "degraded"
    metrics = daemon.get("/metrics").body.decode()
    assert 'llorch_policy_fallback_total{hook="admit",reason="death"} 1' in metrics
    assert 'llorch_policy_calls_total{hook="admit"} 3' in metrics
