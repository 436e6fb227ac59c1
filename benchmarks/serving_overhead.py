"""What the closed loop itself takes of an iteration, with an engine that takes no time.

    python benchmarks/serving_overhead.py [--users N …]

The engine hands out the same tokens at once, so that an iteration is the loop's own work: the scheduler, positions to
the device, tokens back. It is told per iteration, and as a share of a decode step of 10 ms. Half of the requests are
short, so that users come and go all the time. Without a GPU the copies are from memory to memory.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from torch import Tensor

from gpubench.serving.loop import serve
from gpubench.serving.requests import Lengths, make_prompts
from gpubench.serving.scheduler import Window

STEP_S = 0.010
VOCABULARY = 128_256


class NoEngine:
    """Answers at once."""

    def __init__(self, slots: int) -> None:
        self._tokens = torch.zeros(slots, dtype=torch.int64)

    def clear(self, slot: int) -> None:
        pass

    def prefill(self, tokens: Tensor, slot: int, first: int, *, is_last: bool) -> Tensor | None:
        return self._tokens[:1] if is_last else None

    def decode(self, tokens: Tensor, positions: Tensor) -> Tensor:
        return self._tokens[: len(tokens)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, nargs="+", default=[1, 64, 256, 1024])
    parser.add_argument("--osl", type=int, default=256)
    asked = parser.parse_args()
    if torch.cuda.is_available():
        torch.set_default_device("cuda")
    print(f"{'users':>6} {'iterations':>10} {'median':>10} {'p99':>10}   of a step of {STEP_S * 1e3:g} ms")
    for users in asked.users:
        rng = np.random.default_rng(0)
        shape = (users, 4)
        osl = np.where(rng.random(shape) < 0.5, asked.osl // 4, asked.osl)
        lengths = Lengths(np.full(shape, 512), osl)
        served = serve(NoEngine(users), lengths, make_prompts(lengths, VOCABULARY), prefill_chunk=1024)
        window = Window.of(served.progress, 1)
        assert window is not None, "each user has four requests"
        median, slow = np.quantile(served.own[window.begin : window.end], [0.5, 0.99])
        told = f"{users:>6} {window.end - window.begin:>10,} {median * 1e6:>7.1f} µs {slow * 1e6:>7.1f} µs"
        print(f"{told}   {median / STEP_S:.2%}")


if __name__ == "__main__":
    main()
