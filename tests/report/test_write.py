"""Reports on disk: every format, whole or not at all."""

from __future__ import annotations

import csv
import gc
import json

import pytest
from made_runs import MadeCell, make_run

from gpubench.analysis.run import load_run
from gpubench.errors import StoreError, UsageError
from gpubench.records import Outcome
from gpubench.report import FORMATS, write_report

CELLS = [
    MadeCell({"backend": "torch", "note": 'a "quoted",\nline'}, {"step_time": [[1.0, 2.0, 3.0]]}),
    MadeCell({"backend": "triton", "note": "ünïcode"}, outcome=Outcome.CRASH, reason="signal 11"),
]


@pytest.fixture
def run(tmp_path):
    return load_run(make_run(tmp_path / "results", CELLS))


def test_every_format_is_written_beside_the_others_and_nothing_else(run, tmp_path):
    paths = write_report([run], FORMATS, tmp_path / "deep" / "out")
    assert [path.name for path in paths] == ["report.html", "report.md", "report.csv", "report.json"]
    assert sorted((tmp_path / "deep" / "out").iterdir()) == sorted(paths)


def test_a_second_report_replaces_the_first(run, tmp_path):
    (tmp_path / "report.csv").write_text("old")
    (path,) = write_report([run], ["csv", "csv"], tmp_path)
    assert path.read_text() != "old"


def test_csv_reads_back_with_every_cell_and_empty_fields_for_what_is_not_known(run, tmp_path):
    (path,) = write_report([run], ["csv"], tmp_path)
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["backend"], row["outcome"], row["median"]) for row in rows] == [
        ("torch", "ok", "2.0"),
        ("triton", "crash", ""),
    ]
    assert rows[0]["note"] == 'a "quoted",\nline'


def test_json_has_the_headers_and_the_same_rows_with_nulls(run, tmp_path):
    (path,) = write_report([run], ["json"], tmp_path)
    document = json.loads(path.read_text(encoding="utf-8"))
    assert document["runs"][0]["run_id"] == run.run_id
    assert document["runs"][0]["cells"][1]["axes"] == {"backend": "triton", "note": "ünïcode"}
    assert [row["median"] for row in document["figures"]] == [2.0, None]


def test_an_unknown_format_is_named_with_the_known_ones_before_anything_is_written(run, tmp_path):
    with pytest.raises(UsageError, match=r"--format htm: no such format; did you mean 'html'\? known: html, md, csv"):
        write_report([run], ["csv", "htm"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_disk_that_refuses_is_told_with_the_way_out_and_leaves_nothing_behind(run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"can't write the report: .*--out"):
        write_report([run], ["md"], tmp_path / "file")
    (tmp_path / "out" / "report.md").mkdir(parents=True)
    with pytest.raises(StoreError, match="can't write the report"):
        write_report([run], ["md"], tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["report.md"]


def test_writing_a_report_leaves_pythons_collector_as_it_was(tmp_path):
    run = load_run(make_run(tmp_path, [MadeCell({"n": 1}, {"step_time": [[1.0] * 6]})]))
    for was_on in (True, False):
        (gc.enable if was_on else gc.disable)()
        try:
            write_report([run], ["csv"], tmp_path)
            with pytest.raises(UsageError):
                write_report([run], ["pdf"], tmp_path)
            assert gc.isenabled() is was_on
        finally:
            gc.enable()
