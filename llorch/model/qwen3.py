"""Qwen3: Qwen2 without biases, with an RMSNorm over each head of q and k, and heads of a size of their own."""

from llorch.model.family import Family, WeightNames
from llorch.model.qwen2 import windows

FAMILY = Family("qwen3", windows=windows, names=WeightNames(q_norm="self_attn.q_norm", k_norm="self_attn.k_norm"))
