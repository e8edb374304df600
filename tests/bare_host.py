"""A machine with nothing but the frozen file: for tests of what users copy to their hosts."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

PROGRAM = Path(__file__).resolve().parents[1] / "build" / "out" / "llorch"


@dataclass
class Host:
    """A bare machine's user: an empty home, nothing on PATH but links to the frozen file."""

    folder: Path
    program: Path

    def __post_init__(self) -> None:
        for name in ("home", "bin", "tmp"):
            (self.folder / name).mkdir()
        for name in ("llorch", "llorch-pool", "orchestratord"):
            (self.folder / "bin" / name).symlink_to(self.program)

    @property
    def cache(self) -> Path:
        """Where the runtimes go."""
        return self.folder / "home" / ".cache" / "llorch"

    @property
    def env(self) -> dict[str, str]:
        """`env -i` plus the four variables that every login has."""
        bin_dir, home, tmp = (str(self.folder / name) for name in ("bin", "home", "tmp"))
        return {"PATH": bin_dir, "HOME": home, "TMPDIR": tmp, "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1"}

    def start(self, *argv: str | Path, **env: str) -> subprocess.Popen[str]:
        """Start a program of this host; a bare name is looked up in its bin."""
        words = [str(word) for word in argv]
        path = words[0] if "/" in words[0] else str(self.folder / "bin" / words[0])
        pipe = subprocess.PIPE
        return subprocess.Popen(
            [path, *words[1:]], env=self.env | env, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True
        )

    def run(self, *argv: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a program to its end; code and output."""
        process = self.start(*argv, **env)
        out, err = process.communicate(timeout=120)
        return subprocess.CompletedProcess(list(map(str, argv)), process.returncode, out, err)
