"""The sweeps that come with gpubench mean what their comments say, with and without a GPU."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
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


@pytest.mark.parametrize("name", ["configs/pareto.yaml", "sweeps/pareto_indexer_variants.yaml"])
def test_a_pareto_sweep_leaves_out_just_what_141_gigabytes_cannot_hold(catalogue, name):
    sweep = load_sweep(ROOT / name)
    everything = replace(sweep, spec=sweep.spec.model_copy(update={"exclude": []}))
    fits = get_workload("decode_step").fits_function
    can_fit = {
        cell.key: cell.cell_id
        for cell in expand(everything, catalogue).cells
        if fits(**{**cell.arguments, "layers": None}, device_bytes=141e9) is None
    }
    assert {cell.key: cell.cell_id for cell in expand(sweep, catalogue).cells} == can_fit


def test_pareto_has_the_three_modes_of_a_step_and_its_variants_are_called_after_what_varies(catalogue):
    grid = expand(load_sweep(ROOT / "configs" / "pareto.yaml"), catalogue)
    assert {cell.backend for cell in grid.cells} == {"eager", "compiled", "graph"}
    assert 60 <= len(grid.cells) <= 80
    variants = expand(load_sweep(ROOT / "sweeps" / "pareto_indexer_variants.yaml"), catalogue)
    assert "cell_013_C008_ISL008192_TEP_GVRF" in {cell.cell_id for cell in variants.cells}
