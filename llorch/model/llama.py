"""Llama 2, 3, 3.1, 3.2, TinyLlama, SmolLM and the demo model: the plain shape."""

from llorch.model.family import Family

FAMILY = Family("llama")
