"""The main job without a GPU: real workers, tiny models."""

from __future__ import annotations

from pathlib import Path

from support import gpubench, only_run

from gpubench.records import Outcome
from gpubench.store import read_run

PARETO = Path(__file__).parents[2] / "configs" / "pareto.yaml"


def test_the_main_job_runs_on_a_cpu_and_builds_each_models_weights_once(tmp_path: Path) -> None:
    flags = ["--gpus", "none", "--only", "backend=eager", "--only", "isl=128", "--set", "measure.trials=1"]
    finished = gpubench(tmp_path, "sweep", str(PARETO), *flags)
    assert finished.code == 0, finished.out + finished.err
    records = read_run(only_run(tmp_path)).records
    assert len(records) == 6
    assert {record.outcome for record in records} == {Outcome.OK}
    models = [record.axes["model"] for record in records]
    assert models == sorted(models, key=models.index), "those of one model next to each other"
    built = [record for record in records if any("built_s" in item for item in record.details["shared"])]
    assert [record.axes["model"] for record in built] == list(dict.fromkeys(models))
    ranks = {record.details.get("rank") for record in records if record.axes["ranks"] == 2}
    assert ranks == {"one rank of 2, no communication"}
