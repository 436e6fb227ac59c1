"""Every fault of the host, planted through the command line: what is recorded is what was planted, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from support import Finished, gpubench_here, only_run

from gpubench.analysis.merge import CellResult, merge_cells
from gpubench.records import CellRecord, Outcome, Stage
from gpubench.stacks import first_in_app
from gpubench.store import read_run

ROOT = Path(__file__).parents[2]
FAULTS, STORY = (str(ROOT / "sweeps" / name) for name in ("faults.yaml", "triage_story.yaml"))
SOON = ("--set", "timeout_s.check=2")
"""A hang has taken long enough."""


@dataclass(frozen=True)
class Planted:
    """What is to be recorded of a fault."""

    outcome: Outcome
    reason: str
    exception: str = ""
    signal: str = ""
    exit_status: int | None = None
    line: str = ""
    """What stands in the line that the evidence names."""
    open_range: str = ""
    stage: Stage = Stage.CHECK


PLANTED = {
    "mismatch": Planted(Outcome.MISMATCH, "not what oracle computes"),
    "nan": Planted(Outcome.INVALID, "holds NaN"),
    "unwritten": Planted(Outcome.INVALID, "unwritten output"),
    "setup_error": Planted(
        Outcome.ERROR, "the set-up has a fault", "ValueError", line="raise ValueError", stage=Stage.SETUP
    ),
    "import_error": Planted(
        Outcome.ERROR, "No module named", "ModuleNotFoundError", line="import_module", stage=Stage.SETUP
    ),
    "exit_3": Planted(Outcome.CRASH, "exited with status 3", exit_status=3),
    "sigkill": Planted(Outcome.CRASH, "not by gpubench", signal="SIGKILL", exit_status=-9),
    "segfault": Planted(
        Outcome.CRASH, "(host.py:", signal="SIGSEGV", exit_status=-11, line="string_at", open_range="attention"
    ),
    "host_hang": Planted(Outcome.TIMEOUT, "(host.py:", exit_status=-9, line="time.sleep", open_range="collective"),
    "host_oom": Planted(Outcome.OOM, "out of memory", "MemoryError", line="bytearray"),
}


ALONE = ("mismatch", "setup_error", "host_oom")
"""Of those that their worker survives, one found by the check, one that is raised and one for want of memory."""


def hold_against(record: CellRecord | None, planted: Planted) -> None:
    assert record is not None
    assert (record.outcome, record.stage) == (planted.outcome, planted.stage), record.reason
    assert planted.reason in record.reason
    if planted.outcome in (Outcome.MISMATCH, Outcome.INVALID):
        assert record.crash is None
        return
    crash = record.crash
    assert crash is not None
    assert (crash.exception, crash.signal, crash.exit_status) == (
        planted.exception,
        planted.signal,
        planted.exit_status,
    )
    assert (crash.open_range, crash.cuda_error, crash.faulting) == (planted.open_range, "", None)
    assert crash.memory["host_free" if planted.exit_status else "device_free"] > 0
    frame = first_in_app(crash.frames or crash.host_frames)
    assert (frame is not None) == bool(planted.line)
    if frame is not None:
        assert planted.line in Path(frame.file).read_text().splitlines()[frame.line - 1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("faults")


@pytest.fixture(scope="module")
def finished(folder: Path) -> Finished:
    return gpubench_here(folder, "sweep", FAULTS, *SOON)


@pytest.fixture(scope="module")
def together(folder: Path, finished: Finished) -> dict[tuple[str, int], CellResult]:
    """All faults of one sweep, and their twins, by kind and batch."""
    assert finished.code == 3, finished.err
    merged = merge_cells(read_run(only_run(folder)))
    return {(str(result.cell.axes["kind"]), int(result.cell.axes["batch"] or 0)): result for result in merged}


@pytest.mark.parametrize("kind", PLANTED)
def test_of_a_sweep_with_all_faults_each_is_recorded_as_planted(together, kind: str) -> None:
    hold_against(together[kind, 8].decisive, PLANTED[kind])


def test_the_twins_of_all_faults_are_untouched(together) -> None:
    spared = {key: result.outcome for key, result in together.items() if key[1] == 1 or key[0] == "none"}
    assert set(spared.values()) == {Outcome.OK}
    assert len(spared) == len(PLANTED) + 2


def test_a_fault_costs_one_worker_at_most(folder: Path, together) -> None:
    deaths = sum(result.outcome in (Outcome.CRASH, Outcome.TIMEOUT) for result in together.values())
    assert len(list((only_run(folder) / "artifacts").glob("worker_*"))) == deaths + 1


def test_nothing_is_left_behind_but_evidence(folder: Path, together) -> None:
    names = {path.name for path in (only_run(folder) / "artifacts").rglob("*") if path.is_file()}
    assert names <= {"job.json", "events.jsonl", "stdout.txt", "stderr.txt"}


def test_a_fault_that_its_worker_survives_is_recorded_the_same_alone(tmp_path: Path) -> None:
    alone = ["--isolation", "cell", "--only", f"kind={','.join(ALONE)}", "--only", "batch=8"]
    done = gpubench_here(tmp_path, "sweep", FAULTS, *SOON, *alone)
    assert done.code == 3, done.err
    results = merge_cells(read_run(only_run(tmp_path)))
    assert len({record.worker for result in results for record in result.records}) == len(results) == len(ALONE)
    for result in results:
        hold_against(result.decisive, PLANTED[str(result.cell.axes["kind"])])


def test_the_story_is_told_by_three_cells_of_24(tmp_path: Path) -> None:
    done = gpubench_here(tmp_path, "sweep", STORY)
    assert done.code == 3, done.err
    results = merge_cells(read_run(only_run(tmp_path)))
    crashed = [result for result in results if result.outcome is Outcome.CRASH]
    assert [result.cell.cell_id for result in crashed] == [
        "cell_013_C008_TEP_GVRF",
        "cell_017_C016_TEP_GVRF",
        "cell_021_C032_TEP_GVRF",
    ]
    assert {result.outcome for result in results if result not in crashed} == {Outcome.OK}
    assert len(results) == 24
    stacks = {tuple(result.decisive.crash.host_frames) for result in crashed if result.decisive}
    assert len(stacks) == 1
    for result in crashed:
        hold_against(result.decisive, PLANTED["segfault"])
