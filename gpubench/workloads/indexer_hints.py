"""The selection that a decode step's first top-k starts from: like the one that the step before would have left.

A cache of random values has no step before. What stands in for it shares as much with this step's selection as captured
steps do with one another, by the same noise on the same scores as in gpubench.workloads.correlated_scores.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from gpubench.models.deepseek import DeepseekCache
from gpubench.workloads.correlated_scores import FITS, LIKE, make_hint

__all__ = ["hint_selections"]


def hint_selections(decoder: Any, cache: DeepseekCache, tokens: Tensor) -> None:
    """Let `cache` start, and restart, from hints for the step of `decoder` that takes `tokens`. Runs that step once.

    Where chance alone may hit as often as captured steps do, hints stay as they were: at random.
    """
    selection = cache.selection
    assert selection is not None, "a model without an indexer selects nothing"
    k, hit_rate = selection.selected.shape[2], FITS[LIKE].hit_rate
    chance = k / cache.length
    if chance + 4 * math.sqrt(chance * (1 - chance) / k) > hit_rate:
        return

    def keep(layer: Any, _given: Any, _output: Any) -> None:
        scores = selection.scores[:, : cache.length]  # of the layer that has just run
        selection.start[layer.index].copy_(make_hint(scores, selection.lengths, k, hit_rate))

    hooks = [layer.register_forward_hook(keep) for layer in decoder.layers]
    try:
        decoder(tokens, cache)
    finally:
        for hook in hooks:
            hook.remove()
    cache.restore()
