"""Every fault of a GPU, planted through the command line: the kernel that the GPU caught, the victim, and the twins."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from support import gpubench, only_run

from gpubench.analysis.merge import CellResult, merge_cells
from gpubench.records import CellRecord, Outcome
from gpubench.run.coredump import find_cuda_gdb
from gpubench.stacks import first_in_app
from gpubench.store import read_run

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(400),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
    pytest.mark.skipif(not find_cuda_gdb(), reason="needs cuda-gdb"),
]

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Planted:
    """What is to be recorded of a fault: of its kernel and of its victim, what stands in the line that is named."""

    outcome: Outcome
    reason: str = ""
    cuda_error: str = ""
    kernel: str = ""
    kernel_line: str = ""
    victim_line: str = ""
    open_range: str = ""


ILLEGAL, WAITS = "cudaErrorIllegalAddress", "torch.cuda.synchronize()"
UNSUPPORTED = "cudaErrorStreamCaptureUnsupported"
PLANTED = {
    "illegal_address": Planted(Outcome.CRASH, "raised by", ILLEGAL, "wild_store", "tl.store(x + offset", WAITS),
    "illegal_address_in_graph": Planted(
        Outcome.CRASH, "raised by", ILLEGAL, "wild_store", "tl.store(x + offset", WAITS
    ),
    "unmapped_scratch": Planted(Outcome.CRASH, "raised by", ILLEGAL, "fill_scratch", "tl.store(scratch", WAITS),
    "stale_topk": Planted(Outcome.CRASH, "raised by", ILLEGAL, "_radix_kernel", "tl.", WAITS, "attention"),
    "device_assert": Planted(Outcome.CRASH, "raised by", "cudaErrorAssert", "index_elementwise_kernel", "", WAITS),
    "device_hang": Planted(Outcome.TIMEOUT, "the GPU in kernel spin", "", "spin", "tl.", WAITS),
    "device_oom": Planted(Outcome.OOM, "asked for", victim_line="torch.empty(quarter"),
    "compile_error": Planted(Outcome.ERROR, "Triton could not compile no_power", victim_line="no_power[(1,)]"),
    "shared_memory": Planted(Outcome.ERROR, "shared memory", victim_line="too_big[(1,)]"),
    "stale_scratch": Planted(Outcome.MISMATCH),
    "undersized_scratch": Planted(Outcome.MISMATCH),
    "moved_cache": Planted(Outcome.MISMATCH),
    "allocation_in_capture": Planted(Outcome.ERROR, "cuMemAlloc", UNSUPPORTED, victim_line="raise RuntimeError"),
    "sync_in_capture": Planted(Outcome.ERROR, "", UNSUPPORTED, victim_line=".item()"),
}


def line_of(file: str, number: int) -> str:
    return Path(file).read_text().splitlines()[number - 1]


def hold_against(record: CellRecord | None, planted: Planted) -> None:
    assert record is not None
    assert record.outcome is planted.outcome, record.reason
    assert planted.reason in record.reason
    if planted.outcome is Outcome.MISMATCH:
        return
    crash = record.crash
    assert crash is not None
    assert (crash.cuda_error, crash.open_range) == (planted.cuda_error, planted.open_range)
    frame = first_in_app(crash.frames or crash.host_frames)
    assert frame is not None, crash
    assert planted.victim_line in line_of(frame.file, frame.line)
    if not planted.kernel:
        assert crash.faulting is None
        return
    assert crash.faulting is not None
    assert planted.kernel in crash.faulting.kernel
    if planted.kernel_line:
        assert crash.faulting.line is not None
        assert planted.kernel_line in line_of(crash.faulting.file, crash.faulting.line)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("faults")


@pytest.fixture(scope="module")
def together(folder: Path) -> dict[tuple[str, int], CellResult]:
    """All faults of one sweep, and their twins, by kind and batch."""
    kinds = ",".join(PLANTED)
    only = ("--only", f"kind={kinds}", "--no-profile")
    done = gpubench(
        folder, "sweep", str(ROOT / "sweeps" / "faults.yaml"), *only, timeout_s=300, CUDA_VISIBLE_DEVICES="0"
    )
    assert done.code == 3, done.err
    merged = merge_cells(read_run(only_run(folder)))
    return {(str(result.cell.axes["kind"]), int(result.cell.axes["batch"] or 0)): result for result in merged}


@pytest.mark.parametrize("kind", PLANTED)
def test_each_is_recorded_as_planted(together, kind: str) -> None:
    hold_against(together[kind, 8].decisive, PLANTED[kind])


def test_the_twins_are_untouched(together) -> None:
    assert {result.outcome for (_, batch), result in together.items() if batch == 1} == {Outcome.OK}


def test_every_core_is_with_its_cell(folder: Path, together) -> None:
    run = only_run(folder)
    named = set()
    for result in together.values():
        crash = result.decisive.crash if result.decisive else None
        if crash is not None and crash.faulting is not None:
            if crash.faulting.core:
                assert (run / crash.faulting.core).parent.name == result.cell.cell_id
                named.add(run / crash.faulting.core)
            else:
                assert "is like it" in crash.faulting.note
    assert named == set(run.rglob("*.core"))


def test_without_dumps_the_error_is_told_by_its_victim(tmp_path: Path) -> None:
    done = gpubench(
        tmp_path,
        "sweep",
        str(ROOT / "sweeps" / "faults.yaml"),
        *("--only", "kind=illegal_address", "--no-profile", "--set", "triage.coredump=false"),
        CUDA_VISIBLE_DEVICES="0",
    )
    assert done.code == 3, done.err
    spared, faulty = merge_cells(read_run(only_run(tmp_path)))
    assert spared.outcome is Outcome.OK
    record = faulty.decisive
    assert record is not None
    assert record.crash is not None
    assert (record.outcome, record.crash.cuda_error, record.crash.faulting) == (Outcome.CRASH, ILLEGAL, None)
    assert "torch.AcceleratorError" in record.crash.exception
    assert not list(only_run(tmp_path).rglob("*.core"))
