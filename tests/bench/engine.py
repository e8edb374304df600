"""How fast the engine is beside llama.cpp and transformers: random weights, both sides interleaved in one run.

Prints key=value: `cpu` first, then medians with their range and ratios of medians; README.md beside this file says what
each key means. Run: ./install.sh bench engine [--shape NAME | --model DIR] [--peer NAME]... [--only SECTION]...
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from peers import agreement, llamacpp, machine, serving, shapes
from peers.child import Child
from peers.duel import LONG_BATCH, Duel, Names, Side, one_sequence, take_turns
from peers.figures import Figures
from peers.llamacpp import Format, LlamaCpp, Variant

from llorch.base.errors import HostError, LlorchError
from llorch.host import process
from llorch.model.config import read_config

WORK = Path(__file__).resolve().parents[2] / "build" / "work" / "bench"
ENGINE_SECTIONS = ("decode", "prefill", "context", "hugepages", "isa", "agreement")
SERVING_SECTIONS = ("http", "start", "joining", "workers")
FORMATS = {
    "bf16": (Names("bf16", "bf16_llamacpp", "llamacpp"), Format.BF16, "none"),
    "int8": (Names("int8", "q8_0_llamacpp", "q8_0"), Format.Q8_0, "int8"),
}
ISAS = {
    "avx512": (Names("avx512", "avx512_llamacpp_noamx", "llamacpp_noamx"), Variant.NATIVE_NOAMX, "avx512f"),
    "avx2": (Names("avx2", "avx2_llamacpp_avx2", "llamacpp_avx2"), Variant.AVX2, "avx2"),
}
LONG = 2048
SPARE = 64  # positions that decoding after the long context takes
IDLE_SHARE_MAX = 0.02
BF16_BYTES = 2


def say(text: str) -> None:
    """Progress, for whoever waits."""
    print(f"==> {text}", file=sys.stderr, flush=True)


@dataclass(frozen=True, slots=True)
class Run:
    """What is measured, with what. `native` is None when llama.cpp is not among the peers."""

    directory: Path
    sections: frozenset[str]
    formats: tuple[str, ...]
    kernels: str
    rounds: int
    threads: int
    figures: Figures
    transformers: bool
    native: LlamaCpp | None

    def wants(self, *sections: str) -> bool:
        """Is any of these sections asked for?"""
        return not self.sections.isdisjoint(sections)

    @property
    def long(self) -> int:
        """The long context, shorter where the model's own has no room for it."""
        return min(LONG, read_config(self.directory).context_length - SPARE)

    def gguf(self, kind: Format) -> Path | None:
        """The model for llama.cpp."""
        if self.native is None:
            return None
        return llamacpp.convert(self.directory, kind, WORK / "gguf", self.native, say)

    @contextmanager
    def engine(self, *, quantize: str = "none", isa: str | None = None) -> Iterator[Child]:
        """Our engine in a process of its own, loaded."""
        argv = ["--model", str(self.directory), "--kernels", self.kernels, "--quantize", quantize]
        argv += ["--threads", str(self.threads), "--context", str(self.long + SPARE)]
        with Child("our_engine", argv, {} if isa is None else {"LLORCH_CPU_ISA": isa}) as child:
            name = isa or ("bf16" if quantize == "none" else quantize)
            print(f"engine_{name}={' '.join(child.facts.values())}", flush=True)
            yield child
            if child.idle_share > IDLE_SHARE_MAX:
                say(f"our engine used {child.idle_share:.0%} of a processor while it should have been idle")


def measure_format(run: Run, name: str) -> None:
    """One number format of ours against llama.cpp's nearest: one to sixteen sequences, prefill, long context.

    bf16 also says how much of the memory's speed decoding one sequence uses, and is the one beside transformers.
    """
    names, kind, quantize = FORMATS[name]
    decode, prefill = run.wants("decode", "context", "hugepages"), run.wants("prefill", "hugepages")
    with ExitStack() as stack:
        child = stack.enter_context(run.engine(quantize=quantize))
        duel = Duel(run.figures, names, child, run.native, run.gguf(kind), run.wants("hugepages"))
        contests = [duel.single(decode=decode, prefill=prefill)]
        if decode:
            contests.append(duel.batched((LONG_BATCH, 16) if run.wants("decode", "hugepages") else (LONG_BATCH,)))
        if run.wants("context"):
            contests.append(duel.long(run.long))
        before: Side = lambda: None  # noqa: E731  (a side like the others)
        if name == "bf16":
            before = partial(_read_memory, run, machine.build_reader(WORK))
            if run.transformers:
                argv = ["--model", str(run.directory), "--threads", str(run.threads)]
                other = stack.enter_context(Child("hf_transformers", argv))
                arguments = {"decode": decode, "prefill": prefill}
                contests[0].append(partial(one_sequence, run.figures, other, "bf16_transformers", **arguments))
        take_turns(name, run.rounds, contests, before, say)
    if name == "bf16":
        _show_bandwidth(run)
    duel.show()
    if name == "bf16" and run.transformers:
        for what in ("decode_b1", "prefill512"):
            run.figures.ratio(f"{what}_bf16_vs_transformers", f"{what}_bf16_ours", f"{what}_bf16_transformers")


def _read_memory(run: Run, reader: Path) -> None:
    run.figures.add("bandwidth_gb_s", machine.bandwidth_gb_s(reader, run.threads))


def _show_bandwidth(run: Run) -> None:
    figures = run.figures
    figures.show("bandwidth_gb_s")
    if figures.has("decode_b1_bf16_ours"):
        gigabytes = shapes.values_per_token(run.directory) * BF16_BYTES / 1e9
        speed = gigabytes * figures.median("decode_b1_bf16_ours")
        figures.line("decode_b1_of_bandwidth", speed / figures.median("bandwidth_gb_s"))


def measure_isa(run: Run, name: str) -> None:
    """bf16 with an instruction set taken away, against a llama.cpp built without it."""
    names, variant, flag = ISAS[name]
    if flag not in machine.isa_flags():
        raise HostError(f"this processor has no {flag}")
    peer = None
    if run.native is not None:
        peer = llamacpp.build(variant, WORK / "llamacpp", run.threads, say)
    with run.engine(isa=name) as child:
        duel = Duel(run.figures, names, child, peer, run.gguf(Format.BF16))
        contests = [duel.single(decode=True, prefill=False), duel.batched((LONG_BATCH,))]
        take_turns(name, run.rounds, contests, lambda: None, say)
    duel.show()


def measure_agreement(run: Run) -> None:
    """Whether the converted model, ours and transformers' give the same tokens."""
    model = run.gguf(Format.BF16)
    if run.native is None or model is None:
        return
    made = serving.Serving(run.directory, run.figures, WORK / "serving", say, run.rounds)
    with ExitStack() as stack:
        children = {"ours": stack.enter_context(run.engine())}
        if run.transformers:
            argv = ["--model", str(run.directory), "--threads", str(run.threads), "--dtype", "float32"]
            children["transformers"] = stack.enter_context(Child("hf_transformers", argv))
        server = stack.enter_context(made.llama_server(run.native, model))
        server.first_token_s(made.prompts.take(serving.PROMPT_TOKENS))
        agreement.compare(run.figures, server, children, read_config(run.directory).vocab_size)


def measure_serving(run: Run, section: str) -> None:
    """The sections that talk HTTP; the first two need llama-server."""
    made = serving.Serving(run.directory, run.figures, WORK / "serving", say, run.rounds)
    model = run.gguf(Format.BF16)
    if run.native is not None and model is not None:
        if section == "http":
            serving.throughput(made, run.native, model)
        elif section == "start":
            serving.starting(made, run.native, model)
    if section == "workers":
        serving.two_workers(made)
    elif section == "joining":
        if read_config(run.directory).context_length < serving.LONG_CONTEXT:
            raise HostError("this model's context is too short for a prompt of 4096 tokens")
        serving.joining(made)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="./install.sh bench engine", description=__doc__.splitlines()[0] if __doc__ else None
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--shape", choices=sorted(shapes.SHAPES), default="qwen2.5-0.5b", help="random weights")
    which.add_argument("--model", type=Path, metavar="DIR", help="a model directory of your own: Llama or Qwen2")
    parser.add_argument(
        "--peer", action="append", choices=("llamacpp", "transformers", "none"), help="default llamacpp"
    )
    parser.add_argument("--only", action="append", choices=(*ENGINE_SECTIONS, *SERVING_SECTIONS), help="default all")
    parser.add_argument("--format", action="append", choices=tuple(FORMATS), help="default both")
    parser.add_argument("--kernels", choices=("auto", "native", "torch"), default="auto", help="of our side")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="default 5")
    parser.add_argument("--threads", type=int, metavar="N", help="of both sides; default: all processors allowed")
    return parser.parse_args()


def _measure(args: argparse.Namespace) -> bool:
    threads = args.threads or process.processors_allowed()
    print(f"cpu={machine.cpu_line(threads)}", flush=True)
    others = machine.Others()
    peers = args.peer or ["llamacpp"]
    directory = args.model or shapes.model_directory(args.shape, WORK / "models", say)
    run = Run(
        directory=directory,
        sections=frozenset(args.only or (*ENGINE_SECTIONS, *SERVING_SECTIONS)),
        formats=tuple(args.format or FORMATS),
        kernels=args.kernels,
        rounds=args.rounds,
        threads=threads,
        figures=Figures(),
        transformers="transformers" in peers,
        native=llamacpp.build(Variant.NATIVE, WORK / "llamacpp", threads, say) if "llamacpp" in peers else None,
    )
    print(f"model={directory.resolve().name}", flush=True)
    print(f"rounds={run.rounds}", flush=True)
    jobs: dict[str, Side] = {}
    if run.wants("decode", "prefill", "context", "hugepages"):
        jobs |= {name: partial(measure_format, run, name) for name in run.formats}
    if run.wants("isa"):
        jobs |= {name: partial(measure_isa, run, name) for name in ISAS}
    if run.wants("agreement"):
        jobs["agreement"] = partial(measure_agreement, run)
    jobs |= {name: partial(measure_serving, run, name) for name in SERVING_SECTIONS if run.wants(name)}
    done = [_did(name, job) for name, job in jobs.items()]
    print(f"others_cpu_share={others.share():.2f}", flush=True)
    return all(done)


def _did(name: str, job: Side) -> bool:
    """One that fails costs its own figures and not the others'."""
    try:
        job()
    except LlorchError as problem:
        say(f"{name} is left out: {problem.message}")
        return False
    return True


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
