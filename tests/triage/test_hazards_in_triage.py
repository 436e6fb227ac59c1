"""What the audit of a cell's graphs found, in the triage table: who is to blame, and who only looks well."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from made_failures import failed, write_run

from gpubench.analysis.run import load_run
from gpubench.records import (
    Cell,
    Crash,
    FaultingKernel,
    Frame,
    Hazard,
    Outcome,
    Pass,
    PointerState,
    Stage,
    parse_record,
)
from gpubench.records import dump_line as dump
from gpubench.report.triage import triage_json
from gpubench.triage import triage_run
from gpubench.triage.signature import signature_of

FILL = Hazard("fill_scratch", "scratch", 0x7F00, PointerState.UNMAPPED, file="/x/faulty.py", line=54)
READ = Hazard("read_scratch", "scratch", 0x7F00, PointerState.UNMAPPED, file="/x/faulty.py", line=60)
ILLEGAL = Crash(cuda_error="cudaErrorIllegalAddress", host_frames=[Frame("/x/mine.py", 3, "attend")])


def caught(kernel: str) -> Crash:
    faulting = FaultingKernel(kernel, exception="Warp Illegal Address")
    return Crash(cuda_error="cudaErrorIllegalAddress", faulting=faulting)


@pytest.mark.parametrize(
    ("crash", "blamed"),
    [(ILLEGAL, "fill_scratch"), (caught("read_scratch"), "read_scratch"), (caught("gemm"), "fill_scratch")],
)
def test_the_kernel_that_holds_a_stale_address_is_to_blame_the_caught_one_first(crash: Crash, blamed: str) -> None:
    signature = signature_of(failed(crash, hazards=[FILL, READ]))

    assert signature.culprit is not None
    assert (signature.culprit.kernel, signature.culprit.file) == (blamed, "/x/faulty.py")
    assert (
        signature.culprit.basis == "audit: its scratch points to memory that was given back and is not mapped any more"
    )
    assert signature.key == f"illegal address | {blamed} | measure"


@pytest.mark.parametrize("outcome", [Outcome.MISMATCH, Outcome.INVALID])
def test_wrong_results_are_blamed_on_it_too(outcome: Outcome) -> None:
    reason = "out holds NaN: 3 of 64 elements"
    signature = signature_of(failed(None, outcome, hazards=[READ], reason=reason))
    assert signature.culprit is not None
    assert signature.culprit.kernel == "read_scratch"


@pytest.mark.parametrize(
    "crash",
    [Crash("ValueError", "no such thing"), Crash(cuda_error="cudaErrorECCUncorrectable"), Crash(signal="SIGKILL")],
)
def test_what_a_stale_address_can_not_do_is_not_blamed_on_it(crash: Crash) -> None:
    assert signature_of(failed(crash, hazards=[FILL])).culprit is None


def test_a_core_that_shows_the_kernels_own_fault_outweighs_the_audit() -> None:
    faulting = FaultingKernel("gemm", exception="Warp Misaligned Address")
    culprit = signature_of(failed(Crash(faulting=faulting), hazards=[FILL])).culprit
    assert culprit is not None
    assert culprit.basis.startswith("core:")


def test_a_cell_that_was_stopped_in_time_is_a_class_of_its_own() -> None:
    record = failed(
        None,
        Outcome.INVALID,
        Stage.SETUP,
        reason=f"a CUDA graph holds a stale address: {FILL.text}",
        hazards=[FILL],
    )
    signature = signature_of(record)
    assert signature.key == "stale address | fill_scratch | setup"
    assert signature.title == "stale address in fill_scratch (faulty.py:54)"


def test_cells_that_are_ok_and_hold_one_are_named_and_failed_ones_list_theirs(tmp_path: Path) -> None:
    cells = [Cell(n, f"cell_{n:03d}", f"k{n}", "topk", "triton", {"concurrency": 2**n}, {}) for n in range(3)]
    identities = [{"cell_id": cell.cell_id, "index": cell.index, "key": cell.key, "axes": cell.axes} for cell in cells]
    records = [
        failed(ILLEGAL, **identities[0], hazards=[FILL], started_at="2026-11-21T09:31:00+00:00"),
        failed(None, Outcome.OK, Stage.DONE, **identities[1], hazards=[READ]),
        failed(None, Outcome.OK, Stage.DONE, **identities[2]),
    ]
    triage = triage_run(load_run(write_run(tmp_path, "run", cells, records)))

    assert triage.notes == (f"1 cell that is ok holds stale addresses in CUDA graphs (cell_001): {READ.text}",)
    (signature,) = json.loads(triage_json(triage))["signatures"]
    (hazard,) = signature["hazards"]
    assert (hazard["cell"], hazard["kernel"], hazard["state"]) == ("cell_000", "fill_scratch", "unmapped")


def test_what_the_timing_pass_found_explains_a_crash_in_the_profiled_one(tmp_path: Path) -> None:
    cell = Cell(0, "cell_000", "k0", "topk", "triton", {"concurrency": 1}, {})
    same = {"cell_id": cell.cell_id, "key": cell.key, "axes": cell.axes}
    records = [
        failed(None, Outcome.OK, Stage.DONE, **same, hazards=[FILL]),
        failed(ILLEGAL, Outcome.CRASH, Stage.PROFILE, **{**same, "pass_": Pass.PROFILE}),
    ]
    (row,) = triage_run(load_run(write_run(tmp_path, "run", [cell], records))).rows

    assert row.signature.culprit is not None
    assert row.signature.culprit.kernel == "fill_scratch"
    assert row.hazards == [("cell_000", FILL)]


def test_a_record_keeps_its_hazards_and_one_without_any_is_read_as_ever() -> None:
    record = failed(ILLEGAL, hazards=[FILL])
    assert parse_record(dump(record)) == record
    old = json.loads(dump(failed(ILLEGAL)))
    del old["hazards"]
    assert parse_record(json.dumps(old).encode()).hazards == []


PERHAPS = Hazard("concatenate", "argument 1 + 1352 B", 0x7FF500000080, PointerState.FREED, certain=False)


@pytest.mark.parametrize("perhaps", [PERHAPS, replace(PERHAPS, certain=None)], ids=["judged", "of an older record"])
def test_what_may_be_a_leftover_in_a_struct_blames_nobody(perhaps: Hazard) -> None:
    assert signature_of(failed(ILLEGAL, hazards=[perhaps])).culprit is None
    culprit = signature_of(failed(ILLEGAL, hazards=[perhaps, READ])).culprit
    assert culprit is not None
    assert culprit.kernel == "read_scratch"


def test_a_cell_that_is_ok_and_holds_a_leftover_is_not_noted() -> None:
    run = Path(__file__).parents[1] / "data" / "leftovers"  # as an H200 recorded it before the two were told apart
    assert any(parse_record(line).hazards for line in (run / "cells.jsonl").read_bytes().splitlines())
    assert triage_run(load_run(run)).notes == ()
