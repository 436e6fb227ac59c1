"""docs/workloads.md holds a plugin file in pieces; here it is put together and run."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from worker_cells import run_cell

from gpubench.records import Outcome
from gpubench.registry import Workload, registered
from gpubench.worker.plugins import load_all

ROOT = Path(__file__).parents[2]
SNIPPETS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "workloads.md").read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def axpy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workload]:
    file = tmp_path_factory.mktemp("documented") / "axpy.py"
    file.write_text("\n".join(SNIPPETS))
    load_all([str(file)])
    yield registered()["axpy"]
    del registered()["rmsnorm"].backends["theirs"]


@pytest.mark.parametrize("backend", ["torch", "blocks"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_documented_workload_is_measured_and_right(axpy: Workload, backend: str, dtype: str) -> None:
    options = {"block": 100} if backend == "blocks" else {}

    record = run_cell("axpy", backend, n=1000, dtype=dtype, **options).record

    assert record.outcome is Outcome.OK, record.reason
    assert [check.against for check in record.checks] == ["oracle"]
    assert record.work == {"bytes": 3000 * (4 if dtype == "float32" else 2), "flop": 2000}
    assert record.details["size"] == "0.001 M elements"
    assert [measurement.metric for measurement in record.measurements] == ["step_time", "elements_per_s"]
    assert record.warnings == []


def test_the_documented_file_adds_a_backend_and_an_axis(axpy: Workload) -> None:
    assert "theirs" in registered()["rmsnorm"].backends
    assert [axis.backends for axis in axpy.info().axes if axis.name == "block"] == [["blocks"]]
    assert run_cell("rmsnorm", "theirs", rows=4, dim=8, dtype="float32").record.outcome is Outcome.OK


def test_every_hook_is_documented_and_shown(axpy: Workload) -> None:
    hooks = {name for name in vars(axpy) if name.endswith("_function")}
    shown = (axpy, registered()["sorting"])
    assert [name for name in sorted(hooks) if not any(getattr(workload, name) for workload in shown)] == []


def test_the_documented_workload_that_measures_itself_is_checked(axpy: Workload) -> None:
    record = run_cell("sorting", "torch", requests=7).record

    assert record.outcome is Outcome.OK, record.reason
    assert [(check.against, check.passed) for check in record.checks] == [("7 sorts", True)]
    assert [len(found.samples) for found in record.measurements] == [1, 7, 1]


def test_sizes_that_cannot_fit_are_skipped_as_documented(axpy: Workload) -> None:
    record = run_cell("axpy", "torch", n=10**15).record

    assert record.outcome is Outcome.SKIPPED
    assert record.reason.startswith("can't fit: needs 16,000,000,000,000,000 bytes of ")


def test_in_plain_python_the_built_in_workloads_are_registered_by_hand() -> None:
    plain = "import gpubench; gpubench.get_workload('rmsnorm')"
    unregistered = subprocess.run([sys.executable, "-c", plain], capture_output=True, text=True, check=False)
    assert "no workload 'rmsnorm'" in unregistered.stderr

    shown = next(snippet for snippet in SNIPPETS if "load_builtin()" in snippet)
    printed = subprocess.run([sys.executable, "-c", shown], capture_output=True, text=True, check=True)
    assert "'torch'" in printed.stdout
