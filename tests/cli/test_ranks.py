"""One rank of several through the command line: what cells are called, what their records say, what they refuse."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import gpubench_here, only_run, write_sweep

from gpubench.records import CellRecord, Outcome
from gpubench.store import read_run

SWEEP = """
name: ranks
workload: decode_step
axes:
  backend: [eager]
  concurrency: [3, 8]
  parallel: [TEP, DEP]
  gvr: [true, false]
params: {model: tiny-mla-indexer, isl: 40, ranks: 2, dtype: float32, shape: {moe: {experts: 8}}}
measure: {trials: 1, warmup_time_s: 0, min_samples: 2, max_samples: 2}
"""

REFUSED = """
name: refused
workload: decode_step
axes:
  backend: [eager]
  isl: [64, 5000]
  ranks: [2, 3]
params: {concurrency: 2, model: tiny-sparse, parallel: DEP, dtype: float32}
measure: {trials: 1, warmup_time_s: 0, min_samples: 2, max_samples: 2}
"""


def cells(folder: Path) -> dict[str, CellRecord]:
    return {record.cell_id: record for record in read_run(only_run(folder)).records}


def test_a_grid_of_ranks_and_top_ks_is_named_labelled_and_counted_per_gpu(tmp_path: Path) -> None:
    write_sweep(tmp_path, SWEEP)
    done = gpubench_here(tmp_path, "sweep", "sweep.yaml", "--no-profile", OMP_NUM_THREADS="1")
    assert done.code == 0, done.out + done.err
    found = cells(tmp_path)
    assert sorted(found)[:4] == [
        "cell_000_C003_TEP_GVRT",
        "cell_001_C003_TEP_GVRF",
        "cell_002_C003_DEP_GVRT",
        "cell_003_C003_DEP_GVRF",
    ]
    for record in found.values():
        assert record.details["model"] == "tiny-mla-indexer with moe.experts 8"
        assert record.details["rank"] == "one rank of 2, no communication"
        if record.axes["gvr"]:
            assert record.outcome is Outcome.SKIPPED
            assert "gvr: attention: torch selects by torch.topk" in record.reason
            continue
        assert record.outcome is Outcome.OK, record.reason
        measured = {measurement.metric: measurement.samples for measurement in record.measurements}
        per_gpu, per_user = measured["tok_s_gpu"][0], measured["tok_s_user"][0]
        assert per_gpu / per_user == pytest.approx(record.axes["concurrency"] / 2)


def test_a_rank_that_cannot_be_is_an_error_of_its_cell_alone(tmp_path: Path) -> None:
    write_sweep(tmp_path, REFUSED)
    done = gpubench_here(tmp_path, "sweep", "sweep.yaml", "--no-profile", OMP_NUM_THREADS="1")
    assert done.code == 3, done.out + done.err
    found = cells(tmp_path)
    assert [found[cell_id].outcome for cell_id in sorted(found)] == [Outcome.OK] + 3 * [Outcome.ERROR]
    reasons = {cell_id: record.reason for cell_id, record in found.items()}
    assert "ranks: 3 don't divide 16 experts; wanted a divisor of 16" in reasons["cell_001_ISL0064_RANKS003"]
    told = "isl: 5000 is beyond the cache: tiny-sparse has positions for 4096 tokens"
    assert told in reasons["cell_002_ISL5000_RANKS002"]
