"""Served requests from the command line: real workers, a tiny model, and requests that can't be meant."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support import Finished, gpubench, only_run, write_sweep

from gpubench.analysis.run import load_run
from gpubench.records import Outcome, Timer
from gpubench.store import read_run

SWEEP = """\
name: serving
workload: closed_loop
axes: {backend: [eager], concurrency: [2]}
params: {dtype: float32}
include:
  - {backend: eager, concurrency: 2, osl: 3, isl: {uniform: [3, 9]}, prefill_chunk: 4}
  - {backend: eager, concurrency: 2, pairs: lengths.csv}
  - {backend: eager, concurrency: 0, osl: 3, isl: 6}
  - {backend: eager, concurrency: 2, osl: 3, isl: 4095}
  - {backend: eager, concurrency: 2, osl: 3, isl: 6, prefill_chunk: 0}
  - {backend: eager, concurrency: 2, osl: 3, isl: 6, requests: 0}
  - {backend: eager, concurrency: 2, pairs: nonsense.csv}
  - {backend: eager, concurrency: 1000000, osl: 96, isl: 4000}
measure: {trials: 2}
pareto: {x: tok_s_user, y: tok_s_gpu}
"""


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Finished]:
    folder = tmp_path_factory.mktemp("serving")
    (folder / "lengths.csv").write_text("isl,osl\n5,2\n9,1\n3,4\n")
    (folder / "nonsense.csv").write_text("isl,osl\n5,2\nnine,1\n")
    return folder, gpubench(folder, "sweep", str(write_sweep(folder, SWEEP)), "--gpus", "none")


def test_what_cannot_be_served_is_told_with_its_numbers_and_the_rest_is_measured(swept: tuple[Path, Finished]) -> None:
    _, finished = swept
    assert finished.code == 3, finished.out + finished.err
    assert "unprofiled: closed_loop measures itself" in finished.out
    told = [line.split(maxsplit=2)[1:] for line in finished.out.splitlines()[1:10]]
    assert [outcome for outcome, _ in told] == ["error", "ok", "ok", *["error"] * 5, "skipped"]
    for (_, text), words in zip(
        told,
        [
            "isl: wanted a number of tokens or {uniform: [low, high]}; got None",
            "(p50 / p90 / p99, wall)",
            "(p50 / p90 / p99, wall)",
            "concurrency is 0; wanted at least 1",
            "isl 4095 + osl 3: 4098 tokens are beyond the cache: tiny-dense has positions for 4096",
            "prefill_chunk is 0; wanted at least 1",
            "requests is 0; wanted at least 1",
            "pairs: nonsense.csv:3: isl is 'nine'; wanted a whole number, at least 1",
            "can't fit: needs 4",
        ],
        strict=True,
    ):
        assert words in text


def test_every_sample_the_check_and_the_requests_are_kept(swept: tuple[Path, Finished]) -> None:
    run = read_run(only_run(swept[0]))
    records = [record for record in run.records if record.outcome is Outcome.OK]
    assert len(records) == 4, "two cells of two trials"
    for record in records:
        samples = {found.metric: found.samples for found in record.measurements}
        assert {found.timer for found in record.measurements} == {Timer.WALL}
        assert len(samples["itl"]) == sum(samples["decoding"])
        assert len(samples["step_time"]) == samples["iterations"][0]
        (check,) = record.checks
        assert check.passed
        assert check.against.endswith(f" of {len(samples['e2e'])} requests, each alone")
        assert record.details["each_user"] == "1 to warm up, then 3"
    lines = (run.path / "artifacts" / records[0].cell_id / "requests.jsonl").read_text().splitlines()
    assert {json.loads(line)["run"] for line in lines} == {0, 1}
    assert records[-1].details["pairs"].startswith("lengths.csv, 3 pairs, sha256 ")


def test_percentiles_are_in_the_frame_and_the_page_leads_to_the_requests(swept: tuple[Path, Finished]) -> None:
    run = load_run(only_run(swept[0]))
    wide = run.wide()
    row = wide[wide["outcome"] == "ok"].iloc[0]
    assert 0 < row["ttft"] <= row["ttft.p90"] <= row["ttft.p99"]
    samples = run.samples()
    own = samples[samples["cell_id"] == row["cell_id"]]
    tpot, tok_s_user = (own.loc[own["metric"] == name, "value"].to_numpy() for name in ("tpot", "tok_s_user"))
    assert len(tpot) > 0
    assert tok_s_user == pytest.approx(1 / tpot, rel=1e-3)  # each its own: medians of few differ by what lies between
    page = (run.path / "report.html").read_text()
    assert f"artifacts/{row['cell_id']}/requests.jsonl" in page
