"""Mending, importing, naming and measuring models."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
from worker_rig import write_model

from tests.pool.hub import Hub, git_blob_id
from tests.pool.pools import REPO, Pool, safetensors


def damage(path: Path) -> None:
    """Flip a byte; the file may share its bytes with another, which stays as it is."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink()
    path.write_bytes(bytes(data))


def test_fix_downloads_the_damaged_files_and_only_those(pool: Pool, hub: Hub, model_files: Path) -> None:
    """At the recorded commit: what the hub's default branch is meanwhile does not matter."""
    pool.ok("models", "download", "qwen-0.5b")
    folder = pool.home / "models" / "qwen-0.5b"
    damage(folder / "model.safetensors")
    (folder / "tokenizer.json").unlink()
    before = len(hub.file_requests())
    ran = pool.run("models", "verify", "qwen-0.5b", "--fix", "--json")
    assert ran.code == 0, ran.err
    assert ran.json()["ok"] and set(ran.json()["fixed"]) == {"model.safetensors", "tokenizer.json"}
    fetched = {path.rsplit("/", 1)[-1] for path, _ in hub.file_requests()[before:]}
    assert fetched == {"model.safetensors", "tokenizer.json"}
    for name in ("model.safetensors", "tokenizer.json"):
        assert (folder / name).read_bytes() == (model_files / name).read_bytes()
    pool.ok("models", "verify", "qwen-0.5b")


def test_without_fix_the_damaged_files_are_named(pool: Pool, hub: Hub) -> None:
    """Exit 1, the names, and the command that mends; an imported model cannot be fetched again and says so."""
    pool.ok("models", "download", "qwen-0.5b")
    damage(pool.home / "models" / "qwen-0.5b" / "config.json")
    ran = pool.run("models", "verify", "qwen-0.5b")
    assert ran.code == 1 and "config.json: wrong checksum" in ran.out and "--fix" in ran.out


def test_an_imported_model_cannot_be_fixed_from_the_hub(pool: Pool, model_files: Path) -> None:
    """One error that says what to do instead."""
    pool.ok("models", "import", str(model_files), "--id", "mine")
    damage(pool.home / "models" / "mine" / "config.json")
    ran = pool.run("models", "verify", "mine", "--fix")
    assert ran.code == 1 and "config.json" in ran.err and "import it again" in ran.err


def test_a_revision_after_the_at_sign_is_pinned(pool: Pool, hub: Hub) -> None:
    """The catalog keeps the commit; another spelling of the same revision is not another download; two are refused."""
    commit = hub.repositories[REPO].commit()
    pool.ok("models", "download", f"{REPO}@{commit}")
    info = pool.ok("models", "info", "qwen-0.5b", "--json").json()
    assert info["revision"] == commit and all(len(file["sha256"]) == 64 for file in info["files"])
    asked = len(hub.requests)
    assert "already" in pool.ok("models", "download", "qwen-0.5b", "--revision", commit).out
    assert len(hub.requests) == asked
    assert pool.run("models", "download", f"{REPO}@main", "--revision", commit).code == 2
    assert pool.run("models", "download", f"{REPO}@").code == 2
    assert pool.run("models", "download", f"{REPO}@nowhere").code == 4


def test_single_files_are_imported(pool: Pool, model_files: Path) -> None:
    """By hard link where that works, never by symbolic link; what is no part of a model is refused."""
    names = ("model.safetensors", "config.json", "tokenizer.json")
    pool.ok("models", "import", *(str(model_files / name) for name in names), "--id", "mine")
    folder = pool.home / "models" / "mine"
    assert {path.name for path in folder.iterdir()} == set(names)
    assert os.path.samefile(folder / "config.json", model_files / "config.json")
    assert not any(path.is_symlink() for path in folder.iterdir())
    code = pool.run("models", "import", str(model_files / "pytorch_model.bin"), "--id", "other")
    assert code.code == 2 and "pytorch_model.bin" in code.err


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("model.safetensors", safetensors(b"x" * 1000)[:-1], "not whole"),
        ("model.safetensors", b"PK\x03\x04" * 100, "not a safetensors file"),
        ("config.json", b"{", "cannot be read"),
        ("model.safetensors.index.json", b'{"weight_map": {"w": "model-2.safetensors"}}', "model-2.safetensors"),
        ("tokenizer", None, "tokenizer"),
    ],
)
def test_an_import_is_checked_like_a_download(
    pool: Pool, model_files: Path, name: str, data: bytes | None, words: str
) -> None:
    """Cut weights, other formats, broken JSON, a shard or a tokenizer that is missing: refused, nothing stays."""
    if data is None:
        for path in model_files.glob(f"{name}*"):
            path.unlink()
    else:
        (model_files / name).write_bytes(data)
    ran = pool.run("models", "import", str(model_files), "--id", "mine")
    assert ran.code == 1 and words in ran.err
    assert not (pool.home / "models" / "mine").exists()


def hub_cache(pool: Pool, model_files: Path) -> tuple[Path, str]:
    """`model_files` as the hub's own tools keep them: blobs by checksum, and a folder of links by commit."""
    root = Path(pool.env["HF_HOME"]) / "hub" / f"models--{REPO.replace('/', '--')}"
    commit = "c0" * 20
    for folder in ("blobs", "refs", f"snapshots/{commit}"):
        (root / folder).mkdir(parents=True)
    (root / "refs" / "main").write_text(commit)
    for path in (p for p in model_files.iterdir() if p.is_file()):
        data = path.read_bytes()
        name = hashlib.sha256(data).hexdigest() if path.suffix == ".safetensors" else git_blob_id(data)
        (root / "blobs" / name).write_bytes(data)
        (root / "snapshots" / commit / path.name).symlink_to(f"../../blobs/{name}")
    return root, commit


def test_the_hub_cache_is_imported_offline(pool: Pool, model_files: Path) -> None:
    """Repository, commit and id are known from where the files lie; a file that does not match its name is refused."""
    root, commit = hub_cache(pool, model_files)
    blob = (root / "snapshots" / commit / "model.safetensors").resolve()
    whole = blob.read_bytes()
    blob.write_bytes(whole[:-1] + b"?")
    ran = pool.run("models", "import", "--hf", REPO)
    assert ran.code == 1 and "damaged" in ran.err
    blob.write_bytes(whole)
    pool.ok("models", "import", "--hf", REPO)
    info = pool.ok("models", "info", "qwen-0.5b", "--json").json()
    assert (info["revision"], info["downloaded"]) == (commit, True)
    assert not any(path.is_symlink() for path in (pool.home / "models" / "qwen-0.5b").iterdir())
    assert pool.run("models", "import", "--hf", "no/such").code == 4
    assert pool.run("models", "import").code == 2


def test_an_alias_is_one_models_other_name(pool: Pool) -> None:
    """It works wherever an id does; it cannot be taken from another model; it can be forgotten."""
    pool.ok("models", "alias", "small", "qwen-0.5b")
    assert pool.ok("models", "info", "small", "--json").json()["id"] == "qwen-0.5b"
    assert pool.ok("models", "alias", "--json").json()["aliases"]["small"] == "qwen-0.5b"
    taken = pool.run("models", "alias", "small", "phi3")
    assert taken.code == 1 and "qwen-0.5b" in taken.err
    assert pool.run("models", "alias", "phi3", "qwen-0.5b").code == 1
    assert pool.run("models", "alias", "Bad Name", "phi3").code == 2
    assert pool.run("models", "alias", "small").code == 2
    pool.ok("models", "alias", "--remove", "small")
    assert pool.run("models", "info", "small").code == 4


def test_info_tells_what_the_hub_says(pool: Pool, hub: Hub) -> None:
    """With --hub size, commit, licence, consent and fit are known before a download; after it they stay."""
    hub.licence, hub.repositories[REPO].gated, hub.token = "apache-2.0", True, "t"
    before = pool.ok("models", "info", REPO, "--json").json()
    assert before["hub"] is None and before["disk"]["fits"] is None
    assert {row["fits"] for row in before["fit"]} == {None}
    asked = pool.ok("models", "info", REPO, "--hub", "--json").json()
    assert asked["hub"]["licence"] == "apache-2.0" and asked["hub"]["gated"] is True
    assert asked["disk"]["fits"] and [row["fits"] for row in asked["fit"] if row["backend"] == "cpu"] == [True]
    pool.ok("models", "download", REPO, HF_TOKEN="t")
    info = pool.ok("models", "info", REPO, "--json").json()
    assert (info["licence"], info["gated"]) == ("apache-2.0", True)


def test_what_a_worker_took_decides_the_next_fit_check(pool: Pool) -> None:
    """Measured per model and shape when it became ready; too much for this machine, the next spawn is refused."""
    pool.ok("worker", "spawn", "cpu", "--model", "demo", "--slots", "2", "--context", "256")
    pool.ok("worker", "stop-all")
    (row,) = pool.ok("models", "info", "demo", "--json").json()["measured"]
    assert (row["slots"], row["context"], row["context_length"]) == (2, 256, 256)
    assert 10_000_000 < row["memory_bytes"] < 4_000_000_000
    path = pool.home / "measured.json"
    stored = json.loads(path.read_bytes())
    stored["rows"][0]["memory_bytes"] = 1 << 50
    path.write_text(json.dumps(stored))
    refused = pool.run("worker", "spawn", "cpu", "--model", "demo", "--slots", "2", "--context", "256")
    assert refused.code == 1 and "took" in refused.err
    pool.ok("worker", "spawn", "cpu", "--model", "demo", "--slots", "1", "--context", "256")
    path.write_text("damaged")
    assert pool.ok("models", "info", "demo", "--json").json()["measured"] == []


def test_a_model_in_use_is_not_deleted(pool: Pool, tmp_path: Path) -> None:
    """While a worker of it lives its files stay; afterwards they go."""
    (tmp_path / "tiny").mkdir()
    write_model(tmp_path / "tiny")
    pool.ok("models", "import", str(tmp_path / "tiny"), "--id", "mine")
    pool.ok("worker", "spawn", "cpu", "--model", "mine")
    refused = pool.run("models", "delete", "mine", "-y")
    assert refused.code == 1 and "in use" in refused.err
    assert (pool.home / "models" / "mine" / "config.json").is_file()
    pool.ok("worker", "stop-all")
    pool.ok("models", "delete", "mine", "-y")
    assert pool.run("worker", "spawn", "cpu", "--model", "mine").code == 4
