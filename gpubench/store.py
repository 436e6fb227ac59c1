"""Runs on disk: `results/<run_id>/`, written once, appended to, never rewritten.

run.json         what was asked and of whom: the sweep as loaded, its cells, the environment, the fingerprint
sessions.jsonl   a line per time the sweep was started on it: the first, each resume, what --force overrode
cells.jsonl      a line per cell, trial, pass and attempt, fsynced the moment it ends
ceilings.jsonl   a line per GPU: what it can do at best
artifacts/       <cell_id>/ what a cell left behind, worker_NNN/ what a worker did
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from gpubench.catalogue import WorkloadInfo
from gpubench.collection import garbage_collection_paused
from gpubench.errors import StoreError
from gpubench.read_back import with_list_axes, with_own_metrics
from gpubench.records import SCHEMA, Ceilings, Cell, CellRecord, dump_line, parse_record

__all__ = [
    "ARTIFACTS",
    "RunHeader",
    "RunStore",
    "Session",
    "StoredRun",
    "add_session",
    "create_run",
    "find_run",
    "list_runs",
    "new_run_id",
    "read_header",
    "read_run",
]

HEADER, CELLS, SESSIONS, ARTIFACTS = "run.json", "cells.jsonl", "sessions.jsonl", "artifacts"
CEILINGS = "ceilings.jsonl"
MOST_NAMED = 5
"""So many runs are named where none was found."""

T = TypeVar("T")


@dataclass(frozen=True, config=ConfigDict(extra="ignore"))
class Session:
    """One start of a sweep on a run."""

    started_at: str
    environment: dict[str, Any]
    fingerprint: dict[str, str]
    forced: list[str] = Field(default_factory=list)
    """The differences that --force overrode, in words."""
    order: str = ""
    """In what order cells ran and why, where it was not the grid's."""


@dataclass(frozen=True, config=ConfigDict(extra="ignore", ser_json_inf_nan="constants"))
class RunHeader:
    """What a run is of: `run.json`."""

    run_id: str
    name: str
    created_at: str
    """UTC, ISO 8601."""
    sweep: dict[str, Any]
    """The sweep as loaded: overlay merged, `--set` applied, defaults filled in."""
    sweep_file: str
    cells: list[Cell]
    """Every cell that the run is to have an answer for."""
    workload: WorkloadInfo
    environment: dict[str, Any]
    fingerprint: dict[str, str]
    schema: int = SCHEMA


@dataclass(frozen=True)
class StoredRun:
    """A run read back: its header and every record, in the order in which they were written."""

    path: Path
    header: RunHeader
    records: list[CellRecord]
    sessions: list[Session]
    torn_bytes: int = 0
    """The length of a torn last line that was dropped; its cell counts as not run."""
    ceilings: dict[str, Ceilings] = Field(default_factory=dict)
    """By the GPU, as records name it: `cuda:0 NVIDIA H200`. What was measured last counts."""


@dataclass(frozen=True, config=ConfigDict(extra="ignore"))
class _CeilingsLine:
    gpu: str
    ceilings: Ceilings


_CEILINGS = TypeAdapter(_CeilingsLine)
_HEADER = TypeAdapter(RunHeader)
_SESSION = TypeAdapter(Session)


class RunStore:
    """The one writer of a run. `append` returns once the record is on disk.

    Opening takes a lock, so that two sweeps never write to one run, and cuts off a torn last line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = (path / CELLS).open("a+b")
        except OSError as error:
            raise StoreError(_unwritable(path, error)) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _drop_torn_line(self._file.fileno())
        except OSError as error:
            self._file.close()
            if isinstance(error, BlockingIOError):
                raise StoreError(
                    f"{path}: another gpubench is writing to this run; wait for it, or start a new run"
                ) from None
            raise StoreError(_unwritable(path, error)) from error

    def append(self, record: CellRecord) -> None:
        """Write one record and wait until the disk has it."""
        line = dump_line(record)
        start = os.lseek(self._file.fileno(), 0, os.SEEK_END)
        try:
            written = os.write(self._file.fileno(), line)
            if written != len(line):
                raise OSError(28, os.strerror(28))  # a short write on a regular file: the disk is full
            os.fsync(self._file.fileno())
        except OSError as error:
            os.ftruncate(self._file.fileno(), start)
            raise StoreError(
                f"{self.path / CELLS}: {error.strerror} while writing {record.cell_id}; "
                "what was recorded before is safe: free some room and run the same command with --resume"
            ) from error

    def add_ceilings(self, gpu: str, ceilings: Ceilings) -> None:
        """Note what a GPU can do at best; `gpu` is its name in records. On disk once this returns."""
        _append_line(self.path / CEILINGS, _CEILINGS.dump_json(_CeilingsLine(gpu, ceilings)))

    def artifacts(self, name: str) -> Path:
        """The folder of a cell or a worker; made when it is first asked for."""
        folder = self.path / ARTIFACTS / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def create_run(results: Path, header: RunHeader) -> RunHeader:
    """Make the folder of a new run and write its header; gives back the header with the run_id that was free."""
    try:
        results.mkdir(parents=True, exist_ok=True)
        header = _reserve(results, header)
        _write_whole(results / header.run_id / HEADER, _HEADER.dump_json(header, indent=1))
    except OSError as error:
        raise StoreError(_unwritable(results, error)) from error
    return header


def add_session(path: Path, session: Session) -> None:
    """Note one more start of a sweep on a run."""
    _append_line(path / SESSIONS, _SESSION.dump_json(session))


@garbage_collection_paused()  # tens of thousands of records have no cycles
def read_run(path: Path) -> StoredRun:
    """Read a run: a folder that holds run.json. A torn last line is dropped; any other bad line is an error."""
    header = read_header(path)
    lines = _read_bytes(path / CELLS).split(b"\n")
    torn = len(lines.pop()) if lines else 0
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(parse_record(line))
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            raise StoreError(
                f"{path / CELLS}:{number}: not a record: {reason}; delete the line to run its cell again"
            ) from None
        _require_known(records[-1].schema, f"{path / CELLS}:{number}")
    sessions = _read_lines(path / SESSIONS, _SESSION)
    ceilings = {line.gpu: line.ceilings for line in _read_lines(path / CEILINGS, _CEILINGS)}
    header = replace(header, cells=with_list_axes(header.cells), workload=with_own_metrics(header.workload, records))
    return StoredRun(path, header, records, sessions, torn, ceilings)


def list_runs(results: Path) -> list[Path]:
    """The runs in a folder, oldest first."""
    found = [path.parent for path in results.glob(f"*/{HEADER}")]
    return sorted(found, key=lambda path: (read_header(path).created_at, path.name))


def find_run(run: str | None, results: Path) -> Path:
    """The folder a user means: a path, a name in `results`, the id of a run there, or with None the newest one there.

    An id is also looked for in the runs' own headers, for a folder may have been renamed or moved since; where several
    have it, as copies of a run do, none is meant.
    """
    if run is None:
        runs = list_runs(results)
        if not runs:
            raise StoreError(f"{results}: no runs here yet; make one with: gpubench sweep configs/pareto.yaml")
        return runs[-1]
    for candidate in (Path(run), results / run):
        if (candidate / HEADER).is_file():
            return candidate
    by_id = [path for path in list_runs(results) if read_header(path).run_id == run]
    if len(by_id) == 1:
        return by_id[0]
    if by_id:
        raise StoreError(f"{run}: {len(by_id)} runs have this id; name a folder: {', '.join(map(str, by_id))}")
    raise StoreError(_describe_missing(run, results))


def _describe_missing(run: str, results: Path) -> str:
    """Why nothing was found: a folder that holds no run, a name that resembles one, or another altogether."""
    for folder in (Path(run), results / run):
        if folder.is_dir():
            inside = ", ".join(str(path) for path in list_runs(folder)[-MOST_NAMED:])
            hint = f"it has runs in it: {inside}" if inside else "nor is one in the folders inside"
            return f"{folder}: not a run: there is no {HEADER} in it; {hint}"
    names = [path.name for path in list_runs(results)]
    close = get_close_matches(run, names, n=1)
    guess = f" did you mean {close[0]}?" if close else ""
    newest = ", ".join(names[-MOST_NAMED:]) or "none"
    return f"{run}: no run of that name or path;{guess} the newest in {results}: {newest}"


def _append_line(path: Path, line: bytes) -> None:
    try:
        with path.open("a+b") as file:
            _drop_torn_line(file.fileno())
            file.write(line + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise StoreError(_unwritable(path.parent, error)) from error


def _unwritable(folder: Path, error: OSError) -> str:
    return f"{folder}: can't write results here: {error.strerror}; choose a folder with --out"


def read_header(path: Path) -> RunHeader:
    """What a run is of; StoreError if the folder holds no run, or one that can't be read."""
    text = _read_bytes(path / HEADER)
    if not text:
        raise StoreError(f"{path}: not a run: there is no {HEADER} in it")
    try:
        schema = json.loads(text).get("schema", 0)
        _require_known(schema, path / HEADER)
        return _HEADER.validate_json(text)
    except (ValueError, AttributeError) as error:
        why = str(error).splitlines()[0]
        raise StoreError(
            f"{path / HEADER}: can't be read as a run's header: {why}; move that folder away from the runs beside it"
        ) from None


def _require_known(schema: int, place: Path | str) -> None:
    if schema > SCHEMA:
        raise StoreError(f"{place}: schema {schema} is newer than this gpubench's {SCHEMA}; upgrade gpubench")


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise StoreError(f"{path}: can't be read: {error.strerror}") from error


def _read_lines(path: Path, adapter: TypeAdapter[T]) -> list[T]:
    """The whole lines of a small file, none if it isn't there."""
    lines = []
    for number, line in enumerate(_read_bytes(path).split(b"\n")[:-1], start=1):
        try:
            lines.append(adapter.validate_json(line))
        except ValidationError as error:
            raise StoreError(f"{path}:{number}: can't be read: {error.errors()[0]['msg']}; delete the line") from None
    return lines


def _reserve(results: Path, header: RunHeader) -> RunHeader:
    for suffix in _suffixes():
        run_id = header.run_id + suffix
        try:
            (results / run_id).mkdir()
        except FileExistsError:
            continue
        return replace(header, run_id=run_id)
    raise AssertionError("suffixes never end")


def _suffixes() -> Iterator[str]:
    yield ""
    number = 2
    while True:
        yield f"-{number}"
        number += 1


def new_run_id(name: str, at: datetime | None = None) -> str:
    """`mla-decode-20261121-093000`: the sweep's name and the time, safe as a folder's name."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "sweep"
    return f"{safe[:80]}-{(at or datetime.now(UTC)):%Y%m%d-%H%M%S}"


def _write_whole(path: Path, text: bytes) -> None:
    """Write a file so that it is either whole or not there."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    with temporary.open("wb") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _drop_torn_line(descriptor: int) -> None:
    size = os.lseek(descriptor, 0, os.SEEK_END)
    while size:
        step = min(size, 1 << 16)
        chunk = os.pread(descriptor, step, size - step)
        newline = chunk.rfind(b"\n")
        if newline >= 0:
            size = size - step + newline + 1
            break
        size -= step
    os.ftruncate(descriptor, size)
