"""Running a command in the worker's own process group, with its output both logged and kept to be read."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO

from gpubench.errors import CommandFailed

__all__ = ["Output", "run_command"]

KEPT_BYTES = 4 << 20
"""Of each stream, the last so many are kept for reading; the cell's log has what its own limits leave."""
STDERR_TAIL_BYTES = 8 << 10
CLOSING_S = 2.0
"""How long a stream may stay open after the command has ended."""


@dataclass(frozen=True)
class Output:
    """What a command printed."""

    stdout: str
    stderr: str


def run_command(arguments: Sequence[str], shell: bool = False) -> Output:
    """Run a command to its end; CommandFailed if it can't start, exits with another status than 0, or is killed.

    It is in this process's group, so that whoever kills the group ends the command and its children too. `shell`
    says that `arguments` are a shell's, which reports a child's signal as 128 + its number.
    """
    try:
        process = subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
        )
    except OSError as error:
        raise CommandFailed(f"command: can't run {arguments[0]!r}: {error.strerror}") from error
    assert process.stdout is not None and process.stderr is not None, "both were asked for as pipes"
    stdout, stderr = _Copy(process.stdout, to=1), _Copy(process.stderr, to=2)
    try:
        status = process.wait()
    finally:
        process.kill()  # a no-op when it has ended; otherwise this step was interrupted
    # Read to the end first: that is where a failed command says why.
    is_closed = stdout.finish() & stderr.finish()
    if status != 0:
        raise _describe_failure(arguments, status, shell, stderr.text())
    if not is_closed:
        raise CommandFailed(
            f"{shlex.join(arguments)} ended, but a process that it left behind holds its output open; "
            "let the command wait for it or end it, for it would run beside the cells that follow"
        )
    return Output(stdout.text(), stderr.text())


class _Copy:
    """Copies a pipe to a file descriptor as it is written, and keeps the last part."""

    def __init__(self, pipe: IO[bytes], to: int) -> None:
        self._pipe = pipe
        self._to = to
        self._chunks: deque[bytes] = deque()
        self._kept = 0
        self._thread = threading.Thread(target=self._copy, daemon=True)
        self._thread.start()

    def _copy(self) -> None:
        with self._pipe:
            while chunk := self._pipe.read(1 << 16):
                self._keep(chunk)
                while chunk:
                    chunk = chunk[os.write(self._to, chunk) :]

    def _keep(self, chunk: bytes) -> None:
        self._chunks.append(chunk)
        self._kept += len(chunk)
        while self._kept - len(self._chunks[0]) >= KEPT_BYTES:
            self._kept -= len(self._chunks.popleft())

    def finish(self) -> bool:
        """Wait until the pipe is closed at its other end; False if it stays open."""
        self._thread.join(CLOSING_S)
        return not self._thread.is_alive()

    def text(self) -> str:
        return b"".join(self._chunks)[-KEPT_BYTES:].decode(errors="replace")


def _describe_failure(arguments: Sequence[str], status: int, shell: bool, stderr: str) -> CommandFailed:
    name = _signal_name(-status if status < 0 else status - 128 if shell else 0)
    how = f"killed by {name}" if name else f"exit status {status}"
    tail = stderr[-STDERR_TAIL_BYTES:]
    last_words = next((line.strip() for line in reversed(tail.splitlines()) if line.strip()), "nothing on stderr")
    return CommandFailed(f"{shlex.join(arguments)}: {how}: {last_words}", status, name, tail)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return ""
