"""Under what a cell was measured, as its records say: clocks, throttling, a replay's kernels, what it shared; and what
to beware of.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked_dataclass

from gpubench.analysis.doubts import doubts_of
from gpubench.analysis.merge import CellResult
from gpubench.analysis.metrics import format_value
from gpubench.records import CellRecord, Pass

__all__ = [
    "AS_EAGER",
    "Caution",
    "Clocks",
    "clocks_of",
    "compiled_of",
    "group_cautions",
    "labels_of",
    "launch_of",
    "replay_of",
    "shared_of",
    "throttled_spans",
    "warnings_of",
]

AS_EAGER = "as eager"
"""What a record says of a graph whose replay ran the same kernels as the step without it."""
DIFFERENT_CLOCKS = 1.03
"""From how far apart on backends' SM clocks are different ones, for a difference that small can make theirs."""

_NOTED = {
    *("clocks", "compiled", "first_step_s", "graph_pointers", "inner_repeats", "l2", "l2_rotation", "launch"),
    *("nested_ranges", "profiler", "repetitions", "replay_kernels", "seed", "shared", "stopped", "timer_choice"),
    *("trace", "triton", "warmup_steps"),
}
"""What gpubench itself notes in a record's details. All else there is the workload's label of the cell."""

Span = tuple[float, float]


@checked_dataclass(frozen=True, config=ConfigDict(extra="ignore"))
class _Recorded:
    """`details["clocks"]` of a record; spans are (lowest, highest)."""

    sm_hz: Span
    memory_hz: Span
    temperature_c: Span
    throttled_by: list[str]
    throttled_samples: list[tuple[int, int]]


_RECORDED = TypeAdapter(_Recorded)


@dataclass(frozen=True)
class Clocks:
    """What the GPU did while a cell's step times were taken, over all trials; spans are (lowest, highest)."""

    sm_hz: Span
    memory_hz: Span
    temperature_c: Span
    throttled: int
    """Samples next to a reading at which the GPU held itself back."""
    samples: int
    throttled_by: tuple[str, ...]


def clocks_of(cell: CellResult) -> Clocks | None:
    """None if the cell has no readings: on a CPU, or where NVML told none."""
    trials = [(record, clocks) for record in cell.of(Pass.TIMING) if (clocks := _recorded(record)) is not None]
    if not trials:
        return None
    found = [clocks for _, clocks in trials]
    return Clocks(
        sm_hz=_reach(clocks.sm_hz for clocks in found),
        memory_hz=_reach(clocks.memory_hz for clocks in found),
        temperature_c=_reach(clocks.temperature_c for clocks in found),
        throttled=sum(end - start for clocks in found for start, end in clocks.throttled_samples),
        samples=sum(_step_samples(record) for record, _ in trials),
        throttled_by=tuple(sorted({reason for clocks in found for reason in clocks.throttled_by})),
    )


def labels_of(cell: CellResult) -> dict[str, str]:
    """What the workload's hook `label` says of the cell, as `rank: one rank of 16, no communication`; {} if nothing."""
    found = (record.details for record in cell.records)
    return {name: str(text) for details in found for name, text in details.items() if name not in _NOTED}


def launch_of(cell: CellResult) -> str:
    """What kind of launching its step times hold: `idle` (all of it), `blocked` or `graph` (none); "" if unknown."""
    said = (record.details.get("launch") for record in cell.of(Pass.TIMING))
    kinds = [re.split("[:,]", text)[0] for text in said if isinstance(text, str)]
    return next((kind for kind in kinds if kind != "idle"), kinds[0] if kinds else "")


def throttled_spans(record: CellRecord) -> list[tuple[int, int]]:
    """The samples of a record that ran throttled, as spans [from, to) of their numbers."""
    found = _recorded(record) if record.pass_ is Pass.TIMING else None
    return found.throttled_samples if found else []


def replay_of(cell: CellResult) -> str:
    """How a graph's replay differs from the step without it: `as eager`, or in words; "" where that is not known."""
    said = (record.details.get("replay_kernels") for record in cell.records)
    return next((text for text in said if isinstance(text, str)), "")


def shared_of(cell: CellResult) -> str:
    """What the cell shared with others, and who built it: `weights, 69.3 GB, from cell_000_C001`; "" if nothing."""
    found = next((items for record in cell.records if (items := _listed(record.details.get("shared")))), [])
    return "; ".join(map(_describe_item, found))


def compiled_of(cell: CellResult) -> str:
    """What torch.compile compiled while the cell ran, unprofiled: `1 graph in 12.3 s`; "" if nothing."""
    told = next((record.details["compiled"] for record in cell.of(Pass.TIMING) if "compiled" in record.details), None)
    if not isinstance(told, dict) or not {"graphs", "seconds"} <= told.keys():
        return ""
    graphs = "1 graph" if told["graphs"] == 1 else f"{told['graphs']} graphs"
    return f"{graphs} in {format_value(told['seconds'], 's')}"


def _listed(told: Any) -> list[dict[str, Any]]:
    return [item for item in told if isinstance(item, dict) and "what" in item] if isinstance(told, list) else []


def _describe_item(item: dict[str, Any]) -> str:
    size = f", {format_value(item['bytes'], 'B')}" if item.get("bytes") else ""
    origin = f"from {item['from']}" if "from" in item else f"built in {format_value(item.get('built_s'), 's')}"
    return f"{item['what']}{size}, {origin}"


def warnings_of(cells: Sequence[CellResult]) -> list[list[str]]:
    """What to beware of in each cell: its records' own warnings, another replay, unequal clocks of backends, doubts."""
    unequal = _unequal_clocks(cells)
    found = []
    for cell in cells:
        texts = [text for record in cell.records for text in record.warnings]
        replay = replay_of(cell)
        if replay not in ("", AS_EAGER) and not any(replay in text for text in texts):
            texts.append(f"the replay of the graph ran other kernels than the step without it: {replay}")
        texts += filter(None, [unequal.get(cell.cell.cell_id)])
        texts += doubts_of(cell)
        found.append(list(dict.fromkeys(texts)))
    return found


@dataclass(frozen=True)
class Caution:
    """A warning and the cells that have it, by their place; where numbers differ, it says that it has the first's."""

    text: str
    places: tuple[int, ...]


def group_cautions(warnings: Sequence[Sequence[str]]) -> list[Caution]:
    """Warnings that differ in their numbers alone are one, in the order of their first cells."""
    texts: dict[str, str] = {}
    varied: set[str] = set()
    places: defaultdict[str, list[int]] = defaultdict(list)
    for place, of_cell in enumerate(warnings):
        for kind, text in {_without_numbers(text): text for text in reversed(of_cell)}.items():
            if texts.setdefault(kind, text) != text:
                varied.add(kind)
            places[kind].append(place)
    note = dict.fromkeys(varied, " (the first cell's numbers)")
    return [Caution(text + note.get(kind, ""), tuple(places[kind])) for kind, text in texts.items()]


def _without_numbers(text: str) -> str:
    """With one number and one span of numbers alike, whatever their unit's prefix; an address is a number."""
    return re.sub(r"0(?:–0)? ?(?:[pnµm]?s\b)?", "0", re.sub(r"0x[0-9a-f]+|\d[\d.,]*", "0", text))


def _recorded(record: CellRecord) -> _Recorded | None:
    if "clocks" not in record.details:
        return None
    try:
        return _RECORDED.validate_python(record.details["clocks"])
    except ValidationError:  # a workload may label its cells with a word of its own for clocks
        return None


def _step_samples(record: CellRecord) -> int:
    return max((len(measurement.samples) for measurement in record.measurements), default=0)


def _reach(spans: Iterable[Span]) -> Span:
    lowest, highest = zip(*spans, strict=True)
    return min(lowest), max(highest)


def _unequal_clocks(cells: Sequence[CellResult]) -> Mapping[str, str]:
    """By cell: a sentence where the backends at its shape ran at different SM clocks."""
    by_shape: defaultdict[str, dict[str, tuple[str, Span]]] = defaultdict(dict)
    for cell in cells:
        clocks = clocks_of(cell)
        if clocks is not None:
            shape = json.dumps([cell.cell.workload, cell.cell.arguments], sort_keys=True, default=str)
            by_shape[shape][cell.cell.cell_id] = cell.cell.backend, clocks.sm_hz
    found: dict[str, str] = {}
    for members in by_shape.values():
        middles = [sum(span) / 2 for _, span in members.values()]
        if max(middles) > DIFFERENT_CLOCKS * min(middles):
            words = ", ".join(f"{backend} {_megahertz(span)}" for backend, span in members.values())
            found |= dict.fromkeys(members, f"backends ran at different SM clocks at this shape: {words}")
    return found


def _megahertz(span: Span) -> str:
    low, high = (f"{hz / 1e6:,.0f}" for hz in span)
    return f"{low} MHz" if low == high else f"{low}–{high} MHz"
