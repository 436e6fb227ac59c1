"""What a run's header says when it is read, besides what was written: it follows from cells and records."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from gpubench.catalogue import MetricInfo, WorkloadInfo
from gpubench.records import Cell, CellRecord, Scalar
from gpubench.scalars import axis_value

__all__ = ["with_list_axes", "with_own_metrics"]


def with_list_axes(cells: Sequence[Cell]) -> list[Cell]:
    """The cells with an axis for each list or mapping that varies: an older run has such values in params alone."""
    shown = [
        {name: axis_value(value) for name, value in cell.params.items() if isinstance(value, list | dict)}
        for cell in cells
    ]
    taken: defaultdict[str, set[Scalar]] = defaultdict(set)
    for cell, values in zip(cells, shown, strict=True):
        for name in values.keys() - cell.axes.keys():
            taken[name].add(values[name])
    varied = {name for name, values in taken.items() if len(values) > 1}
    if not varied:
        return list(cells)
    return [
        replace(cell, axes={**cell.axes, **{name: values[name] for name in values if name in varied}})
        for cell, values in zip(cells, shown, strict=True)
    ]


def with_own_metrics(workload: WorkloadInfo, records: Iterable[CellRecord]) -> WorkloadInfo:
    """The workload with the metrics of which its measurements alone say which way is better."""
    known = {metric.name for metric in workload.metrics}
    found = {
        own.metric: MetricInfo(own.metric, own.unit, own.higher_is_better, "reported by the workload itself")
        for record in records
        for own in record.measurements
        if own.higher_is_better is not None and own.metric not in known
    }
    return replace(workload, metrics=[*workload.metrics, *found.values()]) if found else workload
