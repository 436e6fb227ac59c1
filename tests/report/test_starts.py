"""What starts took, as a table: the times, and whether a first capture foretold what graphs hold in the end."""

from __future__ import annotations

from made_runs import MadeCell, make_run

from gpubench.analysis.run import load_run
from gpubench.report.content import read_content
from gpubench.report.markdown import markdown_report
from gpubench.report.payload import page_data
from gpubench.report.starts import start_table

TIMES = {"step_time": [[1e-5] * 6]}
TWICE = {"recapture_time": [[3.0]], "release_time": [[0.25]]}


def start(seconds: float, of: str = "", took: dict[int, float] | None = None) -> dict[str, list[list[float]]]:
    """A start's times, and what each of its buckets took of the device."""
    device = {f"memory_device|bucket {bucket}": [[size]] for bucket, size in (took or {}).items()}
    return {**TIMES, f"trace_time{of}": [[2.0]], f"start_time{of}": [[seconds]], **device}


def content_of(tmp_path, cells):
    return read_content([load_run(make_run(tmp_path, cells))])


def test_what_graphs_hold_in_the_end_stands_beside_what_the_first_captures_took(tmp_path):
    estimate = {"graphs_estimated": [[200e6]], "graphs_kept": [[70e6]]}
    twice = {**start(6.0, took={256: 170e6, 8: 10e6}), **TWICE, **estimate}
    found = start_table(
        content_of(tmp_path, [MadeCell({"n": 1}, twice), MadeCell({"n": 2}, start(2.0, took={8: 9e6}))])
    )
    assert found.head[1:5] == ["traced", "started", "recaptured", "of it, released"]
    assert found.head[5:] == ["estimate", "kept", "last captures", "held", "held / estimate"]
    assert found.body == [
        ["cell_000", "2.00 s", "6.00 s", "3.00 s", "250 ms", "200 MB", "70.0 MB", "180 MB", "250 MB", "1.25×"],
        ["cell_001", "2.00 s", "2.00 s", "–", "–", "–", "–", "9.00 MB", "9.00 MB", "–"],
    ]


def test_each_step_of_a_cell_has_its_row_and_where_nobody_captured_twice_nothing_is_said_of_it(tmp_path):
    both = {**start(1.0, took={8: 1e6}), **start(0.5, of="|prefill"), "trace_time": [[0.0]]}
    content = content_of(tmp_path, [MadeCell({"n": 1}, TIMES), MadeCell({"n": 2}, both)])
    found = start_table(content)
    assert found.head == ["cell", "traced", "started"]
    assert found.body == [["cell_001", "–", "1.00 s"], ["cell_001, prefill", "2.00 s", "500 ms"]]
    assert "two phases" not in found.words
    assert page_data(content)["ranges"]["rows"] == {}, "a step that is captured is no range within one"
    assert "| cell\\_001, prefill | 2.00 s | 500 ms |" in markdown_report(content)


def test_a_run_that_captured_nothing_has_no_table_though_a_workload_has_metrics_of_such_names(tmp_path):
    content = content_of(tmp_path, [MadeCell({"n": 1}, start(1.0, of="|boot")), MadeCell({"n": 2}, start(1.0))])
    assert not start_table(content).body
    assert list(page_data(content)["ranges"]["rows"]) == [0]
    assert "Start of captured steps" not in markdown_report(content)


def test_numbers_of_sequences_and_of_a_chunks_tokens_are_told_apart(tmp_path):
    took = {f"memory_device|{name}": [[1e6]] for name in ("bucket 8", "bucket 64", "prefill bucket 1024")}
    assert "| 8, 64; prefill 1,024 |" in markdown_report(content_of(tmp_path, [MadeCell({"n": 1}, {**TIMES, **took})]))


def test_cells_of_several_runs_are_told_apart(tmp_path):
    cells = [MadeCell({"n": 1}, start(1.0, took={8: 1e6}))]
    runs = [load_run(make_run(tmp_path / name, cells, name=name)) for name in ("old", "new")]
    text = markdown_report(read_content(runs))
    for section in ("Memory of captured graphs", "Start of captured steps"):
        names = [line.split(" | ")[0] for line in text.partition(section)[2].splitlines() if "cell\\_000" in line]
        assert names[:2] == [f"| {run.run_id}/cell\\_000" for run in runs]
