"""Pools: models swapped on demand against naive FIFO, what random kills leave behind, what a command over SSH costs.

The frozen file is installed into a home of its own, and everything is done with that: real workers on the demo model, a
real orchestratord, a hub and an sshd on loopback. Prints key=value: `cpu` first; README.md beside this file says what
each key means. Exit code 1 when a bound is missed.
Run: ./install.sh bench pools [--only swaps|kills|ssh] [--tasks N] [--kills N] [--rounds N] [--seed N]
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from peers import killing, machine, ssh_pace, swapping
from peers.installed import install

from llorch.base.errors import HostError, LlorchError

FOLDER = Path(__file__).resolve().parents[2] / "build" / "work" / "bench"
SWAPS_VS_FIFO_MAX = 0.5
SSH_RATIO_MAX = 2.0


def show_swaps(home: Path, tasks: int, seed: int) -> bool:
    """Three models, room for two; is everything well?"""
    found = swapping.run(home, tasks, seed)
    batched, fifo = found.batched, found.fifo
    print(f"models=3 room_for={found.room_for:.2f} model_mib={found.model_bytes / (1 << 20):.0f}")
    print(f"finished={batched.finished} of={tasks}")
    print(f"evicted_live={batched.evicted_live + fifo.evicted_live}")
    print(f"swaps={batched.swaps} wall_s={batched.wall_s:.1f} wait_max_s={batched.wait_max_s:.1f}")
    print(f"swaps_fifo={fifo.swaps} finished_fifo={fifo.finished} wall_s_fifo={fifo.wall_s:.1f}")
    ratio = batched.swaps / fifo.swaps if fifo.swaps else float("inf")
    print(f"swaps_vs_fifo={ratio:.3f}")
    print(f"spawn_to_first_token_s={batched.spawn_to_first_token_s:.3f} spawns={batched.spawns}", flush=True)
    all_done = batched.finished == fifo.finished == tasks
    return all_done and not batched.evicted_live + fifo.evicted_live and ratio <= SWAPS_VS_FIFO_MAX


def show_kills(home: Path, kills: int, seed: int) -> bool:
    """Is nothing left behind?"""
    found = killing.run(home, kills, seed)
    print(f"kills={found.kills} orphans={found.orphans}")
    print(" ".join(f"kills_{kind}={count}" for kind, count in sorted(found.by_kind.items())))
    print(f"reaped={found.reaped} removed={found.removed} downloads_cut={found.downloads_cut}", flush=True)
    return found.kills == kills and not found.orphans


def show_ssh(home: Path, rounds: int) -> bool:
    """Is a listing over SSH quick enough?"""
    figures = ssh_pace.run(home, rounds)
    ratio = figures.ratio("ssh_ratio", "pool_worker_list_s_installed", "ssh_true_s_openssh")
    onefile = figures.ratio("ssh_ratio_onefile", "pool_worker_list_s_onefile", "ssh_true_s_openssh")
    figures.show("worker_list_here_s_installed")
    return ratio is not None and onefile is not None and max(ratio, onefile) <= SSH_RATIO_MAX


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    sections = ("swaps", "kills", "ssh")
    parser.add_argument("--only", action="append", choices=sections, help="this section; may be repeated")
    parser.add_argument("--tasks", type=int, default=30)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=10, help="of the commands over SSH")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    others = machine.Others()
    print(f"cpu={machine.cpu_line(os.cpu_count() or 1)}", flush=True)
    runs: dict[str, Callable[[Path], bool]] = {
        "swaps": lambda home: show_swaps(home, args.tasks, args.seed),
        "kills": lambda home: show_kills(home, args.kills, args.seed),
        "ssh": lambda home: show_ssh(home, args.rounds),
    }
    good = True
    try:
        with machine.alone(FOLDER), install(FOLDER):
            for name in sections:
                if not args.only or name in args.only:
                    with tempfile.TemporaryDirectory(dir=FOLDER, prefix=f"pools-{name}-") as home:
                        good = runs[name](Path(home)) and good
    except AssertionError as problem:  # of the daemons' starting and waiting
        print(f"llorch: {HostError(str(problem)).message}", file=sys.stderr)
        return 1
    except LlorchError as error:
        print(f"llorch: {error.message}", file=sys.stderr)
        return 1
    print(f"others_cpu_share={others.share():.3f}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
