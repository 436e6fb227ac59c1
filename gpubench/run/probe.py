"""The catalogue of workloads, from a child process, and remembered for as long as its files are unchanged."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from gpubench.catalogue import Catalogue, dump_catalogue, parse_catalogue
from gpubench.errors import PluginError, WorkerError
from gpubench.machine import PACKAGE, hash_files

__all__ = ["load_catalogue"]

TIMEOUT_S = 120


def load_catalogue(plugins: Sequence[str] = (), timeout_s: float = TIMEOUT_S) -> Catalogue:
    """All workloads, with those of `plugins` (files or modules); PluginError if one of these can't be imported.

    Importing torch takes seconds, so the answer is kept under the user's cache folder and used again while every
    file that it was made from has the same content.
    """
    kept = _cache_file(plugins)
    catalogue = _read_cache(kept)
    if catalogue is None:
        catalogue = _ask_worker(plugins, timeout_s)
        _write_cache(kept, catalogue)
    return catalogue


def _ask_worker(plugins: Sequence[str], timeout_s: float) -> Catalogue:
    with tempfile.TemporaryDirectory(prefix="gpubench-") as folder:
        out = Path(folder) / "catalogue.json"
        command = [sys.executable, "-m", "gpubench.worker.catalogue", str(out), *plugins]
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=timeout_s,
                start_new_session=True,
                check=False,
            )
        except subprocess.TimeoutExpired:
            names = ", ".join(plugins) or "the built-in workloads"
            raise PluginError(f"{names}: still importing after {timeout_s:.0f} s; a plugin may only register") from None
        said = done.stderr.decode(errors="replace").strip()
        if done.returncode == PluginError.exit_code:
            raise PluginError(said.splitlines()[-1] if said else "a plugin can't be imported")
        if done.returncode != 0:
            names = f" while importing {', '.join(plugins)}" if plugins else ""
            raise (PluginError if plugins else WorkerError)(
                f"the catalogue's process ended with {done.returncode}{names}:\n{said[-2000:]}"
            )
        return parse_catalogue(out.read_bytes())


def _cache_file(plugins: Sequence[str]) -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    entry_points = sorted(f"{e.name}={e.value}" for e in importlib.metadata.entry_points(group="gpubench.plugins"))
    parts = [sys.executable, str(PACKAGE), *plugins, *entry_points]
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
