"""The capture of one bucket: its pieces one after the other, with the memory that operators between them write to.

A value lives until the last part that reads it has been captured, then its memory is the pool's again: parts are
replayed in the order of their capture, so that a later piece, or a smaller bucket, may use it. What the program needs
to know of the value is its address.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor, fx
from torch.utils import _pytree as pytree

from gpubench.graphs.piecewise.entry import Call, Entry, OutputInfo, call_piece
from gpubench.graphs.piecewise.operators import Operator
from gpubench.graphs.piecewise.seam import Graph, Graphs
from gpubench.graphs.piecewise.split import Piece, Plan
from gpubench.graphs.places import Places

__all__ = ["BucketCapture"]

Values = dict[fx.Node, Any]


class BucketCapture:
    """Captures a step for one number of tokens."""

    def __init__(
        self, plan: Plan, bucket: int, out_buffers: Literal["owned", "per_call"], graphs: Graphs, pool: Any
    ) -> None:
        self.plan, self.bucket = plan, bucket
        self._is_owned = out_buffers == "owned"
        self._graphs = graphs
        self._pool = pool
        self._captured: list[Graph] = []

    def run(
        self,
        values: Values,
        copies: Mapping[fx.Node, Tensor],
        learned: Mapping[fx.Node, OutputInfo],
        places: Places,
    ) -> Entry:
        """`values` are those that no piece makes, `copies` what pieces read of the state, `learned` is from warm-up;
        `places` are those of the state's tensors."""
        # What the program sees: addresses. The state's tensors come with each step, and aren't kept.
        seen = {node: value for node, value in values.items() if node not in self.plan.live}
        held = {**values, **copies}  # what the next captures read: alive
        parts: list[Call | Graph] = []
        head: Piece | None = None
        for number, part in enumerate(self.plan.parts):
            if isinstance(part, Operator):
                parts.append(self._place_operator(part, seen, held, learned))
            elif part.is_captured:
                made = self._capture_piece(number, part, held, learned)
                held.update(made)
                seen.update(pytree.tree_map_only(Tensor, self._borrow, made))
                del made  # or it would live through the next capture
                if not self._captured[-1].is_empty:
                    parts.append(self._captured[-1])
            else:
                head = part
            for node in [node for node, last in self.plan.last_reader.items() if last == number]:
                held.pop(node, None)
        return Entry(self.bucket, self.plan, self._captured, parts, head, seen, places)

    def _borrow(self, value: Tensor) -> Tensor:
        return self._graphs.borrow(value, self._captured)

    def _capture_piece(self, number: int, piece: Piece, held: Values, learned: Mapping[fx.Node, OutputInfo]) -> Values:
        """The piece's results, and memory for what the operators right after it return."""

        def launch() -> Values:
            made = call_piece(piece, held)
            if self._is_owned:
                made.update((node, learned[node].allocate()) for node in self._returned_after(number))
            return made

        graph, made = self._graphs.capture(launch, self._pool)
        self._captured.append(graph)
        return made

    def _returned_after(self, number: int) -> list[fx.Node]:
        found = []
        for part in self.plan.parts[number + 1 :]:
            if not isinstance(part, Operator):
                break
            if part.returns:
                found.append(part.node)
        return found

    def _place_operator(
        self, operator: Operator, seen: Values, held: Values, learned: Mapping[fx.Node, OutputInfo]
    ) -> Call:
        """The operator's call, and in `seen` and `held` what the next piece reads in its outputs' place."""
        if operator.returns and operator.node not in seen:
            seen[operator.node] = held[operator.node] = learned[operator.node].allocate().zero_()
        homes: dict[int, Tensor] = {}
        if not self._is_owned:
            for place in operator.outputs:
                homes[place] = held[operator.arguments[place]].new_zeros(held[operator.arguments[place]].shape)
        call = Call(operator, self.plan, seen, homes)
        for place, home in homes.items():
            seen[operator.arguments[place]] = held[operator.arguments[place]] = home
        return call
