"""Reading a trace: the tables of an nsys export that a projection needs, as columns."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from gpubench.profilers.export import (
    CALLS,
    COPY_KINDS,
    DETAILS,
    EVENTS,
    GRAPHS,
    KERNELS,
    MEMCPYS,
    MEMSETS,
    NODES,
    NOTHING,
    STRINGS,
    Export,
    Ints,
    open_export,
)

__all__ = [
    "GRAPH",
    "KERNEL",
    "MEMCPY",
    "MEMSET",
    "OPEN_END",
    "THREAD_BITS",
    "Calls",
    "GraphNodes",
    "Operations",
    "Ranges",
    "Trace",
    "read_trace",
]

KERNEL, MEMCPY, MEMSET, GRAPH = range(4)
"""The kinds of operation."""

OPEN_END: Final = int(np.iinfo(np.int64).max)
"""The end of a range that was still open when recording ended."""

THREAD_BITS: Final = 24
"""`globalTid >> 24` names the process, the virtual machine included; the low 24 bits are the thread's id."""

_PUSH_POP, _START_END, _PUSH_POP_TEXT, _START_END_TEXT, _DOMAIN = 59, 60, 70, 71, 75

_TABLES = {KERNEL: KERNELS, MEMCPY: MEMCPYS, MEMSET: MEMSETS, GRAPH: GRAPHS}
_LABELS = {KERNEL: "demangledName", MEMCPY: "copyKind"}


@dataclass(frozen=True)
class Ranges:
    """NVTX ranges, one per entry."""

    start: Ints
    end: Ints
    """`OPEN_END` while open."""
    thread: Ints
    """globalTid of the thread that opened it."""
    name: Ints
    """Index into `names`."""
    names: list[str]
    """`domain:name`, or `name` in the default domain."""


@dataclass(frozen=True)
class Calls:
    """CUDA API calls."""

    start: Ints
    end: Ints
    thread: Ints
    correlation: Ints


@dataclass(frozen=True)
class Operations:
    """What ran on a GPU: kernels, copies, fills, and whole graphs where their nodes were not traced."""

    start: Ints
    end: Ints
    device: Ints
    correlation: Ints
    """`NOTHING` where there is none."""
    process: Ints
    kind: Ints
    name: Ints
    """Index into `names`."""
    node: Ints
    """graphNodeId of what a replay ran, else `NOTHING`."""
    names: list[str]


@dataclass(frozen=True)
class GraphNodes:
    """The birth of graph nodes: by capture, by cloning, by instantiation."""

    start: Ints
    thread: Ints
    node: Ints
    original: Ints
    """The node it was cloned from, `NOTHING` for none."""


@dataclass(frozen=True)
class Trace:
    """What a projection reads of an export; times in ns since recording began."""

    path: Path
    ranges: Ranges
    calls: Calls
    operations: Operations
    nodes: GraphNodes
    about: dict[str, str]
    """The exporter's own words: EXPORT_PRODUCT_VERSION, EXPORT_SCHEMA_VERSION and the like."""


def read_trace(path: Path) -> Trace:
    """Read an sqlite export of nsys; `TraceError` if it isn't one, is truncated, or lacks what a projection needs.

    It may hold no ranges, and nothing that ran on a GPU: what that means is for the caller to say.
    """
    with open_export(path) as export, ThreadPoolExecutor(1) as pool:
        calls = pool.submit(_read_calls, export)  # half of the rows; reading lets go of the interpreter's lock
        strings = export.pairs(STRINGS, "id", "value")
        return Trace(
            path=path,
            ranges=_read_ranges(export, strings),
            calls=calls.result(),
            operations=_read_operations(export, strings),
            nodes=_read_nodes(export),
            about=export.about,
        )


def _read_ranges(export: Export, strings: dict[int, str]) -> Ranges:
    if EVENTS not in export:
        return Ranges(*(np.empty(0, np.int64),) * 4, names=[])
    kinds = (_PUSH_POP, _START_END, _PUSH_POP_TEXT, _START_END_TEXT, _DOMAIN)
    where = f"WHERE eventType IN {kinds} ORDER BY rowid"
    columns = ["start", "end", "eventType", "globalTid", "textId", "domainId"]
    rows = export.ints(EVENTS, columns, ("textId", "domainId"), where)
    texts = pd.Series(export.texts(EVENTS, "text", where), dtype=object)
    labels = pd.Series(rows["textId"]).map(strings).astype(object).fillna(texts).to_numpy()

    is_domain = rows["eventType"] == _DOMAIN
    keys = pd.MultiIndex.from_arrays([rows["globalTid"] >> THREAD_BITS, rows["domainId"]])
    domains = pd.Series(labels[is_domain], index=keys[is_domain], dtype=object)
    domains = domains[~domains.index.duplicated()]
    prefix, names = domains.reindex(keys[~is_domain]).to_numpy(), labels[~is_domain]
    named = ~pd.isna(prefix)
    names[named] = prefix[named] + ":" + names[named]

    codes, unique = pd.factorize(names)
    end = rows["end"][~is_domain]
    return Ranges(
        start=rows["start"][~is_domain],
        end=np.where((end == NOTHING) | np.isin(end, _recording_ends(export)), OPEN_END, end),
        thread=rows["globalTid"][~is_domain],
        name=codes.astype(np.int64),
        names=[str(name) for name in unique],
    )


def _recording_ends(export: Export) -> Ints:
    """When recording ended: some versions of nsys let a range that was still open end at just that moment."""
    return export.ints(DETAILS, ["duration"])["duration"] if export.has(DETAILS, "duration") else np.empty(0, np.int64)


def _read_calls(export: Export) -> Calls:
    if CALLS not in export:
        return Calls(*(np.empty(0, np.int64),) * 4)
    rows = export.ints(CALLS, ["start", "end", "globalTid", "correlationId"])
    return Calls(rows["start"], rows["end"], rows["globalTid"], rows["correlationId"])


def _read_operations(export: Export, strings: dict[int, str]) -> Operations:
    parts = [_read_kind(export, kind) for kind, table in _TABLES.items() if table in export]
    columns = ("start", "end", "deviceId", "correlationId", "globalPid", "graphNodeId", "kind", "label")
    rows = {name: np.concatenate([np.empty(0, np.int64), *(part[name] for part in parts)]) for name in columns}
    codes, labels = pd.factorize(rows["label"] << 2 | rows["kind"])  # two bits hold the four kinds
    copies = export.pairs(COPY_KINDS, "id", "label")
    return Operations(
        start=rows["start"],
        end=rows["end"],
        device=rows["deviceId"],
        correlation=rows["correlationId"],
        process=rows["globalPid"] >> THREAD_BITS,
        kind=rows["kind"],
        name=codes.astype(np.int64),
        node=rows["graphNodeId"],
        names=[_operation_name(label & 3, label >> 2, strings, copies) for label in labels.tolist()],
    )


def _read_kind(export: Export, kind: int) -> dict[str, Ints]:
    label = _LABELS.get(kind)
    columns = ["start", "end", "deviceId", "correlationId", "globalPid", *([label] if label else [])]
    rows = export.ints(_TABLES[kind], [*columns, "graphNodeId"], ("graphNodeId", "copyKind"))
    count = len(rows["start"])
    return {**rows, "kind": np.full(count, kind), "label": rows[label] if label else np.zeros(count, np.int64)}


def _operation_name(kind: int, label: int, strings: dict[int, str], copies: dict[int, str]) -> str:
    if kind == KERNEL:
        return strings.get(label, f"kernel #{label}")
    if kind == MEMCPY:
        return f"[memcpy {copies[label]}]" if label in copies else "[memcpy]"
    return "[memset]" if kind == MEMSET else "[graph]"


def _read_nodes(export: Export) -> GraphNodes:
    columns = ["start", "globalTid", "graphNodeId", "originalGraphNodeId"]
    if not export.has(NODES, *columns):
        return GraphNodes(*(np.empty(0, np.int64),) * 4)
    rows = export.ints(NODES, columns)
    return GraphNodes(*(rows[column] for column in columns))
