"""`models download` against a hub on loopback that cuts, lies, refuses and waits."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest

from tests.pool.hub import Hub, Repository
from tests.pool.pools import REPO, Pool

WANTED = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer.model"}


def entry(pool: Pool, model_id: str = "qwen-0.5b") -> dict[str, object]:
    models = pool.ok("models", "catalog", "--json").json()["models"]
    return next(model for model in models if model["id"] == model_id)


def model_dir(pool: Pool) -> Path:
    return pool.home / "models" / "qwen-0.5b"


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_a_built_in_model_is_downloaded_without_registering(pool: Pool, hub: Hub, model_files: Path) -> None:
    """Weights, JSON and tokenizer only; pinned to the commit, with size and checksums in the catalog."""
    pool.ok("models", "download", "qwen-0.5b")
    assert names(model_dir(pool)) == WANTED
    known = entry(pool)
    assert known["downloaded"] is True
    assert known["revision"] == hub.repositories[REPO].commit()
    assert known["size_bytes"] == sum((model_files / name).stat().st_size for name in WANTED)
    weights = next(file for file in known["files"] if file["path"] == "model.safetensors")  # type: ignore[attr-defined]
    assert weights["sha256"] == hashlib.sha256((model_files / "model.safetensors").read_bytes()).hexdigest()


def test_a_cut_connection_is_resumed_where_it_broke(pool: Pool, hub: Hub, model_files: Path) -> None:
    """After a cut the next request asks for the rest only, and no byte is sent twice."""
    hub.cut_after_bytes, hub.cuts = 100_000, 2
    ran = pool.ok("models", "download", "qwen-0.5b")
    assert "connection lost" in ran.err
    ranges = [wanted for path, wanted in hub.file_requests() if path.endswith("model.safetensors")]
    assert ranges == [None, "bytes=100000-", "bytes=200000-"]
    assert hub.file_bytes == sum((model_files / name).stat().st_size for name in WANTED)
    pool.ok("models", "verify", "qwen-0.5b")


def test_ctrl_c_leaves_a_state_that_the_same_command_completes(pool: Pool, hub: Hub) -> None:
    """Interrupted half-way: exit 130, the catalog says not downloaded; run again, only the rest is fetched."""
    hub.hold = threading.Event()
    process = pool.popen("models", "download", "qwen-0.5b")
    deadline = time.monotonic() + 30
    while not _partial_bytes(pool):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    hub.hold.set()
    hub.hold = None
    assert entry(pool)["downloaded"] is False
    half = _partial_bytes(pool)
    hub.requests.clear()
    pool.ok("models", "download", "qwen-0.5b")
    assert (
        f"/{REPO}/resolve/{hub.repositories[REPO].commit()}/model.safetensors",
        f"bytes={half}-",
    ) in hub.file_requests()
    assert names(model_dir(pool)) == WANTED


def _partial_bytes(pool: Pool) -> int:
    found = list((model_dir(pool) / ".partial").glob("model.safetensors.*"))
    return found[0].stat().st_size if found else 0


def test_wrong_bytes_are_fetched_again(pool: Pool, hub: Hub) -> None:
    """A body that does not match its checksum is thrown away once; the second one counts."""
    hub.corrupt = 1
    assert "wrong checksum" in pool.ok("models", "download", "qwen-0.5b").err
    pool.ok("models", "verify", "qwen-0.5b")


def test_a_hub_that_keeps_lying_is_an_error(pool: Pool, hub: Hub) -> None:
    """Wrong bytes twice: exit 1, nothing is published, the catalog says not downloaded."""
    hub.corrupt = 1000
    ran = pool.run("models", "download", "qwen-0.5b")
    assert ran.code == 1
    assert "checksum" in ran.err
    assert entry(pool)["downloaded"] is False


def test_a_repository_by_name_registers_itself(pool: Pool, hub: Hub, model_files: Path) -> None:
    """`download ORG/REPO` needs no register; an entry with that repository is used when there is one."""
    hub.repositories["acme/Tiny-LM"] = Repository(model_files)
    pool.ok("models", "download", "acme/Tiny-LM")
    assert entry(pool, "tiny-lm")["downloaded"] is True
    pool.ok("models", "download", REPO)
    assert entry(pool)["downloaded"] is True


def test_an_unregistered_built_in_comes_back_by_downloading(pool: Pool, hub: Hub) -> None:
    """A hidden built-in is visible again once downloaded."""
    pool.ok("models", "unregister", "qwen-0.5b")
    pool.ok("models", "download", "qwen-0.5b")
    assert entry(pool)["downloaded"] is True


def test_downloading_twice_asks_nobody(pool: Pool, hub: Hub) -> None:
    """What is there is not fetched again, even offline."""
    pool.ok("models", "download", "qwen-0.5b")
    hub.requests.clear()
    assert "already" in pool.ok("models", "download", "qwen-0.5b").out
    assert hub.requests == []


def test_a_new_revision_fetches_only_what_changed(pool: Pool, hub: Hub, model_files: Path) -> None:
    """--force follows the repository; unchanged files are taken from disk, files that are gone there go here."""
    pool.ok("models", "download", "qwen-0.5b")
    (model_files / "config.json").write_text('{"model_type": "qwen2", "v": 2}')
    (model_files / "tokenizer.model").unlink()
    hub.requests.clear()
    pool.ok("models", "download", "qwen-0.5b", "--force")
    assert [path.rsplit("/", 1)[-1] for path, _ in hub.file_requests()] == ["config.json"]
    assert names(model_dir(pool)) == WANTED - {"tokenizer.model"}
    assert entry(pool)["revision"] == hub.repositories[REPO].commit()


def test_a_repository_without_safetensors_is_refused(pool: Pool, hub: Hub, model_files: Path) -> None:
    """Pickled weights are never fetched, not even when there is nothing else."""
    (model_files / "model.safetensors").unlink()
    ran = pool.run("models", "download", "qwen-0.5b")
    assert ran.code == 1
    assert "no safetensors" in ran.err
    assert hub.file_requests() == []


def test_a_gated_repository_gives_a_hint_and_a_token_opens_it(pool: Pool, hub: Hub) -> None:
    """Without a token: where to accept the licence, and HF_TOKEN. With it: downloaded, the token in no output."""
    hub.repositories[REPO].gated = True
    hub.token = "hf_secret"
    ran = pool.run("models", "download", "qwen-0.5b")
    assert ran.code == 1
    assert f"{hub.url}/{REPO}" in ran.err
    assert "HF_TOKEN" in ran.err
    done = pool.ok("models", "download", "qwen-0.5b", HF_TOKEN="hf_secret")
    assert "hf_secret" not in done.out + done.err


@pytest.mark.parametrize(
    ("target", "code", "message"),
    [("acme/absent", 4, "no repository"), ("qwen-0.5", 4, "did you mean 'qwen-0.5b'"), ("../etc", 4, "not a hub")],
)
def test_what_does_not_exist_is_not_found(pool: Pool, hub: Hub, target: str, code: int, message: str) -> None:
    """Unknown ids and repositories are exit 4 with a reason."""
    ran = pool.run("models", "download", target)
    assert (ran.code, message in ran.err) == (code, True), ran.err


def test_offline_is_one_clear_line(pool: Pool) -> None:
    """No hub: exit 5, one line that names the endpoint."""
    ran = pool.run("models", "download", "qwen-0.5b")
    assert ran.code == 5
    assert ran.err.count("\n") == 1
    assert "http://127.0.0.1:9 does not answer" in ran.err


@pytest.mark.parametrize(
    "info",
    [
        b"<html>Welcome to our hotel</html>",
        b"[]",
        b"{}",
        b'{"id": "a", "siblings": 5}',
        b'{"id": "a", "sha": "0", "siblings": [{"rfilename": "m.safetensors", "size": "x", "blobId": "0"}]}',
    ],
)
def test_an_answer_that_is_no_hubs_is_one_clear_line(pool: Pool, hub: Hub, info: bytes) -> None:
    """A login page of the network, or another server: no traceback, and a hint what may be wrong."""
    hub.info = info
    ran = pool.run("models", "download", "qwen-0.5b")
    assert ran.code == 1 and len(ran.err.splitlines()) == 1
    assert "does not answer as a hub" in ran.err and "HF_ENDPOINT" in ran.err


def test_two_downloads_at_once_fetch_everything_once(pool: Pool, hub: Hub) -> None:
    """The second waits, says so, and finds the model there."""
    hub.hold = threading.Event()
    first = pool.popen("models", "download", "qwen-0.5b")
    deadline = time.monotonic() + 30
    while not hub.file_requests():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    second = pool.popen("models", "download", "qwen-0.5b")
    assert second.stderr is not None
    assert "waiting" in second.stderr.readline()
    hub.hold.set()
    assert first.wait(30) == 0
    out, _ = second.communicate(timeout=30)
    first.communicate()
    assert "already" in out
    fetched = [path for path, _ in hub.file_requests()]
    assert len(fetched) == len(set(fetched)) == len(WANTED)


def test_files_in_the_hub_cache_are_linked_not_fetched(pool: Pool, hub: Hub, model_files: Path, tmp_path: Path) -> None:
    """A file that the hub's own tools have here already is shared as a hard link, never as a symbolic link."""
    cache = tmp_path / "hf" / "hub" / ("models--" + REPO.replace("/", "--"))
    snapshot = cache / "snapshots" / hub.repositories[REPO].commit()
    snapshot.mkdir(parents=True)
    blob = cache / "blobs" / "weights"
    blob.parent.mkdir()
    shutil.copy(model_files / "model.safetensors", blob)
    (snapshot / "model.safetensors").symlink_to(os.path.relpath(blob, snapshot))
    pool.ok("models", "download", "qwen-0.5b")
    weights = model_dir(pool) / "model.safetensors"
    assert not any(path.endswith("model.safetensors") for path, _ in hub.file_requests())
    assert not weights.is_symlink()
    assert weights.samefile(blob)


def test_json_is_one_object_per_line(pool: Pool, hub: Hub) -> None:
    """--json prints progress lines and ends with the model's entry."""
    lines = [json.loads(line) for line in pool.ok("models", "download", "qwen-0.5b", "--json").out.splitlines()]
    assert {line["type"] for line in lines[:-1]} == {"progress"}
    assert lines[-1]["type"] == "done"
    assert lines[-1]["model"]["downloaded"] is True


def test_a_watched_download_draws_a_bar(pool: Pool, hub: Hub) -> None:
    """LLORCH_COLUMNS, which a remote caller passes on, turns the moving bar on; no line is wider."""
    err = pool.ok("models", "download", "qwen-0.5b", LLORCH_COLUMNS="60", LLORCH_UTF8="1").err
    drawn = [part.removesuffix("\x1b[K") for part in err.splitlines()]
    assert any("░" in part for part in drawn)
    assert max(len(part) for part in drawn) < 60


def test_the_embedded_model_needs_no_download(pool: Pool) -> None:
    """`demo` is part of llorch."""
    assert "nothing to download" in pool.ok("models", "download", "demo").out


def test_a_lost_catalog_costs_no_second_transfer(pool: Pool, hub: Hub) -> None:
    """With the files in place, downloading again only verifies them."""
    pool.ok("models", "download", "qwen-0.5b")
    (pool.home / "catalog.json").unlink()
    hub.requests.clear()
    pool.ok("models", "download", "qwen-0.5b")
    assert hub.file_requests() == []
    assert entry(pool)["downloaded"] is True


def test_a_full_disk_is_told_before_anything_is_fetched(pool: Pool, hub: Hub) -> None:
    """The space that is missing is named, and no file is asked for."""
    hub.claim_bytes = 1 << 50
    ran = pool.run("models", "download", "qwen-0.5b")
    assert ran.code == 1
    assert "not enough disk space" in ran.err
    assert hub.file_requests() == []
