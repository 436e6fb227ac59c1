"""A closed loop: so many users, each of whom sends the next request when the last one is answered.

Prompts are prefilled in chunks and answers decoded in one batch, as serving engines do it; see `gpubench.serving`. The
workload measures itself: what each request waited, from the users' side, in the window in which all of them are past
their warm-up and none has sent its last. Then some of the answers are held against what their requests get alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import gpubench
from gpubench.errors import ArgumentError
from gpubench.graphs.piecewise.buckets import choose_buckets
from gpubench.graphs.piecewise.cuda import CudaGraphs
from gpubench.graphs.piecewise.step import Options
from gpubench.models.base import Attention, ServingModel, Slots
from gpubench.models.presets import Preset
from gpubench.models.variant import Variant
from gpubench.records import CheckResult
from gpubench.registry import OwnMeasurement, Step
from gpubench.serving.alone import check_alone
from gpubench.serving.engine import EagerEngine, Engine, GraphEngine, PiecewiseEngine, decode_buckets
from gpubench.serving.latencies import measure, steady_requests, write_requests
from gpubench.serving.loop import Served, serve
from gpubench.serving.requests import Lengths, Prompts, Wanted, make_prompts, parse_wanted
from gpubench.serving.scheduler import Window, find_window
from gpubench.workloads.decode_step import logits_tolerance
from gpubench.workloads.dtypes import FloatType, itemsize, torch_dtype
from gpubench.workloads.sizes import check_sizes, tell_misfit

__all__ = ["REQUESTS", "ServingStep", "Traffic"]

REQUESTS = "requests.jsonl"
"""In the cell's own folder: a line per request, run after run."""
CHECKED = 4
"""Requests of the window that are held against what they get alone."""
MIN_SAMPLES = 6
"""Requests from which on a median has an interval."""
_COMPARED_BYTES = 12
"""Of memory per logit of a checked answer, for a moment: in float32, and what is worked out from them."""

# All that says which model it is: cells in which it is the same share its weights.
_MODEL = ("model", "layers", "dtype", "attention", "shape")


@dataclass(frozen=True)
class Traffic:
    """What users ask for, and the window in which they are listened to."""

    lengths: Lengths
    prompts: Prompts
    prefill_chunk: int
    window: Window


@gpubench.workload("closed_loop", measures_itself=True, in_process=True, shares=_MODEL)
def closed_loop(  # noqa: PLR0913, PLR0917 - the arguments are the axes
    concurrency: int,
    isl: Any = None,
    osl: Any = None,
    pairs: str | None = None,
    prefill_chunk: int = 1024,
    warmup_requests: int = 1,
    requests: int | None = None,
    model: Preset = "tiny-dense",
    layers: int | None = None,
    dtype: FloatType = "bfloat16",
    attention: Attention = "torch",
    shape: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """A closed loop: `concurrency` users, each of whom sends the next request when the last one is answered.

    `isl` and `osl`, tokens of a prompt and of its answer, are numbers or {uniform: [low, high]}; or `pairs` is a CSV
    file with the columns isl and osl. Prompts are prefilled in chunks of `prefill_chunk` tokens. Each user sends
    `warmup_requests` and then `requests` more (2, or with fewer than three users as many as make six): measured is from
    the last user's warm-up to the first one's end. `model` to `shape` are those of decode_step.
    """
    check_sizes(prefill_chunk=prefill_chunk, warmup_requests=warmup_requests)
    each = warmup_requests + _measured_requests(concurrency, requests)
    variant, wanted = Variant(model, layers, shape=shape), parse_wanted(isl, osl, pairs)
    _check_context(variant, wanted)
    lengths = wanted.draw(concurrency, each)
    window = find_window(lengths, prefill_chunk, warmup_requests)
    config = variant.config
    built: Any = gpubench.shared(
        "weights", (config, dtype, attention), lambda: config.build(torch_dtype(dtype), attention)
    )
    traffic = Traffic(lengths, make_prompts(lengths, config.vocabulary), prefill_chunk, window)
    return {"decoder": built, "slots": built.make_slots(concurrency, lengths.capacity), "traffic": traffic}


def _measured_requests(concurrency: int, requests: int | None) -> int:
    """Of each user, after its warm-up; ArgumentError for less than one, of users too."""
    check_sizes(concurrency=concurrency, requests=requests)
    return max(2, -(-MIN_SAMPLES // concurrency)) if requests is None else requests


def _check_context(variant: Variant, wanted: Wanted) -> None:
    isl, osl = wanted.longest
    total, context = isl + osl, variant.whole.context
    if total > context:
        where = f"{wanted.pairs.name}: " if wanted.pairs else ""
        raise ArgumentError(
            f"{where}isl {isl} + osl {osl}: {total} tokens are beyond the cache: "
            f"{variant.model} has positions for {context}"
        )


class ServingStep:
    """Each call is one run of the loop, from the users' first requests on."""

    def __init__(self, engine: Engine, traffic: Traffic, artifacts: str) -> None:
        self._engine, self._traffic, self._artifacts = engine, traffic, artifacts
        self.measured = engine.measured
        self.served: Served | None = None
        """The last run."""

    def __call__(self) -> list[OwnMeasurement]:
        traffic = self._traffic
        self.served = serve(self._engine, traffic.lengths, traffic.prompts, traffic.prefill_chunk)
        if self._artifacts:
            write_requests(Path(self._artifacts) / REQUESTS, self.served, traffic.window)
        return measure(self.served, traffic.window)


@closed_loop.backend("eager", baseline=True)
def _(decoder: ServingModel, slots: Slots, traffic: Traffic, artifacts: str) -> Step:
    return ServingStep(EagerEngine(decoder, slots), traffic, artifacts)


# `buckets`: a list of numbers of sequences, or a policy by name: exact, powers, engine.
@closed_loop.backend("graph", requires=["cuda"])
def _(decoder: ServingModel, slots: Slots, traffic: Traffic, artifacts: str, *, buckets: Any = "powers") -> Step:
    of_rows = decode_buckets(buckets, traffic.lengths.users)
    return ServingStep(GraphEngine(decoder, slots, of_rows, CudaGraphs()), traffic, artifacts)


# `prefill_buckets` likewise, of numbers of tokens of a chunk.
@closed_loop.backend("piecewise", requires=["cuda"])
def _(
    decoder: ServingModel,
    slots: Slots,
    traffic: Traffic,
    artifacts: str,
    *,
    buckets: Any = "powers",
    prefill_buckets: Any = "powers",
) -> Step:
    of_rows = Options(decode_buckets(buckets, traffic.lengths.users))
    longest = min(traffic.prefill_chunk, int(traffic.lengths.isl.max()))
    of_chunks = choose_buckets(prefill_buckets, longest, "prefill_buckets")
    return ServingStep(PiecewiseEngine(decoder, slots, of_rows, of_chunks, CudaGraphs()), traffic, artifacts)


@closed_loop.check
def _(step: ServingStep, decoder: ServingModel, traffic: Traffic, model: str, dtype: FloatType) -> CheckResult:
    """Some requests of the window, spread over it, each alone."""
    assert step.served is not None, "the step has been run"
    steady = steady_requests(step.served, traffic.window)
    chosen = steady[np.unique(np.linspace(0, len(steady) - 1, CHECKED).round().astype(int))]
    tolerance = logits_tolerance(model, torch_dtype(dtype))
    return check_alone(decoder, step.served, traffic.prompts, chosen, tolerance, of=len(steady))


@closed_loop.fits
def _(concurrency: int, prefill_chunk: int, dtype: FloatType, device_bytes: float, **given: Any) -> str | None:
    variant, size = Variant.of(given), itemsize(dtype)
    config, wanted = variant.config, parse_wanted(given["isl"], given["osl"], given["pairs"])
    _check_context(variant, wanted)  # on a larger device it would be no better
    sent = concurrency * (given["warmup_requests"] + _measured_requests(concurrency, given["requests"]))
    capacity = sum(wanted.longest)
    # In a file of pairs the longest prompt and the longest answer may be of two requests, and the longest of neither.
    longest_prompt, longest_answer = wanted.isl[1], wanted.osl[1]
    needs = {
        "weights": config.weight_bytes(size),
        f"cache of {concurrency} × {capacity} tokens": config.cache_bytes(concurrency, capacity, size),
        "activations": config.activation_bytes(max(concurrency, prefill_chunk), size),
        "prompts": 8 * sent * longest_prompt,
        "check": config.cache_bytes(1, capacity, size)
        + config.activation_bytes(capacity, size)
        + longest_answer * config.vocabulary * (size + _COMPARED_BYTES),
    }
    return tell_misfit(needs, device_bytes)


@closed_loop.label
def _(concurrency: int, warmup_requests: int, requests: int | None, **given: Any) -> dict[str, str]:
    file = parse_wanted(given["isl"], given["osl"], given["pairs"]).pairs
    return {
        **Variant.of(given).label(),
        "each_user": f"{warmup_requests} to warm up, then {_measured_requests(concurrency, requests)}",
        "window": "from the last user's last warm-up answer to the first user's last answer",
        **({"pairs": file.words} if file else {}),
    }
