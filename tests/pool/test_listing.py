"""The listings are, byte for byte, what the seed documents print."""

from __future__ import annotations

from dataclasses import replace

from llorch.pool import listing
from llorch.pool.terminal import Terminal
from llorch.wire.catalog import BUILT_IN

FANCY = Terminal(columns=80, utf8=True, colour=False, interactive=False)
PLAIN = Terminal(columns=80, utf8=False, colour=False, interactive=False)

CATALOG = """\
Model Catalog for mac.lan
================================================================================
ID              Name                           Downloaded   Size      
--------------------------------------------------------------------------------
tinyllama       TinyLlama 1.1B Chat            ✅            2.2 GB
qwen-0.5b       Qwen2.5 0.5B Instruct          ✅            0.9 GB
phi3            Phi-3 Mini 4K Instruct         ❌            0.0 GB
mistral         Mistral 7B Instruct v0.2       ❌            0.0 GB
================================================================================
Total models: 4"""  # noqa: W291 (the header ends in spaces there)

WORKERS = """\
Active Workers
================================================================================
ID                                   Backend  Model      Port   PID    Status
--------------------------------------------------------------------------------
worker-metal-abc123                  metal    qwen-0.5b  8001   12345  Running
worker-cuda-def456                   cuda     mistral    8002   12346  Running
================================================================================
Total workers: 2"""


def entries() -> list[tuple[object, int]]:
    known = {entry.id: entry for entry in BUILT_IN}
    sizes = {"tinyllama": 2_200_000_000, "qwen-0.5b": 900_000_000, "phi3": 0, "mistral": 0}
    return [(replace(known[name], downloaded=size > 0), size) for name, size in sizes.items()]  # type: ignore[index]


def test_the_catalog_is_printed_as_in_the_seed() -> None:
    """Header, columns, check marks and total of `models catalog`."""
    assert "\n".join(listing.catalog("mac.lan", entries(), FANCY)) == CATALOG  # type: ignore[arg-type]


def test_without_utf8_marks_are_words() -> None:
    """Elsewhere than on a UTF-8 terminal it says yes and no, in the same columns."""
    lines = listing.catalog("mac.lan", entries(), PLAIN)  # type: ignore[arg-type]
    assert lines[4] == "tinyllama       TinyLlama 1.1B Chat            yes          2.2 GB"
    assert lines[6] == "phi3            Phi-3 Mini 4K Instruct         no           0.0 GB"


def test_workers_are_printed_as_in_the_seed() -> None:
    """Header, columns and total of `worker list`."""
    rows = [
        ("worker-metal-abc123", "metal", "qwen-0.5b", "8001", "12345", "Running"),
        ("worker-cuda-def456", "cuda", "mistral", "8002", "12346", "Running"),
    ]
    assert "\n".join(listing.workers(rows)) == WORKERS


def test_a_long_value_widens_its_column() -> None:
    """Nothing is cut off: the column grows and the others stay aligned with the header."""
    rows = [("worker-cpu-00000001", "cpu", "a-model-with-a-long-name", "8001", "1234567", "Running")]
    lines = listing.workers(rows)
    assert lines[2].index("Port") == lines[4].index("8001")
    assert lines[2].index("Status") == lines[4].index("Running")
