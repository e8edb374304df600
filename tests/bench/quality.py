"""What int8 and bf16 on the native kernels cost: perplexity, logits and top-1 against torch; and what int8 gains.

Measured on the demo model, on a larger one trained for it here (build/demo_model/train.py, kept in build/work/bench),
and, where `./install.sh bench engine` has left it, on random weights in the shape of qwen2.5-0.5b. Prints key=value:
`cpu` first; README.md beside this file says what each key means.
Run: ./install.sh bench quality [--minutes N] [--only SECTION]... [--threads N]
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from peers import held_out, machine, scoring, shapes
from peers.child import Child
from peers.figures import Figures
from peers.progress import say
from peers.scoring import Arithmetic

from llorch.base.errors import HostError, LlorchError
from llorch.host import process
from llorch.model import Dtype, Kernels, Quantize, hardware
from llorch.model.config import read_config
from llorch.model.kernels.library import NEEDED_FLAGS, Isa

WORK = Path(__file__).resolve().parents[2] / "build" / "work" / "bench"
SECTIONS = ("perplexity", "logits", "footprint")
QWEN = "qwen2.5-0.5b"
PERPLEXITY_TOKENS = 20_000
LOGIT_TOKENS = 512
ROUNDS = 3
DECODE_STEPS = 64
TRAINING_SPARE_S = 300.0
CONTEXT = 2048


@dataclass(frozen=True, slots=True)
class Subject:
    """A model to be measured, and what its keys end with."""

    directory: Path
    suffix: str = ""


def trained(minutes: float, threads: int) -> Path:
    """The larger model, trained the first time. Raises HostError."""
    directory = WORK / "trained" / "large"
    if directory.exists():
        return directory
    say(f"training a larger model for {minutes:g} minutes")
    part = directory.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    argv = [sys.executable, str(held_out.TRAINING / "train.py"), "--shape", "large", "--steps", "1000000"]
    argv += ["--minutes", str(minutes), "--threads", str(threads), "--out", str(part)]
    try:
        done = subprocess.run(argv, stdout=sys.stderr, timeout=minutes * 60 + TRAINING_SPARE_S, check=False)
    except subprocess.TimeoutExpired:
        raise HostError(f"training did not end within {minutes:g} minutes and {TRAINING_SPARE_S:.0f} s") from None
    if done.returncode:
        raise HostError(f"training ended with exit code {done.returncode}")
    part.rename(directory)
    return directory


def variants() -> list[Isa]:
    """Those that this processor can run, the best first. Raises HostError when there is none."""
    found = [isa for isa in Isa if hardware.cpu_flags().issuperset(NEEDED_FLAGS[isa])]
    if not found:
        raise HostError("this processor can run none of the native kernels")
    return found


def measure_perplexity(subject: Subject, threads: int) -> None:
    """bf16 and int8 weights, on what the model should have said in stories that it never saw."""
    end = subject.suffix
    perplexities = {}
    for name, quantize in (("bf16", Quantize.NONE), ("int8", Quantize.INT8)):
        say(f"perplexity of {subject.directory.name}, {name}")
        with scoring.opened(subject.directory, Arithmetic(quantize=quantize), threads) as model:
            texts = held_out.texts(model.tokenizer, PERPLEXITY_TOKENS)
            perplexities[name] = scoring.perplexity(model, texts)
        print(f"ppl_{name}{end}={perplexities[name]:.5f}", flush=True)
    print(f"ppl_tokens{end}={sum(len(text.learned) for text in texts)}")
    print(f"int8_ppl_ratio{end}={perplexities['int8'] / perplexities['bf16']:.5f}", flush=True)


def measure_logits(subject: Subject, threads: int) -> None:
    """Each native variant and torch bf16 against torch fp32, at the same positions of the same texts."""
    end = subject.suffix
    say(f"logits of {subject.directory.name}, torch fp32")
    with scoring.opened(subject.directory, Arithmetic(Kernels.TORCH, Dtype.FP32), threads) as model:
        vocab = model.config.vocab_size
        texts = (
            scoring.random_texts(vocab, LOGIT_TOKENS)
            if subject.suffix == "_qwen"
            else held_out.texts(model.tokenizer, LOGIT_TOKENS)
        )
        reference = list(scoring.all_logits(model, texts))
    clear = scoring.is_clear(reference)
    say(f"logits of {subject.directory.name}, torch bf16")
    with scoring.opened(subject.directory, Arithmetic(Kernels.TORCH, Dtype.BF16), threads) as model:
        torch_bf16 = scoring.compare(scoring.all_logits(model, texts), reference)
    print(f"positions{end}={len(clear)}")
    print(f"positions_share{end}={sum(clear) / len(clear):.3f}")
    print(f"mean_abs_dlogit_torch{end}={torch_bf16.mean_abs_error:.6f}", flush=True)
    for number, isa in enumerate(variants()):
        name = end if not number else f"{end}_{isa.value}"
        say(f"logits of {subject.directory.name}, native {isa.value}")
        with scoring.opened(subject.directory, Arithmetic(isa=isa), threads) as model:
            native = scoring.compare(scoring.all_logits(model, texts), reference)
        print(f"native_isa{name}={isa.value}")
        print(f"native_top1_agreement{name}={scoring.agreement(native, torch_bf16, clear):.4f}")
        print(f"mean_abs_dlogit_native{name}={native.mean_abs_error:.6f}")
        print(f"dlogit_native_vs_torch{name}={native.mean_abs_error / torch_bf16.mean_abs_error:.3f}", flush=True)


def measure_footprint(subject: Subject, threads: int) -> None:
    """Loading, decoding one sequence and memory, each format in processes of its own, in turn."""
    end, figures = subject.suffix, Figures()
    context = min(CONTEXT, read_config(subject.directory).context_length)
    weights: dict[str, int] = {}
    for number in range(ROUNDS):
        say(f"footprint of {subject.directory.name}, round {number + 1} of {ROUNDS}")
        names = ("bf16", "int8") if number % 2 == 0 else ("int8", "bf16")
        for name in names:
            argv = ["--model", str(subject.directory), "--kernels", "native", "--slots", "1"]
            argv += ["--quantize", "int8" if name == "int8" else "none"]
            argv += ["--context", str(context), "--threads", str(threads)]
            with Child("our_engine", argv) as child:
                speed = child.ask("decode", batch=1, context=128, steps=DECODE_STEPS)["tokens_per_s"]
                has = child.ask("footprint")
            figures.add(f"decode_b1_{name}{end}", speed)
            figures.add(f"{name}_load_s{end}", has["load_s"])
            figures.add(f"peak_mib_{name}{end}", has["peak_mib"])
            figures.add(f"resident_mib_{name}{end}", has["resident_mib"])
            weights[name] = has["weights_bytes"]
    figures.line(f"int8_weights_share{end}", weights["int8"] / weights["bf16"])
    for name in ("int8", "bf16"):
        for key in (f"{name}_load_s", f"decode_b1_{name}", f"peak_mib_{name}", f"resident_mib_{name}"):
            figures.show(f"{key}{end}")
    figures.ratio(f"decode_b1_int8_vs_bf16{end}", f"decode_b1_int8{end}", f"decode_b1_bf16{end}")


def _did(name: str, job: Callable[[], None]) -> bool:
    """One that fails costs its own figures and not the others'."""
    try:
        job()
    except LlorchError as problem:
        say(f"{name} is left out: {problem.message}")
        return False
    return True


def _measure(args: argparse.Namespace) -> bool:
    threads = args.threads or process.processors_allowed()
    print(f"cpu={machine.cpu_line(threads)}", flush=True)
    others = machine.Others()
    wanted = args.only or SECTIONS
    large = Subject(trained(args.minutes, threads))
    qwen = Subject(WORK / "models" / QWEN, "_qwen")
    jobs: dict[str, Callable[[], None]] = {}
    if "perplexity" in wanted:
        for subject in (Subject(held_out.DEMO, "_demo"), large):
            jobs[f"perplexity{subject.suffix}"] = partial(measure_perplexity, subject, threads)
    subjects = (large, qwen) if qwen.directory.exists() else (large,)
    for subject in subjects:
        if "logits" in wanted:
            jobs[f"logits{subject.suffix}"] = partial(measure_logits, subject, threads)
        if "footprint" in wanted:
            jobs[f"footprint{subject.suffix}"] = partial(measure_footprint, subject, threads)
    print(f"trained_values={shapes.values_per_token(large.directory)}", flush=True)
    done = [_did(name, job) for name, job in jobs.items()]
    print(f"others_cpu_share={others.share():.2f}", flush=True)
    return all(done)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="./install.sh bench quality", description=__doc__.splitlines()[0] if __doc__ else None
    )
    parser.add_argument("--minutes", type=float, default=8.0, metavar="N", help="to train for, once; default 8")
    parser.add_argument("--only", action="append", choices=SECTIONS, help="default all")
    parser.add_argument("--threads", type=int, metavar="N", help="default: all processors allowed")
    return parser.parse_args()


def main() -> int:
    """The exit code: 0, or 1 after a line for each thing that could not be measured."""
    args = _arguments()
    try:
        with machine.alone(WORK):
            return 0 if _measure(args) else 1
    except LlorchError as problem:
        print(f"llorch: {problem.message}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
