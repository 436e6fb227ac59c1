"""The rungs of the ladder: which of them can say something about a fault, what each changes about a rerun, and why
not, where one has nothing to say."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from gpubench.analysis.merge import CellResult
from gpubench.records import CellRecord, Pass
from gpubench.run.launcher import PlainLauncher
from gpubench.run.sanitizer import HOW_TO_GET_SANITIZER, SanitizerLauncher, find_sanitizer
from gpubench.run.sweep import SweepRequest
from gpubench.settings import GRAPHS, TimeoutSettings
from gpubench.sweep import Sweep
from gpubench.triage import Signature
from gpubench.triage.verdicts import Rung

__all__ = ["SANITIZER_RUNGS", "Tools", "cells_before", "change_request", "choose_extra_rungs", "find_tools", "why_not"]

SANITIZER_LIMIT_S = 180.0
"""For a cell under a tool of compute-sanitizer, which slows kernels down by ten times and more."""
SANITIZER_SAMPLES = 5

BEFORE_LIMIT_S = 600.0
"""For the cells that are run again before one that did not fail alone."""

SANITIZER_RUNGS = (Rung.MEMCHECK, Rung.INITCHECK, Rung.RACECHECK, Rung.SYNCCHECK)

_STUCK = ("device hang", "launch timeout")
_CAPTURE = ("capture error", "graph error")
_EXTRA: Mapping[str, tuple[Rung, ...]] = {
    **dict.fromkeys(
        (
            *("illegal address", "misaligned address", "out-of-range address", "invalid address space"),
            *("device assert", "cuda error"),
            *("cublas error", "cudnn error", "cusparse error", "cusolver error", "cufft error"),
            *("mismatch", "unrepeatable output", "nan", "unwritten output", "zero output", "stale address"),
        ),
        # an index or a value from memory that nobody wrote, or that two threads wrote
        (Rung.INITCHECK, Rung.RACECHECK),
    ),
    **dict.fromkeys(
        (
            *("illegal instruction", "device stack overflow", "invalid program counter"),
            *("launch failure", "gpu exception"),
        ),
        (Rung.SYNCCHECK, Rung.INITCHECK),
    ),
    **dict.fromkeys(_STUCK, (Rung.SYNCCHECK,)),  # threads that wait for others which never come
    **dict.fromkeys(_CAPTURE, ()),
}
"""By class: what is asked besides, where memcheck and the audit find nothing. Every other class is the host's, a
refusal, or hardware's: run again it is, and nothing more can be learnt of it in these ways."""


@dataclass(frozen=True)
class Tools:
    """What this machine has for the ladder."""

    sanitizer: str
    """compute-sanitizer; "" for none."""
    has_audit: bool
    """cuda-bindings is installed."""


def find_tools() -> Tools:
    """Look for them once."""
    try:
        importlib.metadata.version("cuda-bindings")
    except importlib.metadata.PackageNotFoundError:
        return Tools(find_sanitizer(), has_audit=False)
    return Tools(find_sanitizer(), has_audit=True)


def choose_extra_rungs(signature: Signature) -> tuple[Rung, ...]:
    """What to ask if memcheck and the audit are silent, the most telling first."""
    return _EXTRA.get(signature.class_, ())


def why_not(rung: Rung, signature: Signature, record: CellRecord, tools: Tools, *, is_program: bool) -> str:
    """Why a rung has nothing to say about a failed cell; "" if it may have. Running it again always may."""
    if rung in (Rung.ALONE, Rung.AFTER_OTHERS):
        return ""
    if record.gpu == "cpu":
        return "the cell ran on a CPU"
    if signature.class_ not in _EXTRA:
        return f"{signature.class_}: no kernel's fault, as far as can be told"
    if record.pass_ is Pass.PROFILE:
        return "it failed under the profiler, which these reruns go without"
    return next(_missing(rung, signature, tools, is_program), "")


def _missing(rung: Rung, signature: Signature, tools: Tools, is_program: bool) -> Iterator[str]:
    is_capture = signature.class_ in _CAPTURE
    if rung in SANITIZER_RUNGS:
        if is_capture:
            yield "it is the capture that fails, and nothing can be captured under compute-sanitizer"
        if rung is Rung.MEMCHECK and signature.class_ in _STUCK:
            yield "it would hang as well"
        if not tools.sanitizer:
            yield f"no compute-sanitizer here: {HOW_TO_GET_SANITIZER}"
    if rung is Rung.BLOCKING and is_capture:
        yield "a capture launches nothing"
    if rung is Rung.AUDIT and is_capture:
        yield "there is no graph to look into"
    if rung is Rung.AUDIT and not tools.has_audit:
        yield "no cuda-bindings here: pip install 'gpubench[audit]'"
    if rung in (Rung.GRAPHS_OFF, Rung.AUDIT) and is_program:
        yield "the cell is another program, whose graphs are its own"


def change_request(rung: Rung, request: SweepRequest, tools: Tools) -> SweepRequest:
    """The rerun of a cell, as a rung wants it."""
    has_dumps = request.sweep.spec.triage.coredump
    match rung:
        case Rung.ALONE | Rung.AFTER_OTHERS:
            return request
        case Rung.BLOCKING:
            launcher = PlainLauncher(has_dumps=False, variables={"CUDA_LAUNCH_BLOCKING": "1"})
            return replace(_launched_plainly(request), launcher=launcher)
        case Rung.GRAPHS_OFF:
            launcher = PlainLauncher(has_dumps=has_dumps, variables={GRAPHS: "off"})
            return replace(_launched_plainly(request), launcher=launcher)
        case Rung.AUDIT:
            check = request.sweep.spec.check.model_copy(update={"graph_pointers": "error"})
            return _with_spec(request, check=check)
        case _:
            return _sanitized(request, SanitizerLauncher(tools.sanitizer, rung.value))


def _launched_plainly(request: SweepRequest) -> SweepRequest:
    """Without what the timer itself captures, or keeps the GPU busy with: a launch that waits would wait forever."""
    measure = request.sweep.spec.measure.model_copy(update={"launch": "idle"})
    return _with_spec(request, measure=measure)


def _sanitized(request: SweepRequest, launcher: SanitizerLauncher) -> SweepRequest:
    """A few samples are enough, and stages get no limits of their own."""
    spec = request.sweep.spec
    few = {
        "launch": "idle",
        "l2": "hot",
        "trials": 1,
        "warmup_time_s": 0.0,
        "min_samples": min(spec.measure.min_samples, SANITIZER_SAMPLES),
        "max_samples": min(spec.measure.max_samples, SANITIZER_SAMPLES),
    }
    changed = _with_spec(
        request,
        measure=spec.measure.model_copy(update=few),
        check=spec.check.model_copy(update={"graph_pointers": "off"}),
        timeout_s=TimeoutSettings(cell=SANITIZER_LIMIT_S, start=SANITIZER_LIMIT_S),
    )
    return replace(changed, launcher=launcher)


def _with_spec(request: SweepRequest, **changed: object) -> SweepRequest:
    sweep = request.sweep
    spec = sweep.spec.model_copy(update=changed)
    return replace(request, sweep=Sweep(sweep.path, spec, sweep.document))


def cells_before(cell: CellResult, results: Sequence[CellResult]) -> list[CellResult]:
    """What its worker had run before it in the same pass, in that order: the last ones, so far as there is time."""
    decisive = cell.decisive
    assert decisive is not None, "it has failed"
    ran = [
        (record.started_at, record.duration_s, result)
        for result in results
        for record in result.of(decisive.pass_)[:1]
        if record.worker == decisive.worker and record.started_at < decisive.started_at
    ]
    ran.sort(key=lambda each: each[0], reverse=True)
    spent = list(accumulate(duration_s for _, duration_s, _ in ran))
    return [result for (*_, result), until_s in zip(ran, spent, strict=True) if until_s <= BEFORE_LIMIT_S][::-1]
