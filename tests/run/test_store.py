"""Runs on disk: what was written is what is read, and nothing that was once written is ever lost."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpubench.catalogue import WorkloadInfo
from gpubench.errors import StoreError
from gpubench.records import Ceilings, Cell, CellRecord, Measurement, Outcome, Pass, Stage, Timer
from gpubench.store import RunHeader, RunStore, create_run, find_run, list_runs, new_run_id, read_run

CELL = Cell(index=0, cell_id="cell_000", key="k0", workload="w", backend="b", axes={"batch": 1}, params={})


def header(name: str = "a-sweep", created_at: str = "2026-01-01T00:00:00.000+00:00") -> RunHeader:
    return RunHeader(
        run_id=new_run_id(name),
        name=name,
        created_at=created_at,
        sweep={"workload": "w"},
        sweep_file="sweep.yaml",
        cells=[CELL],
        workload=WorkloadInfo(name="w", description="", axes=[], backends=[], metrics=[], origin="w.py:1"),
        environment={},
        fingerprint={},
    )


def record(trial: int = 0, samples: list[float] | None = None) -> CellRecord:
    return CellRecord(
        cell_id="cell_000",
        index=0,
        key="k0",
        workload="w",
        backend="b",
        axes={"batch": 1},
        params={},
        trial=trial,
        pass_=Pass.TIMING,
        attempt=0,
        outcome=Outcome.OK,
        stage=Stage.DONE,
        measurements=[Measurement("step_time", "s", Timer.WALL, samples or [0.001])],
    )


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / create_run(tmp_path, header()).run_id


def test_lists_that_vary_are_an_axis_of_an_older_run_too(tmp_path: Path) -> None:
    params: list[dict[str, Any]] = [{"buckets": [16, 64], "shape": [1]}, {"buckets": [256], "shape": [1]}, {}]
    cells = [replace(CELL, cell_id=f"cell_00{place}", params=each) for place, each in enumerate(params)]
    path = tmp_path / create_run(tmp_path, replace(header(), cells=cells)).run_id
    read = read_run(path).header.cells
    assert [cell.axes for cell in read] == [
        {"batch": 1, "buckets": "[16, 64]"},
        {"batch": 1, "buckets": "[256]"},
        {"batch": 1},
    ]
    assert [cell.arguments for cell in read] == [{"batch": 1, **each} for each in params]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
@given(st.lists(st.floats(min_value=1e-9, max_value=1e3), min_size=1, max_size=20))
def test_every_sample_is_read_back_as_it_was_written(run: Path, samples: list[float]) -> None:
    with RunStore(run) as store:
        store.append(record(samples=samples))
    assert read_run(run).records[-1] == record(samples=samples)


def test_a_torn_last_line_is_dropped_when_read_and_cut_off_when_written_to(run: Path) -> None:
    with RunStore(run) as store:
        store.append(record(0))
        store.append(record(1))
    whole = (run / "cells.jsonl").read_bytes()
    (run / "cells.jsonl").write_bytes(whole[:-20])
    torn = read_run(run)
    assert [r.trial for r in torn.records] == [0]
    assert torn.torn_bytes > 0
    with RunStore(run) as store:
        store.append(record(1))
    assert [r.trial for r in read_run(run).records] == [0, 1]


@pytest.mark.parametrize("kept", [0, 1, 100_000])
def test_a_file_with_no_whole_line_is_cut_to_nothing(run: Path, kept: int) -> None:
    (run / "cells.jsonl").write_bytes(b"x" * kept)
    with RunStore(run) as store:
        store.append(record(0))
    assert len(read_run(run).records) == 1


def test_a_bad_line_in_the_middle_is_named_by_file_and_line(run: Path) -> None:
    with RunStore(run) as store:
        store.append(record(0))
    with (run / "cells.jsonl").open("ab") as file:
        file.write(b'{"not": "a record"}\n')
    with pytest.raises(StoreError, match=r"cells\.jsonl:2: not a record"):
        read_run(run)


def test_two_writers_of_one_run_are_refused(run: Path) -> None:
    with RunStore(run), pytest.raises(StoreError, match="another gpubench is writing"):
        RunStore(run)


def test_two_runs_begun_in_the_same_second_get_two_folders(tmp_path: Path) -> None:
    first, second = (create_run(tmp_path, header()) for _ in range(2))
    assert first.run_id != second.run_id


def test_a_run_of_a_newer_schema_is_refused_with_the_way_out(run: Path) -> None:
    text = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**text, "schema": 99}))
    with pytest.raises(StoreError, match="schema 99 is newer than this gpubench's 1; upgrade"):
        read_run(run)


def test_the_newest_run_is_found_and_a_wrong_name_lists_the_known(tmp_path: Path) -> None:
    create_run(tmp_path, header("old", "2026-01-01T00:00:00.000+00:00"))
    newest = create_run(tmp_path, header("new", "2026-01-02T00:00:00.000+00:00")).run_id
    assert find_run(None, tmp_path).name == newest
    assert find_run(newest, tmp_path) == tmp_path / newest
    assert len(list_runs(tmp_path)) == 2
    with pytest.raises(StoreError, match=f"nonsense: no run of that name.*{newest}"):
        find_run("nonsense", tmp_path)


def test_a_run_is_found_by_its_id_after_its_folder_was_renamed(tmp_path: Path) -> None:
    run_id = create_run(tmp_path, header()).run_id
    (tmp_path / run_id).rename(tmp_path / "kept")
    assert find_run(run_id, tmp_path) == tmp_path / "kept"
    shutil.copytree(tmp_path / "kept", tmp_path / "copy")
    with pytest.raises(StoreError, match=f"{run_id}: 2 runs have this id; name a folder: .*copy.*kept"):
        find_run(run_id, tmp_path)


def test_a_mistyped_run_names_the_one_that_was_meant(tmp_path: Path) -> None:
    for name in ("pareto", "faults"):
        (tmp_path / create_run(tmp_path, header()).run_id).rename(tmp_path / name)
    with pytest.raises(StoreError, match=r"parreto: no run of that name or path; did you mean pareto\? the newest"):
        find_run("parreto", tmp_path)


def test_a_folder_of_runs_names_them(tmp_path: Path) -> None:
    run_id = create_run(tmp_path / "timers", header()).run_id
    (tmp_path / "empty").mkdir()
    inside = tmp_path / "timers" / run_id
    for asked in ("timers", str(tmp_path / "timers")):
        with pytest.raises(StoreError, match=rf"timers: not a run: there is no run.json in it; .* in it: {inside}"):
            find_run(asked, tmp_path)
    with pytest.raises(StoreError, match=r"empty: not a run: .*; nor is one in the folders inside"):
        find_run("empty", tmp_path)


def test_a_folder_that_is_no_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no runs here yet"):
        find_run(None, tmp_path)
    with pytest.raises(StoreError, match="not a run"):
        read_run(tmp_path)


def test_ceilings_are_read_back_by_gpu_and_the_last_measured_counts(run: Path) -> None:
    with RunStore(run) as store:
        store.add_ceilings("cuda:0 NVIDIA H200", Ceilings(4.0e12, 700e12))
        store.add_ceilings("cuda:1 NVIDIA H200", Ceilings(4.2e12, 790e12, "float16"))
        store.add_ceilings("cuda:0 NVIDIA H200", Ceilings(4.3e12, 780e12))
    assert read_run(run).ceilings == {
        "cuda:0 NVIDIA H200": Ceilings(4.3e12, 780e12),
        "cuda:1 NVIDIA H200": Ceilings(4.2e12, 790e12, "float16"),
    }


def test_a_torn_line_of_ceilings_is_dropped_and_a_bad_one_is_named(run: Path) -> None:
    path = run / "ceilings.jsonl"
    path.write_text('{"gpu": "cuda:0 NVIDIA H2')
    assert read_run(run).ceilings == {}
    with RunStore(run) as store:
        store.add_ceilings("cuda:0 NVIDIA H200", Ceilings(4.3e12, 780e12))
    assert list(read_run(run).ceilings) == ["cuda:0 NVIDIA H200"]
    path.write_text('{"gpu": 1}\n')
    with pytest.raises(StoreError, match=r"ceilings\.jsonl:1: can't be read"):
        read_run(run)


def test_results_that_cannot_be_made_name_the_flag(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="--out"):
        create_run(tmp_path / "file" / "results", header())


def test_a_disk_that_fills_up_loses_only_the_record_it_has_no_room_for(run: Path) -> None:
    # A file-size limit makes the kernel refuse the bytes, as a full disk does, in the middle of a record.
    script = f"""
import resource, sys
sys.path[:0] = {sys.path!r}
from pathlib import Path
from gpubench.errors import StoreError
from gpubench.store import RunStore
from test_store import record
resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
with RunStore(Path({str(run)!r})) as store:
    written = 0
    try:
        for trial in range(100):
            store.append(record(trial))
            written += 1
    except StoreError as error:
        print(written, error)
"""
    here = str(Path(__file__).parent)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=here, check=True)
    written, _, message = done.stdout.partition(" ")
    assert "--resume" in message
    reread = read_run(run)
    assert [r.trial for r in reread.records] == list(range(int(written)))
    assert reread.torn_bytes == 0
