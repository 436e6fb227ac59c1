"""Exact top-k by kernel time: ours, torch's and flashinfer's on the same scores, as a Markdown table.

    python benchmarks/topk_peers.py

The GPU's own timestamps by CUPTI, through torch.profiler: medians of the sum of a call's kernels, with the inputs in
the L2 (hot) and with the L2 overwritten before each call (cold). Every selection is checked before it is timed.
"""

from __future__ import annotations

import functools
import statistics
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from gpubench.kernels.topk_gvr import make_gvr_scratch, topk_gvr
from gpubench.kernels.topk_radix import make_radix_scratch, topk_radix
from gpubench.registry import get_workload
from gpubench.workloads import load_builtin
from gpubench.workloads.indexer_topk import describe_difference

REPETITIONS = 12
FLUSH_BYTES = 160 << 20


@dataclass(frozen=True)
class Case:
    """A line of the table: arguments of the workload indexer_topk."""

    rows: int
    columns: int
    k: int
    distribution: str
    dtype: str = "float32"
    hit_rate: float | None = None


CASES = (
    Case(1, 7530, 512, "flash_moderate"),
    Case(1, 14474, 512, "flash_moderate"),
    Case(1, 25110, 512, "flash_moderate"),
    Case(1, 7530, 1024, "pro_moderate"),
    Case(1, 14474, 1024, "pro_moderate"),
    Case(1, 25110, 1024, "pro_moderate"),
    Case(1, 25110, 512, "flash_moderate", "bfloat16"),
    Case(8, 14474, 512, "flash_moderate"),
    Case(32, 25110, 2048, "flash_moderate"),
    Case(32, 131072, 2048, "heavy_tail"),
    Case(1, 131072, 2048, "heavy_tail"),
    Case(256, 25110, 512, "flash_moderate"),
    Case(1, 7530, 512, "flash_moderate", hit_rate=0),
    Case(1, 25110, 512, "flash_moderate", hit_rate=0),
    Case(32, 131072, 2048, "heavy_tail", hit_rate=0),
    Case(1, 25110, 512, "ties"),
    Case(1, 25110, 512, "constant"),
)


def make_calls(x: Tensor, valid: Tensor, hint: Tensor, k: int) -> dict[str, Callable[[], object]]:
    """What is timed, by name; each selection of ours has been checked."""
    calls: dict[str, Callable[[], object]] = {}
    for name in ("gvr", "radix"):
        values, indices = x.new_empty(len(x), k), x.new_empty(len(x), k, dtype=torch.int32)
        if name == "gvr":
            gvr = make_gvr_scratch(*x.shape, k)
            call = functools.partial(topk_gvr, x, valid, hint, values, indices, gvr.candidates, gvr.places)
        else:
            radix = make_radix_scratch(*x.shape, k)
            call = functools.partial(topk_radix, x, valid, values, indices, radix.candidates, radix.places)
        call()
        difference = describe_difference(x, valid, values, indices, x.float().topk(k).values)
        assert difference is None, f"{name}: {difference}"
        calls[name] = call
    calls["torch"] = functools.partial(torch.topk, x, k, sorted=False)
    try:
        import flashinfer

        calls["flashinfer"] = functools.partial(flashinfer.top_k, x, k)
    except ImportError:
        print("flashinfer is not installed: its column is empty")
    return calls


def kernel_us(calls: dict[str, Callable[[], object]]) -> dict[str, tuple[float, float]]:
    """(hot, cold) by name: the median sum of a call's kernels. A fill of bytes parts the calls from one another."""
    flush = torch.empty(FLUSH_BYTES, dtype=torch.uint8)
    mark = flush[:64]
    for call in calls.values():
        call()
        call()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as recorded:
        for call in calls.values():
            for fill in (mark, flush):
                for _ in range(REPETITIONS):
                    fill.fill_(1)
                    call()
                torch.cuda.synchronize()
    events = [event for event in recorded.profiler.kineto_results.events() if "CUDA" in str(event.device_type())]
    sums: list[float] = []
    for event in sorted(events, key=lambda event: event.start_ns()):
        if "FillFunctor<unsigned char>" in event.name():
            sums.append(0.0)
        elif sums:
            sums[-1] += event.duration_ns() / 1e3
    medians = [statistics.median(sums[start : start + REPETITIONS]) for start in range(0, len(sums), REPETITIONS)]
    return {name: (medians[2 * place], medians[2 * place + 1]) for place, name in enumerate(calls)}


def main() -> None:
    """Print the table."""
    warnings.simplefilter("ignore")  # the profiler's, of its own cycles
    load_builtin()
    torch.set_default_device("cuda")
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}; µs hot / cold\n")
    print("| rows | columns | k | scores | hit rate | gvr | radix | torch | flashinfer | radix / gvr |")
    print("| ---: | ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for case in CASES:
        torch.manual_seed(0)
        made = get_workload("indexer_topk").make(**vars(case))
        times = kernel_us(make_calls(made["x"][0], made["valid"], made["hint"], case.k))
        cells = [
            f"{times[name][0]:.1f} / {times[name][1]:.1f}" if name in times else "–"
            for name in ("gvr", "radix", "torch", "flashinfer")
        ]
        scores = case.distribution + ("" if case.dtype == "float32" else f", {case.dtype}")
        hits = "its own" if case.hit_rate is None else f"{case.hit_rate:g}"
        ratio = times["radix"][0] / times["gvr"][0]
        print(f"| {case.rows} | {case.columns} | {case.k} | {scores} | {hits} | {' | '.join(cells)} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
