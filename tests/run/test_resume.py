"""A run is gone on with only if what made its figures is the same; what is not is named."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpubench.catalogue import WorkloadInfo
from gpubench.errors import StoreError
from gpubench.records import Cell
from gpubench.run.resume import QUESTION, differences, find_resumable, question_hash, refuse
from gpubench.store import RunHeader, create_run, read_run

SWEEP: dict[str, Any] = {
    "name": "decode",
    "workload": "decode_step",
    "axes": {"backend": ["torch", "triton"], "isl": [512]},
    "params": {"model": "tiny"},
    "measure": {"trials": 3, "l2": "cold"},
    "check": {"rtol": None},
    "timeout_s": {"cell": 120.0},
    "pareto": {"x": "tok_s_user"},
}
FINGERPRINT = {"sweep": "0", "gpu": "NVIDIA H200", "driver": "580.1", "torch": "2.11", "triton": "3.6", "code": "abc"}


def header(run_id: str = "run", name: str = "decode", created_at: str = "2026-01-01T00:00:00+00:00") -> RunHeader:
    return RunHeader(
        run_id=run_id,
        name=name,
        created_at=created_at,
        sweep=SWEEP,
        sweep_file="decode.yaml",
        cells=[cell(index) for index in range(3)],
        workload=WorkloadInfo("decode_step", "", [], [], [], "w.py:1"),
        environment={},
        fingerprint=FINGERPRINT,
    )


def cell(index: int) -> Cell:
    return Cell(index, f"cell_{index:03d}", f"key{index}", "decode_step", "torch", {}, {})


def changed(**sections: Any) -> RunHeader:
    """A header whose sweep has other sections."""
    return replace(header(), sweep={**SWEEP, **sections})


def test_nothing_that_has_changed_is_no_difference() -> None:
    assert differences(header(), header("another", created_at="2027-01-01T00:00:00+00:00")) == []


@pytest.mark.parametrize(
    ("new", "told"),
    [
        (changed(measure={"trials": 5, "l2": "cold"}), "sweep.measure.trials: 3 → 5"),
        (changed(axes={"backend": ["torch"], "isl": [512]}), 'sweep.axes.backend: ["torch", "triton"] → ["torch"]'),
        (changed(params={"model": "tiny", "tp": 8}), "sweep.params.tp: null → 8"),
        (changed(params={}), 'sweep.params.model: "tiny" → null'),
        (changed(check={"rtol": 0.02}), "sweep.check.rtol: null → 0.02"),
    ],
)
def test_a_changed_question_is_named_by_its_key_with_both_values(new: RunHeader, told: str) -> None:
    assert differences(header(), new) == [told]
    assert question_hash(header().sweep) != question_hash(new.sweep)


def test_infinity_is_a_value_of_its_own_and_nan_is_the_same_as_nan(tmp_path: Path) -> None:
    odd = changed(params={"cap": math.inf, "fill": [math.nan], "low": math.nan})
    stored = read_run(tmp_path / create_run(tmp_path, odd).run_id).header
    assert differences(stored, odd) == []
    again = changed(params={"cap": None, "fill": [math.nan], "low": math.nan})
    assert differences(stored, again) == ["sweep.params.cap: Infinity → null"]


def test_a_longer_limit_or_another_plot_asks_the_same_question() -> None:
    new = changed(timeout_s={"cell": 600.0}, pareto={"x": "step_time"}, order="interleaved")
    assert differences(header(), new) == []
    assert question_hash(header().sweep) == question_hash(new.sweep)


@pytest.mark.parametrize("name", [name for name in FINGERPRINT if name not in ("sweep", "code")])
def test_each_part_of_the_fingerprint_counts(name: str) -> None:
    new = replace(header(), fingerprint={**FINGERPRINT, name: ""})
    assert differences(header(), new) == [f"{name}: {FINGERPRINT[name]} → none"]


def test_changed_code_is_told_by_whose_it_is_for_hashes_tell_nothing() -> None:
    old = replace(header(), fingerprint={**FINGERPRINT, "plugin mine.py": "123"})
    new = replace(header(), fingerprint={**FINGERPRINT, "code": "def", "plugin mine.py": "456"})
    assert differences(old, new) == ["gpubench itself has changed", "plugin mine.py has changed"]


def test_a_part_of_the_cells_may_be_asked_for_but_none_that_the_run_does_not_have() -> None:
    assert differences(header(), replace(header(), cells=[cell(1)])) == []
    more = replace(header(), cells=[cell(index) for index in range(8)])
    told = "cells that the run doesn't have: cell_003, cell_004, cell_005 and 2 more"
    assert differences(header(), more) == [told]


@given(st.permutations(list(SWEEP)))
def test_the_order_of_a_files_keys_does_not_matter(keys: list[str]) -> None:
    reordered = {key: SWEEP[key] for key in keys}
    assert question_hash(reordered) == question_hash(SWEEP)
    assert question_hash(json.loads(json.dumps(reordered))) == question_hash(SWEEP)


@given(st.sampled_from(QUESTION))
def test_every_section_that_figures_depend_on_counts(section: str) -> None:
    assert question_hash({**SWEEP, section: "something else"}) != question_hash(SWEEP)


def test_the_newest_run_of_the_same_sweep_is_gone_on_with(tmp_path: Path) -> None:
    for day, name in enumerate(["decode", "decode", "prefill"], start=1):
        create_run(tmp_path, header(f"run-{day}", name, f"2026-01-0{day}T00:00:00+00:00"))
    (tmp_path / "run-3" / "cells.jsonl").write_text("of another sweep, and no record\n")
    run, changed_since = find_resumable(tmp_path, header())
    assert (run.header.run_id, changed_since) == ("run-2", [])
    with pytest.raises(StoreError, match="no run of 'spec-decode' to resume; start one without --resume"):
        find_resumable(tmp_path, header(name="spec-decode"))


def test_an_older_run_that_fits_is_taken_before_a_newer_one_that_does_not(tmp_path: Path) -> None:
    create_run(tmp_path, header("run-1", created_at="2026-01-01T00:00:00+00:00"))
    other = replace(changed(params={}), run_id="run-2", created_at="2026-01-02T00:00:00+00:00")
    create_run(tmp_path, other)
    assert find_resumable(tmp_path, header())[0].header.run_id == "run-1"
    neither = changed(axes={"backend": ["torch"]})
    run, changed_since = find_resumable(tmp_path, neither)
    assert run.header.run_id == "run-2"
    assert changed_since


def test_a_refusal_names_every_difference_and_both_ways_out(tmp_path: Path) -> None:
    run = read_run(tmp_path / create_run(tmp_path, header()).run_id)
    told = str(refuse(run, ["torch: 2.11 → 2.13", "driver: 580.1 → 590.2"]))
    for part in (str(run.path), "torch: 2.11 → 2.13", "driver: 580.1 → 590.2", "without --resume", "--force"):
        assert part in told
