"""Which run a sweep writes to: a new one, or the one it was interrupted in, if nothing that matters has changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gpubench.errors import FingerprintMismatch, StoreError
from gpubench.store import RunHeader, StoredRun, list_runs, read_header, read_run

__all__ = ["differences", "find_resumable", "question", "question_hash"]

# What the figures depend on. A longer time limit or another plot asks the same question of the same cells.
QUESTION = ("workload", "axes", "params", "zip", "exclude", "include", "plugins", "measure", "check")


def question(resolved: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a resolved sweep that its figures depend on."""
    return {key: resolved.get(key) for key in QUESTION}


def question_hash(resolved: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(question(resolved), sort_keys=True).encode()).hexdigest()[:16]


def find_resumable(results: Path, header: RunHeader) -> tuple[StoredRun, list[str]]:
    """The newest run of the sweep's name that nothing has changed since; if there is none, the newest, and what has.

    StoreError when no run has that name.
    """
    newest: tuple[StoredRun, list[str]] | None = None
    for path in reversed(list_runs(results)):
        if read_header(path).name != header.name:
            continue
        run = read_run(path)
        changed = differences(run.header, header)
        if not changed:
            return run, changed
        newest = newest or (run, changed)
    if newest is None:
        raise StoreError(f"{results}: no run of {header.name!r} to resume; start one without --resume")
    return newest


def differences(old: RunHeader, new: RunHeader) -> list[str]:
    """What has changed since a run was begun, each in words; empty when its figures and new ones belong together."""
    changed = list(_leaves(question(old.sweep), question(new.sweep), "sweep"))
    for name in {**old.fingerprint, **new.fingerprint}:
        before, after = old.fingerprint.get(name, ""), new.fingerprint.get(name, "")
        if name == "sweep" or before == after:
            continue
        if name == "code" or name.startswith("plugin "):  # hashes, which tell a reader nothing
            changed.append(f"{'gpubench itself' if name == 'code' else name} has changed")
        else:
            changed.append(f"{name}: {before or 'none'} → {after or 'none'}")
    known = {cell.key for cell in old.cells}
    strangers = [cell.cell_id for cell in new.cells if cell.key not in known]
    if strangers:
        more = f" and {len(strangers) - 3} more" if len(strangers) > 3 else ""
        changed.append(f"cells that the run doesn't have: {', '.join(strangers[:3])}{more}")
    return changed


def refuse(run: StoredRun, changed: list[str]) -> FingerprintMismatch:
    """The error that names every difference."""
    lines = "\n".join(f"  {line}" for line in changed)
    return FingerprintMismatch(
        f"{run.path}: can't be resumed, for its figures and new ones would not belong together:\n{lines}\n"
        "start a new run without --resume, or mix them on purpose with --resume --force (the run will say so)"
    )


def _leaves(before: Any, after: Any, key: str) -> Iterator[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        for name in sorted({*before, *after}):
            yield from _leaves(before.get(name), after.get(name), f"{key}.{name}")
    elif before != after and repr(before) != repr(after):  # a .nan is not even equal to itself
        yield f"{key}: {json.dumps(before)} → {json.dumps(after)}"
