"""What a step returns, leaf by leaf: naming, copying, and poisoning it to see what the next step really writes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

__all__ = [
    "Poison",
    "clone",
    "find_nan",
    "is_poisonable",
    "leaves",
    "poison",
    "view_bits",
]


def leaves(outputs: Any, path: str = "out") -> Iterator[tuple[str, Any]]:
    """Every leaf of nested tuples, lists and mappings with its path: `out`, `out[1]`, `out["tokens"]`."""
    if isinstance(outputs, Mapping):
        for key, value in outputs.items():
            yield from leaves(value, f'{path}["{key}"]')
    elif isinstance(outputs, Sequence) and not isinstance(outputs, str | bytes):
        for index, value in enumerate(outputs):
            yield from leaves(value, f"{path}[{index}]")
    else:
        yield path, outputs


def clone(outputs: Any) -> Any:
    """A copy that shares no memory with the step's own; leaves that aren't tensors are taken as they are."""
    if isinstance(outputs, torch.Tensor):
        return outputs.detach().clone()
    if isinstance(outputs, Mapping):
        return {key: clone(value) for key, value in outputs.items()}
    if isinstance(outputs, Sequence) and not isinstance(outputs, str | bytes):
        return [clone(value) for value in outputs]
    return outputs


_NAN_BITS = {
    torch.float16: 0x7EAD,
    torch.bfloat16: 0x7FED,
    torch.float32: 0x7FC0_DEAD,
    torch.float64: 0x7FF8_DEAD_DEAD_DEAD,
}
"""Quiet NaNs with a payload that arithmetic doesn't make."""


@dataclass(frozen=True)
class Poison:
    """What was written over one output, and how to find what of it is still there after a step."""

    path: str
    pattern: torch.Tensor
    """The bits as integers: one for all elements, or an own one for each."""

    def survivors(self, output: torch.Tensor) -> int:
        """How many elements still hold their poison; 0 if the output has another shape now."""
        bits = view_bits(output)
        if self.pattern.dim() and self.pattern.shape != bits.shape:
            return 0
        return int((bits == self.pattern).sum().item())


def poison(outputs: Any, spared: Sequence[torch.Tensor]) -> list[Poison]:
    """Overwrite a step's outputs, less those that share memory with a tensor in `spared`.

    Floats of two bytes and more become a NaN of a rare bit pattern, so that adding to what was there shows as well.
    For all others no value is impossible, so each element becomes its own complement: a step that gives the same
    answer twice can't leave that behind.
    """
    kept = {tensor.untyped_storage().data_ptr() for tensor in spared if tensor.layout is torch.strided}
    done: list[Poison] = []
    with torch.inference_mode():
        for path, leaf in leaves(outputs):
            if not is_poisonable(leaf) or leaf.untyped_storage().data_ptr() in kept:
                continue
            bits = view_bits(leaf)
            pattern = _NAN_BITS.get(leaf.dtype)
            if pattern is None:
                own = ~bits
                bits.copy_(own)
                done.append(Poison(path, own))
            else:
                bits.fill_(pattern)
                done.append(Poison(path, torch.tensor(pattern, dtype=bits.dtype, device=bits.device)))
    return done


def is_poisonable(leaf: Any) -> bool:
    """Whether an output has memory of its own for every element, and elements whose bits can be set."""
    if not isinstance(leaf, torch.Tensor) or leaf.layout is not torch.strided or leaf.numel() == 0:
        return False
    is_expanded = any(stride == 0 and size > 1 for stride, size in zip(leaf.stride(), leaf.shape, strict=True))
    return not is_expanded and not leaf.is_complex()


def find_nan(leaf: Any, expected: Any) -> str:
    """How much of an output is NaN where `expected`, of the same shape, isn't: `3 of 64 elements, …`; "" if none."""
    if not isinstance(leaf, torch.Tensor) or not (leaf.is_floating_point() or leaf.is_complex()):
        return ""
    is_nan = _is_nan(leaf)
    if isinstance(expected, torch.Tensor) and expected.shape == leaf.shape:
        is_nan &= ~_is_nan(expected).to(leaf.device)
    count = int(is_nan.sum().item())
    if not count:
        return ""
    first = is_nan.nonzero()[0].tolist()
    return f"{count:,} of {leaf.numel():,} elements" + (f", the first at {first}" if first else "")


def _is_nan(tensor: torch.Tensor) -> torch.Tensor:
    tensor = tensor.detach()
    return (tensor.float() if tensor.element_size() == 1 else tensor).isnan()


def view_bits(tensor: torch.Tensor) -> torch.Tensor:
    """The same memory as integers (bools stay bools, whose other bit patterns aren't values)."""
    tensor = tensor.detach()
    if tensor.dtype is torch.bool:
        return tensor
    return tensor.view({1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()])
