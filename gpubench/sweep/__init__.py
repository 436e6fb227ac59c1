"""YAML to cells: a sweep file is read, validated as written, changed by overlay and flags, and multiplied out.

    sweep = load_sweep(Path("configs/pareto.yaml"), overlay="cpu", overrides=["measure.trials=1"])
    grid = select(expand(sweep, catalogue), only=["backend=triton"])

scalars · document      YAML 1.2's values · a file as a tree that knows its lines
schema · overlay · load the keys and their types · overlays and `--set` · a path to a `Sweep`
plugins                 where a plugin's file is
predicates              which cells `exclude` and `--only` mean
arguments · plan        names and values against the catalogue
identity · expand       ids and keys · the product
select                  a part of a grid
"""

from __future__ import annotations

from gpubench.predicates import Predicate, PredicateError, parse_predicate
from gpubench.sweep.expand import Grid, expand
from gpubench.sweep.load import Sweep, load_sweep
from gpubench.sweep.plugins import find_plugins
from gpubench.sweep.select import select

__all__ = [
    "Grid",
    "Predicate",
    "PredicateError",
    "Sweep",
    "expand",
    "find_plugins",
    "load_sweep",
    "parse_predicate",
    "select",
]
