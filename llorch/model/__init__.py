"""The model: weights, tokenizer and the forward pass. The only importer of torch, tokenizers and safetensors.

Importing this package imports torch (about a second): import it where a model is about to be loaded, not before.
"""

from __future__ import annotations

import warnings

warnings.filterwarnings("ignore", message="Failed to initialize NumPy")  # numpy is left out of the frozen file

from llorch.model.config import ModelConfig  # noqa: E402  (the filter must come before torch)
from llorch.model.loader import Capabilities, Dtype, LoadedModel, load_model  # noqa: E402
from llorch.model.runner import Runner  # noqa: E402
from llorch.model.tokenizer import SegmentKind, SpecialTokens, Tokenizer  # noqa: E402

__all__ = [
    "load_model",
    "LoadedModel",
    "Capabilities",
    "Dtype",
    "ModelConfig",
    "Runner",
    "Tokenizer",
    "SegmentKind",
    "SpecialTokens",
]
