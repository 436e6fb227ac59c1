"""The command line: the only part of gpubench that prints."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys

from gpubench.errors import GpubenchError

__all__ = ["main"]

CANNOT_WRITE = 2
DEFECT = 70
INTERRUPTED = 130

PIPE_CLOSED = 141
"""128 + SIGPIPE, what a shell says of a program whose reader left: 1 would mean a regression, 0 that all was done."""

UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EPIPE}
"""Of standard output: what writes a file says which one, and what to do."""


def main() -> None:
    """Run the program and end it with the exit code that `gpubench --help` promises."""
    _take_any_text()
    try:
        from gpubench.cli.app import app

        app()
    except SystemExit as end:
        # Typer and rich each end with 1 on a pipe that closed early, as if they had been asked to.
        fault = end.__context__ if isinstance(end.__context__, BrokenPipeError) else _flush()
        if fault is None:
            raise
        _leave_unprinted(fault)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except GpubenchError as error:
        from gpubench.cli.console import plain

        sys.stderr.write(f"gpubench: {plain(str(error))}\n")
        sys.exit(error.exit_code)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in UNWRITABLE:
            _leave_unprinted(error)
        import traceback

        traceback.print_exc()
        sys.stderr.write("gpubench: this is a defect of gpubench itself; what was recorded is safe\n")
        sys.exit(DEFECT)


def _take_any_text() -> None:
    """Let both outputs take what they have no letters for, a µ in ASCII, and be there even if they were closed."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _flush() -> OSError | None:
    """What keeps standard output from being written, if something does."""
    try:
        sys.stdout.flush()
    except OSError as error:
        return error
    return None


def _leave_unprinted(fault: OSError) -> None:
    """End the program, as nobody can read what it prints: the reader of a pipe has left, a log's disk is full."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else the interpreter complains of it once more at its end
    if isinstance(fault, BrokenPipeError):
        sys.exit(PIPE_CLOSED)
    with contextlib.suppress(OSError):
        told = f"{fault.strerror}; what was recorded is safe, and a sweep goes on with --resume"
        sys.stderr.write(f"gpubench: can't write standard output: {told}\n")
    sys.exit(CANNOT_WRITE)
