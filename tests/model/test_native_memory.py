"""The engine's memory is reserved by sums made beforehand: they must suffice for any shape."""

from __future__ import annotations

import ctypes
import random

import pytest
from variants import ISAS, built

from llorch.model.kernels import library as native
from llorch.model.kernels.library import Isa

LLAMA_8B = {"layers": 2, "hidden": 4096, "heads": 32, "kv_heads": 8, "head_dim": 128, "intermediate": 14336}
LARGE_VOCABULARY = {"layers": 1, "hidden": 8192, "heads": 64, "kv_heads": 8, "head_dim": 128, "vocab": 262144}
SMALLEST = {"layers": 1, "hidden": 16, "heads": 1, "kv_heads": 1, "head_dim": 16, "intermediate": 1, "vocab": 1}
WIDE_HEADS = {"layers": 3, "hidden": 16, "heads": 48, "kv_heads": 1, "head_dim": 512, "intermediate": 17, "vocab": 33}


def random_shape(chance: random.Random) -> dict[str, int]:
    kv_heads = chance.choice((1, 2, 3, 8))
    return {
        "layers": chance.choice((1, 2, 7, 80)),
        "hidden": 16 * chance.randint(1, 300),
        "kv_heads": kv_heads,
        "heads": kv_heads * chance.choice((1, 2, 5, 48)),
        "head_dim": 16 * chance.randint(1, 32),
        "intermediate": chance.randint(1, 9000),
        "vocab": chance.randint(1, 9000),
        "rows_max": chance.choice((1, 17, 576)),
    }


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("int8", [0, 1])
def test_the_memory_reserved_suffices(isa: str, int8: int) -> None:
    """Large and smallest shapes, and random ones with all that a model may have, on one thread and on many."""
    library = native.open_library(native.library_path(built(Isa(isa)), Isa(isa)))
    chance = random.Random(3)
    for sizes in (LLAMA_8B, LARGE_VOCABULARY, SMALLEST, WIDE_HEADS, *(random_shape(chance) for _ in range(40))):
        usual = {"intermediate": 28672, "vocab": 128256, "rows_max": 576, "blocks": 3, "head_norms": 1}
        values = {**usual, "frequency_sets": 2, "int8": int8, **sizes}
        shape = native.Shape(**values, rotary_dim=sizes["head_dim"], draws_max=values["rows_max"], norm_eps=1e-5)
        engine = library.llorch_create(ctypes.byref(shape), chance.choice((1, 2, 40)))
        assert engine, values
        bias = (ctypes.c_float * max(sizes["heads"] * sizes["head_dim"], sizes["hidden"]))()
        for layer in range(sizes["layers"]):
            for slot in (native.VectorSlot.QKV_BIAS, native.VectorSlot.OUTPUT_BIAS):
                library.llorch_set_vector(engine, slot, layer, bias, 2, 0, sizes["hidden"] if slot == 5 else 1)
        library.llorch_destroy(engine)


def test_a_team_is_bounded() -> None:
    """A machine of more processors than a team may have gets the largest team, not memory written beyond its end."""
    library = native.open_library(native.library_path(built(Isa.AVX2), Isa.AVX2))
    shape = native.Shape(**SMALLEST, rotary_dim=16, rows_max=1, draws_max=1, blocks=1, frequency_sets=1)
    library.llorch_destroy(library.llorch_create(ctypes.byref(shape), native.THREADS_MAX + 40))
