"""The model: weights, tokenizer and the forward pass. The only importer of torch, tokenizers and safetensors.

Importing this package imports no torch: `load_model` does, in `llorch.model.graph`, when the torch graph is to run.
"""

from __future__ import annotations

from llorch.model.choice import NativeKernels
from llorch.model.config import ModelConfig
from llorch.model.loaded import Capabilities, Dtype, Kernels, LoadedModel, Quantize
from llorch.model.loader import load_model
from llorch.model.runner import Runner
from llorch.model.tokenizer import SegmentKind, SpecialTokens, Tokenizer

__all__ = [
    "load_model",
    "LoadedModel",
    "Capabilities",
    "Dtype",
    "Kernels",
    "NativeKernels",
    "Quantize",
    "ModelConfig",
    "Runner",
    "Tokenizer",
    "SegmentKind",
    "SpecialTokens",
]
