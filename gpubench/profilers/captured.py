"""Which range a replayed kernel was captured in.

A replay is one call, so that the range around it says nothing of what is inside. But each of its kernels stems from a
graph node, which may be a clone of a clone; the first of them was born while the graph was captured, and at that moment
the ranges of the captured code were open on the capturing thread.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from gpubench.profilers.export import NOTHING, Ints
from gpubench.profilers.figures import figures
from gpubench.profilers.membership import Intervals, Launched, Pairs, pair_codes, within
from gpubench.profilers.tables import CAPTURED_COLUMNS, figure_columns
from gpubench.profilers.trace import THREAD_BITS, GraphNodes

__all__ = ["captured_pairs", "captured_table"]


_MAX_CLONES = 64
_SUMMED = ("times", "span_ns", "busy_ns", "kernel_sum_ns", "gap_ns", "operations")


def captured_pairs(launched: Launched, nodes: GraphNodes, ranges: Intervals) -> Pairs:
    """Pairs of a range and an operation whose root node was created within it; none where captures went unrecorded."""
    replayed = np.flatnonzero(launched.node != NOTHING)
    birth = _births(launched.process[replayed], launched.node[replayed], nodes)
    replayed, birth = replayed[birth >= 0], birth[birth >= 0]

    by_birth = np.lexsort((nodes.start[birth], nodes.thread[birth]))
    replayed, birth = replayed[by_birth], birth[by_birth]
    pairs = within(ranges, Intervals(nodes.thread[birth], nodes.start[birth], nodes.start[birth]))
    item = replayed[pairs.item]
    order = np.lexsort((item, pairs.group))
    return Pairs(pairs.group[order], item[order])


def captured_table(
    members: Pairs, captured: Pairs, launched: Launched, ranges: pd.DataFrame, row: Ints
) -> pd.DataFrame:
    """What each range replayed, by the name of the range in which it was captured: `CAPTURED_COLUMNS`.

    `ranges` has a line per range, the open ones too, and `row` the number that each has among the closed ones.
    """
    outermost = ~ranges["recursive"].to_numpy()[captured.group]
    here = pd.DataFrame({"item": members.item, "range": members.group})[np.isin(members.item, captured.item)]
    there = pd.DataFrame({"item": captured.item, "captured": captured.group})[outermost]
    joined = here.merge(there, on="item").sort_values(["range", "captured", "item"])
    code = pair_codes(joined["range"].to_numpy(np.int64), joined["captured"].to_numpy(np.int64))
    first = np.flatnonzero(np.diff(code, prepend=-1))
    found = figures(Pairs(code, joined["item"].to_numpy(np.int64)), launched)

    names = ranges["range"].to_numpy()
    replay = joined["range"].to_numpy(np.int64)[first]
    lines = pd.DataFrame(figure_columns(found, len(first))).assign(
        range=names[replay],
        captured=names[joined["captured"].to_numpy(np.int64)[first]],
        instance=row[replay],
        times=1,
    )
    summed = lines.groupby(["instance", "range", "captured"], sort=False).agg(
        {"start_ns": "min", **dict.fromkeys(_SUMMED, "sum")}
    )
    return summed.reset_index()[list(CAPTURED_COLUMNS)]


def _births(process: Ints, node: Ints, nodes: GraphNodes) -> Ints:
    """The row in `nodes` where the root of each node was created, -1 if no such row was recorded."""
    owner = nodes.thread >> THREAD_BITS
    codes = pair_codes(np.concatenate([owner, owner, process]), np.concatenate([nodes.node, nodes.original, node]))
    created, original, wanted = np.split(codes, [len(owner), 2 * len(owner)])

    parent = np.arange(codes.max(initial=-1) + 1)
    is_clone = nodes.original != NOTHING
    parent[created[is_clone]] = original[is_clone]
    for _ in range(_MAX_CLONES.bit_length()):  # each step doubles the way up
        parent = parent[parent]

    first_row = np.full(len(parent), -1)
    latest_first = np.argsort(-nodes.start, kind="stable")
    first_row[created[latest_first]] = latest_first  # the earliest is written last and stays
    return first_row[parent[wanted]]
