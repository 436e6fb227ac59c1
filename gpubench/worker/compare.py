"""Whether two sets of outputs are the same, and if not, where they differ most."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from gpubench.records import CheckResult
from gpubench.settings import CheckSettings
from gpubench.worker.outputs import leaves

__all__ = ["compare"]

CHUNK = 1 << 24
"""Elements compared at a time: in double precision a few hundred megabytes, whatever the outputs' size."""

_RTOL = {
    torch.float64: 1e-7,
    torch.complex128: 1e-7,
    torch.float32: 1e-4,
    torch.complex64: 1e-4,
    torch.float16: 1e-2,
    torch.bfloat16: 2e-2,
    torch.float8_e4m3fn: 0.125,
    torch.float8_e5m2: 0.25,
}
"""What a reordered accumulation may move a result by; of two dtypes the coarser counts."""


@dataclass(frozen=True)
class _Worst:
    """The element of one output that is furthest from where it may be, and the sums of all of them."""

    excess: float
    """Its deviation as a multiple of what is allowed there: above 1, the output is wrong."""
    text: str
    off: int
    total: int
    rtol: float
    atol: float
    error_squares: float
    reference_squares: float


def compare(outputs: Any, reference: Any, against: str, settings: CheckSettings, same_dtypes: bool) -> CheckResult:
    """Element by element: |out − ref| ≤ atol + rtol·|ref|; integers, bools and infinities must be equal.

    `rtol` defaults by dtype, `atol` to rtol × the reference's root mean square, so that a small element of a large
    output may be off by what rounding the large ones costs. NaN equals NaN. With `same_dtypes` a dtype must be the
    reference's own; without, as for an oracle in higher precision, both need only be floats (or integers, or bools).
    """
    ours, theirs = dict(leaves(outputs)), dict(leaves(reference))
    if list(ours) != list(theirs):
        text = f"the step returns {_list(ours)}, {against} returns {_list(theirs)}"
        return CheckResult(against=against, passed=False, worst=text)
    found: list[_Worst] = []
    for path, leaf in ours.items():
        got, want = _as_tensor(leaf), _as_tensor(theirs[path])
        if text := _describe_difference(got, want, path, same_dtypes):
            return CheckResult(against=against, passed=False, worst=text)
        if isinstance(got, torch.Tensor):
            found.append(_compare_tensors(path, got, want.to(got.device), settings))
    return _combine(found, against)


def _combine(found: list[_Worst], against: str) -> CheckResult:
    if not found:
        return CheckResult(against=against, passed=True)
    worst = max(found, key=lambda output: output.excess)
    off = f"; {worst.off:,} of {worst.total:,} elements are off" if worst.off else ""
    return CheckResult(
        against=against,
        passed=worst.excess <= 1,
        rtol=worst.rtol,
        atol=worst.atol,
        relative_error=_ratio(
            math.sqrt(sum(output.error_squares for output in found)),
            math.sqrt(sum(output.reference_squares for output in found)),
        ),
        worst=worst.text + off,
    )


def _describe_difference(got: Any, want: Any, path: str, same_dtypes: bool) -> str:
    """How two leaves differ before a single element is looked at; "" if they don't."""
    if not (isinstance(got, torch.Tensor) and isinstance(want, torch.Tensor)):
        is_same = type(got) is type(want) and got == want
        return "" if is_same else f"{path}: got {_name(got)}, want {_name(want)}"
    if got.shape != want.shape:
        return f"{path}: got shape {list(got.shape)}, want {list(want.shape)}"
    if got.dtype == want.dtype or (not same_dtypes and _kind(got.dtype) == _kind(want.dtype)):
        return ""
    return f"{path}: got dtype {_name(got.dtype)}, want {_name(want.dtype)}"


def _compare_tensors(path: str, got: torch.Tensor, want: torch.Tensor, settings: CheckSettings) -> _Worst:
    if _kind(got.dtype) in ("float", "complex"):
        by_dtype = max(_RTOL.get(dtype, max(_RTOL.values())) for dtype in (got.dtype, want.dtype))
        rtol = by_dtype if settings.rtol is None else settings.rtol
        atol = rtol * _root_mean_square(want) if settings.atol is None else settings.atol
    else:
        rtol = atol = 0.0
    excess, place, off, error_squares, reference_squares = -1.0, 0, 0, 0.0, 0.0
    ours, theirs = got.detach().reshape(-1), want.detach().reshape(-1)
    for start in range(0, ours.numel(), CHUNK):
        part = _compare_chunk(ours[start : start + CHUNK], theirs[start : start + CHUNK], rtol, atol)
        if part.excess > excess:
            excess, place = part.excess, start + part.place
        off += part.off
        error_squares += part.error_squares
        reference_squares += part.reference_squares
    text = _describe_element(path, got, want, place, (rtol, atol)) if ours.numel() else f"{path}: no elements"
    return _Worst(max(excess, 0.0), text, off, ours.numel(), rtol, atol, error_squares, reference_squares)


@dataclass(frozen=True)
class _Chunk:
    excess: float
    place: int
    off: int
    error_squares: float
    reference_squares: float


def _compare_chunk(ours: torch.Tensor, theirs: torch.Tensor, rtol: float, atol: float) -> _Chunk:
    got, want = _widen(ours), _widen(theirs)
    is_same = (got == want) | (got.isnan() & want.isnan())
    error = _distance(got, want).masked_fill(is_same, 0.0)
    size = want.abs().double()
    is_finite = size.isfinite()
    allowed = torch.where(is_finite, atol + rtol * size, 0.0)
    excess = torch.where(error == 0, 0.0, error / allowed)
    place = int(excess.argmax().item())
    return _Chunk(
        excess=float(excess[place].item()),
        place=place,
        off=int((excess > 1).sum().item()),
        error_squares=float(error.square().sum().item()),
        reference_squares=float(torch.where(is_finite, size, 0.0).square().sum().item()),
    )


def _distance(got: torch.Tensor, want: torch.Tensor) -> torch.Tensor:
    """Infinite where one is NaN or infinite; at least 1 between integers, however large they are."""
    if not (got.is_floating_point() or got.is_complex()):
        return (got.double() - want.double()).abs().clamp_min(1.0)
    return (got - want).abs().nan_to_num(nan=math.inf, posinf=math.inf)


def _widen(values: torch.Tensor) -> torch.Tensor:
    """Integers stay exact: above 2⁵³ a double can't tell neighbours apart."""
    if values.is_complex():
        return values.to(torch.complex128)
    return values.double() if values.is_floating_point() else values.long()


def _describe_element(
    path: str, got: torch.Tensor, want: torch.Tensor, place: int, tolerance: tuple[float, float]
) -> str:
    index: list[int] = []
    rest = place
    for size in reversed(got.shape):
        rest, position = divmod(rest, size)
        index.insert(0, position)
    ours, theirs = got[tuple(index)].item(), want[tuple(index)].item()
    where = f"{path}[{', '.join(map(str, index))}]" if index else path
    if _kind(got.dtype) not in ("float", "complex"):
        return f"{where}: got {ours}, want {theirs} (must be equal)"
    rtol, atol = tolerance
    allowed = atol + rtol * abs(theirs) if math.isfinite(abs(theirs)) else 0.0
    return f"{where}: got {ours:.6g}, want {theirs:.6g} (allowed ±{allowed:.2g})"


def _root_mean_square(values: torch.Tensor) -> float:
    total, count = 0.0, 0
    flat = values.detach().reshape(-1)
    for start in range(0, flat.numel(), CHUNK):
        size = _widen(flat[start : start + CHUNK]).abs()
        is_finite = size.isfinite()
        total += float(torch.where(is_finite, size, 0.0).square().sum().item())
        count += int(is_finite.sum().item())
    return math.sqrt(total / count) if count else 0.0


def _as_tensor(leaf: Any) -> Any:
    """A number as a tensor without dimensions; anything else as it is."""
    if isinstance(leaf, int | float):
        return torch.tensor(leaf, dtype=torch.float64 if isinstance(leaf, float) else None, device="cpu")
    return leaf


def _kind(dtype: torch.dtype) -> str:
    if dtype is torch.bool:
        return "bool"
    return "complex" if dtype.is_complex else "float" if dtype.is_floating_point else "integer"


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else math.inf if numerator else 0.0


def _name(value: Any) -> str:
    return str(value).removeprefix("torch.") if isinstance(value, torch.dtype | int | float) else type(value).__name__


def _list(paths: dict[str, Any]) -> str:
    return ", ".join(paths) or "nothing"
