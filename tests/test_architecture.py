"""Who may import whom: in the source by import-linter's contracts, at run time by what is then in memory."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import gpubench
from gpubench.workloads import BUILTIN

ROOT = Path(__file__).parent.parent
CHILD_ONLY = (
    *("worker", "workloads", "serving", "graphs", "models", "kernels"),
    *("registry", "ranges", "sharing", "tensors", "default_device"),
)
FORBIDDEN = {"torch", "triton", "nvtx", *(f"gpubench.{name}" for name in CHILD_ONLY)}
INSTANT = [
    "gpubench",
    "gpubench.catalogue",
    "gpubench.cli",
    "gpubench.cli.app",
    "gpubench.errors",
    "gpubench.machine",
    "gpubench.ranges",
    "gpubench.protocol",
    "gpubench.records",
    "gpubench.registry",
    "gpubench.run.scheduler",
    "gpubench.settings",
    "gpubench.store",
    "gpubench.sweep",
]
OF_SOME_CELLS = {"torch._dynamo", "torch.distributed.tensor", "triton", "transformers", "flashinfer", "fla"}
"""What only some cells use, and takes most of a second or more to import."""
HEAVY = {"torch", "triton", "nvtx", "numpy", "pandas", "plotly", "pyarrow"}


def modules_in_memory_after(*imports: str) -> set[str]:
    """What a fresh interpreter holds once it has imported these."""
    program = "import importlib, sys\nfor name in sys.argv[1:]:\n    importlib.import_module(name)\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program, *imports], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def parents_modules() -> list[str]:
    """Every module of the package that the child side doesn't own; `__main__` would run the program."""
    names = [module.name for module in pkgutil.walk_packages(gpubench.__path__, "gpubench.")]
    return [name for name in names if name.split(".")[1] not in (*CHILD_ONLY, "__main__")]


def test_the_contracts_of_the_layers_hold() -> None:
    checked = subprocess.run(
        [
            sys.executable,
            "-c",
            "from importlinter.cli import lint_imports_command; lint_imports_command(['--no-cache'])",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout
    assert " 0 broken" in checked.stdout


def test_the_parent_loads_neither_torch_nor_anything_of_the_child() -> None:
    names = parents_modules()
    assert len(names) > 40, "the walk has found the package"
    loaded = modules_in_memory_after(*names)
    assert set(names) <= loaded
    assert loaded & FORBIDDEN == set()


@pytest.mark.parametrize("module", INSTANT)
def test_a_module_that_a_users_first_second_depends_on_loads_nothing_heavy(module: str) -> None:
    assert modules_in_memory_after(module) & HEAVY == set()


def test_a_worker_begins_without_what_only_some_of_its_cells_use() -> None:
    workloads = [f"gpubench.workloads.{name}" for name in BUILTIN]
    assert modules_in_memory_after("gpubench.worker.cell", *workloads) & OF_SOME_CELLS == set()
