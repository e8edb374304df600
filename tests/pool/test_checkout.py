"""`git`, `test` and `dev` in a real git checkout of a real repository, and without one."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from llorch.pool.development import missing_packages
from tests.pool.pools import Pool

INSTALLER = '#!/bin/sh\necho "install.sh $*" | tee -a "$(dirname "$0")/ran.txt"\ntest "$2" != tests/broken\n'


def git(folder: Path, *words: str) -> str:
    settings = ("-c", "user.name=Test", "-c", "user.email=test@localhost", "-c", "protocol.file.allow=always")
    done = subprocess.run(["git", *settings, *words], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    """A repository with an install.sh that notes how it was called, and two suites."""
    folder = tmp_path / "origin"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    (folder / "install.sh").write_text(INSTALLER)
    (folder / "install.sh").chmod(0o755)
    (folder / ".gitignore").write_text("ran.txt\n")
    for suite in ("e2e", "broken"):
        (folder / "tests" / suite).mkdir(parents=True)
        (folder / "tests" / suite / "test_x.py").write_text("")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "first")
    return folder


@pytest.fixture
def checkout(pool: Pool, origin: Path, tmp_path: Path) -> Path:
    """A clone of it, which the pool knows as its checkout."""
    folder = tmp_path / "checkout"
    git(tmp_path, "clone", "-q", str(origin), str(folder))
    pool.env["LLORCH_REPO"] = str(folder)
    return folder


def advance(origin: Path) -> str:
    (origin / "news.txt").write_text("news")
    git(origin, "add", "-A")
    git(origin, "commit", "-qm", "second")
    return git(origin, "rev-parse", "HEAD")


@pytest.mark.parametrize(
    "words", ["git pull", "git status", "git sync --force", "git build", "dev setup -y", "dev doctor"]
)
def test_without_a_checkout_it_is_exit_4_and_the_hint(pool: Pool, words: str) -> None:
    """The hint names LLORCH_REPO; a folder that is no checkout is said so."""
    ran = pool.run(*words.split())
    assert ran.code == 4 and "LLORCH_REPO" in ran.err and ran.out == ""
    pool.home.mkdir()
    assert pool.run(*words.split(), LLORCH_REPO=str(pool.home)).code == 4


def test_pull_goes_forward_only(pool: Pool, origin: Path, checkout: Path) -> None:
    """The upstream's commit arrives; histories that have parted are not merged."""
    commit = advance(origin)
    assert pool.ok("git", "pull", "--json").json()["after"] == commit
    assert (checkout / "news.txt").is_file()
    (checkout / "own.txt").write_text("own")
    git(checkout, "add", "-A")
    git(checkout, "commit", "-qm", "own")
    (origin / "more.txt").write_text("more")
    git(origin, "add", "-A")
    git(origin, "commit", "-qm", "third")
    assert pool.run("git", "pull").code != 0


def test_status_tells_branch_commit_and_changes(pool: Pool, origin: Path, checkout: Path) -> None:
    """As facts, and as git itself shows them."""
    (checkout / "install.sh").write_text("changed")
    found = pool.ok("git", "status", "--json").json()
    assert (found["branch"], found["upstream"], found["ahead"], found["behind"]) == ("main", "origin/main", 0, 0)
    assert found["changed"] == ["install.sh"] and found["commit"] == git(origin, "rev-parse", "HEAD")
    assert "install.sh" in pool.ok("git", "status").out


def test_sync_asks_and_then_resets(pool: Pool, origin: Path, checkout: Path) -> None:
    """Without --force and without a terminal nothing is lost; with it the checkout is what upstream is."""
    commit = advance(origin)
    (checkout / "install.sh").write_text("changed")
    (checkout / "untracked.txt").write_text("stays")
    refused = pool.run("git", "sync")
    assert refused.code == 2 and "1 changed files" in refused.err and "--force" in refused.err
    assert (checkout / "install.sh").read_text() == "changed"
    assert pool.ok("git", "sync", "--force", "--json").json()["after"] == commit
    assert (checkout / "install.sh").read_text() == INSTALLER
    assert (checkout / "untracked.txt").is_file()


def test_sync_needs_an_upstream(pool: Pool, checkout: Path) -> None:
    """A branch that follows nothing cannot be made equal to anything."""
    git(checkout, "checkout", "-qb", "alone")
    ran = pool.run("git", "sync", "--force")
    assert ran.code == 1 and "--set-upstream-to" in ran.err


def test_build_updates_submodules_and_runs_install(pool: Pool, origin: Path, checkout: Path, tmp_path: Path) -> None:
    """install.sh sees the submodule's files."""
    library = tmp_path / "library"
    library.mkdir()
    git(library, "init", "-q", "-b", "main")
    (library / "file.txt").write_text("1")
    git(library, "add", "-A")
    git(library, "commit", "-qm", "first")
    git(origin, "submodule", "add", "-q", str(library), "library")
    git(origin, "commit", "-qm", "submodule")
    allow = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "protocol.file.allow", "GIT_CONFIG_VALUE_0": "always"}
    pool.ok("git", "pull", **allow)
    ran = pool.ok("git", "build", "--release", **allow)
    assert "install.sh --release" in ran.out
    assert (checkout / "library" / "file.txt").is_file()


def test_test_runs_the_suite_and_passes_its_exit_code_on(pool: Pool, checkout: Path) -> None:
    """All of it, one by name, the seed's `integration`; an unknown one is not found; nothing runs outside tests/."""
    pool.ok("test")
    pool.ok("test", "e2e")
    pool.ok("test", "integration")
    assert pool.run("test", "broken").code == 1
    ran = (checkout / "ran.txt").read_text().splitlines()
    assert [line.strip() for line in ran] == [
        "install.sh test", "install.sh test tests/e2e", "install.sh test tests/e2e", "install.sh test tests/broken",
    ]  # fmt: skip
    for name in ("nonsense", "../../etc"):
        unknown = pool.run("test", name)
        assert unknown.code == 4 and "e2e" in unknown.err
    assert json.loads(pool.ok("test", "e2e", "--json").out) == {"suite": "e2e", "exit_code": 0}


def test_without_a_checkout_the_smoke_test_runs(pool: Pool) -> None:
    """A worker of the embedded model is spawned, asked and stopped; nothing is left. A suite needs a checkout."""
    found = pool.ok("test", "--json").json()
    assert found["ok"] and found["tokens"] > 0
    assert pool.ok("worker", "list", "--json").json()["workers"] == []
    assert pool.run("test", "e2e").code == 4


def test_setup_says_what_it_will_do_and_asks(pool: Pool, checkout: Path) -> None:
    """Nobody to ask: exit 2 and nothing done; with -y the environment is made."""
    refused = pool.run("dev", "setup")
    assert refused.code == 2 and "install.sh dev" in refused.err
    assert not (checkout / "ran.txt").exists()
    if "will run: apt-get" in refused.err or "will run: sudo" in refused.err:
        pytest.skip("packages are missing here, and a test installs none")
    pool.ok("dev", "setup", "-y")
    assert (checkout / "ran.txt").read_text() == "install.sh dev\n"


def test_doctor_names_what_is_missing(pool: Pool, checkout: Path) -> None:
    """Exit 1 while there is no environment; every check has a name, a verdict and a detail."""
    ran = pool.run("dev", "doctor", "--json")
    checks = {row["name"]: row["ok"] for row in ran.json()["checks"]}
    assert ran.code == 1 and checks["checkout"] and checks["git"] and not checks["environment"]


def test_packages_of_missing_programs_are_named_once() -> None:
    """Two programs of one package make one package; nothing missing makes none."""
    assert missing_packages(lambda program: True) == []
    assert missing_packages(lambda program: program not in ("strip", "objcopy")) == ["binutils"]
