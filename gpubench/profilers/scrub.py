"""Making a trace fit to be shown: what a projection reads stays, everything else goes.

A report holds the environment and the command lines of every process it saw, and a table of all their strings. So the
kept rows are copied into a new file; nothing of the old one's pages can linger in it.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from gpubench.errors import TraceError
from gpubench.profilers.export import (
    ABOUT,
    CALLS,
    COPY_KINDS,
    DETAILS,
    EVENTS,
    GRAPHS,
    KERNELS,
    MEMCPYS,
    MEMSETS,
    NODES,
    STRINGS,
    connect,
    table_columns,
)

__all__ = ["scrub"]

_OPERATION = ("start", "end", "deviceId", "streamId", "correlationId", "globalPid")
_KEPT = {
    EVENTS: ("start", "end", "eventType", "text", "globalTid", "endGlobalTid", "textId", "domainId"),
    CALLS: ("start", "end", "globalTid", "correlationId"),
    KERNELS: (*_OPERATION, "demangledName", "graphNodeId"),
    MEMCPYS: (*_OPERATION, "copyKind", "graphNodeId"),
    MEMSETS: (*_OPERATION, "graphNodeId"),
    GRAPHS: _OPERATION,
    NODES: ("start", "globalTid", "graphNodeId", "originalGraphNodeId"),
    COPY_KINDS: ("id", "label"),
    DETAILS: ("duration",),
    ABOUT: ("name", "value"),
}
_ROWS = {
    EVENTS: "WHERE eventType IN (59, 60, 70, 71, 75)",  # ranges and their domains
    ABOUT: "WHERE name LIKE 'EXPORT_PRODUCT_%' OR name LIKE 'EXPORT_SCHEMA_%'",  # not the user, not the host
}
_NAMING = {EVENTS: "textId", KERNELS: "demangledName"}


def scrub(export: Path, clean: Path) -> Path:
    """Copy what a projection reads of an export to a new file; `TraceError` if it can't be read or written."""
    partial = clean.with_name(f"{clean.name}.partial")
    partial.unlink(missing_ok=True)
    try:
        with closing(connect(export)) as source:
            columns = table_columns(source)
        with closing(sqlite3.connect(partial)) as database:
            database.execute("ATTACH ? AS dirty", (str(export),))
            for table in _KEPT:
                _copy(database, table, columns.get(table, []))
            _copy_strings(database, columns)
            database.commit()
    except sqlite3.Error as error:
        partial.unlink(missing_ok=True)
        raise TraceError(f"{export}: can't be copied without its environment to {clean}: {error}") from None
    return partial.rename(clean)


def _copy(database: sqlite3.Connection, table: str, columns: list[str]) -> None:
    kept = ", ".join(column for column in _KEPT[table] if column in columns)
    if kept:
        database.execute(f"CREATE TABLE {table} AS SELECT {kept} FROM dirty.{table} {_ROWS.get(table, '')}")


def _copy_strings(database: sqlite3.Connection, columns: dict[str, list[str]]) -> None:
    names = [
        f"SELECT {column} FROM main.{table}" for table, column in _NAMING.items() if column in columns.get(table, [])
    ]
    database.execute(f"CREATE TABLE {STRINGS} (id INTEGER NOT NULL PRIMARY KEY, value TEXT NOT NULL)")
    if names and STRINGS in columns:
        chosen = " UNION ".join(names)
        database.execute(f"INSERT INTO {STRINGS} SELECT id, value FROM dirty.{STRINGS} WHERE id IN ({chosen})")
