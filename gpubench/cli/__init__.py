"""The command line: the only part of gpubench that prints."""

from __future__ import annotations

import os
import sys

__all__ = ["main"]

DEFECT = 70

PIPE_CLOSED = 141
"""128 + SIGPIPE, what a shell says of a program whose reader left: 1 would mean a regression, 0 that all was done."""


def main() -> None:
    """Run the program and end it with the exit code that `gpubench --help` promises."""
    from gpubench.cli.app import app
    from gpubench.errors import GpubenchError

    try:
        app()
    except SystemExit as end:
        # Typer and rich each end with 1 on a pipe that closed early, as if they had been asked to.
        if isinstance(end.__context__, BrokenPipeError) or not _can_flush():
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else the interpreter complains of it once more at its end
            sys.exit(PIPE_CLOSED)
        raise
    except GpubenchError as error:
        sys.stderr.write(f"gpubench: {error}\n")
        sys.exit(error.exit_code)
    except Exception:
        import traceback

        traceback.print_exc()
        sys.stderr.write("gpubench: this is a defect of gpubench itself; what was recorded is safe\n")
        sys.exit(DEFECT)


def _can_flush() -> bool:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        return False
    return True
