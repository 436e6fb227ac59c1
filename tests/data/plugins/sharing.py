"""A workload whose cells share weights: what each cell got is a metric, so that a test can tell it from another's."""

import os
import random
import signal

import torch

import gpubench


@gpubench.workload("sharing", shares=("model",))
def sharing(model: str, batch: int = 1):
    """One product with weights that cells of the same model share."""
    weights = gpubench.shared("weights", model, lambda: torch.randn(64, 64))
    return {"weights": weights, "x": torch.randn(batch, 64), "drawn": random.random()}


@sharing.backend("plain", baseline=True)
def _(weights, x, drawn):
    return lambda: (x @ weights.T, drawn)


@sharing.backend("doubled")
def _(weights, x, drawn):
    twice = gpubench.shared("twice the weights", (), lambda: 2 * weights)
    return lambda: (x @ twice.T / 2, drawn)


@sharing.backend("raises")
def _(weights):
    raise RuntimeError("a fault in set-up")


@sharing.backend("dies")
def _(weights):
    return lambda: os.kill(os.getpid(), signal.SIGKILL)


@sharing.label
def _(model):
    return {"model": model}
