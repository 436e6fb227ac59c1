"""From a path and flags to a sweep: read, validate as written, merge the overlay, apply `--set`, validate again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpubench.errors import ConfigError, Location
from gpubench.sweep.document import Document, read_document
from gpubench.sweep.overlay import apply_override, merge_overlay
from gpubench.sweep.plugins import find_plugins
from gpubench.sweep.problems import raise_problems
from gpubench.sweep.schema import SweepFile, validate

__all__ = ["Sweep", "load_sweep"]

_SECTIONS = frozenset(SweepFile.model_fields)


@dataclass(frozen=True)
class Sweep:
    """A sweep as it will run: overlay merged, `--set` applied, defaults filled in."""

    path: Path
    """The file, as the user named it."""
    spec: SweepFile
    """What it says, with plugins as absolute paths or module names."""
    document: Document

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def plugins(self) -> list[str]:
        """Absolute paths of files, and names of modules."""
        return self.spec.plugins

    @property
    def resolved(self) -> dict[str, Any]:
        """The sweep as plain JSON-able data; written to a file, it would load as the same sweep."""
        data = self.spec.model_dump(mode="json", exclude={"overlay"})
        return {key: value for key, value in data.items() if value is not None}

    def locate(self, *path: str | int) -> Location:
        """Where a key was written: `sweep.locate("axes", "backend", 1)`."""
        return self.document.locate(path)


def load_sweep(path: Path, *, overlay: str | None = None, overrides: Sequence[str] = ()) -> Sweep:
    """Load a sweep file, with the overlay of that name if the file has one, and `--set` flags (`key=value`) in order.

    `ConfigError` names the place of every problem: a line of the file, or the flag.
    """
    written = read_document(path)
    _validate_overlays(written, _validated(written, path), path)
    document = written if overlay is None else merge_overlay(written, overlay)
    for override in overrides:
        document = apply_override(document, override, _SECTIONS)
    spec = _validated(document, path)
    plugins = find_plugins(spec.plugins, path.parent, lambda index: document.locate(("plugins", index)))
    return Sweep(path, spec.model_copy(update={"plugins": plugins}), document)


def _validated(document: Document, path: Path) -> SweepFile:
    outcome = validate(document, default_name=path.stem)
    if isinstance(outcome, list):
        raise_problems(outcome)
        raise AssertionError("what can't be validated has a problem")
    return outcome


def _validate_overlays(document: Document, spec: SweepFile, path: Path) -> None:
    """Each overlay must fit the file, also those that this machine has no use for."""
    problems = []
    for name in spec.overlay:
        outcome = validate(merge_overlay(document, name), default_name=path.stem)
        for problem in outcome if isinstance(outcome, list) else []:
            inside = problem.location is not None and problem.location.key.startswith("overlay.")
            note = "" if inside else f" (with the overlay {name})"
            problems.append(ConfigError(problem.message + note, problem.location))
    raise_problems(problems)
