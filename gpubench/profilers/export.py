"""An nsys export on disk: what it holds, and its rows as columns.

Tables come and go with what was recorded and columns with nsys's version, so both are probed. The rows arrive as Arrow
through ADBC, which reads a million of them in a fifth of the time that Python's sqlite3 needs.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from gpubench.errors import TraceError

__all__ = [
    "ABOUT",
    "CALLS",
    "COPY_KINDS",
    "DETAILS",
    "EVENTS",
    "GRAPHS",
    "KERNELS",
    "MAX_ROWS",
    "MEMCPYS",
    "MEMSETS",
    "NODES",
    "NOTHING",
    "STRINGS",
    "Export",
    "Ints",
    "connect",
    "open_export",
    "table_columns",
]

Ints = npt.NDArray[np.int64]

NOTHING: Final = int(np.iinfo(np.int64).min)
"""What stands for NULL in a column of integers."""

MAX_ROWS = 10_000_000
"""A table with more rows is refused: projecting it would take several GB of memory."""

KERNELS = "CUPTI_ACTIVITY_KIND_KERNEL"
MEMCPYS = "CUPTI_ACTIVITY_KIND_MEMCPY"
MEMSETS = "CUPTI_ACTIVITY_KIND_MEMSET"
GRAPHS = "CUPTI_ACTIVITY_KIND_GRAPH_TRACE"
CALLS = "CUPTI_ACTIVITY_KIND_RUNTIME"
EVENTS = "NVTX_EVENTS"
STRINGS = "StringIds"
NODES = "CUDA_GRAPH_NODE_EVENTS"
ABOUT = "META_DATA_EXPORT"
COPY_KINDS = "ENUM_CUDA_MEMCPY_OPER"
DETAILS = "ANALYSIS_DETAILS"

_MAGIC = b"SQLite format 3\x00"
_HEADER_BYTES = 100


class Export:
    """An open export. `ints` and `texts` may be asked from several threads."""

    def __init__(self, path: Path, database: sqlite3.Connection) -> None:
        self.path = path
        self._database = database
        self._columns = table_columns(database)
        self.about = self.pairs(ABOUT, "name", "value")
        """The exporter's own words: EXPORT_PRODUCT_VERSION, EXPORT_SCHEMA_VERSION and the like."""

    def __contains__(self, table: str) -> bool:
        return table in self._columns

    def has(self, table: str, *columns: str) -> bool:
        """Whether a table is there, with these columns."""
        return table in self and set(columns) <= set(self._columns[table])

    def check(self) -> None:
        """Refuse what can't be projected, with the way out."""
        if not self._columns:
            raise TraceError(f"{self.path}: an empty database, not an nsys export")
        if STRINGS not in self or not (ABOUT in self or EVENTS in self):
            found = ", ".join(sorted(self._columns)[:4])
            raise TraceError(f"{self.path}: a database, but not an nsys export: its tables are {found}")
        operations = [table for table in (KERNELS, MEMCPYS, MEMSETS, GRAPHS) if table in self]
        if CALLS not in self and operations:
            raise TraceError(
                f"{self.path}: GPU work but not the API calls that launched it ({CALLS} is missing); "
                "record with nsys profile -t cuda,nvtx"
            )
        for table in {EVENTS, CALLS, *operations} & set(self._columns):
            self._check_size(table)

    def ints(self, table: str, columns: list[str], optional: tuple[str, ...] = (), where: str = "") -> dict[str, Ints]:
        """Columns of integers in the order of the rows, `NOTHING` for NULL and for an optional column not there."""
        import pyarrow as pa

        for column in columns:
            if column not in optional and not self.has(table, column):
                version = self.about.get("EXPORT_SCHEMA_VERSION", "unknown")
                raise TraceError(
                    f"{self.path}: {table} has no column {column} (schema {version}); export the report again with a "
                    "newer nsys"
                )
        chosen = [column if self.has(table, column) else f"NULL AS {column}" for column in columns]
        rows = self._query(f"SELECT {', '.join(chosen)} FROM {table} {where}")
        return {name: rows[name].cast(pa.int64()).fill_null(NOTHING).to_numpy() for name in columns}

    def texts(self, table: str, column: str, where: str = "") -> npt.NDArray[np.object_]:
        """One column of texts, empty for NULL and where the column isn't there."""
        # without the coalesce ADBC would take a column that begins with NULLs for one of integers
        chosen = f"coalesce({column}, '')" if self.has(table, column) else "''"
        rows = self._query(f"SELECT {chosen} AS text FROM {table} {where}")
        texts: npt.NDArray[np.object_] = rows["text"].to_numpy(zero_copy_only=False)
        return texts

    def pairs(self, table: str, key: str, value: str) -> dict[Any, str]:
        """A small table as a mapping; empty where it isn't there."""
        if not self.has(table, key, value):
            return {}
        return dict(self._database.execute(f"SELECT {key}, {value} FROM {table}").fetchall())

    def _check_size(self, table: str) -> None:
        (rows,) = self._database.execute(f"SELECT max(rowid) FROM {table}").fetchone()
        if rows and rows > MAX_ROWS:
            raise TraceError(
                f"{self.path}: {rows:,} rows in {table}, and {MAX_ROWS:,} are the most that are projected; record "
                "less: --capture-range=cudaProfilerApi records between cudaProfilerStart and cudaProfilerStop alone"
            )

    def _query(self, query: str) -> Any:
        from adbc_driver_sqlite import dbapi

        with dbapi.connect(_uri(self.path)) as connection, connection.cursor() as cursor:
            cursor.adbc_statement.set_options(**{"adbc.sqlite.query.batch_rows": 1 << 16})
            cursor.execute(query)
            return cursor.fetch_arrow_table()


@contextmanager
def open_export(path: Path) -> Iterator[Export]:
    """Open an sqlite export of nsys for reading and check that it can be projected."""
    from adbc_driver_manager import Error as AdbcError
    from pyarrow import ArrowInvalid

    _check_file(path)
    try:
        with closing(connect(path)) as database:
            export = Export(path, database)
            export.check()
            yield export
    except (sqlite3.Error, AdbcError, ArrowInvalid) as error:
        reason = str(error).splitlines()[0]
        raise TraceError(f"{path}: can't be read as an nsys export: {reason}; export the report again") from None


def connect(path: Path) -> sqlite3.Connection:
    """Open a database that is not to be changed."""
    return sqlite3.connect(_uri(path), uri=True)


def table_columns(database: sqlite3.Connection) -> dict[str, list[str]]:
    """The columns of each table of a database."""
    tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    return {table: [row[1] for row in database.execute(f'PRAGMA table_info("{table}")')] for table in tables}


def _uri(path: Path) -> str:
    return f"file:{quote(str(path.absolute()))}?mode=ro"


def _check_file(path: Path) -> None:
    """Refuse what isn't a whole sqlite file before sqlite does so in its own words."""
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER_BYTES)
        size = path.stat().st_size
    except OSError as error:
        raise TraceError(f"{path}: can't be read: {error.strerror}") from None
    if not header:
        raise TraceError(f"{path}: the file is empty; the disk may have been full: record or export again")
    if not header.startswith(_MAGIC):
        raise TraceError(f"{path}: not an sqlite file; export the report with nsys export --type sqlite")
    page_size = int.from_bytes(header[16:18], "big")  # sqlite's file format: 1 stands for 65,536
    expected = (65536 if page_size == 1 else page_size) * int.from_bytes(header[28:32], "big")
    if size < max(expected, _HEADER_BYTES):
        raise TraceError(f"{path}: truncated: {size:,} of {expected:,} bytes are there; export the report again")
