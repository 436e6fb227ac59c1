"""The command line: the only part of gpubench that prints."""

from __future__ import annotations

import sys

__all__ = ["main"]

DEFECT = 70


def main() -> None:
    """Run the program and end it with the exit code that `gpubench --help` promises."""
    from gpubench.cli.app import app
    from gpubench.errors import GpubenchError

    try:
        app()
    except GpubenchError as error:
        sys.stderr.write(f"gpubench: {error}\n")
        sys.exit(error.exit_code)
    except Exception:
        import traceback

        traceback.print_exc()
        sys.stderr.write("gpubench: this is a defect of gpubench itself; what was recorded is safe\n")
        sys.exit(DEFECT)
