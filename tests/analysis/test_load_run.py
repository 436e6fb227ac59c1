"""A run as a notebook has it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from made_runs import MadeCell, make_run

from gpubench.analysis.run import load_run
from gpubench.errors import StoreError, UsageError
from gpubench.records import Outcome, dump_line
from gpubench.store import read_run

GOOD = {"tok_s_user": [[10.0] * 6], "tok_s_gpu": [[20.0] * 6]}


def test_a_run_is_found_by_path_by_id_and_as_the_newest(tmp_path):
    path = make_run(tmp_path, [MadeCell({}, GOOD)])
    assert load_run(path).run_id == load_run(path.name, tmp_path).run_id == load_run(None, tmp_path).run_id == path.name


def test_a_run_that_is_not_there_is_named_with_those_that_are(tmp_path):
    make_run(tmp_path, [])
    with pytest.raises(StoreError, match=r"nowhere: no run of that name or path; the newest in .*mla-decode-2026"):
        load_run("nowhere", tmp_path)


def test_outcomes_are_counted_ok_first(tmp_path):
    cells = [MadeCell({"i": i}, outcome=Outcome.CRASH) for i in range(2)] + [MadeCell({"i": 2}, GOOD)]
    run = load_run(make_run(tmp_path, [*cells, MadeCell({"i": 3}, outcome=None)]))
    assert list(run.outcomes().items()) == [("ok", 1), ("crash", 2), ("not run", 1)]


def test_a_run_shows_itself_in_a_line(tmp_path):
    run = load_run(make_run(tmp_path, [MadeCell({"i": 0}, GOOD), MadeCell({"i": 1}, outcome=Outcome.OOM)]))
    assert repr(run) == "<Run mla-decode-20261121-093000: 2 cells: 1 ok, 1 oom; NVIDIA H200>"


def test_a_frame_is_the_callers_to_change(tmp_path):
    run = load_run(make_run(tmp_path, [MadeCell({}, GOOD)]))
    mine = run.frame()
    mine["median"] = 0.0
    assert (run.frame()["median"] > 0).all()


def test_a_frontier_over_a_metric_that_is_not_there_says_which_are(tmp_path):
    run = load_run(make_run(tmp_path, [MadeCell({}, GOOD)]))
    with pytest.raises(UsageError, match="no metric 'tok_s_usr' in this run; did you mean 'tok_s_user'"):
        run.frontier(x="tok_s_usr")
    with pytest.raises(UsageError, match="no metric 'nope' in this run; known: tok_s_user, tok_s_gpu"):
        run.frontier("nope")
    with pytest.raises(UsageError, match="no column 'backnd' to group by; did you mean 'backend'"):
        run.frontier(group=["backnd"])


def test_a_frontier_is_told_per_backend(tmp_path):
    better = {"tok_s_user": [[11.0] * 6], "tok_s_gpu": [[22.0] * 6]}
    cells = [MadeCell({"backend": "torch"}, GOOD), MadeCell({"backend": "triton"}, better)]
    found = load_run(make_run(tmp_path, cells)).frontier()
    assert found["on_frontier"].tolist() == [False, True]
    assert found["on_group_frontier"].tolist() == [True, True]
    assert found["margin"].tolist()[0] == pytest.approx(0.1)


def test_one_column_to_group_by_needs_no_list(tmp_path):
    cells = [MadeCell({"backend": backend}, GOOD) for backend in ("torch", "triton")]
    run = load_run(make_run(tmp_path, cells))
    assert run.frontier(group="backend")["group"].tolist() == ["torch", "triton"]


def test_which_way_is_better_is_as_the_one_who_measured_it_says(tmp_path):
    path = make_run(tmp_path, [MadeCell({}, {"score": [[1.0]], "misses": [[2.0]], "ttft": [[3.0]], "wait": [[4.0]]})])
    (record,) = read_run(path).records
    ways = {"score": True, "misses": False, "ttft": True}
    says = [replace(own, higher_is_better=ways.get(own.metric)) for own in record.measurements]
    (path / "cells.jsonl").write_bytes(dump_line(replace(record, measurements=says)))
    found = {key: metric.higher_is_better for key, metric in load_run(path).metrics().items()}
    assert found == {"ttft": False, "score": True, "misses": False, "wait": False}, "what TTFT is, gpubench knows"
