"""Which pool serves: pure choices from what the pools say, and what `llorch run` says when none can."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from llorch.base.errors import HostError, InsufficientMemory
from llorch.host.targets import SshTarget
from llorch.remote import chat
from llorch.remote.preparing import places
from llorch.remote.survey import Backend, Offer, Place, choose, parse_offer
from tests.daemons import ROOT

GB = 10**9


def offer(name: str, *backends: Backend, is_here: bool = True, size: int = GB, disk: int = 50 * GB) -> Offer:
    return Offer(Place(name, SshTarget(name, name)), "m", is_here, size, disk, backends, ())


def cpu(needed: int | None, free: int) -> Backend:
    return Backend("cpu", needed, free)


def test_a_gpu_goes_first_then_the_files_then_room() -> None:
    """A GPU is worth a copy; among equals the pool that has the model; then the one with most memory to spare."""
    small, large = offer("small", cpu(GB, 2 * GB)), offer("large", cpu(GB, 9 * GB))
    empty = offer("empty", cpu(GB, 90 * GB), is_here=False)
    gpu = offer("gpu", cpu(GB, 2 * GB), Backend("cuda", GB, 4 * GB), is_here=False)
    assert choose([small, empty, large]).place.name == "large"
    assert choose([small, empty]).place.name == "small"
    chosen = choose([small, large, gpu])
    assert chosen.place.name == "gpu" and chosen.backend is not None and chosen.backend.name == "cuda"


def test_a_full_gpu_leaves_the_processor() -> None:
    """A backend without room is not taken where another has it; an unknown need fits."""
    full = offer("a", Backend("cuda", 8 * GB, 2 * GB), cpu(8 * GB, 9 * GB))
    assert full.backend is not None and full.backend.name == "cpu"
    assert choose([offer("b", cpu(None, GB))]).fits


def test_a_refusal_says_where_how_much_and_what_instead() -> None:
    """Each pool with its lack of memory or disk, and smaller models that would fit."""
    tight = offer("a", cpu(15 * GB, 3 * GB))
    full = offer("b", cpu(GB, 9 * GB), is_here=False, size=14 * GB, disk=2 * GB)
    with pytest.raises(InsufficientMemory) as error:
        choose([tight, full])
    assert "a lacks 12.0 GB of memory for cpu (15.0 GB needed, 3.0 GB free)" in error.value.message
    assert "b lacks 12.0 GB of disk" in error.value.message
    assert "what would fit: qwen-0.5b" in error.value.message and "mistral" not in error.value.message


def test_a_full_disk_is_not_mended_by_stopping_workers() -> None:
    """Where disk is missing, the advice is about disk."""
    with pytest.raises(InsufficientMemory, match="free some disk"):
        choose([offer("b", cpu(GB, 9 * GB), is_here=False, size=14 * GB, disk=2)])


def test_a_size_known_elsewhere_counts() -> None:
    """A pool that lacks the model learns its size from one that has it."""
    sized = offer("b", cpu(None, GB), is_here=False, size=0).sized(2 * GB)
    assert not sized.fits and sized.size_bytes == 2 * GB


def test_an_answer_of_another_version_is_told() -> None:
    """What is not `models info` is a HostError with the pool's name."""
    with pytest.raises(HostError, match="den: llorch-pool there"):
        parse_offer(Place("den", None), {"downloaded": True})


def test_which_pools_a_command_line_names() -> None:
    """None is this machine; `all` is this machine and every registered one, each once."""
    settings = {"pools": {"den": {"host": "10.0.0.5"}, "attic": {"host": "10.0.0.6"}}}
    assert [place.name for place in places([], settings)] == ["local"]
    assert [place.name for place in places(["all", "den"], settings)] == ["local", "den", "attic"]
    assert [place.name for place in places(["all"], {})] == ["local"]
    assert [place.name for place in places(["attic", "box"], settings)] == ["attic", "box"]


def said(*lines: str) -> list[str]:
    """The messages that these lines are."""
    rest = iter(lines)
    return list(chat.messages(lambda prompt: next(rest, None)))


def test_what_is_typed_becomes_messages(capsys: pytest.CaptureFixture[str]) -> None:
    """Lines, continued lines, fenced lines; empty ones and commands are none; a path is no command."""
    assert said("one", "", "  ", "two\\", "three", '"""four', "", 'five"""', "/etc/hosts?") == [
        *("one", "two\nthree", "four\n\nfive", "/etc/hosts?")
    ]
    assert said("/clear", "/help", "/halp", "x", "/bye", "never") == ["/clear", "x"]
    assert "did you mean '/help'?" in capsys.readouterr().err
    assert said('"""half', "of it") == [] and said("half\\") == []


def test_the_warm_way_imports_nothing_heavy() -> None:
    """Until something has to be prepared, neither asyncio nor SSH is loaded: start-up is the first token's."""
    code = (
        "import sys, llorch.remote.main, llorch.remote.run\n"
        "heavy = ['asyncio', 'aiohttp', 'asyncssh', 'psutil', 'subprocess', 'readline', 'jinja2']\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(ROOT), capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
