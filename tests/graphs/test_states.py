"""Steps in pieces, asked for in any order: batches of every size, several states, resets and moves in between."""

from __future__ import annotations

import copy

import pytest
import torch
from graphs.fake_graphs import FakeGraphs
from graphs.toy import ROWS, Toy, make_state, some, tokens_of
from hypothesis import given, settings
from hypothesis import strategies as st

from gpubench.errors import StaleGraphError
from gpubench.graphs.piecewise.step import Options, PiecewiseStep
from gpubench.graphs.piecewise.traces import Traces

TRACES = Traces(Toy())
"""One step's, for all that cut it."""
OPTIONS = st.fixed_dictionaries(
    {
        "out_buffers": st.sampled_from(["owned", "per_call"]),
        "pool": st.sampled_from(["shared", "private"]),
        "head": st.sampled_from(["inside", "outside"]),
    }
)


@settings(max_examples=25, deadline=None)
@given(
    options=OPTIONS,
    smaller=st.sets(st.integers(1, ROWS - 1), max_size=3),
    script=st.lists(
        st.tuples(
            st.sampled_from(["step"] * 4 + ["capture", "reset", "move"]), st.integers(0, 1), st.integers(1, ROWS)
        ),
        min_size=4,
        max_size=20,
    ),
)
def test_of_several_states_only_the_one_that_was_captured_where_it_is_can_be_stepped(options, smaller, script):
    step, states = TRACES.step, [make_state(), make_state()]
    pieces = PiecewiseStep(TRACES, Options((*sorted(smaller), ROWS), **options), FakeGraphs(), head=step.head)
    captured = None
    for what, which, count in [("capture", 0, 1), *script]:
        state, tokens = states[which], tokens_of(count)
        twin = copy.deepcopy(state)
        if what == "reset":
            pieces.reset()
            captured = None
        elif what == "move":
            state.memory = state.memory.clone()
        elif what == "capture":
            pieces.warm_up(some(state))
            pieces.capture(some(state))
            state.memory.copy_(twin.memory)
            captured = state.memory.data_ptr()
        elif captured == state.memory.data_ptr():
            torch.testing.assert_close(pieces(tokens, state), step(tokens, twin), rtol=1e-4, atol=1e-4)
        else:
            with pytest.raises(StaleGraphError if captured else RuntimeError):
                pieces(tokens, state)
        torch.testing.assert_close(state.memory, twin.memory)
