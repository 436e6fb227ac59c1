"""Every exception gpubench raises for a user to read.

    GpubenchError                    exit code 70 unless a subclass says otherwise
    ├── UsageError                   2   a flag or an argument that can't be meant
    │   └── ConfigError              2   a sweep file: where, what, and what would be right
    ├── ArgumentError                2   a value that a workload, a model or a kernel can't take; a ValueError too
    ├── Unsupported                  2   what a backend can't do here: the cell is skipped, with this as the reason
    ├── StaleGraphError              2   a CUDA graph that is to be replayed after what it reads has moved
    ├── CommandFailed                2   a swept command that failed, or left no such metric
    ├── PluginError                  2   a user's own file that can't be imported
    ├── StoreError                   2   a run on disk that can't be read or written
    │   └── FingerprintMismatch      2   a run that was made by something else
    ├── TraceError                   2   a profiler's export that can't be projected
    ├── ProfilerError                2   a profiler that is missing or refuses to work
    │   └── ReportLost               2   a profiler that recorded, and left nothing
    └── WorkerError                  70  a worker that broke the protocol

A message is complete: it names the place, the value and the way out, so that printing it is all a caller does.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "ArgumentError",
    "CommandFailed",
    "ConfigError",
    "FingerprintMismatch",
    "GpubenchError",
    "Location",
    "PluginError",
    "ProfilerError",
    "ReportLost",
    "StaleGraphError",
    "StoreError",
    "TraceError",
    "Unsupported",
    "UsageError",
    "WorkerError",
]


@dataclass(frozen=True)
class Location:
    """A place in a file a user wrote: `configs/pareto.yaml:7: axes.backend[1]`."""

    file: str
    line: int | None = None
    key: str = ""

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{place}: {self.key}" if self.key else place


class GpubenchError(Exception):
    """The root: `except GpubenchError` catches all that gpubench raises on purpose."""

    exit_code = 70


class UsageError(GpubenchError):
    """A command line that can't be meant."""

    exit_code = 2


class ConfigError(UsageError):
    """A sweep file that can't be meant, with the place of the fault."""

    def __init__(self, message: str, location: Location | None = None) -> None:
        self.message = message
        self.location = location
        super().__init__(f"{location}: {message}" if location else message)


class ArgumentError(GpubenchError, ValueError):
    """A value that a workload, a model or a kernel can't take: the argument, what it got, and the limit."""

    exit_code = 2


class Unsupported(GpubenchError):
    """What a backend can't do on this machine or at these sizes, though others may: raised by its set-up.

    The cell is `skipped`, and the message is its reason. What a backend always needs belongs into its `requires`.
    """

    exit_code = 2


class StaleGraphError(GpubenchError):
    """A CUDA graph that is to be replayed after memory it was captured with has moved: which, and where it was."""

    exit_code = 2


class CommandFailed(GpubenchError):
    """A swept command that ended badly, or whose output lacks a metric that was asked for."""

    exit_code = 2

    def __init__(self, message: str, exit_status: int | None = None, signal: str = "", stderr_tail: str = "") -> None:
        super().__init__(message)
        self.exit_status = exit_status
        """None when the command itself went well."""
        self.signal = signal
        """`SIGSEGV`, if a signal ended it."""
        self.stderr_tail = stderr_tail


class PluginError(GpubenchError):
    """A plugin that raised, exited or hung while it was imported."""

    exit_code = 2


class StoreError(GpubenchError):
    """A run folder that is missing, unreadable, unwritable or of an unknown schema."""

    exit_code = 2


class FingerprintMismatch(StoreError):
    """A run can't be resumed because what it was made with has changed; the message names each difference."""


class TraceError(GpubenchError):
    """A trace that is truncated, empty, or of a schema that isn't known."""

    exit_code = 2


class ProfilerError(GpubenchError):
    """A profiler that is missing, too old, or not permitted; one sentence with the fix."""

    exit_code = 2


class ReportLost(ProfilerError):
    """A profiler that left no report, for no reason that anyone could mend; the next time it may well leave one."""


class WorkerError(GpubenchError):
    """A worker that did not speak the protocol: a defect of gpubench, not of a cell."""
