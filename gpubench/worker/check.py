"""Whether a step computes what it should: against a reference, with poisoned outputs, before anything is timed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from gpubench.errors import UsageError
from gpubench.records import CheckResult, Outcome
from gpubench.registry import Backend
from gpubench.settings import CheckSettings
from gpubench.tensors import find_tensors
from gpubench.worker.churn import poison_free_memory, scatter
from gpubench.worker.compare import compare
from gpubench.worker.failure import CellStopped, HookFailed, is_out_of_memory, release
from gpubench.worker.outputs import Poison, clone, find_nan, leaves, poison, view_bits
from gpubench.worker.requirements import find_unmet
from gpubench.worker.subject import Prepared, Subject, call_by_name

__all__ = ["NOTHING", "Checked", "Reference", "check_own", "check_step", "make_reference"]

NOTHING = "none"
"""`CheckResult.against` where there is no reference: then the output was written and holds no NaN, no more."""


@dataclass(frozen=True)
class Reference:
    """What outputs are compared with: copies of an oracle's or another backend's."""

    against: str
    outputs: Any = None
    is_oracle: bool = False
    warnings: list[str] = field(default_factory=list)

    @property
    def exists(self) -> bool:
        return self.against != NOTHING


@dataclass(frozen=True)
class Checked:
    """A step that passed."""

    result: CheckResult
    warnings: list[str]


def make_reference(subject: Subject, against: str) -> Reference:
    """Run the reference that `check.against` names, on inputs of its own, and let go of all but its outputs.

    `auto` does without where there is none or it can't run here; what was named must run. A reference that runs out
    of memory (the naive one, where the tested one would fit) costs the cell its comparison, not its figures.
    """
    chosen = _choose(subject, against)
    if chosen is None:
        return Reference(NOTHING)
    if isinstance(chosen, Backend) and (unmet := find_unmet(chosen.requires, subject.device)):
        if against == "auto":
            return Reference(NOTHING, warnings=[f"not compared: the baseline {chosen.name} {unmet}"])
        raise UsageError(f"check.against: {chosen.name} {unmet}; choose another reference, or none")
    name = chosen.name if isinstance(chosen, Backend) else "oracle"
    try:
        outputs = _run_reference(subject, chosen)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        release(error, subject.device)
        return Reference(NOTHING, warnings=[f"not compared: {name}, the reference, ran out of memory"])
    return Reference(name, outputs, is_oracle=chosen is _ORACLE)


def check_step(prepared: Prepared, reference: Reference, settings: CheckSettings) -> Checked:
    """Run the step twice and judge it; CellStopped with mismatch or invalid if it is wrong.

    The first run is compared with the reference. Then its outputs are poisoned, and so is whatever memory was free;
    the second run must have overwritten all of its outputs and come to the same.
    """
    outputs = prepared.run()
    first = _verdict(prepared, outputs, reference, settings)
    poison_free_memory(prepared.subject.device)
    poisons = poison(outputs, find_tensors(prepared.inputs))
    scatter(outputs)
    del outputs  # what was allocated by the step is free again, poison and all, for the next run to get
    outputs = prepared.run()
    _refuse_survivors(outputs, poisons)  # the better name for what may have been NaN or a mismatch in the first run
    if isinstance(first, CellStopped):
        raise first
    if fault := _find_nan(outputs, reference):
        raise fault
    again = _judge(prepared, outputs, reference, settings)
    return Checked(first, [*reference.warnings, *_explain_change(prepared, again)])


def check_own(prepared: Prepared) -> CheckResult:
    """Ask a workload that measures itself whether what its step just did was right.

    HookFailed, with what was raised as its cause, if it can't tell.
    """
    workload = prepared.subject.workload
    assert workload.check_function is not None, "whoever asks has looked"
    sources = ({"step": prepared.step}, prepared.inputs, prepared.subject.arguments)
    role = f".check of {workload.name}"
    try:
        result = call_by_name(workload.check_function, role, *sources)
        prepared.subject.device.synchronize()
        if not isinstance(result, CheckResult):
            raise TypeError(f"returned {type(result).__name__}, where a CheckResult is wanted")
    except (Exception, SystemExit) as error:
        raise HookFailed(f"measured, but not checked: {role}") from error
    return result


def _verdict(
    prepared: Prepared, outputs: Any, reference: Reference, settings: CheckSettings
) -> CheckResult | CellStopped:
    """What the first run's outputs are worth: the comparison they passed, or what stops the cell."""
    if fault := _find_nan(outputs, reference):
        return fault
    result = _judge(prepared, outputs, reference, settings)
    if result.passed:
        return result
    zeros = _find_zeros(outputs, reference)
    return CellStopped(
        Outcome.INVALID if zeros else Outcome.MISMATCH,
        zeros or f"not what {reference.against} computes: {result.worst}",
        [result],
    )


_ORACLE = object()


def _choose(subject: Subject, against: str) -> Backend | object | None:
    workload = subject.workload
    if against == "oracle" or (against == "auto" and workload.oracle_function is not None):
        if workload.oracle_function is None:
            raise UsageError(f"check.against: {workload.name} has no oracle; name one of its backends, or none")
        return _ORACLE
    if against == "auto":
        chosen = next((backend for backend in workload.backends.values() if backend.is_baseline), None)
    elif against == NOTHING:
        return None
    elif against in workload.backends:
        chosen = workload.backends[against]
    else:
        known = ", ".join(["auto", "oracle", NOTHING, *workload.backends])
        raise UsageError(f"check.against: {workload.name} has no backend {against!r}; known: {known}")
    return None if chosen is subject.backend else chosen


def _run_reference(subject: Subject, chosen: Backend | object) -> Any:
    inputs = subject.make_inputs()
    if isinstance(chosen, Backend):
        return clone(subject.set_up(chosen, inputs).run())
    oracle = subject.workload.oracle_function
    assert oracle is not None, "it was chosen because it is there"
    with subject.device.default():
        outputs = call_by_name(oracle, f"the oracle of {subject.workload.name}", inputs, subject.arguments)
    subject.device.synchronize()
    return clone(outputs)


def _find_nan(outputs: Any, reference: Reference) -> CellStopped | None:
    expected = dict(leaves(reference.outputs))
    for path, leaf in leaves(outputs):
        if found := find_nan(leaf, expected.get(path)):
            return CellStopped(Outcome.INVALID, f"{path} holds NaN: {found}")
    return None


def _refuse_survivors(outputs: Any, poisons: list[Poison]) -> None:
    after = dict(leaves(outputs))
    for poison_ in poisons:
        leaf = after.get(poison_.path)
        if isinstance(leaf, torch.Tensor) and (count := poison_.survivors(leaf)):
            raise CellStopped(
                Outcome.INVALID,
                f"unwritten output: {count:,} of {leaf.numel():,} elements of {poison_.path} "
                "still hold what was put there before the step",
            )


def _find_zeros(outputs: Any, reference: Reference) -> str:
    """The first output that is zero throughout where the reference isn't; "" if there is none."""
    expected = dict(leaves(reference.outputs))
    for path, leaf in leaves(outputs):
        want = expected.get(path)
        if not (isinstance(leaf, torch.Tensor) and isinstance(want, torch.Tensor) and want.shape == leaf.shape):
            continue
        if not _has_values(leaf) and _has_values(want):
            return f"{path} is all zeros, and {reference.against}'s is not"
    return ""


def _has_values(tensor: torch.Tensor) -> bool:
    return bool((tensor.float() if tensor.element_size() == 1 else tensor).any().item())


def _judge(prepared: Prepared, outputs: Any, reference: Reference, settings: CheckSettings) -> CheckResult:
    if not reference.exists:
        return CheckResult(against=NOTHING, passed=True)
    workload = prepared.subject.workload
    if workload.compare_function is None:
        return compare(outputs, reference.outputs, reference.against, settings, same_dtypes=not reference.is_oracle)
    with prepared.subject.device.default():
        difference = call_by_name(
            workload.compare_function,
            f".compare of {workload.name}",
            prepared.inputs,
            prepared.subject.arguments,
            leading=(outputs, reference.outputs),
        )
    return CheckResult(against=reference.against, passed=not difference, worst=difference or "")


def _explain_change(prepared: Prepared, again: CheckResult) -> list[str]:
    """What it means if the second run differs from the reference and the first did not: a fault, or state."""
    if again.passed:
        return []
    if prepared.can_restore or not _changes_inputs(prepared):
        why = "after .reset" if prepared.can_restore else "though its inputs are as they were"
        reason = f"right once, wrong when run again {why}, with free memory overwritten: {again.worst}"
        raise CellStopped(Outcome.MISMATCH, reason, [again])
    return [
        "the step changes its inputs, so that every sample works on other values; "
        f"register {prepared.subject.workload.name}.reset to restore them"
    ]


def _changes_inputs(prepared: Prepared) -> bool:
    tensors = find_tensors(prepared.inputs)
    before = [_checksum(tensor) for tensor in tensors]
    prepared.run()
    return before != [_checksum(tensor) for tensor in tensors]


def _checksum(tensor: torch.Tensor) -> int:
    if tensor.layout is not torch.strided or tensor.is_complex():
        return tensor._version
    return int(view_bits(tensor).sum(dtype=torch.int64).item())
