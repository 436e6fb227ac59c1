"""What a worker's environment holds, by what it is to run on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from pretend import task

from gpubench.machine import Gpu
from gpubench.profilers.nsys import Nsys
from gpubench.records import Outcome, Pass, Stage
from gpubench.run.launcher import PlainLauncher
from gpubench.run.profiling import NsysLauncher, UnprofiledRetry, discard_unread

GPU = Gpu(3, "NVIDIA H200", "GPU-4711", 141 << 30, "9.0")
JOB = Path("results/run/artifacts/worker_007/job.json")


def dumps_of(launcher: PlainLauncher | NsysLauncher, gpu: Gpu | None) -> set[str]:
    environment = launcher.launch(JOB, gpu).environment
    return {name for name in environment if "COREDUMP" in name}


@pytest.fixture(autouse=True)
def no_dumps_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CUDA_ENABLE_COREDUMP_ON_EXCEPTION", "CUDA_COREDUMP_FILE"):
        monkeypatch.delenv(name, raising=False)


def test_a_worker_sees_its_one_gpu_whose_cores_come_into_the_workers_folder() -> None:
    environment = PlainLauncher().launch(JOB, GPU).environment
    assert environment["CUDA_VISIBLE_DEVICES"] == "GPU-4711"
    assert environment["CUDA_COREDUMP_FILE"] == str(JOB.parent.resolve() / "gpu.%p.core")


def test_dumps_can_be_switched_off_and_are_never_made_on_a_cpu() -> None:
    assert dumps_of(PlainLauncher(has_dumps=False), GPU) == set()
    assert dumps_of(PlainLauncher(), None) == set()
    assert dumps_of(UnprofiledRetry({}, has_dumps=False), GPU) == set()


def test_beside_a_profiler_none_are_made_and_the_second_try_without_it_makes_them() -> None:
    nsys = NsysLauncher(Nsys(Path("/opt/nsys"), "2025.3"), (), keep_traces=False, is_program=False)
    assert dumps_of(nsys, GPU) == set()
    assert "CUDA_ENABLE_COREDUMP_ON_EXCEPTION" in dumps_of(UnprofiledRetry({}), GPU)


def test_a_trace_stays_only_where_a_record_is_of_it(tmp_path: Path) -> None:
    for worker in (0, 1, 2):
        (tmp_path / f"worker_{worker:03d}").mkdir()
        for ending in ("nsys-rep", "sqlite"):
            (tmp_path / f"worker_{worker:03d}" / f"trace.{ending}").touch()
    timed = task(0, tmp_path).record(0, Outcome.OK, Stage.DONE, worker=1)
    discard_unread(tmp_path, [timed, replace(timed, worker=2, pass_=Pass.PROFILE)])
    assert {path.parent.name for path in tmp_path.rglob("trace.*")} == {"worker_002"}
    assert len(list(tmp_path.rglob("trace.*"))) == 2, "kept on purpose"
