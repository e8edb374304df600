"""The catalog commands: registering, hiding, damage, import, verify, delete."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from llorch.wire import templates
from tests.daemons import ROOT, program
from tests.pool.pools import Pool


def ids(pool: Pool) -> list[str]:
    return [model["id"] for model in pool.ok("models", "catalog", "--json").json()["models"]]


def test_the_catalog_lists_the_built_in_models(pool: Pool) -> None:
    """A new home knows six models, one of them downloaded; nothing is written by looking."""
    lines = pool.ok("models", "catalog").out.splitlines()
    assert lines[0].startswith("Model Catalog for ")
    assert lines[1] == "=" * 80
    assert lines[-1] == "Total models: 6"
    assert [line.split()[0] for line in pool.ok("models", "list").out.splitlines()[4:-2]] == ["demo"]
    assert not pool.home.exists()


def test_registering_as_the_seed_does(pool: Pool) -> None:
    """A known id is updated, exit 0; a new one is added, not downloaded."""
    again = ("--name", "Qwen two and a half", "--repo", "Qwen/Qwen2.5-0.5B-Instruct", "--architecture", "qwen")
    assert "updated" in pool.ok("models", "register", "--id", "qwen-0.5b", *again).out
    pool.ok("models", "register", "--id", "my-7b", "--repo", "me/My-7B", "--alias", "mine")
    info = pool.ok("models", "info", "mine", "--json").json()
    assert (info["id"], info["repo"], info["downloaded"]) == ("my-7b", "me/My-7B", False)
    stored = json.loads((pool.home / "catalog.json").read_bytes())
    assert [model["id"] for model in stored["models"]] == ["qwen-0.5b", "my-7b"]


def test_a_wrong_registration_is_a_usage_error(pool: Pool) -> None:
    """Ids, repositories and the need for one are checked before anything is written."""
    for words in (["--id", "../x", "--repo", "a/b"], ["--id", "x", "--repo", "nope"], ["--id", "x"]):
        assert pool.run("models", "register", *words).code == 2
    assert not (pool.home / "catalog.json").exists()


def test_unregistering_a_built_in_hides_it_until_registered(pool: Pool) -> None:
    """The entry is gone, then back by its id alone."""
    pool.ok("models", "unregister", "phi3")
    assert "phi3" not in ids(pool)
    assert pool.run("models", "unregister", "phi3").code == 4
    pool.ok("models", "register", "--id", "phi3")
    assert "phi3" in ids(pool)


def test_many_registrations_at_once_are_all_kept(pool: Pool) -> None:
    """The catalog is changed under a lock: no update is lost."""
    running = [pool.popen("models", "register", "--id", f"m{n}", "--repo", f"me/m{n}") for n in range(6)]
    assert [process.communicate(timeout=60) and process.returncode for process in running] == [0] * 6
    assert {f"m{n}" for n in range(6)} <= set(ids(pool))


def test_a_damaged_catalog_is_set_aside_and_said_so(pool: Pool) -> None:
    """No entry is lost for ever: the bytes stay under another name, and a new catalog begins."""
    pool.home.mkdir()
    (pool.home / "catalog.json").write_text('{"models": [oops')
    ran = pool.ok("models", "catalog")
    assert "damaged" in ran.err
    (kept,) = pool.home.glob("catalog.json.damaged-*")
    assert kept.read_text() == '{"models": [oops'
    assert pool.ok("models", "catalog").err == ""


def test_import_verify_unregister_and_delete(pool: Pool, model_files: Path) -> None:
    """A directory becomes a model of its own; unregistering keeps its files, deleting removes them."""
    pool.ok("models", "import", str(model_files), "--id", "mine")
    folder = pool.home / "models" / "mine"
    assert {path.name for path in folder.iterdir()} == {
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer.model",
    }  # fmt: skip
    pool.ok("models", "verify", "mine")
    pool.ok("models", "unregister", "mine")
    assert folder.is_dir()
    pool.ok("models", "import", str(model_files), "--id", "mine")
    pool.ok("models", "delete", "mine", "-y")
    assert not folder.exists()
    assert (model_files / "model.safetensors").is_file()
    assert pool.ok("models", "info", "mine", "--json").json()["downloaded"] is False


def test_verify_finds_a_changed_byte(pool: Pool, model_files: Path) -> None:
    """One flipped byte: exit 1, and the file is named."""
    pool.ok("models", "import", str(model_files), "--id", "mine")
    weights = pool.home / "models" / "mine" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[1000] ^= 1
    weights.unlink()  # it may share its bytes with the imported file
    weights.write_bytes(bytes(data))
    ran = pool.run("models", "verify", "mine", "--json")
    assert ran.code == 1
    assert ran.json()["problems"] == [{"path": "model.safetensors", "problem": "wrong checksum"}]


def test_delete_asks_and_needs_someone_to_ask(pool: Pool, model_files: Path) -> None:
    """Without -y and without a terminal nothing is deleted; the embedded model never is."""
    pool.ok("models", "import", str(model_files), "--id", "mine")
    assert pool.run("models", "delete", "mine").code == 2
    assert (pool.home / "models" / "mine").is_dir()
    assert pool.run("models", "delete", "demo", "-y").code == 1


def test_delete_asks_on_a_terminal(pool: Pool, model_files: Path) -> None:
    """A 'n' on the terminal keeps the files, a 'y' deletes them."""
    pool.ok("models", "import", str(model_files), "--id", "mine")
    assert _answer(pool, b"n\n") == 1
    assert (pool.home / "models" / "mine").is_dir()
    assert _answer(pool, b"y\n") == 0
    assert not (pool.home / "models" / "mine").exists()


def _answer(pool: Pool, typed: bytes) -> int:
    ours, theirs = os.openpty()
    argv = [*program("llorch-pool"), "models", "delete", "mine"]
    process = subprocess.Popen(argv, env=pool.env, cwd=ROOT, stdin=theirs, stdout=subprocess.DEVNULL, stderr=theirs)
    os.write(ours, typed)
    code = process.wait(30)
    os.close(ours)
    os.close(theirs)
    return code


def template(pool: Pool, model_id: str = "mine") -> tuple[str, str, str]:
    """What `info --template` says: where it is from, its name, its text."""
    body = pool.ok("models", "info", model_id, "--template", "--json").json()
    assert pool.ok("models", "info", model_id, "--template").out == body["template"] + "\n"
    return body["origin"], body["name"], body["template"]


def test_the_template_of_a_model_is_the_one_that_workers_use(pool: Pool, model_files: Path) -> None:
    """Its text, chosen in the workers' order: architecture, telling tokens, the model's own, its own file."""

    def imported() -> tuple[str, str, str]:
        pool.ok("models", "import", str(model_files), "--id", "mine")
        found = template(pool)
        pool.ok("models", "delete", "mine", "-y")
        return found

    (model_files / "tokenizer.json").write_text("{}")
    assert imported() == ("built-in", "chatml", templates.CHATML)  # config.json says qwen2
    (model_files / "config.json").write_text('{"model_type": "llama"}')
    assert imported() == ("built-in", "llama2", templates.LLAMA2)
    (model_files / "tokenizer.json").write_text('{"added_tokens": [{"id": 1, "content": "<|start_header_id|>"}]}')
    assert imported() == ("built-in", "llama3", templates.LLAMA3)
    named = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "{{ messages }}"}]
    (model_files / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    assert imported() == ("model", "model", "{{ messages }}")
    (model_files / "chat_template.jinja").write_text("{{ bos_token }}")
    assert imported() == ("model", "model", "{{ bos_token }}")


def test_a_template_of_the_catalog_goes_first(pool: Pool, model_files: Path) -> None:
    """A built-in name in the catalog means that template's text, not its name."""
    (model_files / "tokenizer.json").write_text("{}")
    pool.ok("models", "import", str(model_files), "--id", "mine")
    catalog = json.loads((pool.home / "catalog.json").read_bytes())
    catalog["models"][0]["template"] = "zephyr"
    (pool.home / "catalog.json").write_text(json.dumps(catalog))
    assert template(pool) == ("catalog", "zephyr", templates.ZEPHYR)


def test_the_template_of_a_model_that_is_not_here_is_a_guess(pool: Pool) -> None:
    """The architecture's default, and stderr says that the model may bring its own."""
    ran = pool.ok("models", "info", "mistral", "--template")
    assert ran.out == templates.MISTRAL + "\n"
    assert "not downloaded" in ran.err


def test_a_checkout_keeps_the_seeds_folders(pool: Pool, model_files: Path, tmp_path: Path) -> None:
    """LLORCH_HOME=checkout: `.test-models/catalog.json` and `.test-models/<id>` of the checkout."""
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    where = {"LLORCH_HOME": "checkout", "LLORCH_REPO": str(checkout)}
    pool.ok("models", "import", str(model_files), "--id", "mine", **where)
    stored = json.loads((checkout / ".test-models" / "catalog.json").read_bytes())
    assert stored["models"][0]["path"] == "mine"
    assert (checkout / ".test-models" / "mine" / "config.json").is_file()
    assert pool.run("models", "catalog", LLORCH_HOME="checkout").code == 4
