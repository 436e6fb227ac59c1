"""A decode step's time by range, under a real nsys: the same ranges in a replayed graph as in the step it holds."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from support import command_line, only_run, write_sweep

from gpubench.analysis.run import load_run

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
    pytest.mark.skipif(shutil.which("nsys") is None, reason="needs nsys"),
]

SWEEP = """
name: breakdown
workload: decode_step
axes:
  backend: [eager, graph]
  model: [tiny-hybrid, tiny-mla-indexer]
params: {concurrency: 4, isl: 4096, dtype: bfloat16, attention: triton}
measure: {timer: nsys, trials: 1, warmup_time_s: 0, max_samples: 20}
"""
RANGES = {
    "tiny-hybrid": {"embedding", "linear_attention", "attention", "moe", "head", "sampling"},
    "tiny-mla-indexer": {"embedding", "attention", "indexer", "topk", "mlp", "moe", "head", "sampling"},
}


def test_a_graphs_time_is_told_by_the_ranges_that_its_step_opens(tmp_path: Path) -> None:
    command = command_line("sweep", str(write_sweep(tmp_path, SWEEP)))
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    run = load_run(only_run(tmp_path))
    step = run.wide()[["cell_id", "backend", "model", "busy", "kernel_sum"]]
    frame = run.ranges().merge(step, on="cell_id", suffixes=("", "_of_step"))
    outer = frame[~frame["nested"]]
    for (model, backend), ranges in outer.groupby(["model", "backend"]):
        assert set(ranges["range"]) >= RANGES[model], backend
        # A kernel that is launched before the one ahead has ended begins within that one's range, and waits there: so
        # ranges' busy times may add up to more than the step's, though not to more than all kernels' durations.
        overlap = (ranges["kernel_sum_of_step"] / ranges["busy_of_step"]).iloc[0]
        assert 0.9 < ranges["share"].sum() < 1.02 * max(1.0, overlap), backend
    busy = frame.pivot_table(index=["model", "range"], columns="backend", values="kernel_sum")
    assert busy.notna().all().all(), "eager and graph have the same ranges"
