"""Cells of a run once more, as its sweep was recorded, with the records apart from the run's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from gpubench.analysis.merge import CellResult
from gpubench.analysis.run import Run
from gpubench.errors import Location, StoreError, UsageError
from gpubench.machine import Gpu, has_cuda_torch, read_machine
from gpubench.records import Pass
from gpubench.run.sweep import SweepRequest
from gpubench.sweep import Sweep, find_plugins
from gpubench.sweep.document import Document, Node
from gpubench.sweep.schema import SweepFile

__all__ = ["REPRODUCED", "rerun_request"]

REPRODUCED = "reproduced"
"""The folder within a run's that holds its reruns, by cell: each is a small run of its own."""


def rerun_request(
    run: Run, cell: CellResult, out: Path | None = None, before: Sequence[CellResult] = ()
) -> SweepRequest:
    """The run's sweep, asked for one cell that has an answer, alone or after others, in a fresh worker.

    UsageError if there is no GPU for a cell that had one; StoreError if the sweep is of another time.
    """
    sweep = _recorded_sweep(run)
    decisive = cell.decisive
    assert decisive is not None, "a cell with an outcome has a record"
    return SweepRequest(
        sweep=sweep,
        cells=[result.cell for result in (*before, cell)],
        workload=run.header.workload,
        plugin_files=[plugin for plugin in sweep.plugins if plugin.endswith(".py")],
        machine=read_machine(),
        gpus=_choose_gpu(run, decisive.gpu),
        results=out or run.path / REPRODUCED / cell.cell.cell_id,
        # what died under the profiler dies there again; else the profiled pass would only add to what can differ
        profile=decisive.pass_ is Pass.PROFILE,
        ceilings=False,
    )


def _recorded_sweep(run: Run) -> Sweep:
    file = str(run.path / "run.json")
    try:
        spec = SweepFile.model_validate(run.header.sweep)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, ("sweep", *first["loc"])))
        raise StoreError(f"{file}: {place}: {first['msg']}: this gpubench can't run the sweep as recorded") from None
    find_plugins(spec.plugins, locate=lambda index: Location(file, key=f"sweep.plugins[{index}]"))
    return Sweep(Path(run.header.sweep_file), spec, Document(Node({}, file, None)))


def _choose_gpu(run: Run, recorded: str) -> list[Gpu]:
    """The GPU that the cell ran on, or another one; none if the run was made on a CPU."""
    if not run.header.environment.get("gpus"):
        return []
    machine = read_machine()
    usable = machine.gpus if has_cuda_torch() else ()
    if not usable:
        why = machine.gpu_problem or "this torch is a CPU build"
        raise UsageError(f"{run.run_id}: its cells ran on {recorded or 'a GPU'}, and there is none to use here: {why}")
    same = [gpu for gpu in usable if recorded.startswith(f"cuda:{gpu.index} ")]
    return [*same, *usable][:1]
