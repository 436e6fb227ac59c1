"""A user's own workloads and backends: from a file, a module and an installed package, listed and measured."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from support import gpubench, only_run, write_sweep

from gpubench.analysis.merge import merge_cells
from gpubench.records import Outcome
from gpubench.store import read_run

BACKEND = """
import gpubench
import torch

@gpubench.get_workload("rmsnorm").backend("{name}")
def _(x, weight):
    return lambda: torch.nn.functional.rms_norm(x, weight.shape, weight)
"""

FILE = """
import gpubench
import torch
from neighbour import LENGTH

@gpubench.workload("doubling")
def doubling(length: int = LENGTH, scale: float | None = None):
    '''Twice a vector.'''
    return {"x": torch.ones(length)}

@doubling.backend("torch", baseline=True)
def _(x):
    return lambda: x + x

@doubling.metric("elements_per_s", unit="1/s")
def _(cell, seconds):
    return cell.length / seconds
"""

SWEEP = """
name: everybody
workload: rmsnorm
axes:
  backend: [torch, of_a_file, of_a_module, of_a_package]
params: {rows: 4, dim: 8, dtype: float32}
plugins: [kernels.py, lab.norms]
measure: {trials: 1, warmup_time_s: 0, min_samples: 3, max_samples: 3}
"""


class Home:
    """A user's folders: kernels here, a module on PYTHONPATH, a package installed beside it, a cache."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.kernels = self._write("here/kernels.py", BACKEND.format(name="of_a_file") + FILE)
        self.neighbour = self._write("here/neighbour.py", "LENGTH = 16\n")
        self._write("modules/lab/__init__.py", "")
        self.norms = self._write("modules/lab/norms.py", BACKEND.format(name="of_a_module"))
        self.package = self._write("installed/kernel_shop.py", BACKEND.format(name="of_a_package"))
        self._write("installed/kernel_shop-1.0.dist-info/METADATA", "Name: kernel-shop\nVersion: 1.0\n")
        self._write("installed/kernel_shop-1.0.dist-info/entry_points.txt", "[gpubench.plugins]\nshop = kernel_shop\n")
        paths = [folder / "modules", folder / "installed", os.environ.get("PYTHONPATH")]
        self.variables = {
            "PYTHONPATH": os.pathsep.join(str(path) for path in paths if path),
            "XDG_CACHE_HOME": str(folder / "cache"),
        }

    def _write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def run(self, *arguments: str) -> str:
        """What `gpubench ARGUMENTS` prints."""
        finished = gpubench(self.folder / "here", *arguments, **self.variables)
        assert finished.code == 0, finished.out + finished.err
        return finished.out

    def catalogue(self) -> dict[str, Any]:
        """The workloads that `list` knows, by name, with all three plugins."""
        workloads = json.loads(self.run("list", "--json", "--plugin", "kernels.py", "--plugin", "lab.norms"))
        found: dict[str, Any] = workloads["workloads"]
        return found

    def backends(self) -> list[str]:
        """Those of rmsnorm that aren't gpubench's own."""
        return sorted(b["name"] for b in self.catalogue()["rmsnorm"]["backends"] if b["name"].startswith("of_"))

    def cache_times(self) -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in (self.folder / "cache").rglob("*.json")}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home(tmp_path_factory.mktemp("home"))


def test_a_file_a_module_and_an_installed_package_each_extend_a_built_in_workload(home: Home) -> None:
    assert home.backends() == ["of_a_file", "of_a_module", "of_a_package"]


def test_a_workload_of_ones_own_is_listed_with_its_axes_and_metrics(home: Home) -> None:
    doubling = home.catalogue()["doubling"]
    assert doubling["description"] == "Twice a vector."
    assert [(axis["name"], axis["kind"], axis["default"], axis["optional"]) for axis in doubling["axes"]] == [
        ("length", "int", 16, False),
        ("scale", "float", None, True),
    ]
    assert [(metric["name"], metric["unit"]) for metric in doubling["metrics"]] == [("elements_per_s", "1/s")]
    assert doubling["origin"].endswith("here/kernels.py:13")
    shown = home.run("list", "doubling", "--plugin", "kernels.py", "--plugin", "lab.norms")
    assert "Twice a vector." in shown
    assert "= 16" in shown
    assert "float | null" in shown
    assert "baseline" in shown


def test_every_plugins_backend_is_measured_beside_the_built_in_one(home: Home) -> None:
    sweep = write_sweep(home.folder / "here", SWEEP)
    home.run("sweep", sweep.name)
    results = merge_cells(read_run(only_run(home.folder / "here")))
    assert [(result.cell.backend, result.outcome) for result in results] == [
        ("torch", Outcome.OK),
        ("of_a_file", Outcome.OK),
        ("of_a_module", Outcome.OK),
        ("of_a_package", Outcome.OK),
    ]


def test_the_catalogue_is_kept_until_a_plugin_changes_or_what_it_imports(home: Home) -> None:
    before = home.backends()
    kept = home.cache_times()
    home.kernels.touch()
    assert home.backends() == before
    assert home.cache_times() == kept, "the same content is the same catalogue"
    home.neighbour.write_text("LENGTH = 32\n")
    assert home.catalogue()["doubling"]["axes"][0]["default"] == 32
    home.package.write_text(BACKEND.format(name="of_a_new_release"))
    assert home.backends() == ["of_a_file", "of_a_module", "of_a_new_release"]


def test_a_module_of_the_same_name_in_another_folder_is_another_plugin(home: Home) -> None:
    for name in ("first", "second"):
        (home.folder / name).mkdir()
        (home.folder / name / "local_kernels.py").write_text(BACKEND.format(name=f"of_the_{name}"))
        (home.folder / name / "random.py").write_text("raise AssertionError('a file here is not Python\\'s random')\n")
        variables = {"XDG_CACHE_HOME": home.variables["XDG_CACHE_HOME"]}
        listed = gpubench(home.folder / name, "list", "rmsnorm", "--plugin", "local_kernels", **variables)
        assert f"of_the_{name}" in listed.out, listed.err
