"""Keys, modes, the worker token, and refusing to listen where anybody could come in."""

from __future__ import annotations

import http.client
import shutil
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from daemons import Cluster, Daemon, call, environment, program, until
from fakes import FakeWorker
from job_bench import Bench

from llorch.orchestratord import statedir
from llorch.store.store import FILE_NAME


def keys(cluster: Cluster, *args: str) -> subprocess.CompletedProcess[str]:
    """Run `orchestratord keys …` on the cluster's state."""
    argv = [*program("orchestratord"), "keys", "--state", str(cluster.state), *args]
    return subprocess.run(argv, env=environment(cluster.home), capture_output=True, text=True, timeout=30)


def refuses(cluster: Cluster, *flags: str) -> str:
    """orchestratord does not start with these flags; its one line."""
    argv = [*program("orchestratord"), "--port", "0", "--state", str(cluster.state), *flags]
    done = subprocess.run(argv, env=environment(cluster.home), capture_output=True, text=True, timeout=30)
    assert done.returncode == 2, (done.returncode, done.stderr)
    assert len(done.stderr.splitlines()) == 1
    return done.stderr


def bearer(key: str) -> dict[str, str]:
    """The header that shows a key."""
    return {"Authorization": f"Bearer {key}"}


def test_keys_are_made_listed_and_revoked(cluster: Cluster) -> None:
    """create prints the key once; list never shows it; a name is used once; revoke takes effect."""
    made = keys(cluster, "create", "alice")
    key = made.stdout.strip()
    assert made.returncode == 0 and len(key) > 40
    assert keys(cluster, "create", "alice").returncode == 2
    listed = keys(cluster, "list").stdout
    assert "alice" in listed and key not in listed
    for path in cluster.state.iterdir():
        assert key.encode() not in path.read_bytes()
    assert keys(cluster, "revoke", "alice").returncode == 0
    assert keys(cluster, "revoke", "alice").returncode == 4


def test_the_key_command_changes_keys_and_nothing_else(cluster: Cluster) -> None:
    """While an orchestratord holds the directory its database is neither set aside nor migrated, whatever it is."""
    path = cluster.state / FILE_NAME
    lock = statedir.Lock(statedir.prepare(cluster.state))
    for content in (b"this is no database " * 400, b""):
        path.write_bytes(content)
        refused = keys(cluster, "create", "alice")
        assert refused.returncode == 1 and len(refused.stderr.splitlines()) == 1, refused.stderr
        assert path.read_bytes() == content and not list(cluster.state.glob("*.corrupt-*"))
    lock.release()
    assert keys(cluster, "create", "alice").returncode == 0
    daemon = cluster.orchestratord("--mode", "lab")
    bob = keys(cluster, "create", "bob").stdout.strip()
    until(lambda: daemon.get("/v2/tasks", headers=bearer(bob)).status == 200, "bob is known")
    daemon.kill()
    listed = keys(cluster, "list").stdout
    assert "alice" in listed and "bob" in listed


def test_the_state_directory_may_be_named_after_the_word(cluster: Cluster) -> None:
    """`keys create X --state D` is `keys --state D create X`; a mistyped option is told with what was meant."""
    program_keys = [*program("orchestratord"), "keys"]

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        env = environment(cluster.home)
        return subprocess.run([*program_keys, *words], env=env, capture_output=True, text=True, timeout=60, check=False)

    assert run("create", "late", "--state", str(cluster.state)).returncode == 0
    assert "late" in keys(cluster, "list").stdout and "late" in run("list", "--state", str(cluster.state)).stdout
    assert run("revoke", "--state", str(cluster.state), "late").returncode == 0
    wrong = run("create", "x", "--tenent", "a")
    assert wrong.returncode == 2 and "did you mean '--tenant'" in wrong.stderr


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (("backup", "f", "--stat", "d"), "--state"),
        (("restore", "f", "--farce"), "--force"),
        (("--queue-capasity", "3"), "--queue-capacity"),
        (("keys", "creat", "d"), "create"),
    ],
)
def test_mistyped_options_are_told_with_what_was_meant(cluster: Cluster, words: tuple[str, ...], meant: str) -> None:
    """One line, exit 2, nothing done."""
    argv = [*program("orchestratord"), *words]
    done = subprocess.run(argv, env=environment(cluster.home), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert f"did you mean '{meant}'" in done.stderr and not cluster.state.exists()


def test_lab_mode_needs_keys_and_isolates_tenants(cluster: Cluster) -> None:
    """No key: 401 everywhere but on health; another tenant's job is a 404; a revoked key is shut out while running."""
    alice, bob = (keys(cluster, "create", name).stdout.strip() for name in ("alice", "bob"))
    daemon = cluster.orchestratord("--mode", "lab")
    assert daemon.get("/health").status == daemon.get("/metrics").status == 200
    for headers in ({}, bearer("llorch-wrong"), {"Authorization": alice}, {"x-api-key": alice + "x"}):
        answer = daemon.post("/v2/tasks", {"prompt": "x"}, headers=headers)
        assert (answer.status, answer.code) == (401, "UNAUTHORIZED")
    job_id = daemon.post("/v2/tasks", {"prompt": "x"}, headers=bearer(alice)).json["job_id"]
    assert daemon.get(f"/v2/tasks/{job_id}", headers={"x-api-key": alice}).status == 200
    assert daemon.get(f"/v2/tasks/{job_id}", headers=bearer(bob)).code == "JOB_NOT_FOUND"
    assert daemon.get("/v2/tasks", headers=bearer(bob)).json["tasks"] == []
    assert [task["job_id"] for task in daemon.get("/v2/tasks", headers=bearer(alice)).json["tasks"]] == [job_id]
    carol = keys(cluster, "create", "carol").stdout.strip()
    keys(cluster, "revoke", "bob")
    until(lambda: daemon.get("/v2/tasks", headers=bearer(carol)).status == 200, "a new key counts")
    until(lambda: daemon.get("/v2/tasks", headers=bearer(bob)).status == 401, "a revoked key does not")


def test_open_doors_are_refused(cluster: Cluster) -> None:
    """Beyond loopback without a key, or lab mode without one: one line with the way out, exit 2."""
    assert "keys create" in refuses(cluster, "--bind", "0.0.0.0")
    assert "keys create" in refuses(cluster, "--mode", "lab")
    assert "--insecure-lan" in refuses(cluster, "--mode", "platform", "--insecure-lan")
    assert "did you mean" in refuses(cluster, "--mode", "hom")


def test_insecure_lan_is_loud(cluster: Cluster) -> None:
    """--insecure-lan listens anywhere, and says so."""
    daemon = cluster.orchestratord("--bind", "0.0.0.0", "--insecure-lan")
    assert "ANYBODY" in daemon.log
    assert daemon.post("/v2/tasks", {"prompt": "x"}).status == 202


def test_a_key_allows_to_bind_anywhere(cluster: Cluster) -> None:
    """With a key in the store the LAN may come in; loopback still needs none in home mode."""
    keys(cluster, "create", "me")
    daemon = cluster.orchestratord("--bind", "0.0.0.0")
    assert daemon.get("/v2/tasks").status == 200


def test_lab_mode_wants_the_worker_token(cluster: Cluster) -> None:
    """Announcements and heartbeats need the worker token; a client key is not one. Attempts carry it back."""
    key = keys(cluster, "create", "me").stdout.strip()
    daemon = cluster.orchestratord("--mode", "lab")
    token = (cluster.state / "worker-token").read_text().strip()
    stranger, friend = FakeWorker(worker_id="w1", token=key), FakeWorker(worker_id="w2", token=token)
    stranger.start(daemon.url)
    friend.start(daemon.url)
    try:
        until(lambda: stranger.announced and friend.announced, "both have announced")
        assert stranger.announced[0] == 401 and friend.announced[0] == 200
        body = {"prompt": "x", "max_tokens": 1, "wait": True}
        assert daemon.post("/v2/tasks", body, headers=bearer(key)).status == 200
        assert friend.executions[0].headers["authorization"] == f"Bearer {token}"
    finally:
        stranger.stop()
        friend.stop()


def test_a_key_counts_from_the_first_moment(cluster: Cluster) -> None:
    """Of many requests that come at once right after the start none is refused for want of keys."""
    key = keys(cluster, "create", "me").stdout.strip()
    daemon = cluster.orchestratord("--mode", "lab")
    gate = threading.Barrier(16)

    def ask(_: int) -> int:
        gate.wait(20)
        return daemon.get("/v2/tasks", headers=bearer(key)).status

    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(ask, range(16))) == {200}


def announce(daemon: Daemon, worker: FakeWorker, url: str, token: str | None) -> int:
    """Announce a worker's id at some URL, with or without the token."""
    body = worker.announcement().to_body() | {"url": url}
    return daemon.post("/v2/workers/ready", body, headers=bearer(token) if token else {}).status


def test_the_token_goes_to_the_address_that_showed_it(cluster: Cluster) -> None:
    """Somebody who announces a lost worker's id at another address is not vouched for by the old one's heartbeat."""
    daemon = cluster.orchestratord()
    token = (cluster.state / "worker-token").read_text().strip()
    true, thief = FakeWorker(worker_id="w1"), FakeWorker(worker_id="w1")
    true.start()
    thief.start()
    try:
        assert announce(daemon, true, true.url, token) == 200
        until(lambda: daemon.get("/v2/workers/w1").json["state"] == "lost", "the lease is over")
        assert announce(daemon, thief, thief.url, None) == 200
        beat = daemon.post("/v2/workers/w1/heartbeat", {}, headers=bearer(token))
        assert (beat.status, beat.code) == (404, "WORKER_NOT_FOUND")
        body = {"prompt": "x", "max_tokens": 1, "wait": True}
        assert daemon.post("/v2/tasks", body).status == 200
        assert len(thief.executions) == 1 and "authorization" not in thief.executions[0].headers
        assert announce(daemon, thief, thief.url, token) == 200
        assert daemon.post("/v2/tasks", body).status == 200
        assert thief.executions[1].headers["authorization"] == f"Bearer {token}"
    finally:
        true.stop()
        thief.stop()


def test_a_job_that_waits_reaches_a_new_worker_with_the_token(cluster: Cluster) -> None:
    """A worker is vouched for before the jobs that wait for it are sent."""
    key = keys(cluster, "create", "me").stdout.strip()
    daemon = cluster.orchestratord("--mode", "lab")
    token = (cluster.state / "worker-token").read_text().strip()
    job_id = daemon.post("/v2/tasks", {"prompt": "x", "max_tokens": 1}, headers=bearer(key)).json["job_id"]
    friend = FakeWorker(worker_id="w1", token=token).start(daemon.url)
    try:
        until(lambda: friend.executions, f"{job_id} was sent")
        assert friend.executions[0].headers["authorization"] == f"Bearer {token}"
    finally:
        friend.stop()


def test_a_live_worker_does_not_register_its_host(cluster: Cluster) -> None:
    """A host counts as registered by POST /v2/pools alone: a worker's presence opens it to nobody else."""
    key = keys(cluster, "create", "me").stdout.strip()
    daemon = cluster.orchestratord("--mode", "lab")
    token = (cluster.state / "worker-token").read_text().strip()
    host = {"id": "gpu.home.arpa"}
    url = f"http://{host['id']}:8001"
    worker = FakeWorker(worker_id="w1")
    assert daemon.post("/v2/pools", host, headers=bearer(key)).status == 201
    assert announce(daemon, worker, url, token) == 200
    assert daemon.delete(f"/v2/pools/{host['id']}", headers=bearer(key)).status == 200
    assert host["id"] in [pool["id"] for pool in daemon.get("/v2/pools", headers=bearer(key)).json["pools"]]
    assert announce(daemon, FakeWorker(worker_id="w2"), url, token) == 400
    assert daemon.post("/v2/workers", {"url": url}, headers=bearer(key)).status == 400


def test_the_token_goes_only_to_those_who_showed_it(bench: Bench) -> None:
    """In home mode a loopback worker announces without the token, and is not given it either."""
    worker = bench.worker()
    bench.orchestratord.post("/v2/tasks", bench.body(max_tokens=1, wait=True))
    assert "authorization" not in worker.executions[0].headers


@pytest.mark.parametrize("url", ["http://169.254.169.254:80", "http://10.1.2.3:8001", "http://example.org:8001"])
def test_announcements_name_their_own_address(bench: Bench, url: str) -> None:
    """A worker URL elsewhere is refused, by announcement and by an operator, until the host is registered."""
    body = FakeWorker(worker_id=f"{bench.model}-1", model=bench.model).announcement().to_body() | {"url": url}
    daemon = bench.orchestratord
    assert daemon.post("/v2/workers/ready", body).status == 400
    assert daemon.post("/v2/workers", {"url": url}).status == 400
    host = url.split("/")[2].split(":")[0]
    assert daemon.post("/v2/pools", {"id": host}).status == 201
    assert daemon.post("/v2/workers/ready", body).status == 200
    assert daemon.delete(f"/v2/workers/{bench.model}-1").status == 200
    assert daemon.delete(f"/v2/pools/{host}").status == 200


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_tls_by_flags(cluster: Cluster) -> None:
    """With a certificate the port speaks TLS, and plain HTTP no more; a bad file is one clear line."""
    cert, key = str(cluster.home / "cert.pem"), str(cluster.home / "key.pem")
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "1"]
    subprocess.run([*make, "-keyout", key, "-out", cert], check=True, capture_output=True)
    daemon = cluster.orchestratord("--tls-cert", cert, "--tls-key", key)
    assert daemon.url.startswith("https://") and daemon.get("/health").status == 200
    with pytest.raises((OSError, http.client.HTTPException)):
        call(daemon.url.replace("https", "http"), "GET", "/health", timeout_s=5)
    daemon.stop()
    assert "TLS" in refuses(cluster, "--tls-cert", key, "--tls-key", key)
    assert "go together" in refuses(cluster, "--tls-cert", cert)


def test_unknown_settings_are_refused(cluster: Cluster) -> None:
    """A misspelt key of llorch.toml stops the start with a suggestion."""
    config = cluster.home / "llorch.toml"
    config.write_text("[orchestratord]\nprot = 1\n")
    assert "did you mean 'port'" in refuses(cluster, "--config", str(config))


def test_benches_are_separate(benches: Callable[[Daemon], Bench], shared_orchestratord: Daemon) -> None:
    """The tests' own tool: two benches on one orchestratord have different models."""
    assert benches(shared_orchestratord).model != benches(shared_orchestratord).model
