"""`llorch policy replay` and `simulate`: a journal or a described fleet under two policies, compared in one table."""

from __future__ import annotations

import asyncio
import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from daemons import Cluster, ended
from job_bench import Bench

from llorch.base.errors import ConfigError, LlorchError, UsageError
from llorch.base.ids import JobId, ModelId, PoolId, SessionId, TenantId, WorkerId
from llorch.core.effects import PoolRecord, Record
from llorch.core.job import Ending, FailureKind, JobRecord, JobSpec, JobState, Priority, Result, Wishes
from llorch.core.worker import Load, WorkerRecord, WorkerSpec, WorkerState
from llorch.orchestratord import policy_cli, replaying
from llorch.orchestratord.comparison import moment
from llorch.orchestratord.fleet_file import EXAMPLE, parse_fleet
from llorch.store.journal import Journal, read_journal
from llorch.store.store import FILE_NAME, Store

DEMO = ModelId("demo")
# 2026-05-04 was a Monday.
NOON = 1_777_896_000.0
BOB_FIRST = 'def prioritize(task, ctx):\n    return 0.0 if task.tenant == "bob" else 1000.0\n'
STUMBLES = 'def prioritize(task, ctx):\n    return {}["x"] if task.job_id in ("past-1", "past-3") else 0\n'
NOT_BOB = 'def admit(task, ctx):\n    return "not today" if task.tenant == "bob" else True\n'


def job(number: int, accepted_at: float, waited_s: float, tokens_out: int = 11, **changes: Any) -> JobRecord:
    """A completed job: half a second to its first token, then ten tokens a second."""
    fields = {name: changes.pop(name) for name in ("worker_id", "state", "attempts") if name in changes}
    spec = JobSpec(JobId(f"past-{number}"), b"", "00", 100, 1, model=DEMO, max_tokens=500)
    dispatched_at = accepted_at + waited_s
    first_at = dispatched_at + 0.5
    state = fields.get("state", JobState.COMPLETED)
    ended_at = first_at + (tokens_out - 1) / 10
    return JobRecord(
        replace(spec, **changes),
        state,
        accepted_at,
        number,
        fields.get("attempts", 1),
        fields.get("worker_id", WorkerId("w1")),
        DEMO,
        accepted_at,
        dispatched_at,
        dispatched_at,
        first_at,
        ended_at,
        ending=Ending(state, Result("EOS", tokens_out, 30, round((tokens_out - 1) * 100), 500)),
    )


def worker(name: str = "w1", state: WorkerState = WorkerState.READY, announced_at: float = NOON - 60) -> WorkerRecord:
    """A worker of the demo model with one slot."""
    spec = WorkerSpec(WorkerId(name), f"http://{name}", DEMO, "cpu", PoolId("attic"), 1, 4096, 0, "1", 1)
    return WorkerRecord(spec, state, announced_at, NOON, Load())


def yesterday() -> list[JobRecord]:
    """Alice's four jobs and bob's one came at once to one slot of 1.5 s a job, and bob's was the last."""
    return [
        job(
            number,
            NOON + number / 1000,
            1.5 * number - number / 1000,
            tenant=TenantId("bob" if number == 4 else "alice"),
        )
        for number in range(5)
    ]


def store_journal(folder: Path, *records: Record) -> Path:
    """A database with these records, as orchestratord would have written it."""

    async def write() -> None:
        await store.commit(records)

    store = Store(folder / FILE_NAME)
    asyncio.run(write())
    store.close()
    return folder / FILE_NAME


def run(*words: str) -> int:
    """The exit code of `llorch policy WORDS`. Raises LlorchError."""
    return policy_cli.main(list(words), prog="llorch policy")


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No llorch.toml of whoever runs the tests."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "no-config"))


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """Yesterday's journal."""
    return store_journal(tmp_path, worker(), PoolRecord(PoolId("attic"), True), *yesterday())


def script(tmp_path: Path, source: str) -> str:
    """A policy script's path."""
    path = tmp_path / "new.star"
    path.write_text(source)
    return str(path)


def groups(printed: str, title: str) -> dict[tuple[str | None, str | None], dict[str, Any]]:
    """The figures of one policy, by class and tenant."""
    [policy] = [policy for policy in json.loads(printed)["policies"] if policy["title"] == title]
    return {(group["priority"], group["tenant"]): group for group in policy["groups"]}


def test_a_replay_under_the_built_in_policy_is_what_was(journal: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The recorded waits and those of the built-in policy are the same."""
    assert run("replay", "--journal", str(journal), "--json") == 0
    printed = capsys.readouterr().out
    recorded, old = groups(printed, "recorded"), groups(printed, "old")
    assert old.keys() == recorded.keys()
    for name, group in old.items():
        assert group["wait_s"] == pytest.approx(recorded[name]["wait_s"], abs=0.001)
        assert group["ttft_s"] == pytest.approx(recorded[name]["ttft_s"], abs=0.001)
        assert group["tokens_out"] == recorded[name]["tokens_out"]
    assert old["interactive", "bob"]["wait_s"]["max"] == pytest.approx(5.996, abs=0.001)


def test_a_script_changes_who_waits(journal: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Bob first: his job is the second to run; alice's last one waits instead."""
    assert run("replay", "--journal", str(journal), "--policy", script(tmp_path, BOB_FIRST), "--json") == 0
    new = groups(capsys.readouterr().out, "new")
    assert new["interactive", "bob"]["wait_s"]["max"] == pytest.approx(1.496, abs=0.001)
    assert new["interactive", "alice"]["wait_s"]["max"] == pytest.approx(5.997, abs=0.001)


def test_a_replay_prints_a_table(journal: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A row for each policy per class and tenant, why jobs were refused, and one line of key=value."""
    assert run("replay", "--journal", str(journal), "--policy", script(tmp_path, NOT_BOB)) == 0
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert lines[0].split()[:5] == ["CLASS", "TENANT", "POLICY", "JOBS", "DONE"]
    assert [line.split()[:2] for line in lines[1:5]] == [
        ["interactive", "all"],
        ["old", "5"],
        ["new", "5"],
        ["interactive", "alice"],
    ]
    assert "new: refused: ADMISSION_REJECTED 1" in lines
    assert lines[-1].startswith("jobs=5 recorded_wait_p50_s=2.998 ")
    assert "new_refused=1 new_fallbacks=0" in lines[-1]
    assert said.err == ""


def test_an_old_script_can_be_compared_with(journal: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--old takes the place of the built-in policy."""
    path = script(tmp_path, BOB_FIRST)
    assert run("replay", "--journal", str(journal), "--old", path, "--json") == 0
    printed = capsys.readouterr().out
    assert groups(printed, "old")["interactive", "bob"]["wait_s"]["max"] == pytest.approx(1.496, abs=0.001)
    assert groups(printed, "new")["interactive", "bob"]["wait_s"]["max"] == pytest.approx(5.996, abs=0.001)


def test_a_script_that_fails_falls_back(journal: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The built-in answer stands in, and the fallbacks are counted by hook and reason."""
    assert run("replay", "--journal", str(journal), "--policy", script(tmp_path, STUMBLES), "--json") == 0
    [policy] = [p for p in json.loads(capsys.readouterr().out)["policies"] if p["title"] == "new"]
    assert policy["policy_use"] == {"asked": {"prioritize": 5}, "fallbacks": {"prioritize: error": 2}}


def test_only_the_jobs_of_a_time(journal: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--since and --until in Unix seconds; nothing in it is said in one line."""
    since, until = str(NOON + 0.0005), str(NOON + 0.0025)
    assert run("replay", "--journal", str(journal), "--since", since, "--until", until, "--json") == 0
    assert json.loads(capsys.readouterr().out)["jobs"] == 2
    with pytest.raises(ConfigError, match="holds no job of that time"):
        run("replay", "--journal", str(journal), "--since", "1s")


def test_tenants_have_the_limits_of_the_config(
    journal: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """--config names the llorch.toml: of three jobs at once one runs and one waits."""
    toml = tmp_path / "llorch.toml"
    toml.write_text("[tenants.alice]\nrunning_max = 1\nqueued_max = 1\n")
    assert run("replay", "--journal", str(journal), "--config", str(toml), "--json") == 0
    old = groups(capsys.readouterr().out, "old")["interactive", "alice"]
    assert old["outcomes"]["completed"] == 2
    assert sum(old["refused"].values()) == 2


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("24h", 1_000_000 - 86_400),
        ("1.5m", 1_000_000 - 90),
        ("7d", 1_000_000 - 604_800),
        ("12345", 12345.0),
        ("2026-05-04T12:00:00Z", NOON),
        ("2026-05-04T14:00:00+02:00", NOON),
    ],
)
def test_a_time_can_be_said_in_three_ways(text: str, at: float) -> None:
    """How long ago, Unix seconds, or ISO 8601."""
    assert moment(text, 1_000_000.0, "--since") == at


@pytest.mark.parametrize("text", ["yesterday", "", "24 h", "-5", "2026-13-01"])
def test_a_time_that_is_none_is_refused(text: str) -> None:
    """One line that names the flag and the ways."""
    with pytest.raises(UsageError, match=r"--since .*: expected 24h"):
        moment(text, 1_000_000.0, "--since")


def test_a_journal_that_is_none_is_refused(tmp_path: Path) -> None:
    """A missing file, one that is no database, and a bad script: one clear line each."""
    with pytest.raises(ConfigError, match="there is no journal at"):
        run("replay", "--journal", str(tmp_path))
    (tmp_path / "text.sqlite").write_text("hello, this is no database at all " * 100)
    with pytest.raises(LlorchError, match=r"text\.sqlite cannot be read: file is not a database"):
        run("replay", "--journal", str(tmp_path / "text.sqlite"))


def test_a_bad_script_is_refused(journal: Path, tmp_path: Path) -> None:
    """With its line; a missing file by its name."""
    with pytest.raises(ConfigError, match=r"policy script new\.star:\d: "):
        run("replay", "--journal", str(journal), "--policy", script(tmp_path, "def admit(task, ctx):\n    return (\n"))
    with pytest.raises(ConfigError, match=r"nowhere\.star cannot be read: No such file"):
        run("replay", "--journal", str(journal), "--policy", "nowhere.star")


def test_the_journal_is_only_read(journal: Path) -> None:
    """Beside a daemon that writes: the jobs are there at once, and the file is as it was."""
    store = Store(journal)

    async def write() -> None:
        await store.commit([job(9, NOON + 9, 0.0)])

    asyncio.run(write())
    assert len(read_journal(journal, 0.0, NOON * 2).jobs) == 6
    with pytest.raises(ConfigError, match="more than 3 jobs"):
        read_journal(journal, 0.0, NOON * 2, jobs_max=3)
    store.close()
    before = journal.read_bytes()
    os.chmod(journal, 0o400)
    assert len(read_journal(journal.parent, 0.0, NOON * 2).jobs) == 6
    assert journal.read_bytes() == before


def test_workers_that_are_gone_are_guessed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A worker that is known no more had as many slots as jobs at once; it goes when others of its model take over."""
    jobs = [job(n, NOON + n / 1000, 0.0, worker_id=WorkerId("old")) for n in range(3)]
    jobs.append(job(3, NOON + 100, 0.0))
    cast = replaying.cast_of(Journal(tuple(jobs), (worker(),), ()))
    assert cast.guessed == ("old",)
    [known, old] = cast.workers
    assert (old.spec.slots_total, known.spec.slots_total) == (3, 1)
    assert old.up_at == NOON
    assert old.down_at == pytest.approx(NOON + 1.502)
    assert known.down_at is None
    store_journal(tmp_path, worker(), *jobs)
    assert run("replay", "--journal", str(tmp_path), "--json") == 0
    said = capsys.readouterr()
    assert groups(said.out, "old")[None, None]["wait_s"]["max"] == 0.0
    assert "guessed from their jobs: old" in said.err


def test_jobs_that_did_not_complete_come_as_they_were() -> None:
    """Who was cancelled gives up as late; what a worker rejected is rejected again; verdicts of the brain are not."""
    cancelled = job(1, NOON, 0.0, tokens_out=6, state=JobState.CANCELLED)
    rejected = replace(
        job(2, NOON, 0.0), state=JobState.FAILED, ending=Ending(JobState.FAILED, None, "INVALID_REQUEST", "no")
    )
    expired = replace(
        job(3, NOON, 0.0), state=JobState.FAILED, ending=Ending(JobState.FAILED, None, "QUEUE_TIMEOUT", "late")
    )
    first, second, third, whole = replaying.arrivals_of(
        [cancelled, rejected, expired, job(4, NOON, 0.0, tokens_out=21)]
    )
    assert first.cancel_after_s == pytest.approx(1.0)
    assert (first.tokens_out, first.measured) == (21, None)
    assert second.failure is not None
    assert second.failure.kind is FailureKind.REJECTED
    assert (third.failure, third.cancel_after_s, third.measured) == (None, None, None)
    assert whole.measured is not None
    assert (whole.measured.ttft_s, whole.measured.decode_s) == pytest.approx((0.5, 2.0), abs=1e-6)


def test_pinned_jobs_find_their_worker() -> None:
    """A worker that only a pinned job tells of is there when the job arrives, in the pool that it was pinned to."""
    pinned = job(1, NOON, 3.0, worker_id=WorkerId("gone"), wishes=Wishes(pin_pool="cellar"))
    [only] = replaying.cast_of(Journal((pinned,), (), ())).workers
    assert (only.up_at, only.spec.pool, only.down_at) == (NOON, "cellar", None)


def test_recorded_sessions_are_followed() -> None:
    """Kept and moved are counted in the order of dispatch."""
    session = {"session_id": SessionId("s")}
    jobs = [job(n, NOON + 5 * n, 0.0, worker_id=WorkerId(name), **session) for n, name in enumerate(("a", "a", "b"))]
    assert [fate.session_kept for fate in replaying.fates_of(jobs)] == [None, True, False]


def test_a_simulation_is_the_same_for_the_same_seed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Everything printed is; another seed draws other jobs."""
    fleet = tmp_path / "fleet.toml"
    fleet.write_text(EXAMPLE)
    printed = []
    for seed in ("1", "1", "2"):
        assert run("simulate", "--fleet", str(fleet), "--duration-s", "120", "--seed", seed, "--json") == 0
        printed.append(json.loads(capsys.readouterr().out))
    assert printed[0] == printed[1]
    assert printed[0]["policies"] != printed[2]["policies"]


def test_a_simulation_compares_a_script(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Bob is kept out, and the table says so."""
    fleet = tmp_path / "fleet.toml"
    fleet.write_text(EXAMPLE)
    words = ("simulate", "--fleet", str(fleet), "--duration-s", "60", "--policy", script(tmp_path, NOT_BOB))
    assert run(*words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:7:2]] == ["interactive", "batch", "all"]
    assert lines[4].split()[2:4] == ["0", lines[4].split()[1]], "all of bob's are refused"
    assert "built-in_wait_p95_s=" in lines[-1]


def test_the_hour_can_be_chosen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Scripts are told the time of --start, and of a Monday at midnight without it."""
    fleet = tmp_path / "fleet.toml"
    fleet.write_text(EXAMPLE)
    path = script(tmp_path, "def admit(task, ctx):\n    return task.hour == 3 and task.weekday == 4\n")
    common = ("simulate", "--fleet", str(fleet), "--duration-s", "60", "--policy", path, "--json")
    assert run(*common) == 0
    assert groups(capsys.readouterr().out, "new")[None, None]["outcomes"]["completed"] == 0
    assert run(*common, "--start", "2024-01-05T03:00") == 0
    assert groups(capsys.readouterr().out, "new")[None, None]["outcomes"]["refused"] == 0


def test_the_example_can_be_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """--example prints a fleet file that works."""
    assert run("simulate", "--example") == 0
    assert capsys.readouterr().out == EXAMPLE
    with pytest.raises(UsageError, match="--example prints one"):
        run("simulate")


WORKERS = [{"model": "demo", "tokens_per_s": 10}]
ARRIVALS = [{"model": "demo", "per_minute": 5, "tokens_out": 10}]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"workers": WORKERS}, r"at least one \[\[arrivals\]\] table"),
        ({"worker": WORKERS, "arrivals": ARRIVALS}, r"unknown key 'worker' \(did you mean 'workers'\?\)"),
        ({"workers": [{"model": "demo"}], "arrivals": ARRIVALS}, r"workers 1: 'tokens_per_s' is missing"),
        ({"workers": [{**WORKERS[0], "slot": 2}], "arrivals": ARRIVALS}, r"did you mean 'slots'"),
        ({"workers": [{**WORKERS[0], "slots": 0}], "arrivals": ARRIVALS}, r"slots: expected a whole number from 1"),
        ({"workers": [{**WORKERS[0], "ttft_ms": "fast"}], "arrivals": ARRIVALS}, r"ttft_ms: expected a number"),
        ({"workers": [{**WORKERS[0], "pool": "a b"}], "arrivals": ARRIVALS}, r"pool: expected a name, not 'a b'"),
        ({"workers": WORKERS, "arrivals": [{**ARRIVALS[0], "priority": "bach"}]}, r"did you mean 'batch'"),
        ({"workers": WORKERS, "arrivals": [{**ARRIVALS[0], "model": "demos"}]}, r"no worker serves the model 'demos'"),
        ({"workers": WORKERS, "arrivals": [{**ARRIVALS[0], "per_minute": True}]}, r"per_minute: expected a number"),
        ({"workers": "two", "arrivals": ARRIVALS}, r"at least one \[\[workers\]\] table"),
        ({"workers": [{**WORKERS[0], "count": 9_999}] * 2, "arrivals": ARRIVALS}, r"at most 10000 can be simulated"),
        ({"workers": [{**WORKERS[0], "count": 10_000}] * 9_999, "arrivals": ARRIVALS}, r"99990000 workers; at most"),
    ],
)
def test_a_bad_fleet_file_is_refused(data: dict[str, Any], message: str) -> None:
    """One line that says where and what, with what was probably meant."""
    with pytest.raises(ConfigError, match=rf"^fleet\.toml: .*{message}") as caught:
        parse_fleet(data, "fleet.toml")
    assert "\n" not in caught.value.message


def test_arrivals_have_the_rates_of_the_file() -> None:
    """Poisson at the stated rate, lengths with the stated mean, sessions spread; too many are refused."""
    stream = {**ARRIVALS[0], "per_minute": 60, "tokens_out": 100, "sessions": 4, "priority": "batch"}
    fleet = parse_fleet({"workers": WORKERS, "arrivals": [stream]}, "fleet.toml")
    drawn = fleet.arrivals(3, NOON, 4000.0)
    assert len(drawn) == pytest.approx(4000, rel=0.06)
    assert sum(arrival.tokens_out for arrival in drawn) / len(drawn) == pytest.approx(98, rel=0.08)
    assert len({arrival.spec.session_id for arrival in drawn}) == 4
    assert {arrival.spec.priority for arrival in drawn} == {Priority.BATCH}
    assert all(NOON <= arrival.at < NOON + 4000.0 for arrival in drawn)
    with pytest.raises(ConfigError, match="at most 1000000"):
        fleet.arrivals(3, NOON, 1e8)


def test_a_running_orchestratord_can_be_replayed(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    """Beside the daemon: what it did with real jobs comes out again."""
    orchestratord = cluster.orchestratord()
    bench = Bench(orchestratord)
    try:
        bench.worker(slots=1, token_delay_s=0.02)
        names = [bench.submit(max_tokens=20) for _ in range(4)]
        for name in names:
            ended(orchestratord, name)
        assert run("replay", "--journal", str(cluster.state), "--json") == 0
    finally:
        bench.close()
    printed = capsys.readouterr().out
    recorded, old = groups(printed, "recorded")[None, None], groups(printed, "old")[None, None]
    assert recorded["outcomes"] == old["outcomes"]
    assert recorded["tokens_out"] == old["tokens_out"] == 80
    assert old["wait_s"]["max"] == pytest.approx(recorded["wait_s"]["max"], rel=0.2)


PAGE = Path(__file__).resolve().parents[2] / "spec" / "policy.md"
RECIPES = dict(re.findall(r"^### ([^\n]+)\n.*?^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL))


@pytest.mark.parametrize("name", RECIPES)
def test_the_cookbook_can_be_tried(
    name: str, journal: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every recipe replays and simulates without a fallback, and no job is lost."""
    path = script(tmp_path, RECIPES[name])
    fleet = tmp_path / "fleet.toml"
    fleet.write_text(EXAMPLE)
    for words in (("replay", "--journal", str(journal)), ("simulate", "--fleet", str(fleet), "--duration-s", "30")):
        assert run(*words, "--policy", path, "--json") == 0
        said = json.loads(capsys.readouterr().out)
        new = said["policies"][-1]
        assert new["policy_use"]["fallbacks"] == {}
        [everything] = [group for group in new["groups"] if group["priority"] is None]
        assert sum(everything["outcomes"].values()) == said["jobs"]
