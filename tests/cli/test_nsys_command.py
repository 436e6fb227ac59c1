"""`gpubench nsys`: a trace read out, for people and for programs."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pandas as pd
import pytest
import typer
from support import gpubench
from typer.testing import CliRunner, Result

from gpubench.cli.nsys import nsys
from gpubench.errors import GpubenchError, ProfilerError, TraceError, UsageError
from gpubench.profilers.tables import CAPTURED_COLUMNS, KERNEL_COLUMNS, RANGE_COLUMNS

TRACES = Path(__file__).parents[1] / "data" / "nsys"
NODE, GRAPH = str(TRACES / "node.sqlite"), str(TRACES / "graph.sqlite")
QUEUED = "note: 4 range instances were queued behind an earlier one; synchronise first to time their launch\n"
INSTANCE_COLUMNS = "range,start_ns,span_ns,busy_ns,kernel_sum_ns,gap_ns,operations,launches,host_ns"


def run(*arguments: str) -> Result:
    app = typer.Typer()
    app.command()(nsys)
    return CliRunner().invoke(app, arguments, env={"TERM": "dumb", "NO_COLOR": "1"})


def rows(*arguments: str) -> pd.DataFrame:
    result = run(*arguments, "--format", "csv")
    assert result.exit_code == 0, result.output
    return pd.read_csv(io.StringIO(result.stdout))


def failure(*arguments: str) -> GpubenchError:
    error = run(*arguments).exception
    assert isinstance(error, GpubenchError)
    return error


def test_ranges_are_summed_up_by_name() -> None:
    table = rows(NODE)
    assert table["range"].tolist() == ["gpubench:cell=eager/rep", "gpubench:cell=graph/rep", "torchnvtx"]
    assert table["kernel_sum_ns_median"].tolist() == [18304, 18560, 18240]
    assert table["launches"].tolist() == [25, 5, 5]


def test_instances_have_the_promised_columns_and_leave_unknown_sums_empty() -> None:
    lines = run(GRAPH, "--instances", "--format", "csv").stdout.splitlines()
    assert lines[0] == INSTANCE_COLUMNS
    assert lines[6] == "gpubench:cell=graph/rep,4326273436,18784,18784,,0,1,1,57705"
    assert len(lines) == 12


def test_json_has_the_same_lines_with_null_for_what_is_unknown() -> None:
    found = json.loads(run(GRAPH, "--instances", "--format", "json").stdout)
    assert list(found[0]) == INSTANCE_COLUMNS.split(",")
    assert found[5]["kernel_sum_ns"] is None
    assert [row["span_ns"] for row in found] == rows(GRAPH, "--instances")["span_ns"].tolist()


def test_only_ranges_that_match_are_shown() -> None:
    assert set(rows(NODE, "--instances", "--range", "cell=.*/rep")["range"]) == {
        "gpubench:cell=eager/rep",
        "gpubench:cell=graph/rep",
    }
    assert rows(NODE, "--kernels", "--range", "^torch")["count"].tolist() == [1] * 5


def test_the_top_kernels_of_each_range_are_those_with_most_time() -> None:
    table = rows(NODE, "--kernels", "--top", "2")
    assert table["total_ns"].tolist() == [43360, 24000, 42400, 24064, 8672, 4800]
    assert table["kernel"].str.startswith("nvjet").tolist() == [True, False] * 3


def test_the_top_instances_are_those_with_most_gpu_time() -> None:
    everything = rows(NODE, "--instances")
    assert rows(NODE, "--instances", "--top", "3")["busy_ns"].tolist() == sorted(everything["busy_ns"])[:-4:-1]


def test_a_person_sees_a_table_with_whole_names_of_ranges() -> None:
    output = run(NODE, "--kernels").stdout
    assert "gpubench:cell=graph/rep" in output
    assert "42,400" in output
    assert max(map(len, output.splitlines())) <= 200


def test_what_limits_the_figures_is_said_beside_them_not_among_them() -> None:
    result = run(GRAPH, "--format", "csv")
    assert "note: CUDA graphs were traced as a whole" in result.stderr
    assert "91% of the GPU time was launched outside of all ranges" in result.stderr
    assert "note" not in result.stdout
    assert run(NODE).stderr == QUEUED
    died = run(str(TRACES / "died.sqlite")).stderr
    assert "not timed: gpubench:cell=died/rep > gpubench:layer > gpubench:attention" in died
    assert "queued" not in died


@pytest.mark.parametrize(
    ("arguments", "kind", "text"),
    [
        ([NODE, "--range", "("], UsageError, "--range '(' is not a regular expression"),
        ([NODE, "--range", "decode"], UsageError, "is found in no range; there are gpubench:cell=eager/rep, "),
        ([NODE, "--kernels", "--instances"], UsageError, "--instances and --kernels are two tables"),
        (["nowhere.sqlite"], TraceError, "nowhere.sqlite: can't be read: No such file"),
        (["nowhere.nsys-rep"], ProfilerError, "nowhere.nsys-rep: no such report"),
        ([__file__], TraceError, "not an sqlite file"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(arguments: list[str], kind: type, text: str) -> None:
    error = failure(*arguments)
    assert type(error) is kind
    assert text in str(error)
    assert "\n" not in str(error)
    assert error.exit_code == 2


def test_a_report_is_exported_with_the_nsys_at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nsys"
    tool.write_text(
        "#!/bin/sh\n"
        "[ $1 = --version ] && echo 'NVIDIA Nsight Systems version 2025.3.1' && exit\n"
        f'for word; do case $word in --output=*) cp {NODE} "${{word#--output=}}";; esac; done\n'
    )
    tool.chmod(0o755)
    report = tmp_path / "run.nsys-rep"
    report.write_bytes(b"report")
    monkeypatch.setenv("GPUBENCH_NSYS", str(tool))
    assert rows(str(report)).equals(rows(NODE))


def test_a_report_without_an_nsys_to_export_it_names_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = tmp_path / "run.nsys-rep"
    report.write_bytes(b"report")
    monkeypatch.setenv("GPUBENCH_NSYS", str(tmp_path / "nsys"))
    error = failure(str(report))
    assert str(error).startswith(
        f"{report}: a report has to be exported to be read, and {tmp_path}/nsys can't be started"
    )


def test_the_help_lists_every_column() -> None:
    words = set(run("--help").stdout.replace(",", " ").replace(":", " ").split())
    columns = [*RANGE_COLUMNS, *INSTANCE_COLUMNS.split(","), *KERNEL_COLUMNS, *CAPTURED_COLUMNS]
    assert [column for column in columns if column not in words] == []


def test_the_program_prints_tables_to_stdout_and_a_mistake_to_stderr(tmp_path: Path) -> None:
    done = gpubench(tmp_path, "nsys", NODE, "--instances", "--format", "csv")
    assert (done.code, done.out.splitlines()[0], done.err) == (0, INSTANCE_COLUMNS, QUEUED)
    (tmp_path / "trace.sqlite").touch()
    failed = gpubench(tmp_path, "nsys", "trace.sqlite")
    assert (failed.code, failed.out) == (2, "")
    assert (
        failed.err == "gpubench: trace.sqlite: the file is empty; the disk may have been full: record or export again\n"
    )
