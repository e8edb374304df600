"""The table of supported families, by config.json's `model_type`."""

from llorch.model import llama, mistral, phi3, qwen2, qwen3
from llorch.model.family import Family

FAMILIES: dict[str, Family] = {
    family.model_type: family for family in (llama.FAMILY, mistral.FAMILY, phi3.FAMILY, qwen2.FAMILY, qwen3.FAMILY)
}
