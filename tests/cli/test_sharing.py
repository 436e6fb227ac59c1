"""Cells share weights in real workers: next to each other, past failures, and never under isolation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support import PLUGINS, gpubench_here, only_run, write_sweep

from gpubench.records import CellRecord, Outcome
from gpubench.store import StoredRun, read_run

SWEEP = """
name: sharing
workload: sharing
plugins: [{plugin}]
axes:
  backend: [{backends}]
  batch: [1, 2]
  model: [first, second]
measure: {{trials: {trials}, warmup_time_s: 0, min_samples: 3, max_samples: 3}}
order: {order}
isolation: {isolation}
"""


def run(folder: Path, backends: str, *flags: str, order: str = "cells", isolation: str = "worker") -> StoredRun:
    """The run of a sweep over two models, the model the innermost axis, on the CPU."""
    plugin, trials = PLUGINS / "sharing.py", 2 if order == "interleaved" else 1
    text = SWEEP.format(plugin=plugin, backends=backends, order=order, isolation=isolation, trials=trials)
    finished = gpubench_here(folder, "sweep", str(write_sweep(folder, text)), "--gpus", "none", *flags)
    assert finished.code in (0, 3), finished.err
    return read_run(only_run(folder))


def shared(record: CellRecord) -> dict[str, Any]:
    """By what it is: the cell that built it, or "" if this one did."""
    return {item["what"]: item.get("from", "") for item in record.details.get("shared", [])}


def told(record: CellRecord) -> tuple[Any, ...]:
    return record.backend, record.axes["batch"], record.axes["model"]


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> StoredRun:
    return run(tmp_path_factory.mktemp("healthy"), "plain, doubled")


def test_cells_of_one_model_run_next_to_each_other_in_the_grids_order_and_the_run_says_so(healthy: StoredRun) -> None:
    expected = [(backend, batch) for backend in ("plain", "doubled") for batch in (1, 2)]
    assert [told(record) for record in healthy.records] == [
        (*each, model) for model in ("first", "second") for each in expected
    ]
    (session,) = healthy.sessions
    assert session.order == "cells of equal model run next to each other, for they share what they build: 2 kinds"


def test_weights_are_built_once_by_the_first_cell_and_shared_by_the_reference_too(healthy: StoredRun) -> None:
    first = healthy.records[0].cell_id
    assert [shared(record)["weights"] for record in healthy.records[:4]] == ["", first, first, first]
    doubled = healthy.records[2].cell_id
    assert [shared(record).get("twice the weights") for record in healthy.records[:4]] == [None, None, "", doubled]
    second = healthy.records[4].cell_id
    assert [shared(record)["weights"] for record in healthy.records[4:]] == ["", second, second, second]
    (built,) = healthy.records[0].details["shared"]
    assert built["bytes"] == 64 * 64 * 4
    assert built["built_s"] >= 0
    assert {record.outcome for record in healthy.records} == {Outcome.OK}


def test_a_cell_that_raises_leaves_what_is_shared_and_one_that_dies_takes_it_along(tmp_path: Path) -> None:
    records = run(tmp_path, "plain, raises, dies, doubled", "--only", "model=first").records
    assert [(record.backend, record.outcome) for record in records[::2]] == [
        ("plain", Outcome.OK),
        ("raises", Outcome.ERROR),
        ("dies", Outcome.CRASH),
        ("doubled", Outcome.OK),
    ]
    plain, raises, after = records[0], records[3], records[6]
    assert shared(raises) == {"weights": plain.cell_id}
    assert shared(after)["weights"] == "", "the worker that had built them is dead"
    assert after.worker > plain.worker
    assert shared(records[7])["weights"] == after.cell_id


def test_under_isolation_nothing_comes_from_another_cell(tmp_path: Path) -> None:
    records = run(tmp_path, "plain", "--only", "model=first", isolation="cell").records
    assert [shared(record) for record in records] == [{"weights": ""}, {"weights": ""}]
    assert records[0].worker != records[1].worker


def test_interleaved_trials_stay_outermost_and_the_second_begins_where_the_first_ended(tmp_path: Path) -> None:
    records = run(tmp_path, "plain", order="interleaved").records
    assert [(record.trial, record.axes["model"], record.axes["batch"]) for record in records] == [
        (trial, model, batch)
        for trial, models in enumerate([("first", "second"), ("second", "first")])
        for model in models
        for batch in (1, 2)
    ]
    builders = [shared(record)["weights"] for record in records]
    first, second = records[0].cell_id, records[2].cell_id
    assert builders == ["", first, "", second, second, second, "", first]
