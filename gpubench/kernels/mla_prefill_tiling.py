"""How a launch of MLA prefill is cut: its form, its tiles, its splits; all from shapes, so nothing is read back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from gpubench.kernels.gpu import gpu_name, sm_count

__all__ = [
    "MAX_SPLITS",
    "Form",
    "Sizes",
    "Tiling",
    "choose_form",
    "choose_splits",
    "choose_tiling",
    "head_group",
    "is_sdpa_faster",
    "split_nope",
]

Form = Literal["expanded", "absorbed"]

MAX_SPLITS = 16


class Sizes(NamedTuple):
    """What is known of a launch without reading from the GPU."""

    tokens: int
    """Rows of q, padding included."""
    keys: int
    """Rows of the cache, over all sequences."""
    sequences: int
    heads: int
    latent: int
    """R; 0 to a launch that has nothing to do with it."""
    rope: int
    nope: int
    v: int
    """The width of what attention writes: R to a launch of the absorbed form."""
    itemsize: int


@dataclass(frozen=True)
class Tiling:
    """A program's tile of rows and keys, and what it gets to compute it."""

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int
    per_sm: int = 1
    """Programs that fit a multiprocessor together."""


def split_nope(nope: int) -> tuple[int, int]:
    """The largest power of two in `nope`, and what is left: tiles are powers of two, and 192 = 128 + 64."""
    largest = 1 << (nope.bit_length() - 1)
    return largest, nope - largest


# An H200's best of seven to twelve tilings, in bfloat16, November 2026. Tiles of 128 rows win where they can be filled.
_FULL = Tiling(128, 64, num_warps=8, num_stages=3)
_PAIRS = Tiling(64, 64, num_warps=4, num_stages=2, per_sm=2)
_DEEP = Tiling(64, 64, num_warps=4, num_stages=3)
_DEEP_PAIRS = Tiling(64, 64, num_warps=4, num_stages=3, per_sm=2)
_WIDE_FULL = Tiling(128, 64, num_warps=8, num_stages=2)
_WIDE = Tiling(64, 64, num_warps=4, num_stages=2)
# By R. The accumulator of 64 × 512 takes half of the registers, so that R = 512 runs at half the speed of 256.
_H200_ABSORBED = {256: _FULL, 512: Tiling(64, 64, num_warps=8, num_stages=2)}

_SHARED_BYTES = 99 << 10
"""What a program may have on any GPU since compute capability 8.0."""

# For other GPUs, where nothing was tuned: the first that fits into that. float32 has one tiling that does, everywhere.
_DEFAULTS: dict[Form, tuple[Tiling, ...]] = {
    "expanded": (Tiling(64, 64, num_warps=4, num_stages=2), Tiling(64, 32, num_warps=4, num_stages=2)),
    "absorbed": (Tiling(32, 32, num_warps=8, num_stages=2), Tiling(16, 32, num_warps=4, num_stages=2)),
}
_FLOAT32: dict[Form, Tiling] = {
    "expanded": Tiling(32, 32, num_warps=4, num_stages=1),
    "absorbed": Tiling(16, 16, num_warps=4, num_stages=1),
}

_L2_BYTES = 20 << 20
"""Of keys and values that programs should share at a time; from 12 to 100 MB made no difference on an H200."""

_ABSORBED_COST = {256: 0.9, 512: 2.5}
"""By R, an operation of absorbed attention over one of expanded attention: on an H200, November 2026."""
_ABSORBED_START_FLOP = 4e9
"""Absorbing is two launches more, and short of work at first: worth it from so many saved operations on, × cost."""

_LENGTHS = (128, 512, 1024, 2048, 4096, 8192)
# By GPU, whether keys and values are expanded already, N + P + V, and heads: at which of these lengths of a sequence
# without a prefix torch's SDPA was faster than the expanded form. Without the copies of the rotary key, which it needs,
# it is so more often. bfloat16, cold L2, CUDA events around a graph's replay, torch 2.11, 2026-11-21.
_SDPA_AT: dict[str, dict[tuple[bool, int], dict[int, tuple[int, ...]]]] = {
    "NVIDIA H200": {
        (False, 256): {32: (4096, 8192)},
        (False, 320): {16: (8192,), 128: (4096, 8192)},
        (False, 512): {20: (2048, 4096, 8192)},
        (True, 256): {32: (512, 2048, 4096, 8192)},
        (True, 320): {16: (1024, 4096, 8192), 128: (512, 1024, 2048, 4096, 8192)},
        (True, 512): {20: _LENGTHS},
    },
}

_FEWEST_KEYS = 256
"""That a row sees on average, per split: below, merging costs more than the split brings."""


def choose_form(sizes: Sizes) -> Form:
    """Absorbed where few new tokens meet many cached ones, so that expanding these is most of the work."""
    if sizes.itemsize > 2:
        return "expanded"
    cost = _ABSORBED_COST[256 if sizes.latent <= 256 else 512]
    new = sizes.tokens / sizes.sequences
    per_pair = cost * (2 * sizes.latent + sizes.rope) - (sizes.nope + sizes.rope + sizes.v)
    saved_per_key = sizes.latent * (sizes.nope + sizes.v) - new * per_pair
    return "absorbed" if 2 * sizes.keys * sizes.heads * saved_per_key > cost * _ABSORBED_START_FLOP else "expanded"


def is_sdpa_faster(gpu: str, sizes: Sizes, *, is_expanded: bool) -> bool:
    """Whether torch's SDPA is, for sequences of one length without a prefix; if `is_expanded`, on keys that are so.

    As the nearest shape was measured; a head of another sequence counts as one more head.
    """
    measured = _SDPA_AT.get(gpu, {}).get((is_expanded, sizes.nope + sizes.rope + sizes.v))
    if measured is None or sizes.itemsize != 2:
        return False
    heads = _nearest(measured, sizes.heads * sizes.sequences)
    return _nearest(_LENGTHS, sizes.tokens // sizes.sequences) in measured[heads]


def _nearest(known: Iterable[int], wanted: int) -> int:
    return min(known, key=lambda size: max(size / wanted, wanted / size))


def choose_tiling(form: Form, sizes: Sizes) -> Tiling:
    """The table's tiling on a GPU that it was measured on, else one that runs everywhere."""
    if sizes.itemsize > 2:
        return _FLOAT32[form]
    if gpu_name() == "NVIDIA H200":
        tuned = _H200_ABSORBED.get(sizes.latent) if form == "absorbed" else _h200_expanded(sizes)
        if tuned is not None:
            return tuned
    return next((t for t in _DEFAULTS[form] if _shared_bytes(t, form, sizes) <= _SHARED_BYTES), _DEFAULTS[form][-1])


def _h200_expanded(sizes: Sizes) -> Tiling | None:
    new, keys = sizes.tokens // sizes.sequences, sizes.keys // sizes.sequences
    match sizes.nope + sizes.rope + sizes.v:
        case 256:
            return _DEEP_PAIRS
        case 320 if new >= 128 and (keys >= 4096 or (keys >= 1024 and sizes.tokens // 128 * sizes.heads >= 256)):
            return _FULL
        case 320:
            return _PAIRS if sizes.tokens // 64 * sizes.heads > 132 else _DEEP
        case 512:
            return _WIDE_FULL if new >= 128 else _WIDE
    return None


def _shared_bytes(tiling: Tiling, form: Form, sizes: Sizes) -> int:
    """The queries, and keys and values of each stage; in the absorbed form keys are values."""
    key = (sizes.latent if form == "absorbed" else sizes.nope) + sizes.rope
    value = 0 if form == "absorbed" else sizes.v
    return sizes.itemsize * (tiling.block_m * key + tiling.num_stages * tiling.block_n * (key + value))


def choose_splits(form: Form, sizes: Sizes) -> int:
    """Into how many splits the keys go so that programs fill the GPU once; 0 where none is needed."""
    tiling = choose_tiling(form, sizes)
    heads, pack = (1, sizes.heads) if form == "absorbed" else (sizes.heads, 1)
    new, keys = -(-sizes.tokens // sizes.sequences), sizes.keys // sizes.sequences
    programs = -(-new * pack // tiling.block_m) * sizes.sequences * heads
    splits = min(sm_count() * tiling.per_sm // programs, (keys - new // 2) // _FEWEST_KEYS, MAX_SPLITS)
    return splits if splits > 1 else 0


def head_group(sizes: Sizes) -> int:
    """Of how many heads one sequence's expanded keys and values fit the L2 together."""
    head_bytes = sizes.keys // sizes.sequences * (sizes.nope + sizes.v) * sizes.itemsize
    return min(sizes.heads, max(1, _L2_BYTES // max(head_bytes, 1)))
