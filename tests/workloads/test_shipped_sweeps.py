"""The sweeps that come with gpubench mean what their comments say, with and without a GPU."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import pytest

from gpubench.catalogue import parse_catalogue
from gpubench.registry import get_workload
from gpubench.sweep import expand, load_sweep
from gpubench.workloads import load_builtin

ROOT = Path(__file__).parents[2]
SHIPPED = sorted(path for folder in ("configs", "sweeps", "examples") for path in (ROOT / folder).glob("*.yaml"))

load_builtin()


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory):
    out = tmp_path_factory.mktemp("catalogue") / "catalogue.json"
    plugin = ROOT / "examples" / "my_kernel.py"
    subprocess.run([sys.executable, "-m", "gpubench.worker.catalogue", out, plugin], check=True)
    return parse_catalogue(out.read_bytes())


@pytest.mark.parametrize("overlay", [None, "cpu"])
@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_sweep_names_what_exists_and_excludes_what_it_has(catalogue, path, overlay):
    grid = expand(load_sweep(path, overlay=overlay), catalogue)
    assert grid.warnings == ()


def test_pareto_leaves_out_just_what_141_gigabytes_cannot_hold(catalogue):
    sweep = load_sweep(ROOT / "configs" / "pareto.yaml")
    grid = expand(sweep, catalogue)
    kept = {(cell.axes["concurrency"], cell.axes["isl"]) for cell in grid.cells}
    everything = set(itertools.product(sweep.spec.axes["concurrency"], sweep.spec.axes["isl"]))
    fits = get_workload("decode_step").fits_function
    too_big = {
        (concurrency, isl)
        for concurrency, isl in everything
        if fits(concurrency=concurrency, isl=isl, layers=None, device_bytes=141e9, **sweep.spec.params)
    }
    assert everything - kept == too_big
    assert {cell.backend for cell in grid.cells} == {"eager", "compiled", "graph"}
