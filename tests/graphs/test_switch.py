"""`GPUBENCH_GRAPHS=off`: what would be captured runs eagerly, and nothing is captured behind its back."""

from __future__ import annotations

import pytest
import torch

from gpubench.errors import Unsupported
from gpubench.graphs.switch import forbid_captures
from gpubench.graphs.whole import capture_step
from gpubench.settings import GRAPHS


@pytest.fixture
def off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(GRAPHS, "off")


def test_a_step_that_would_be_captured_runs_whenever_it_is_called(off: None):
    calls: list[float] = []

    def step(x: torch.Tensor) -> torch.Tensor:
        calls.append(float(x.sum()))
        return x + 1

    captured = capture_step(step, torch.zeros(4))
    assert calls == [], "it isn't warmed up for a capture that never comes"
    assert captured(torch.ones(4)).tolist() == [2.0] * 4
    bound = captured.bind(torch.full((4,), 2.0))
    assert bound().tolist() == bound.eager().tolist() == [3.0] * 4
    captured.close()
    assert calls == [4.0, 8.0, 8.0]


def test_a_capture_by_other_means_is_refused_by_name(off: None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda.CUDAGraph, "capture_begin", torch.cuda.CUDAGraph.capture_begin)  # put back after
    forbid_captures()
    with pytest.raises(Unsupported, match=r"GPUBENCH_GRAPHS=off, and this captures a CUDA graph by itself"):
        torch.cuda.CUDAGraph.capture_begin(object(), pool=None)
