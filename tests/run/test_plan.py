"""What is still to be run: every trial of every cell once, whatever was recorded before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pretend import answer, task

from gpubench.analysis.merge import merge_cells
from gpubench.catalogue import WorkloadInfo
from gpubench.protocol import Task
from gpubench.records import CellRecord, Outcome, Pass
from gpubench.run.plan import TaskSettings, plan_tasks
from gpubench.settings import CheckSettings, MeasureSettings, TimeoutSettings
from gpubench.store import RunHeader, StoredRun

TRIALS = 3
FAILURES = [outcome for outcome in Outcome if outcome.is_failure]
ORDERS = st.sampled_from(["cells", "interleaved"])

History = tuple[Outcome, list[int]]
"""What a run holds of a cell: its trials in the order in which they ended, and how the last one did."""

HISTORIES = st.lists(
    st.tuples(st.sampled_from([*Outcome]), st.lists(st.integers(0, TRIALS - 1), unique=True)), min_size=1, max_size=8
)


def settings(order: Literal["cells", "interleaved"] = "cells", pass_: Pass = Pass.TIMING) -> TaskSettings:
    workload = WorkloadInfo("w", "", [], [], [], "", shares=["model"])
    measure = MeasureSettings(trials=TRIALS)
    return TaskSettings(pass_, measure, CheckSettings(), TimeoutSettings(), Path("artifacts"), workload, order)


def stored(histories: Sequence[History]) -> StoredRun:
    """A run of as many cells as there are histories."""
    tasks = [task(index, Path("artifacts")) for index in range(len(histories))]
    records = []
    for each, (outcome, trials) in zip(tasks, histories, strict=True):
        records += [answer(each, trial, 0) for trial in trials[:-1]]
        records += [answer(each, trial, 0, outcome) for trial in trials[-1:]]
    header = RunHeader(
        run_id="run",
        name="run",
        created_at="",
        sweep={},
        sweep_file="",
        cells=[each.cell for each in tasks],
        workload=WorkloadInfo("w", "", [], [], [], ""),
        environment={},
        fingerprint={},
    )
    return StoredRun(Path(), header, records, [])


def plan(run: StoredRun, order: Literal["cells", "interleaved"], *retry: Outcome) -> list[Task]:
    return plan_tasks(merge_cells(run), settings(order), frozenset(retry))


def carry_out(run: StoredRun, tasks: Sequence[Task]) -> StoredRun:
    """The run once these tasks have gone well."""
    records: list[CellRecord] = [answer(each, trial, 0) for each in tasks for trial in each.trials]
    return replace(run, records=[*run.records, *records])


@given(HISTORIES, ORDERS)
def test_a_resumed_run_has_every_trial_of_every_undecided_cell_once(
    histories: list[History], order: Literal["cells", "interleaved"]
) -> None:
    run = stored(histories)
    after = carry_out(run, plan(run, order))
    times = Counter((record.cell_id, record.trial) for record in after.records)
    assert set(times.values()) <= {1}
    for cell, (outcome, trials) in zip(run.header.cells, histories, strict=True):
        is_decided = bool(trials) and outcome is not Outcome.OK
        expected = set(trials) if is_decided else set(range(TRIALS))
        assert {trial for cell_id, trial in times if cell_id == cell.cell_id} == expected
    assert plan(after, order) == [], "nothing is left to do"


@given(HISTORIES, ORDERS, st.sets(st.sampled_from(FAILURES)))
def test_what_is_retried_starts_over_as_a_new_attempt_and_nothing_else_does(
    histories: list[History], order: Literal["cells", "interleaved"], retry: set[Outcome]
) -> None:
    run = stored(histories)
    tasks = plan(run, order, *retry)
    for cell, (outcome, trials) in zip(run.header.cells, histories, strict=True):
        own = [each for each in tasks if each.cell == cell]
        planned = sorted(trial for each in own for trial in each.trials)
        if trials and outcome in retry:
            assert planned == list(range(TRIALS))
            assert {each.attempt for each in own} == {1}
        else:
            assert {each.attempt for each in own} <= {0}
            assert not set(planned) & set(trials)
    outcomes = [result.outcome for result in merge_cells(carry_out(run, tasks))]
    assert not retry & set(outcomes), "the last attempt counts"


@given(HISTORIES)
def test_both_orders_hold_the_same_work_and_interleaved_goes_round_the_cells(histories: list[History]) -> None:
    run = stored(histories)
    by_cell, interleaved = plan(run, "cells"), plan(run, "interleaved")
    work = [{(each.cell.cell_id, trial) for each in tasks for trial in each.trials} for tasks in (by_cell, interleaved)]
    assert work[0] == work[1]
    assert all(len(each.trials) == 1 for each in interleaved)
    turns = [(each.trials[0], each.cell.index) for each in interleaved]
    assert turns == sorted(turns)
    assert [each.cell.index for each in by_cell] == sorted({index for _, index in turns})


def test_a_cell_keeps_its_artifacts_in_a_folder_of_its_own_in_every_attempt() -> None:
    (again,) = plan(stored([(Outcome.CRASH, [0])]), "cells", Outcome.CRASH)
    assert again.artifacts == "artifacts/cell_000"


@pytest.mark.parametrize("order", ["cells", "interleaved"])
def test_the_profiled_pass_is_one_trial_of_each_cell(order: Literal["cells", "interleaved"]) -> None:
    run = stored([(Outcome.OK, [0, 1, 2]), (Outcome.OK, [0, 1, 2])])
    tasks = plan_tasks(merge_cells(run), settings(order, Pass.PROFILE), frozenset())
    assert [(each.cell.index, each.trials, each.pass_) for each in tasks] == [
        (0, [0], Pass.PROFILE),
        (1, [0], Pass.PROFILE),
    ]
