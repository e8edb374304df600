"""The table of supported families, by config.json's `model_type`."""

from llorch.model import llama, mistral, qwen2
from llorch.model.family import Family

FAMILIES: dict[str, Family] = {family.model_type: family for family in (llama.FAMILY, mistral.FAMILY, qwen2.FAMILY)}
