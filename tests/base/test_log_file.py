"""A daemon's log stays bounded, and nothing that it says is lost on the way."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from llorch.base import log_file

PROGRAM = """
import os, sys
from pathlib import Path
from llorch.base import log
from llorch.base.log_file import LogFile

log.set_up(file=LogFile(Path(sys.argv[1]), size_max_bytes=2000, kept=2))
for number in range(int(sys.argv[2])):
    log.event(log.get("x"), f"line {number}")
os.write(2, b"native words\\n")
print("printed words", flush=True)
"""


def test_it_rotates_and_keeps_a_few(tmp_path: Path) -> None:
    """Old lines go, the newest stay in order; native output and prints land in it, too; nobody else reads it."""
    path = tmp_path / "logs" / "x.log"
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(path), "300"], capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"", b"")
    files = [log_file.rotated(path, number) for number in (2, 1, 0)]
    assert sorted(path.parent.iterdir()) == sorted(files)
    assert all(file.stat().st_size < 2200 and file.stat().st_mode & 0o777 == 0o600 for file in files)
    lines = "".join(file.read_text() for file in files).splitlines()
    assert lines[-2:] == ["native words", "printed words"]
    numbers = [int(line.split()[-1]) for line in lines[:-2]]
    assert numbers == list(range(numbers[0], 300))


def test_a_second_run_goes_on_in_the_same_file(tmp_path: Path) -> None:
    """A restart appends."""
    path = tmp_path / "x.log"
    for _ in range(2):
        subprocess.run([sys.executable, "-c", PROGRAM, str(path), "2"], check=True)
    assert path.read_text().count("printed words") == 2
