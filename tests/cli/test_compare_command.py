"""`gpubench compare A B` as a user has it: exit codes, widths, files, and runs that are odd."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made_runs import MadeCell, make_run
from support import gpubench, gpubench_here

from gpubench.cli.compare import parse_threshold
from gpubench.errors import UsageError
from gpubench.records import Outcome

BACKENDS, BATCHES = ("torch", "triton"), (1, 8, 64)


def steady(seconds: float, count: int = 10) -> list[list[float]]:
    return [[seconds * (1 + 0.001 * (n - count / 2)) for n in range(count)]] * 3


def cells(slowdown: float = 1.0, dead: bool = False) -> list[MadeCell]:
    """Two backends at three sizes; triton's largest is slower, or dead."""
    made = []
    for backend in BACKENDS:
        for batch in BATCHES:
            is_last = (backend, batch) == ("triton", 64)
            seconds = 1e-4 * batch**0.5 * (slowdown if is_last else 1.0)
            figures = {
                "step_time": steady(seconds),
                "tok_s_user": steady(1 / seconds),
                "tok_s_gpu": steady(batch / seconds),
            }
            kind = {"outcome": Outcome.CRASH, "reason": "illegal [bold]address"} if dead and is_last else {}
            made.append(MadeCell({"backend": backend, "batch": batch}, {} if kind else figures, **kind))
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, made in {"old": cells(), "new": cells(1.05), "dead": cells(dead=True)}.items():
        make_run(tmp_path / "results", made, name=name)
    return tmp_path


def run(name: str) -> str:
    return f"{name}-20261121-093000"


@pytest.mark.parametrize("columns", [80, 120, 200])
def test_a_slowdown_is_told_at_any_width_and_fails(folder: Path, columns: int) -> None:
    told = gpubench_here(folder, "compare", run("old"), run("new"), COLUMNS=str(columns))
    assert (told.code, told.err) == (1, "")
    words = " ".join(told.out.split())
    assert "Of 6 cells: 1 slower." in words
    assert "step time, by cuda_event: 1 slower (worst +5.0%), 5 same" in words
    (line,) = [line for line in told.out.splitlines() if "▼ slower" in line]
    assert "triton" in line
    assert "800 µs" in line
    assert "840 µs" in line
    assert "+5.0%" in line
    assert all(len(line) <= columns for line in told.out.splitlines())


def test_the_threshold_decides_what_fails(folder: Path) -> None:
    told = gpubench(folder, "compare", run("old"), run("new"), "--threshold", "10%")
    assert (told.code, told.err) == (0, "")
    assert "No clear change in 6 cells." in told.out
    assert [parse_threshold(text) for text in ("10%", "0.1", " 10 % ", "0")] == [0.1, 0.1, 0.1, 0]


@pytest.mark.parametrize("threshold", ["2", "fast", "-1%", "100%", "nan"])
def test_a_threshold_that_can_mean_two_things_is_refused(threshold: str) -> None:
    with pytest.raises(UsageError, match=f"--threshold {threshold}: want a share under 100%, as in 2% or 0.02"):
        parse_threshold(threshold)


def test_a_faster_run_and_the_same_run_pass(folder: Path) -> None:
    faster = gpubench_here(folder, "compare", run("new"), run("old"))
    assert faster.code == 0
    assert "Of 6 cells: 1 faster." in faster.out
    assert gpubench_here(folder, "compare", run("old"), run("old")).code == 0


def test_a_newly_failing_cell_fails_and_its_reason_is_shown_as_it_is(folder: Path) -> None:
    told = gpubench_here(folder, "compare", run("old"), run("dead"))
    assert told.code == 1
    assert "✗ newly failing" in told.out
    assert "crash: illegal [bold]address" in told.out
    assert gpubench_here(folder, "compare", run("dead"), run("old")).code == 0


def test_frontiers_say_their_area_and_what_they_yield_at_a_fixed_rate(folder: Path) -> None:
    told = gpubench_here(folder, "compare", run("old"), run("new"), "--threshold=1%")
    (line,) = [line for line in told.out.splitlines() if line.strip().startswith("triton  ")]
    assert "tok/s/GPU against tok/s/user" in told.out
    assert "at 1,500 tok/s: 66,600 tok/s → 61,676 tok/s (−7.4%)" in line
    assert "▼ −" in line


def test_files_are_written_where_asked_and_tell_the_same(folder: Path) -> None:
    told = gpubench_here(folder, "compare", run("old"), run("new"), "--format=md,html,json", "--out", "out")
    assert told.out.splitlines()[-3:] == [f"out/compare.{kind}" for kind in ("md", "html", "json")]
    found = json.loads((folder / "out" / "compare.json").read_text())
    assert found["is_regression"] is True
    (slower,) = [cell for cell in found["cells"] if cell["metrics"]["step_time"]["verdict"] == "slower"]
    assert slower["arguments"]["backend"] == "triton"
    assert slower["metrics"]["step_time"]["ratio"]["value"] == pytest.approx(1.05)
    markdown = (folder / "out" / "compare.md").read_text()
    assert "| ▼ slower | triton | 64 | step time | 800 µs | 840 µs | +5.0% (" in markdown
    page = (folder / "out" / "compare.html").read_text()
    assert "▼ slower" in page
    assert "http" not in page.replace("http-equiv", ""), "the page needs no network"
    assert "<script" not in page


def test_by_default_they_are_written_beside_the_second_run(folder: Path) -> None:
    told = gpubench_here(folder, "compare", run("old"), run("new"), "--format", "md")
    assert told.out.splitlines()[-1] == f"results/{run('new')}/compare.md"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["old", "--metric=step_tme"], "did you mean 'step_time'?"),
        (["old", "--format=pdf"], "--format pdf: no such format; known: html, md, json"),
        (["nowhere"], "nowhere-20261121-093000: no run of that name or path"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(folder: Path, arguments: list[str], said: str) -> None:
    told = gpubench_here(folder, "compare", run(arguments[0]), run("new"), *arguments[1:])
    assert (told.code, told.out) == (2, "")
    assert said in told.err
    assert len(told.err.splitlines()) == 1


def test_runs_that_are_odd_get_an_answer(folder: Path) -> None:
    odd = {
        "one": [MadeCell({}, {"step_time": steady(1e-3)})],
        "all-dead": [MadeCell({}, outcome=Outcome.OOM, reason="too large")],
        "never-run": [MadeCell({}, outcome=None)],
        "few": [MadeCell({}, {"step_time": [[1e-3, 2e-3]]})],
    }
    for name, made in odd.items():
        make_run(folder / "results", made, name=name)
    said = {
        ("one", "one"): (0, "No clear change in 1 cell."),
        ("one", "all-dead"): (1, "Of 1 cell: 1 newly failing."),
        ("all-dead", "all-dead"): (0, "Of 1 cell: 1 still failing."),
        ("never-run", "one"): (0, "Of 1 cell: 1 new."),
        ("one", "never-run"): (0, "Of 1 cell: 1 missing."),
        ("one", "few"): (0, "2 samples can't tell: 6 samples or 3 trials can"),
    }
    for (before, after), (code, words) in said.items():
        told = gpubench_here(folder, "compare", run(before), run(after))
        assert (told.code, told.err) == (code, ""), (before, after)
        assert words in told.out, (before, after)
    assert gpubench_here(folder, "compare", run("one"), run("old")).code == 2, "they have no cell in common"
