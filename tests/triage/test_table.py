"""A run's failed cells as a table, on any run: the story's, an interrupted one, one whose cells were run again."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_failures import STORY_DEAD, ended, grid_cells, hostile_run, say, story, write_run

from gpubench.analysis.run import load_run
from gpubench.records import Crash, FaultingKernel, Frame, Outcome
from gpubench.report.markdown import triage_markdown
from gpubench.report.triage import show, triage_csv, triage_json
from gpubench.triage import VERDICTS, Triage, triage_run


def triage(path: Path, baseline: Path | None = None) -> Triage:
    return triage_run(load_run(path), load_run(baseline) if baseline else None)


def test_the_three_dead_cells_of_the_story_are_one_signature_with_its_rule(tmp_path):
    (row,) = triage(story(tmp_path)).rows
    assert tuple(row.cell_ids) == STORY_DEAD
    assert row.rule_text == "parallel = TEP ∧ gvr = false ∧ concurrency ≥ 8 (3 of 3 crashed; 0 of 21 clean)"
    assert (row.rule.precision, row.rule.coverage) == (1.0, 1.0)


def test_the_twins_of_the_story_had_gvr_on(tmp_path):
    (row,) = triage(story(tmp_path)).rows
    assert [twin.text for twin in row.twins] == [
        "cell_012_C008_TEP_GVRT (gvr false → true)",
        "cell_016_C016_TEP_GVRT (gvr false → true)",
        "cell_020_C032_TEP_GVRT (gvr false → true)",
    ]


@pytest.mark.parametrize(("kinds", "told"), [(3, None), (4, "and 1 other difference"), (5, "and 2 other differences")])
def test_differences_that_are_left_out_are_counted(tmp_path, kinds, told):
    found = triage(story(tmp_path))
    (row,) = found.rows
    twins = [
        replace(row.twins[0], differs=(replace(row.twins[0].differs[0], axis=f"axis_{kind}"),)) for kind in range(kinds)
    ]
    (shown,) = show(replace(found, rows=[replace(row, twins=twins)])).rows
    assert shown.twins[3:] == ((told,) if told else ())


def test_the_story_names_its_victim_and_no_culprit(tmp_path):
    (found,) = json.loads(triage_json(triage(story(tmp_path))))["signatures"]
    assert found["victim"] == "fp8_gemm.py:88 in pack_tensor_map"
    assert (found["culprit"], found["faulting"]) == (None, None)
    core = Crash(faulting=FaultingKernel("fp8_gemm", "/k/gemm.cu", 7, exception="Warp Illegal Address"))
    (found,) = json.loads(triage_json(triage(story(tmp_path, "with-core", core))))["signatures"]
    assert found["faulting"] == {"kernel": "fp8_gemm", "file": "/k/gemm.cu", "line": 7}
    assert found["culprit"] is None


def test_faults_that_surface_at_any_call_and_have_a_rule_together_may_be_one(tmp_path):
    cells = grid_cells(concurrency=[1, 2, 4, 8, 16, 32], parallel=["TEP", "DEP"], gvr=[True, False])
    dead = [cell for cell in cells if cell.axes["parallel"] == "TEP" and not cell.axes["gvr"]]
    places = dict(zip([cell.cell_id for cell in dead], ["gemm", "moe", "norm"] * 2, strict=True))

    def notes(name: str, message: str) -> str:
        records = []
        for cell in cells:
            place = places.get(cell.cell_id)
            crash = Crash("RuntimeError", message, [Frame("/u/a.py", 1, place)]) if place else None
            records += ended(cell, Outcome.CRASH if place else Outcome.OK, crash)
        found = triage(write_run(tmp_path, name, cells, records))
        assert len(found.rows) == 3
        return "; ".join(found.notes)

    together = "parallel = TEP ∧ gvr = false (6 of 6 failed; 0 of 18 clean)"
    assert together in notes("late", "CUDA error: an illegal memory access was encountered")
    assert notes("own", "out of luck") == ""


def test_where_every_cell_failed_the_ways_are_told_from_each_other(tmp_path):
    cells = grid_cells(batch=[1, 2, 4, 8, 16, 32], backend=["a", "b"], gvr=[True, False])
    boom = Crash("ValueError", "boom", [Frame("/u/a.py", 3, "go")])
    full = Crash("torch.OutOfMemoryError", "CUDA out of memory", [Frame("/u/a.py", 3, "go")])
    records = []
    for cell in cells:
        is_big = cell.axes["batch"] >= 8
        records += ended(cell, Outcome.OOM if is_big else Outcome.ERROR, full if is_big else boom)
    found = triage(write_run(tmp_path, "lost", cells, records))
    assert [row.rule_text for row in found.rows] == [
        "batch ≥ 8 (12 of 12 failed; 0 of 12 that failed otherwise)",
        "batch ≤ 4 (12 of 12 failed; 0 of 12 that failed otherwise)",
    ]
    (alone,) = triage(write_run(tmp_path, "alike", cells[:4], records[:4])).rows
    assert alone.rule_text == "no cell is clean (4 of 4 failed; 0 of 0 clean)"


def test_json_has_every_key_that_is_promised(tmp_path):
    (found,) = json.loads(triage_json(triage(story(tmp_path)), "runs/my run"))["signatures"]
    assert {
        *("id", "class", "title", "faulting", "culprit", "victim", "stage", "cells"),
        *("rule", "twins", "verdicts", "reproduce"),
    } <= set(found)
    assert found["reproduce"] == f"gpubench reproduce 'runs/my run' {STORY_DEAD[0]}"
    assert found["rule"]["precision"] == found["rule"]["coverage"] == 1
    assert found["twins"][0]["differs"] == {"gvr": [False, True]}


def test_cells_not_run_and_skipped_are_unknown_and_a_cell_that_failed_otherwise_is_no_clean_one(tmp_path):
    cells = grid_cells(batch=[1, 2, 4, 8, 16], backend=["a", "b"])
    boom = Crash("ValueError", "boom", [Frame("/u/a.py", 3, "go")])
    records = []
    for cell in cells:
        batch, backend = cell.axes["batch"], cell.axes["backend"]
        outcome = Outcome.ERROR if backend == "b" and batch >= 4 else Outcome.OK
        crash = boom if outcome is Outcome.ERROR else None
        if batch == 16:
            outcome = None if backend == "b" else Outcome.SKIPPED
        if (batch, backend) == (8, "a"):
            outcome, crash = Outcome.OOM, Crash("torch.OutOfMemoryError", "CUDA out of memory")
        records += ended(cell, outcome, crash)
    found = triage(write_run(tmp_path, "partial", cells, records))
    oom, error = found.rows
    assert error.rule_text == "backend = b ∧ batch ≥ 4 (2 of 2 failed; 0 of 5 clean; 1 unknown; may be chance)"
    assert oom.rule_text == "batch = 8 (1 of 1 failed; 0 of 5 clean; 1 unknown)"
    assert found.notes == ("1 not run and 1 skipped: such cells count as unknown, not as clean",)


def test_a_cell_that_is_ok_at_its_last_attempt_has_not_failed(tmp_path):
    cells = grid_cells(batch=[1, 2])
    records = [*ended(cells[0], Outcome.CRASH, Crash(signal="SIGSEGV")), *ended(cells[0], Outcome.OK, attempt=2)]
    assert triage(write_run(tmp_path, "retried", cells, records)).rows == ()


def test_the_gravest_come_first_and_times_are_the_first_and_last(tmp_path):
    cells = grid_cells(batch=[1, 2, 3, 4])
    times = [f"2026-11-21T09:3{n}:00.000+00:00" for n in range(4)]
    records = [
        *ended(cells[0], Outcome.MISMATCH, started_at=times[0]),
        *ended(cells[1], Outcome.CRASH, Crash(signal="SIGSEGV"), started_at=times[3]),
        *ended(cells[2], Outcome.CRASH, Crash(signal="SIGSEGV"), started_at=times[2]),
        *ended(cells[3], Outcome.TIMEOUT, Crash(), started_at=times[1]),
    ]
    found = triage(write_run(tmp_path, "several", cells, records))
    assert [row.fault.name for row in found.rows] == ["segfault", "timeout", "mismatch"]
    assert show(found).rows[0].seen == "2026-11-21 09:32:00 – 09:33:00"


def test_new_is_what_the_baseline_did_not_have_also_where_lines_moved(tmp_path):
    def run(name, *frames):
        cells = grid_cells(batch=list(range(len(frames))))
        crashes = [Crash("ValueError", "x", [Frame("/u/a.py", line, function)]) for function, line in frames]
        records = [r for cell, crash in zip(cells, crashes, strict=True) for r in ended(cell, Outcome.ERROR, crash)]
        return write_run(tmp_path, name, cells, records)

    before, after = run("before", ("pack", 10)), run("after", ("pack", 99), ("unpack", 10))
    found = triage(after, before)
    assert [row.signature.victim for row in found.new] == ["a.py:10 in unpack"]
    assert [row.is_new for row in triage(after).rows] == [None, None]
    assert "1 of them new since before" in show(found).headline


def test_answers_of_reruns_are_shown_and_a_culprit_that_they_name_is_every_cells(tmp_path):
    path = story(tmp_path)
    blame = {"kernel": "radix_topk", "file": "topk.py", "line": 31, "basis": "audit: holds a freed block"}
    say(
        path,
        {"cell_id": STORY_DEAD[1], "rung": 1, "verdict": "the same", "detail": "alone", "at": "2026-11-21T10:00:00Z"},
        {"cell_id": STORY_DEAD[1], "rung": "audit", "verdict": "stale pointer", "culprit": blame, "later": "key"},
        {"cell_id": "cell_000_C001_TEP_GVRT", "rung": "audit", "verdict": "clean"},
    )
    found = triage(path)
    (row,) = found.rows
    assert tuple(row.cell_ids) == STORY_DEAD
    assert row.signature.key == "illegal address | radix_topk | measure"
    assert [verdict.text for verdict in row.verdicts] == ["1: the same (alone)", "audit: stale pointer"]
    (data,) = json.loads(triage_json(found))["signatures"]
    assert data["culprit"] == blame
    assert data["title"] == "illegal address in radix_topk (topk.py:31)"


@pytest.mark.parametrize(
    ("graphs_off", "is_memcheck_asked", "blamed"),
    [("passes", True, "fill"), ("fails the same", True, "store"), ("fails the same", False, "fill")],
)
def test_a_stale_address_is_not_blamed_for_what_fails_without_graphs_if_somebody_else_is_named(
    tmp_path, graphs_off, is_memcheck_asked, blamed
):
    path = story(tmp_path)
    memcheck = {"rung": "memcheck", "verdict": "invalid access", "culprit": {"kernel": "store", "basis": "memcheck: …"}}
    audit = {"rung": "audit", "verdict": "stale pointer", "culprit": {"kernel": "fill", "basis": "audit: …"}}
    told = [{"rung": "graphs off", "verdict": graphs_off}, *([memcheck] if is_memcheck_asked else []), audit]
    say(path, *({"cell_id": STORY_DEAD[0], **each} for each in told))
    (row,) = triage(path).rows
    assert row.signature.culprit is not None
    assert row.signature.culprit.kernel == blamed


def test_a_culprit_brings_together_what_only_its_victims_kept_apart(tmp_path):
    cells = grid_cells(batch=[1, 2, 4])
    victims = [
        Crash("torch.AcceleratorError", "CUDA error: misaligned address", [Frame("/u/a.py", 1, f)]) for f in "fg"
    ]
    records = [r for cell, crash in zip(cells, victims, strict=False) for r in ended(cell, Outcome.CRASH, crash)]
    path = write_run(tmp_path, "victims", cells, [*records, *ended(cells[2], Outcome.OK)])
    assert len(triage(path).rows) == 2
    blame = {"kernel": "k", "basis": "audit: …"}
    say(path, *({"cell_id": c.cell_id, "rung": "audit", "verdict": "stale", "culprit": blame} for c in cells[:2]))
    (row,) = triage(path).rows
    assert row.victims == ("a.py:1 in f", "a.py:1 in g")


@given(st.lists(st.binary(max_size=60), max_size=6))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_answers_that_cannot_be_read_are_counted_and_left_where_they_are(tmp_path, garbage):
    path = tmp_path / "topk-story"
    if not path.exists():
        story(tmp_path)
    good = {"cell_id": STORY_DEAD[0], "rung": "alone", "verdict": "the same"}
    say(path, *garbage, good)
    written = (path / VERDICTS).read_bytes()
    found = triage(path)
    assert [verdict.rung for verdict in found.rows[0].verdicts][-1] == "alone"
    assert (path / VERDICTS).read_bytes() == written
    assert not garbage or not any(part.strip() for part in garbage) or "can't be read" in " ".join(found.notes)


def test_a_folder_in_the_place_of_the_answers_is_said_and_survived(tmp_path):
    path = story(tmp_path)
    (path / VERDICTS).mkdir()
    assert "can't be read" in triage(path).notes[0]


THREADS = """Starting GPU coredump generation, set the CUDA_COREDUMP_SHOW_PROGRESS environment variable to 1
Indexing.cu:111: block: [0,0,0], thread: [0,0,0] Assertion `index < size` failed.
Fatal Python error: Aborted

Thread 0x00007fbbf52546c0 (most recent call first):
  File "/opt/gpubench/worker/__main__.py", line 160 in _wait_for_tasks

{word} 0x00007fbbf5254111 (most recent call first):
  File "/u/topk.py", line 31 in radix
  File "/opt/gpubench/worker/cell.py", line 9 in run

Extension modules: numpy._core._multiarray_umath (total: 1)
"""


@pytest.mark.parametrize("word", ["Thread", "Current thread"])
def test_the_log_is_cut_to_why_it_died_and_the_stack_it_died_in(tmp_path, word):
    found = triage(story(tmp_path, crash=Crash(signal="SIGABRT", stderr_tail=THREADS.format(word=word))))
    assert show(found, log_lines=4).rows[0].log.splitlines() == [
        "Indexing.cu:111: block: [0,0,0], thread: [0,0,0] Assertion `index < size` failed.",
        "Fatal Python error: Aborted",
        f"{word} 0x00007fbbf5254111 (most recent call first):",
        '  File "/u/topk.py", line 31 in radix',
    ]


def test_a_log_without_a_stack_is_its_end_and_may_lie_in_the_cells_folder(tmp_path):
    path = story(tmp_path, crash=Crash(exit_status=3))
    folder = path / "artifacts" / STORY_DEAD[0]
    folder.mkdir(parents=True)
    (folder / "stderr.txt").write_bytes(b"".join(b"line %d\n" % number for number in range(99)) + b"\xff\xfe last\n")
    assert show(triage(path), log_lines=2).rows[0].log == "line 98\n\ufffd\ufffd last"


def test_why_a_core_tells_nothing_is_shown(tmp_path):
    crash = Crash(signal="SIGABRT", faulting=FaultingKernel(note="no cuda-gdb here: install it"))
    (row,) = show(triage(story(tmp_path, crash=crash))).rows
    assert (row.core, row.faulting, row.class_) == ("no cuda-gdb here: install it", "", "gpu exception")


def test_markdown_of_hostile_texts_is_a_table_still(tmp_path):
    text = triage_markdown(triage(hostile_run(tmp_path)))
    assert "<img" not in text
    assert not re.search(r"(?<!\\)]\(http", text)
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) == 3
    borders = {len(row.replace("\\|", "").split("|")) for row in rows}
    assert borders == {9}


def test_csv_has_a_line_per_signature_and_reads_back(tmp_path):
    for path in (story(tmp_path), hostile_run(tmp_path)):
        (row,) = csv.DictReader(io.StringIO(triage_csv(triage(path))))
        assert row["num_cells"] in ("3", "1")
        assert row["reproduce"].startswith("gpubench reproduce ")


def test_a_run_without_failures_has_no_rows(tmp_path):
    cells = grid_cells(batch=[1, 2])
    found = triage(write_run(tmp_path, "fine", cells, [r for cell in cells for r in ended(cell, Outcome.OK)]))
    assert found.rows == ()
    assert triage_markdown(found).endswith("No cell failed: 2 of 2 are ok.")
    assert json.loads(triage_json(found))["signatures"] == []


@pytest.mark.parametrize("text", ["\udc80 half a character", "\x00"])
def test_texts_that_no_file_can_hold_are_spelled_out(tmp_path, text):
    cells = grid_cells(batch=[1, 2])
    escaped = text.encode("utf-8", "backslashreplace").decode()
    path = write_run(
        tmp_path, "odd", cells, ended(cells[0], Outcome.ERROR, Crash("ValueError", escaped), reason=escaped)
    )
    found = triage(path)
    for render in (triage_json, triage_csv, triage_markdown):
        render(found).encode("utf-8")
