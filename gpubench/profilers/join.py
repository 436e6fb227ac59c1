"""From a projection to a cell's figures, joined by the names of its ranges.

The worker opens `cell=<cell_id>` around a cell, `cell=<cell_id>/capture` around what it captures,
`cell=<cell_id>/rep` around each repetition and, if those replay a graph, `cell=<cell_id>/eager` around one run of what
the graph should hold; timings come from the repetitions alone. What a workload annotates lies inside them, or, of a
replay, inside the capture.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from gpubench.profilers.export import Ints
from gpubench.profilers.names import DOMAIN, cell_range, eager_range, repetition_range
from gpubench.profilers.projection import Projection
from gpubench.records import KernelShare, Measurement, Timer

__all__ = ["MAX_UNATTRIBUTED_SHARE", "CellProfile", "join_cell", "join_program"]

MAX_UNATTRIBUTED_SHARE = 0.01
"""More GPU time than this launched from outside of the ranges, and a cell's figures are refused."""

LISTED = 4
NAME_LENGTH = 80
"""A template's full name runs to hundreds of characters."""

_METRICS = {"kernel_sum": "kernel_sum_ns", "busy": "busy_ns", "span": "span_ns", "gap": "gap_ns"}
_NS_PER_S = 1e9


@dataclass(frozen=True)
class CellProfile:
    """What a trace says of one cell; without measurements where `warnings` says why not."""

    measurements: list[Measurement] = field(default_factory=list)
    kernels: list[KernelShare] = field(default_factory=list)
    """Most time first."""
    warnings: list[str] = field(default_factory=list)
    nested_ranges: list[str] = field(default_factory=list)
    """Inner ranges that were opened within other inner ranges: their times are part of those."""
    has_eager: bool = False
    """The cell replays a graph, its step was also run eagerly, and the kernels of both are known."""
    replay_difference: str = ""
    """What kernels a replay runs more or less often than the eager step; "" where they are the same."""


def join_cell(projection: Projection, cell_id: str) -> CellProfile:
    """A cell's measurements (a sample per repetition, in s) and kernels, or the reason why there are none."""
    instances = projection.instances
    repetitions = instances[instances["range"] == repetition_range(cell_id)]
    refusal = _refusal(repetitions, cell_id)
    if refusal:
        return CellProfile(warnings=[refusal])
    inner = pd.concat([_annotated(instances, repetitions), _captured(projection, repetitions)])
    measurements = [*_measurements(repetitions, ""), _profiled_step(repetitions)]
    for name, figures in inner.groupby("range", sort=False):
        measurements += _measurements(figures.groupby("repetition")[_known(figures)].sum(), str(name))
    kernels = _kernels(projection.kernels, cell_id, len(repetitions))
    nested = _nested(instances, cell_id, set(inner["range"]))
    eager = instances[instances["range"] == eager_range(cell_id)]
    has_eager = _is_known(repetitions) and _is_known(eager)
    difference = _compare(projection.kernels, cell_id, len(repetitions), len(eager)) if has_eager else ""
    return CellProfile(measurements, kernels, _warnings(projection, repetitions), nested, has_eager, difference)


def join_program(projection: Projection) -> CellProfile:
    """The figures of a cell that is another program: a measurement per range that the program itself opened."""
    own = projection.instances[~projection.instances["range"].str.startswith(f"{DOMAIN}cell=")]
    ran = own[own["span_ns"].notna() & ~own["recursive"]]
    measurements = [
        measurement
        for name, figures in ran.groupby("range", sort=False)
        for measurement in _measurements(figures, str(name).removeprefix(DOMAIN))
    ]
    if measurements:
        return CellProfile(measurements)
    why = "opened no NVTX range" if own.empty else "ran nothing on the GPU within its NVTX ranges"
    return CellProfile(warnings=[f"no kernel times: the program {why}"])


def _refusal(repetitions: pd.DataFrame, cell_id: str) -> str:
    if repetitions["span_ns"].isna().all():
        what = "no profiled repetition" if repetitions.empty else "nothing that ran on the GPU"
        return f"{what} of {cell_id} is in the trace, so that there are no kernel times"
    missed = float(repetitions["unattributed_share"].max())
    if missed > MAX_UNATTRIBUTED_SHARE:
        return (
            f"kernel times refused: {missed:.0%} of the GPU time in a repetition of {cell_id} was launched from other "
            "threads, which its ranges don't see"
        )
    return ""


def _warnings(projection: Projection, repetitions: pd.DataFrame) -> list[str]:
    found = []
    queued = int(repetitions["queued_behind"].sum())
    if queued:
        found.append(
            f"{queued} of {len(repetitions)} profiled repetitions were queued behind the one before, so that their "
            "launch delay is a queue's"
        )
    if repetitions["kernel_sum_ns"].isna().any():
        found.append("graphs were traced as a whole, so that of kernels, busy time and gaps nothing is known")
    return found


def _measurements(figures: pd.DataFrame, name: str) -> list[Measurement]:
    """One per metric that is known, with a sample for every repetition that ran something."""
    ran = figures[figures["span_ns"].notna()]
    known = _known(ran)
    return [
        Measurement(metric, "s", Timer.NSYS, (ran[column].astype(float) / _NS_PER_S).tolist(), name)
        for metric, column in _METRICS.items()
        if column in known
    ]


def _profiled_step(repetitions: pd.DataFrame) -> Measurement:
    """From the opening of a repetition's range on the host to the end of its last operation on the GPU.

    It shows how much the profiler slows a step down, and is no timing of the step.
    """
    ran = repetitions[repetitions["span_ns"].notna()]
    elapsed = (ran["start_ns"] + ran["span_ns"] - ran["host_start_ns"]).astype(float)
    return Measurement("profiled_step", "s", Timer.NSYS, (elapsed / _NS_PER_S).tolist())


def _known(figures: pd.DataFrame) -> list[str]:
    """The columns that mean something: of a graph traced as a whole, whose inner gaps nobody saw, the span alone."""
    is_whole = "kernel_sum_ns" not in figures or figures["kernel_sum_ns"].isna().any()
    return ["span_ns"] if is_whole else list(_METRICS.values())


def _annotated(instances: pd.DataFrame, repetitions: pd.DataFrame) -> pd.DataFrame:
    """The ranges opened within the repetitions, each with the repetition it lies in."""
    repetition = _enclosing(instances, repetitions.index)
    chosen = (repetition >= 0) & ~instances["recursive"].to_numpy() & instances["span_ns"].notna().to_numpy()
    found = instances[chosen]
    return _inner(found, found["range"], repetition[found.index])


def _enclosing(instances: pd.DataFrame, roots: pd.Index) -> Ints:
    """Which of the roots each range lies in, by row; -1 for the roots themselves and what lies in none."""
    parent = instances["parent"].fillna(-1).to_numpy(np.int64)
    root = np.full(len(instances) + 1, -1, np.int64)  # the last stands for -1: no range
    root[roots] = roots
    inside = root.copy()
    for _ in range(int(instances["depth"].max())):  # each step hands the root one level down
        inside[:-1] = np.where(root[:-1] >= 0, root[:-1], inside[parent])
    return np.where(root[:-1] >= 0, -1, inside[:-1])


def _nested(instances: pd.DataFrame, cell_id: str, names: set[str]) -> list[str]:
    """Of a cell's inner ranges, those that lie in another one, in its repetitions or its captures."""
    cell = cell_range(cell_id)
    roots = instances.index[instances["range"].str.startswith(f"{cell}/")]
    parent = instances["parent"].fillna(-1).to_numpy(np.int64)
    # within the cell, and its parent too: so the parent is no repetition and no capture, but an inner range
    enclosing = np.append(_enclosing(instances, roots), -1)
    chosen = instances["range"][(enclosing[:-1] >= 0) & (enclosing[parent] >= 0)]
    return sorted(names.intersection(chosen.str.removeprefix(DOMAIN)))


def _captured(projection: Projection, repetitions: pd.DataFrame) -> pd.DataFrame:
    """The ranges that the repetitions' replayed kernels were captured in.

    What was replayed within a range of that very name is in that range's figures, and is taken off again.
    """
    instances, captured = projection.instances, projection.captured
    instance = captured["instance"].to_numpy(np.int64)
    is_inner = ~captured["captured"].str.startswith(f"{DOMAIN}cell=")
    chosen = captured["instance"].isin(repetitions.index) & is_inner
    found = _inner(captured[chosen], captured["captured"][chosen], instance[chosen])
    repetition = np.append(_enclosing(instances, repetitions.index), -1)[instance]
    is_outermost = np.append(~instances["recursive"].to_numpy(np.bool_), False)[instance]
    is_told = (captured["range"] == captured["captured"]) & (repetition >= 0) & is_outermost
    told = _inner(captured[is_told], captured["captured"][is_told], repetition[is_told])
    return pd.concat([found, told.assign(**{column: -told[column] for column in _METRICS.values()})])


def _is_known(runs: pd.DataFrame) -> bool:
    """Whether the ranges saw every kernel: none is of another thread, or within a graph that was traced as a whole."""
    ran = runs[runs["span_ns"].notna()]
    is_whole = ran.empty or ran["kernel_sum_ns"].isna().any()
    return not is_whole and bool(runs["unattributed_share"].max() <= MAX_UNATTRIBUTED_SHARE)


def _compare(kernels: pd.DataFrame, cell_id: str, repetitions: int, eager_runs: int) -> str:
    """In words, by how many kernels of which name a repetition differs from an eager run."""
    replayed = _counts(kernels, repetition_range(cell_id), repetitions)
    eager = _counts(kernels, eager_range(cell_id), eager_runs)
    difference = replayed.sub(eager, fill_value=0.0).round(6)
    clauses = [
        f"lacks {_listed(-difference[difference < 0])}" if (difference < 0).any() else "",
        f"has {_listed(difference[difference > 0])} more than eager" if (difference > 0).any() else "",
    ]
    told = ", ".join(filter(None, clauses))
    return f"replay {told}" if told else ""


def _counts(kernels: pd.DataFrame, name: str, runs: int) -> pd.Series:
    """How often a run of this range executes each kernel."""
    found = kernels[(kernels["range"] == name) & (kernels["kind"] == "kernel")]
    counts: pd.Series = found.groupby("kernel")["count"].sum() / runs
    return counts


def _listed(counts: pd.Series) -> str:
    shown = [f"{count:g} × {_shorten(str(name))}" for name, count in counts.iloc[:LISTED].items()]
    others = len(counts) - len(shown)
    return ", ".join(shown) + (f" and {others} other kernels" if others else "")


def _shorten(name: str) -> str:
    return name if len(name) <= NAME_LENGTH else f"{name[: NAME_LENGTH - 1]}…"


def _inner(figures: pd.DataFrame, names: pd.Series, repetition: Ints) -> pd.DataFrame:
    return figures[list(_METRICS.values())].assign(range=names.str.removeprefix(DOMAIN), repetition=repetition)


def _kernels(kernels: pd.DataFrame, cell_id: str, repetitions: int) -> list[KernelShare]:
    found = kernels[kernels["range"] == repetition_range(cell_id)]
    total = max(int(found["total_ns"].sum()), 1)
    return [
        KernelShare(
            name=row["kernel"],
            kind=row["kind"],
            count=round(row["count"] / repetitions, 6),
            total_s=round(row["total_ns"] / repetitions / _NS_PER_S, 12),
            median_s=round(row["median_ns"] / _NS_PER_S, 12),
            share=round(row["total_ns"] / total, 9),
        )
        for row in found.to_dict("records")
    ]
