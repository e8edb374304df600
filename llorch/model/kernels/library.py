"""The native library through ctypes: which variant fits this processor, its values, and its functions with their types.

The structures mirror those of `engine.cpp` and `sample.h`, field by field.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from ctypes import POINTER, Structure, c_char_p, c_double, c_float, c_int, c_int32, c_int64, c_uint64, c_void_p
from enum import Enum, IntEnum
from pathlib import Path

from llorch.base.errors import ConfigError, HostError

ISA_ENV = "LLORCH_CPU_ISA"
TOP_MAX = 20
THREADS_MAX = 256


class Isa(Enum):
    """An instruction set that a variant is compiled for, best first."""

    AMX = "amx"
    AVX512 = "avx512"
    AVX2 = "avx2"


# In the words of /proc/cpuinfo, all that the variants are compiled for (x86-64-v3, x86-64-v4 and more).
_AVX2 = ("avx2", "fma", "f16c", "bmi1", "bmi2", "movbe", "abm")
_AVX512 = (*_AVX2, "avx512f", "avx512bw", "avx512cd", "avx512vl", "avx512dq", "avx512_bf16", "avx512_vnni")
NEEDED_FLAGS = {
    Isa.AMX: (*_AVX512, "amx_tile", "amx_bf16", "amx_int8"),
    Isa.AVX512: _AVX512,
    Isa.AVX2: _AVX2,
}


def choose_isa(flags: Iterable[str], forced: str | None) -> Isa | None:
    """The best variant for a processor with `flags`, or the forced one; None when none fits.

    Raises ConfigError when `forced` is no variant or the processor lacks something it needs.
    """
    have = frozenset(flags)
    if not forced:
        return next((isa for isa in Isa if have.issuperset(NEEDED_FLAGS[isa])), None)
    try:
        isa = Isa(forced)
    except ValueError:
        raise ConfigError(f"{ISA_ENV}={forced}: known are {', '.join(i.value for i in Isa)}") from None
    missing = [flag for flag in NEEDED_FLAGS[isa] if flag not in have]
    if missing:
        raise ConfigError(f"{ISA_ENV}={forced}: this processor lacks {', '.join(missing)}")
    return isa


def library_path(directory: Path, isa: Isa) -> Path:
    """Where the build puts a variant."""
    return directory / f"libllorch_{isa.value}.so"


class MatrixSlot(IntEnum):
    """A matrix of the model; all but HEAD belong to a layer."""

    QKV = 0
    OUTPUT = 1
    GATE_UP = 2
    DOWN = 3
    HEAD = 4


class VectorSlot(IntEnum):
    """A vector of the model; the first six belong to a layer."""

    ATTENTION_NORM = 0
    MLP_NORM = 1
    QUERY_NORM = 2
    KEY_NORM = 3
    QKV_BIAS = 4
    OUTPUT_BIAS = 5
    FINAL_NORM = 6
    FREQUENCIES = 7
    ROTARY_FACTORS = 8


STORED_TYPES = {"BF16": 0, "F16": 1, "F32": 2}


class Shape(Structure):
    """Sizes of a model and of the work one pass may have."""

    _fields_ = [
        *[(name, c_int32) for name in ("layers", "hidden", "heads", "kv_heads", "head_dim", "rotary_dim")],
        *[(name, c_int32) for name in ("intermediate", "vocab", "blocks", "rows_max", "draws_max", "int8")],
        *[(name, c_int32) for name in ("head_norms", "frequency_sets")],
        ("norm_eps", c_float),
    ]


class Span(Structure):
    """Consecutive rows of one sequence; its block numbers begin at `blocks_at`."""

    _fields_ = [(name, c_int32) for name in ("start", "count", "blocks_at", "frequency_set")]


class Batch(Structure):
    """The rows of one pass."""

    _fields_ = [
        *[(name, c_int32) for name in ("rows", "spans", "draws", "copies")],
        ("token_ids", POINTER(c_int32)),
        ("span", POINTER(Span)),
        ("blocks", POINTER(c_int32)),
        ("draw_rows", POINTER(c_int32)),
        ("copy", POINTER(c_int32)),
    ]


class Part(Structure):
    """Some rows of a stored matrix."""

    _fields_ = [("data", c_void_p), ("rows", c_int64)]


class DrawSpec(Structure):
    """How one token is drawn; history and bias are slices of the batch's arrays."""

    _fields_ = [
        *[(name, c_double) for name in ("top_p", "min_p")],
        *[(name, c_float) for name in ("temperature", "repetition", "presence", "frequency")],
        ("top_k", c_int32),
        ("logprobs", c_int32),
        ("seed", c_uint64),
        ("index", c_uint64),
        *[(name, c_int32) for name in ("history_at", "history_count", "prompt_length", "bias_at", "bias_count")],
    ]


class DrawnToken(Structure):
    """A drawn token with what was asked about it."""

    _fields_ = [
        ("token", c_int32),
        ("logprob", c_float),
        ("top_count", c_int32),
        ("top_ids", c_int32 * TOP_MAX),
        ("top_logprobs", c_float * TOP_MAX),
    ]


class DrawBatch(Structure):
    """The draws of one pass."""

    _fields_ = [
        ("specs", POINTER(DrawSpec)),
        ("history", POINTER(c_int32)),
        ("bias_ids", POINTER(c_int32)),
        ("bias_values", POINTER(c_float)),
    ]


class _Buffer(Structure):
    """CPython's Py_buffer."""

    _fields_ = [
        ("buf", c_void_p),
        ("obj", ctypes.py_object),
        *[(name, ctypes.c_ssize_t) for name in ("len", "itemsize")],
        ("readonly", c_int),
        ("ndim", c_int),
        *[(name, c_void_p) for name in ("format", "shape", "strides", "suboffsets", "internal")],
    ]


def address_of(view: memoryview) -> int:
    """Where a buffer's bytes are, read-only ones included (ctypes itself tells that of writable buffers only)."""
    buffer = _Buffer()
    ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(view), ctypes.byref(buffer), 0)
    try:
        return int(buffer.buf or 0)
    finally:
        ctypes.pythonapi.PyBuffer_Release(ctypes.byref(buffer))


_FUNCTIONS: dict[str, tuple[list[type], type | None]] = {
    "llorch_isa": ([], c_char_p),
    "llorch_usable": ([], c_int),
    "llorch_size_of": ([c_int], c_int),
    "llorch_create": ([POINTER(Shape), c_int], c_void_p),
    "llorch_destroy": ([c_void_p], None),
    "llorch_weights_bytes": ([c_void_p], c_int64),
    "llorch_block_bytes": ([c_void_p], c_int64),
    "llorch_set_vector": ([c_void_p, c_int, c_int, c_void_p, c_int, c_int, c_int], None),
    "llorch_set_window": ([c_void_p, c_int, c_int], None),
    "llorch_set_embedding": ([c_void_p, c_void_p, c_int], None),
    "llorch_pack": ([c_void_p, c_int, c_int, POINTER(Part), c_int, c_int], None),
    "llorch_interrupt": ([c_void_p, c_int], None),
    "llorch_forward": ([c_void_p, POINTER(Batch), c_int], c_int),
    "llorch_logits": ([c_void_p, c_int], POINTER(c_float)),
    "llorch_draw": ([c_void_p, POINTER(DrawBatch), c_int, POINTER(DrawnToken), c_int], None),
}


_STRUCTURES = (Shape, Span, Batch, Part, DrawSpec, DrawBatch, DrawnToken)


def open_library(path: Path) -> ctypes.CDLL:
    """The library with its functions' types declared. Calls release the interpreter lock. Raises HostError."""
    try:
        library = ctypes.CDLL(str(path))
        for name, (arguments, result) in _FUNCTIONS.items():
            function = getattr(library, name)
            function.argtypes = arguments
            function.restype = result
    except (OSError, AttributeError) as problem:
        raise HostError(f"the native kernels cannot be loaded: {problem}") from None
    if [library.llorch_size_of(index) for index in range(len(_STRUCTURES))] != list(map(ctypes.sizeof, _STRUCTURES)):
        raise HostError(f"{path.name} is of another build: run ./install.sh again")
    if not library.llorch_usable():
        isa = library.llorch_isa().decode()
        raise HostError(f"the system does not let this process use {isa}: force another variant with {ISA_ENV}")
    return library
