"""Files that can't be projected: each is refused in one sentence that says what is wrong and what to do."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from nsys_traces import Call, Given, Operation, Range, write_trace

from gpubench.errors import TraceError
from gpubench.profilers import export
from gpubench.profilers.projection import project
from gpubench.profilers.scrub import scrub

NSYS = Path(__file__).parents[1] / "data" / "nsys"
ONE = Given([Range("rep", 0, 10)], [Call(1, 2, 1)], [Operation(5, 6, 1)])


def refusal(path: Path) -> str:
    with pytest.raises(TraceError) as caught:
        project(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


def test_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "trace.sqlite"
    path.touch()
    assert refusal(path).startswith("the file is empty")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert refusal(tmp_path / "trace.sqlite") == "can't be read: No such file or directory"


def test_a_folder(tmp_path: Path) -> None:
    assert refusal(tmp_path) == "can't be read: Is a directory"


def test_something_else(tmp_path: Path) -> None:
    path = tmp_path / "trace.sqlite"
    path.write_bytes(b"\x7fELF" + bytes(500))
    assert refusal(path).startswith("not an sqlite file; export the report with nsys export --type sqlite")


@pytest.mark.parametrize("share", [0.0005, 0.3, 0.999])
def test_a_truncated_export(tmp_path: Path, share: float) -> None:
    whole = (NSYS / "node.sqlite").read_bytes()
    path = tmp_path / "trace.sqlite"
    path.write_bytes(whole[: int(len(whole) * share)])
    assert refusal(path).startswith("truncated: ")


def test_an_export_with_overwritten_pages(tmp_path: Path) -> None:
    whole = (NSYS / "node.sqlite").read_bytes()
    path = tmp_path / "trace.sqlite"
    path.write_bytes(whole[:4096] + b"\xff" * (len(whole) - 4096))
    assert "can't be read as an nsys export" in refusal(path)


def test_another_programs_database(tmp_path: Path) -> None:
    path = tmp_path / "trace.sqlite"
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE bookmarks (url TEXT)")
    assert refusal(path) == "a database, but not an nsys export: its tables are bookmarks"


def test_a_database_without_tables(tmp_path: Path) -> None:
    path = tmp_path / "trace.sqlite"
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version = 1")
    assert refusal(path) == "an empty database, not an nsys export"


@pytest.mark.parametrize("given", [Given(ONE.ranges), Given(ONE.ranges, ONE.calls)])
def test_a_trace_without_gpu_work(tmp_path: Path, given: Given) -> None:
    path = write_trace(tmp_path / "trace.sqlite", given)
    assert refusal(path).startswith("nothing ran on a GPU while recording was on; record with ")
    projection = project(path, may_be_empty=True)
    assert projection.instances["range"].tolist() == ["gpubench:rep"]
    assert projection.instances["span_ns"].isna().all()


def test_a_trace_without_ranges(tmp_path: Path) -> None:
    path = write_trace(tmp_path / "trace.sqlite", Given([], ONE.calls, ONE.operations))
    assert refusal(path).startswith("no NVTX ranges were recorded; open some around what counts")
    assert project(path, may_be_empty=True).unattributed_share == 1


def test_gpu_work_without_the_calls_that_launched_it(tmp_path: Path) -> None:
    path = write_trace(tmp_path / "trace.sqlite", ONE, drop=["CUPTI_ACTIVITY_KIND_RUNTIME"])
    assert refusal(path).startswith("GPU work but not the API calls that launched it")


def test_a_schema_that_lacks_a_column(tmp_path: Path) -> None:
    path = write_trace(tmp_path / "trace.sqlite", ONE)
    with closing(sqlite3.connect(path)) as database:
        database.execute("ALTER TABLE CUPTI_ACTIVITY_KIND_KERNEL RENAME COLUMN globalPid TO processId")
    expected = (
        "CUPTI_ACTIVITY_KIND_KERNEL has no column globalPid (schema 3.20.3); export the report again with a newer nsys"
    )
    assert refusal(path) == expected


@pytest.mark.parametrize("column", ["textId", "domainId", "text"])
def test_a_schema_without_an_optional_column_is_read(tmp_path: Path, column: str) -> None:
    path = write_trace(tmp_path / "trace.sqlite", ONE)
    with closing(sqlite3.connect(path)) as database:
        database.execute(f"ALTER TABLE NVTX_EVENTS DROP COLUMN {column}")
    assert len(project(path).instances) == 1


def test_text_where_a_number_belongs(tmp_path: Path) -> None:
    path = write_trace(tmp_path / "trace.sqlite", ONE)
    with closing(sqlite3.connect(path)) as database:
        database.execute("UPDATE CUPTI_ACTIVITY_KIND_KERNEL SET correlationId = 'one'")
        database.commit()
    assert "can't be read as an nsys export" in refusal(path)


def test_more_rows_than_fit_in_memory(tmp_path: Path) -> None:
    path = write_trace(tmp_path / "trace.sqlite", ONE)
    with closing(sqlite3.connect(path)) as database:
        database.execute("UPDATE CUPTI_ACTIVITY_KIND_KERNEL SET rowid = ?", (export.MAX_ROWS + 1,))
        database.commit()
    assert refusal(path).startswith("10,000,001 rows in CUPTI_ACTIVITY_KIND_KERNEL, and 10,000,000 are the most")


def test_a_path_with_odd_characters_is_opened(tmp_path: Path) -> None:
    folder = tmp_path / "50% off? #1 & more"
    folder.mkdir()
    assert len(project(write_trace(folder / "trace.sqlite", ONE)).instances) == 1


def test_an_export_is_not_changed_by_reading_it(tmp_path: Path) -> None:
    path = write_trace(tmp_path / "trace.sqlite", ONE)
    before = path.read_bytes()
    path.chmod(0o444)
    project(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["trace.sqlite"]


@pytest.mark.parametrize("name", ["node", "graph"])
def test_a_scrubbed_trace_says_the_same_of_its_ranges(tmp_path: Path, name: str) -> None:
    clean = scrub(NSYS / f"{name}.sqlite", tmp_path / "clean.sqlite")
    before, after = project(NSYS / f"{name}.sqlite"), project(clean)
    for table in ("instances", "ranges", "kernels", "captured", "captured_kernels", "open_ranges"):
        assert getattr(after, table).equals(getattr(before, table)), table
    assert (after.mode, after.unattributed_share) == (before.mode, before.unattributed_share)
    assert after.about["EXPORT_SCHEMA_VERSION"] == before.about["EXPORT_SCHEMA_VERSION"]


def test_scrubbing_leaves_no_environment_and_no_command_line(tmp_path: Path) -> None:
    path = write_trace(tmp_path / "trace.sqlite", ONE)
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE TARGET_INFO_SYSTEM_ENV (name TEXT, value TEXT)")
        database.execute("INSERT INTO TARGET_INFO_SYSTEM_ENV VALUES ('environment', 'API_TOKEN=hunter2')")
        database.execute("INSERT INTO StringIds VALUES (7777, 'serve --password hunter2')")
        database.execute("INSERT INTO META_DATA_EXPORT VALUES ('EXPORT_USER', 'hunter2')")
        database.execute("INSERT INTO NVTX_EVENTS (start, eventType, text) VALUES (3, 34, 'mark: hunter2')")
        database.commit()
    assert b"hunter2" in path.read_bytes()
    clean = scrub(path, tmp_path / "clean.sqlite")
    assert b"hunter2" not in clean.read_bytes()
    assert project(clean).ranges.equals(project(path).ranges)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["clean.sqlite", "trace.sqlite"]
