"""From a launch to a loaded model, its texts and its step thread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import llorch
from llorch.base.clock import SystemClock
from llorch.batching.planner import Planner
from llorch.host import process, runtime
from llorch.host.cores import Cores, shared_path
from llorch.model import (
    Dtype,
    Kernels,
    LoadedModel,
    NativeKernels,
    Quantize,
    SegmentKind,
    SpecialTokens,
    load_model,
)
from llorch.wire.messages import Message
from llorch.wire.templates import TELLING_TOKENS, ChatTemplate, Origin, choose, own_template, render
from llorch.workerd.engine import Engine
from llorch.workerd.launch import Launch, Model
from llorch.workerd.outlet import Update
from llorch.workerd.service import Facts

PROMPTS_LEFT_TO_THE_TOKENIZER = "raw"
_KINDS = {Origin.TEMPLATE: SegmentKind.TEMPLATE, Origin.CONTENT: SegmentKind.CONTENT}


class ModelTexts:
    """The model's tokenizer with its chat template."""

    def __init__(self, model: LoadedModel, template: ChatTemplate) -> None:
        self.eos_ids = model.eos_ids
        self._tokenizer = model.tokenizer
        self._template = template

    def encode(self, prompt: str | None, messages: Sequence[Message]) -> tuple[int, ...]:
        """Ids of a raw prompt, or of messages; a template writes its own beginning of text, so none is added there."""
        if prompt is not None:
            return tuple(self._tokenizer.encode(prompt))
        segments = render(self._template, messages, self._tokenizer.special_tokens)
        special = SpecialTokens.ADD if self._template.name == PROMPTS_LEFT_TO_THE_TOKENIZER else SpecialTokens.LEAVE
        return tuple(self._tokenizer.encode_segments([(s.text, _KINDS[s.origin]) for s in segments], special))

    def decode(self, token_ids: list[int]) -> str:
        """Text without control tokens."""
        return self._tokenizer.decode(token_ids)


def load(launch: Launch, model: Model, progress: Callable[[float], None]) -> LoadedModel:
    """Load the model as the launch wants it. Raises InvalidModel and InsufficientMemory."""
    return load_model(
        model.directory,
        kernels=Kernels(launch.kernels),
        native=NativeKernels(runtime.kernels_dir(), launch.cpu_isa),
        quantize=Quantize(launch.quantize),
        dtype=Dtype(launch.dtype),
        kv_bytes=None if launch.kv_mib is None else launch.kv_mib << 20,
        torch_needed=lambda: runtime.ensure("torch"),
        slots=launch.slots,
        context=launch.context,
        # More threads than processors only wait for each other.
        threads=None if launch.threads is None else min(launch.threads, process.processors_allowed()),
        active=Cores(shared_path()).share,
        progress=progress,
    )


def texts_of(loaded: LoadedModel, model: Model) -> ModelTexts:
    """The texts of a loaded model. Raises ConfigError for an unknown template name in the catalog."""
    template = choose(
        explicit=model.template,
        own=own_template(loaded.chat_template),
        architecture=loaded.config.model_type or model.architecture,
        control_tokens=[t for t in TELLING_TOKENS if len(loaded.tokenizer.encode(t, SpecialTokens.LEAVE)) == 1],
    )
    return ModelTexts(loaded, template)


def facts_of(loaded: LoadedModel, launch: Launch, model: Model) -> Facts:
    """What /health and the announcement say."""
    capabilities: dict[str, Any] = {**loaded.capabilities.to_body(), "threads": loaded.threads, "resume": True}
    return Facts(
        worker_id=launch.worker_id,
        model=model.id,
        backend=launch.backend,
        slots_total=loaded.slots,
        context_length=loaded.context_length,
        vocab_size=loaded.config.vocab_size,
        version=llorch.__version__,
        protocol=llorch.PROTOCOL,
        capabilities=capabilities,
    )


def planner_of(loaded: LoadedModel) -> Planner:
    """The planner that fits a loaded model: its slots, its blocks, and what its runner does well."""
    return Planner(
        slots=loaded.slots,
        context=loaded.context_length,
        step_tokens_max=loaded.step_tokens,
        blocks=loaded.kv_blocks,
        idle_max=loaded.idle_blocks_max,
        drafts_max=loaded.drafts_max,
        cheap_rows=loaded.cheap_rows,
        long_from=loaded.config.long_from,
    )


def engine_of(
    loaded: LoadedModel, clock: SystemClock, *, publish: Callable[[list[Update]], None], died: Callable[[], None]
) -> Engine:
    """The step thread of a loaded model, not started yet."""
    return Engine(planner_of(loaded), loaded.runner, clock, publish=publish, died=died)
