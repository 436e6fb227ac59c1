"""Traces made by hand: exports as nsys writes them, and what they say, worked out slowly."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

VM = 1 << 48
KERNEL, MEMCPY, MEMSET, GRAPH = "KERNEL", "MEMCPY", "MEMSET", "GRAPH_TRACE"

SCHEMA = """
CREATE TABLE StringIds (id INTEGER NOT NULL PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE META_DATA_EXPORT (name TEXT NOT NULL, value TEXT);
CREATE TABLE NVTX_EVENTS (start INTEGER NOT NULL, end INTEGER, eventType INTEGER NOT NULL, rangeId INTEGER, text TEXT,
    globalTid INTEGER, endGlobalTid INTEGER, textId INTEGER, domainId INTEGER);
CREATE TABLE CUPTI_ACTIVITY_KIND_RUNTIME (start INTEGER NOT NULL, end INTEGER NOT NULL, globalTid INTEGER,
    correlationId INTEGER, nameId INTEGER NOT NULL, returnValue INTEGER NOT NULL);
CREATE TABLE CUPTI_ACTIVITY_KIND_KERNEL (start INTEGER NOT NULL, end INTEGER NOT NULL, deviceId INTEGER NOT NULL,
    streamId INTEGER NOT NULL, correlationId INTEGER, globalPid INTEGER, demangledName INTEGER NOT NULL,
    graphNodeId INTEGER);
CREATE TABLE CUPTI_ACTIVITY_KIND_MEMCPY (start INTEGER NOT NULL, end INTEGER NOT NULL, deviceId INTEGER NOT NULL,
    correlationId INTEGER, globalPid INTEGER, copyKind INTEGER NOT NULL, graphNodeId INTEGER);
CREATE TABLE CUPTI_ACTIVITY_KIND_MEMSET (start INTEGER NOT NULL, end INTEGER NOT NULL, deviceId INTEGER NOT NULL,
    correlationId INTEGER, globalPid INTEGER, graphNodeId INTEGER);
CREATE TABLE CUPTI_ACTIVITY_KIND_GRAPH_TRACE (start INTEGER NOT NULL, end INTEGER NOT NULL, deviceId INTEGER NOT NULL,
    correlationId INTEGER, globalPid INTEGER, graphId INTEGER NOT NULL);
CREATE TABLE CUDA_GRAPH_NODE_EVENTS (start INTEGER NOT NULL, end INTEGER NOT NULL, globalTid INTEGER,
    graphNodeId INTEGER NOT NULL, originalGraphNodeId INTEGER);
CREATE TABLE ENUM_CUDA_MEMCPY_OPER (id INTEGER NOT NULL PRIMARY KEY, name TEXT, label TEXT);
INSERT INTO ENUM_CUDA_MEMCPY_OPER VALUES (1, 'HTOD', 'Host-to-Device');
INSERT INTO META_DATA_EXPORT VALUES ('EXPORT_PRODUCT_VERSION', '2025.3.2.0'), ('EXPORT_SCHEMA_VERSION', '3.20.3');
"""


@dataclass(frozen=True)
class Range:
    name: str
    start: int
    end: int | None
    tid: int = 1
    pid: int = 1
    domain: str = "gpubench"
    style: int = 59
    registered: bool = True


@dataclass(frozen=True)
class Call:
    start: int
    end: int
    correlation: int | None
    tid: int = 1
    pid: int = 1


@dataclass(frozen=True)
class Operation:
    start: int
    end: int
    correlation: int | None
    pid: int = 1
    kind: str = KERNEL
    name: str = "gemm"
    device: int = 0
    node: int | None = None


@dataclass(frozen=True)
class Node:
    start: int
    node: int
    original: int | None = None
    tid: int = 1
    pid: int = 1


@dataclass(frozen=True)
class Given:
    """What a trace is made of."""

    ranges: Sequence[Range] = ()
    calls: Sequence[Call] = ()
    operations: Sequence[Operation] = ()
    nodes: Sequence[Node] = field(default=())


def process_of(pid: int) -> int:
    return VM | pid << 24


def thread_of(pid: int, tid: int) -> int:
    return process_of(pid) | tid


def write_trace(path: Path, given: Given, drop: Sequence[str] = ()) -> Path:
    """Write an export; tables named in `drop`, and those with nothing in them, are left out as nsys does."""
    strings: dict[str, int] = {}

    def string(text: str) -> int:
        return strings.setdefault(text, len(strings) + 10)

    domains = sorted({(item.pid, item.tid, item.domain) for item in given.ranges if item.domain})
    seen: set[tuple[int, str]] = set()
    with closing(sqlite3.connect(path)) as database:
        database.executescript(SCHEMA)
        for pid, tid, domain in domains:
            if (pid, domain) not in seen:
                seen.add((pid, domain))
                row = (0, None, 75, domain, thread_of(pid, tid), None, domain_id(domain))
                _insert_event(database, row)
        for item in given.ranges:
            text, text_id = (None, string(item.name)) if item.registered else (item.name, None)
            row = (item.start, item.end, item.style, text, thread_of(item.pid, item.tid), text_id)
            _insert_event(database, (*row, domain_id(item.domain)))
        for call in given.calls:
            row = (call.start, call.end, thread_of(call.pid, call.tid), call.correlation, string("cudaLaunchKernel"), 0)
            database.execute("INSERT INTO CUPTI_ACTIVITY_KIND_RUNTIME VALUES (?, ?, ?, ?, ?, ?)", row)
        for operation in given.operations:
            _insert_operation(database, operation, string)
        for node in given.nodes:
            row = (node.start, node.start, thread_of(node.pid, node.tid), node.node, node.original)
            database.execute("INSERT INTO CUDA_GRAPH_NODE_EVENTS VALUES (?, ?, ?, ?, ?)", row)
        database.executemany("INSERT INTO StringIds VALUES (?, ?)", [(id, text) for text, id in strings.items()])
        _drop(database, drop)
        database.commit()
    return path


def domain_id(domain: str) -> int:
    return {"": 0, "gpubench": 1}.get(domain, 2)


def _insert_event(database: sqlite3.Connection, row: tuple[object, ...]) -> None:
    columns = "start, end, eventType, text, globalTid, textId, domainId"
    database.execute(f"INSERT INTO NVTX_EVENTS ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?)", row)


def _insert_operation(database: sqlite3.Connection, item: Operation, string) -> None:
    row = {
        "start": item.start,
        "end": item.end,
        "deviceId": item.device,
        "correlationId": item.correlation,
        "globalPid": process_of(item.pid),
    }
    row |= {
        KERNEL: {"demangledName": string(item.name), "streamId": 7, "graphNodeId": item.node},
        MEMCPY: {"copyKind": 1, "graphNodeId": item.node},
        MEMSET: {"graphNodeId": item.node},
        GRAPH: {"graphId": 1},
    }[item.kind]
    marks = ", ".join("?" * len(row))
    table = f"CUPTI_ACTIVITY_KIND_{item.kind}"
    database.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", tuple(row.values()))


def _drop(database: sqlite3.Connection, drop: Sequence[str]) -> None:
    for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
        (is_empty,) = database.execute(f"SELECT NOT EXISTS (SELECT 1 FROM {table})").fetchone()
        if table in drop or is_empty:
            database.execute(f"DROP TABLE {table}")
