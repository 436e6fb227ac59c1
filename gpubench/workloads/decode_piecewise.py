"""The backend `piecewise` of decode_step: the step captured in pieces, cut at the operators that use the cache.

As serving engines run it: static pieces are replayed for the next larger bucket of token counts, and attention and
recurrence run eagerly between them. Its options are axes; what its captures cost is measured while it is set up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from torch import Tensor

import gpubench
from gpubench.graphs.piecewise.buckets import choose_buckets
from gpubench.graphs.piecewise.cuda import CudaGraphs
from gpubench.graphs.piecewise.start import measure_start, start_at_once, start_in_two_phases
from gpubench.graphs.piecewise.step import Arguments, Options, PiecewiseStep
from gpubench.graphs.piecewise.traces import Traces
from gpubench.graphs.switch import are_graphs_off
from gpubench.models.base import Attention, Cache, DecodeModel
from gpubench.registry import OwnMeasurement, Step
from gpubench.workloads.decode_step import next_tokens

__all__ = ["BoundPieces"]

SMALL_LENGTH = 128
"""Of the cache that the first of two phases captures with."""


class BoundPieces:
    """A step captured in pieces, with its tokens and its cache."""

    def __init__(self, pieces: PiecewiseStep, tokens: Tensor, cache: Any, measured: list[OwnMeasurement]) -> None:
        self._pieces, self._tokens, self._cache = pieces, tokens, cache
        self.measured = measured
        """What the captures cost, by bucket."""

    def __call__(self) -> Any:
        """Replay the pieces, with the operators between them."""
        return self._pieces(self._tokens, self._cache)

    def eager(self) -> Any:
        """Run the step without graphs, and uncut."""
        return self._pieces.eager(self._tokens, self._cache)


# `buckets` is a list of token counts, or a policy by name: exact, powers, engine.
@gpubench.get_workload("decode_step").backend("piecewise", requires=["cuda"])
def _(  # noqa: PLR0913 - options are axes
    decoder: DecodeModel,
    cache: Cache,
    tokens: Tensor,
    isl: int,
    attention: Attention = "torch",
    *,
    buckets: Any = "exact",
    out_buffers: Literal["owned", "per_call"] = "owned",
    pool: Literal["shared", "private"] = "shared",
    head: Literal["inside", "outside"] = "inside",
    start: Literal["at_once", "two_phases"] = "at_once",
    streams: Literal[1, 2] = 1,
) -> Step:
    options = Options(choose_buckets(buckets, len(tokens)), out_buffers, pool, head, streams)
    if attention == "flashinfer" and len(options.buckets) > 1:
        raise gpubench.Unsupported(
            f"piecewise: {len(options.buckets)} buckets with attention: flashinfer, whose plan is made on the host "
            "for one batch: take buckets: exact, or attention: triton"
        )
    step: Callable[..., Any] = lambda tokens, cache: next_tokens(decoder, cache, tokens)  # noqa: E731
    if are_graphs_off():
        return lambda: step(tokens, cache)
    beside = _shared_experts(decoder) if streams == 2 else []
    head_weight = getattr(decoder, "head", None)
    traces = gpubench.shared("traces", (), lambda: Traces(step))
    pieces = PiecewiseStep(traces, options, CudaGraphs(), head=head_weight, beside=beside, name="decode_step")

    def arguments(length: int) -> Arguments:
        """Of the cell's own step, and with caches of their own of the smaller buckets'."""

        def of(bucket: int) -> tuple[Tensor, Any]:
            rows = min(bucket, len(tokens))
            own = rows == len(tokens) and length == isl
            return (tokens, cache) if own else (tokens[:rows], decoder.make_cache(rows, length))

        return of

    begun = (
        start_at_once(pieces, lambda: arguments(isl))
        if start == "at_once"
        else start_in_two_phases(pieces, lambda: arguments(min(isl, SMALL_LENGTH)), lambda: arguments(isl))
    )
    cache.restore()
    return BoundPieces(pieces, tokens, cache, measure_start(begun))


def _shared_experts(decoder: Any) -> list[Tensor]:
    """The weights of experts that all tokens go through: what can run beside the routed ones."""
    found = [value for name, value in decoder.named_parameters() if "shared" in name]
    if not found:
        raise gpubench.Unsupported("streams: 2 is for shared experts beside routed ones, and this model has none")
    return found
