"""Verdicts held against samples of an H200: no false alarms, and a slowdown of five percent is found.

The full study, with its tables, is benchmarks/compare_resampling.py.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from gpubench.analysis.verdicts import Verdict

STUDY = Path(__file__).parents[2] / "benchmarks" / "compare_resampling.py"
REPEATS = 30


@pytest.fixture(scope="module")
def study() -> ModuleType:
    spec = importlib.util.spec_from_file_location(STUDY.stem, STUDY)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[STUDY.stem] = module  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def samples(study: ModuleType) -> list:
    return study.read_samples()


@pytest.mark.parametrize("cut", ["halves", "redraw"])
def test_parts_of_one_run_are_neither_faster_nor_slower_than_each_other(study, samples, cut: str) -> None:
    generator = np.random.default_rng(1)
    told = [v for _ in range(REPEATS) for v in study.verdicts(samples, getattr(study, cut), generator)]
    alarms = sum(verdict in (Verdict.FASTER, Verdict.SLOWER) for verdict in told)
    assert len(told) == 207 * REPEATS
    assert alarms / len(told) < 1 / 200
    assert told.count(Verdict.SAME) > 1000, "a verdict that is never given raises no false alarm either"


def test_a_slowdown_of_five_percent_is_found_where_samples_are_known_to_two(study, samples) -> None:
    quiet = [one for one, share in zip(samples, study.noise(samples), strict=True) if share < 0.02]
    assert len(quiet) > 0.9 * len(samples), "or the claim would be about the easy cells alone"
    generator = np.random.default_rng(2)
    told = [v for _ in range(REPEATS) for v in study.verdicts(quiet, study.redraw, generator, 1.05)]
    assert told.count(Verdict.SLOWER) / len(told) > 0.95
    assert Verdict.FASTER not in told


def test_noise_that_hides_a_slowdown_is_called_unclear(study, samples) -> None:
    loud = [one for one, share in zip(samples, study.noise(samples), strict=True) if share > 0.05]
    assert loud
    told = [v for _ in range(REPEATS) for v in study.verdicts(loud, study.redraw, np.random.default_rng(3), 1.05)]
    assert set(told) <= {Verdict.UNCLEAR, Verdict.SLOWER}
