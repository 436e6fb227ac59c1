"""`gpubench triage` as a user has it: the table in every width and format, what is new, and any run there is."""

from __future__ import annotations

import csv
import html
import io
import json
import shutil
from pathlib import Path

import pytest
from made_failures import STORY_DEAD, ended, grid_cells, hostile_run, say, story, write_run
from support import gpubench_here

from gpubench.records import Crash, FaultingKernel, Frame, Outcome
from gpubench.store import read_run

CURATED = Path(__file__).parent.parent.parent / "results" / "h200-dense-decode"
COMMAND = f"gpubench reproduce topk-story {STORY_DEAD[0]}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    story(tmp_path / "results")
    return tmp_path


@pytest.mark.parametrize("columns", [80, 120, 200])
def test_the_table_says_the_rule_the_twins_and_the_command_at_any_width(folder: Path, columns: int) -> None:
    told = gpubench_here(folder, "triage", COLUMNS=str(columns))
    assert (told.code, told.err) == (0, "")
    words = " ".join(told.out.split())
    assert "3 of 24 cells failed, in 1 way" in words
    assert "parallel = TEP ∧ gvr = false ∧ concurrency ≥ 8 (3 of 3 crashed; 0 of 21 clean)" in words
    assert "gvr false → true: cell_012_C008_TEP_GVRT beside cell_013_C008_TEP_GVRF" in words
    assert "illegal address, surfaced at fp8_gemm.py:88 in pack_tensor_map" in words
    command, then = [line for line in told.out.splitlines() if "gpubench" in line]
    assert command.strip().endswith(COMMAND), "the command is on one line, to be copied"
    assert then == "next  gpubench triage topk-story --escalate"
    assert all(len(line) <= columns for line in told.out.splitlines() if line not in (command, then))


def test_several_signatures_have_an_overview_first(folder: Path) -> None:
    cells = grid_cells(batch=list(range(30)))
    crashes = [Crash("ValueError", "x", [Frame("/u/a.py", n, f"f{n}")]) for n in range(30)]
    records = [r for cell, crash in zip(cells, crashes, strict=True) for r in ended(cell, Outcome.ERROR, crash)]
    write_run(folder / "results", "many", cells, records)
    told = gpubench_here(folder, "triage", "many")
    assert told.out.count("ValueError at a.py:29 in f29") == 1, "in the overview, not below it"
    assert told.out.count("ValueError at a.py:3 in f3") == 2
    assert "10 more in full" in told.out


def test_the_newest_run_is_meant_if_none_is_named_and_a_path_is_as_good_as_an_id(folder: Path) -> None:
    assert gpubench_here(folder, "triage").out.startswith("topk-story ")
    elsewhere = story(folder / "else where", "moved")
    told = gpubench_here(folder, "triage", str(elsewhere))
    assert f"gpubench reproduce '{elsewhere}' {STORY_DEAD[0]}" in told.out


def test_the_ladder_is_named_until_it_was_climbed_or_somebody_is_blamed(folder: Path) -> None:
    path = story(folder / "results", "asked")
    assert "--escalate" in gpubench_here(folder, "triage", "asked").out
    say(path, {"cell_id": STORY_DEAD[0], "rung": "alone", "verdict": "fails the same"})
    assert "--escalate" not in gpubench_here(folder, "triage", "asked").out
    misaligned = Crash(faulting=FaultingKernel("topk", "/k/topk.py", 7, exception="Warp Misaligned Address"))
    story(folder / "results", "blamed", misaligned)
    assert "--escalate" not in gpubench_here(folder, "triage", "blamed").out


def test_formats_go_to_standard_output_and_are_whole(folder: Path) -> None:
    as_json = json.loads(gpubench_here(folder, "triage", "--format", "json").out)
    assert [found["cells"] for found in as_json["signatures"]] == [list(STORY_DEAD)]
    assert as_json["signatures"][0]["reproduce"] == COMMAND
    (row,) = csv.DictReader(io.StringIO(gpubench_here(folder, "triage", "--format", "csv").out))
    assert row["cells"].split() == list(STORY_DEAD)
    assert f"`{COMMAND}`" in gpubench_here(folder, "triage", "--format", "md").out


def test_new_signatures_fail_a_pipeline_and_old_ones_do_not(folder: Path) -> None:
    cells = grid_cells(concurrency=[1, 2])
    fine = write_run(folder / "results", "fine", cells, [r for cell in cells for r in ended(cell, Outcome.OK)])
    story(folder / "results", "again")
    new = gpubench_here(folder, "triage", "again", "--baseline", "fine", "--fail-on", "new")
    assert (new.code, "1 of them new since fine" in new.out, " new\n" in new.out) == (1, True, True)
    assert gpubench_here(folder, "triage", "again", "--baseline", "topk-story", "--fail-on", "new").code == 0
    assert gpubench_here(folder, "triage", str(fine), "--baseline", "again", "--fail-on", "new").code == 0


def test_a_flag_that_cannot_be_meant_says_what_would_be_right(folder: Path) -> None:
    told = gpubench_here(folder, "triage", "--fail-on", "new")
    assert (told.code, "--baseline RUN" in told.err) == (2, True)
    told = gpubench_here(folder, "triage", "nowhere")
    assert (told.code, "topk-story" in told.err) == (2, True)


def test_a_run_without_failures_says_so(folder: Path) -> None:
    shutil.copytree(CURATED, folder / "results" / "curated")
    told = gpubench_here(folder, "triage", "curated")
    assert (told.code, told.err) == (0, "")
    run = read_run(CURATED)
    failed = {record.cell_id for record in run.records if record.outcome.is_failure}
    assert (f"No cell failed: {len(run.header.cells)}" in told.out) is (not failed)


def test_a_run_that_recorded_nothing_yet_has_no_failures_to_deny(folder: Path) -> None:
    (shutil.copytree(CURATED, folder / "results" / "begun") / "cells.jsonl").write_text("")
    told = gpubench_here(folder, "triage", "begun")
    assert (told.code, "No cell has run yet, of " in told.out) == (0, True)


def test_hostile_texts_reach_neither_the_terminal_nor_the_page_as_commands(folder: Path) -> None:
    path = hostile_run(folder / "results")
    told = gpubench_here(folder, "triage", "hostile")
    assert (told.code, told.err) == (0, "")
    assert "\x1b" not in told.out
    assert "\u202e" not in told.out
    assert gpubench_here(folder, "report", "hostile", "--format", "html,md").code == 0
    page = (path / "report.html").read_text()
    section = page.partition('id="triage-section"')[2].partition("</section>")[0]
    assert "<img" not in section
    assert "<script" not in section
    assert "&lt;img src=x" in section
    assert "<img" not in (path / "report.md").read_text()


def test_reports_carry_the_table_only_if_something_failed(folder: Path) -> None:
    run = folder / "results" / "topk-story"
    assert gpubench_here(folder, "report", "topk-story", "--format", "html,md").code == 0
    page, text = (run / "report.html").read_text(), (run / "report.md").read_text()
    for part in ("Crash triage", COMMAND, "parallel = TEP ∧ gvr = false ∧ concurrency ≥ 8"):
        assert part in page
        assert part in text
    elsewhere = story(folder / "else where", "moved")
    assert gpubench_here(folder, "report", str(elsewhere), "--format", "html,md").code == 0
    for name in ("report.html", "report.md"):
        text = html.unescape((elsewhere / name).read_text())
        assert f"gpubench reproduce '{elsewhere}' {STORY_DEAD[0]}" in text, "its id alone would not be found"
    cells = grid_cells(batch=[1, 2])
    fine = write_run(folder / "results", "fine", cells, [r for cell in cells for r in ended(cell, Outcome.OK)])
    assert gpubench_here(folder, "report", "fine", "--format", "html,md").code == 0
    assert "Crash triage" not in (fine / "report.html").read_text() + (fine / "report.md").read_text()


def test_random_bytes_as_answers_leave_the_table_as_it_is(folder: Path) -> None:
    garbage = bytes(range(256)) * 8 + b'\n{"cell_id": 1}\n[]\n\n{"torn'
    (folder / "results" / "topk-story" / "triage.jsonl").write_bytes(garbage)
    told = gpubench_here(folder, "triage")
    assert (told.code, told.err) == (0, "")
    assert "lines can't be read" in told.out
    assert "∧" in told.out
    assert (folder / "results" / "topk-story" / "triage.jsonl").read_bytes() == garbage


def test_random_bytes_among_the_artifacts_are_not_even_looked_at(folder: Path) -> None:
    run = folder / "results" / "topk-story"
    before = gpubench_here(folder, "triage", "--format", "json").out
    for name in ("worker_000/events.jsonl", "worker_000/stderr.txt", f"{STORY_DEAD[1]}/stderr.txt"):
        (run / "artifacts" / name).parent.mkdir(parents=True, exist_ok=True)
        (run / "artifacts" / name).write_bytes(bytes(range(256)) * 99)
    told = gpubench_here(folder, "triage", "--format", "json")
    assert (told.code, told.err, told.out) == (0, "", before)


def test_random_bytes_as_standard_error_have_a_place_in_the_table(folder: Path) -> None:
    cells = grid_cells(batch=[1, 2])
    printed = bytes(range(256)).decode(errors="replace")
    crash = Crash(exit_status=1, stderr_tail=printed)
    path = write_run(folder / "results", "noise", cells, ended(cells[0], Outcome.CRASH, crash))
    told = gpubench_here(folder, "triage", "noise")
    assert (told.code, told.err) == (0, "")
    assert "exit status 1, backend triton" in told.out
    assert read_run(path).records[0].crash == crash
