"""The catalogue of workloads, from a child process, and remembered for as long as its files are unchanged."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from gpubench.catalogue import IMPORTING, PROBLEM, Catalogue, dump_catalogue, parse_catalogue
from gpubench.errors import PluginError, WorkerError
from gpubench.machine import PACKAGE, hash_files
from gpubench.run.logs import read_tail

__all__ = ["load_catalogue"]

TIMEOUT_S = 120.0
SEARCHED_BYTES = 64 << 10
SHOWN_BYTES = 2000


def load_catalogue(plugins: Sequence[str] = (), timeout_s: float = TIMEOUT_S) -> Catalogue:
    """All workloads, with those of `plugins` (files or modules); PluginError if one of these can't be imported.

    Importing torch takes seconds, so the answer is kept under the user's cache folder and used again while every
    file that it was made from has the same content.
    """
    kept = _cache_file(plugins)
    catalogue = _read_cache(kept)
    if catalogue is None:
        with tempfile.TemporaryDirectory(prefix="gpubench-") as folder:
            catalogue = _ask_child(Path(folder), plugins, timeout_s)
        _write_cache(kept, catalogue)
    return catalogue


def _ask_child(folder: Path, plugins: Sequence[str], timeout_s: float) -> Catalogue:
    answer, printed = folder / "catalogue.json", folder / "printed.txt"
    status = _run_child(["-P", "-m", "gpubench.worker.catalogue", str(answer), *plugins], printed, timeout_s)
    if status == 0 and answer.is_file():
        return parse_catalogue(answer.read_bytes())
    if problem := _read_text(answer.with_suffix(PROBLEM)):
        raise PluginError(problem)
    late = f"still importing after {timeout_s:g} s; a plugin may only register"
    how = late if status is None else f"{_death(status)} during its import"
    said = read_tail(printed, SEARCHED_BYTES)
    if plugin := _read_text(answer.with_suffix(IMPORTING)):
        raise PluginError(f"plugin {plugin}: {how}{_place(plugin, said)}")
    raise WorkerError(f"gpubench's own workloads: {how}{_show(said)}")


def _run_child(arguments: Sequence[str], printed: Path, timeout_s: float) -> int | None:
    """The exit status of a Python process; None when it had to be ended. What it started ends with it.

    Its output goes to a file: a pipe would stay open for as long as a child of a plugin's holds it.
    """
    with printed.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            return process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.send_signal(signal.SIGUSR1)  # it writes where it hangs
                process.wait(0.3)
            return None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _read_text(path: Path) -> str:
    return path.read_text() if path.is_file() else ""


def _place(plugin: str, printed: str) -> str:
    """Where a plugin was when its process died or was ended: its innermost line of the stack that was printed."""
    found = re.search(rf'File "([^"]*{re.escape(Path(plugin).name)})", line (\d+)', printed)
    if found:
        return f" (at {found[1]}:{found[2]})"
    return _show(printed)


def _show(printed: str) -> str:
    return f"; it printed:\n{printed[-SHOWN_BYTES:]}" if printed else ""


def _death(status: int) -> str:
    if status >= 0:
        return f"ended its process with status {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"


def _cache_file(plugins: Sequence[str]) -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    entry_points = sorted(f"{e.name}={e.value}" for e in importlib.metadata.entry_points(group="gpubench.plugins"))
    parts = [sys.executable, str(PACKAGE), *plugins, *entry_points]
    if plugins or entry_points:
        search = os.environ.get("PYTHONPATH", "")
        parts.append(search)
        if not all(Path(place).is_absolute() for place in (*plugins, *(search.split(os.pathsep) if search else ()))):
            parts.append(str(Path.cwd()))  # the same name of a module may mean another file elsewhere
    # a new workload of our own is a file that no older catalogue knows of
    parts += sorted(path.name for path in (PACKAGE / "workloads").glob("*.py"))
    return base / "gpubench" / f"catalogue-{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:24]}.json"


def _read_cache(path: Path) -> Catalogue | None:
    try:
        catalogue = parse_catalogue(path.read_bytes())
    except (OSError, ValueError):
        return None
    return catalogue if hash_files(catalogue.files) == catalogue.files else None


def _write_cache(path: Path, catalogue: Catalogue) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_bytes(dump_catalogue(catalogue))
        temporary.replace(path)
    except OSError:
        # A read-only home only costs the time to ask again.
        return
