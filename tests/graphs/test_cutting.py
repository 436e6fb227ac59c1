"""What a cut must not get wrong, and refuses where it can't be right: each of these once gave a wrong answer."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from graphs.fake_graphs import FakeGraphs
from graphs.toy import ROWS, WIDTH, make_state, ready, some, tokens_of
from torch import Tensor

from gpubench.errors import ArgumentError, StaleGraphError, Unsupported
from gpubench.graphs.bucketed import BucketedStep
from gpubench.graphs.piecewise.step import Options, PiecewiseStep
from gpubench.graphs.piecewise.traces import Traces

toy = torch.ops.toy
TABLE = torch.randn(32, WIDTH)
NOW = "Call reset, then warm_up and capture"


@dataclass
class Two:
    """A state of two tensors and a value."""

    memory: Tensor
    other: Tensor
    scale: Any = 2.0
    others: Any = (b"", object, None)


def two(**changes):
    return Two(**{"memory": torch.rand(ROWS, WIDTH), "other": torch.rand(WIDTH, WIDTH), **changes})


def grow(tokens, state):
    return toy.grow(TABLE[tokens], state.memory)[:, :WIDTH]


def changed_in_place(tokens, state):
    x, memory = grow(tokens, state), state.memory
    memory += 1
    return toy.read(x, memory)


def changed_by_out(tokens, state):
    x = grow(tokens, state)
    torch.mul(state.memory, 0.5, out=state.memory)
    return toy.read(x, state.memory)


def changed_in_some_rows(tokens, state):
    state.memory[: tokens.shape[0]].add_(1)
    return toy.read(TABLE[tokens], state.memory)


def operator_changes_some_rows(tokens, state):
    return toy.grow(TABLE[tokens], state.memory[: tokens.shape[0]])


def replaced(tokens, state):
    state.memory = state.memory * 0.5
    return toy.read(TABLE[tokens], state.memory)


def counted(tokens, state):
    state.scale += 1
    return toy.read(TABLE[tokens] * state.scale, state.memory)


def computed_early_for_an_operator(tokens, state):
    return toy.read(grow(tokens, state), state.memory * 2)


def computed_early_of_two(tokens, state):
    return grow(tokens, state) * (state.other[0] - state.memory[0])


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (changed_in_place, "iadd changes memory outside of an operator"),
        (changed_by_out, "mul changes memory outside of an operator"),
        (changed_in_some_rows, "add_ changes memory outside of an operator"),
        (
            operator_changes_some_rows,
            "grow 0 changes getitem.*, of as many rows as a bucket has; give it memory, and let",
        ),
        (replaced, "the step puts something else at memory of its state"),
        (counted, "the step puts something else at scale of its state"),
        (computed_early_for_an_operator, "read 0 reads memory outside of an operator, and grow 0 changes it"),
        (computed_early_of_two, "mul reads memory outside of an operator, and grow 0 changes it"),
        (
            lambda tokens, state: toy.read(TABLE[tokens], state.memory) / tokens.shape[0],
            "computes with the number",
        ),
        (lambda tokens, state: toy.pair(TABLE[tokens], state.memory)[0], "pair 0 returns tuple"),
        (lambda tokens, state: (grow(tokens, state), None), "the step returns None; wanted tensors that it computes"),
        (lambda tokens, state: (grow(tokens, state), tokens), "the step returns a tensor that it was given"),
        (
            lambda tokens, state: (grow(tokens, state), state.memory[1]),
            "returns getitem.*, which follows from its",
        ),
    ],
)
def test_a_step_whose_pieces_would_be_wrong_is_refused_and_its_state_is_left_as_it_was(step, said):
    state = two()
    before = copy.copy(state)
    with pytest.raises(Unsupported, match=f"piecewise: .*{said}"):
        PiecewiseStep(step, Options((2, 4)), FakeGraphs()).warm_up(some(state))
    assert (state.memory is before.memory, state.scale) == (True, before.scale)


def test_a_view_of_the_cache_is_read_as_operators_have_left_it():
    def step(tokens, state):
        return toy.read(grow(tokens, state), state.memory[1:])

    state = make_state()
    pieces, twin = ready(step, state, buckets=(4,)), copy.deepcopy(state)
    tokens = tokens_of(3)
    torch.testing.assert_close(pieces(tokens, state), step(tokens, twin))


def test_equal_copies_of_the_cache_are_one_unless_an_operator_changes_them():
    def step(tokens, state):
        ours, theirs = state.memory.clone(), state.memory.clone()
        return toy.read(toy.grow(TABLE[tokens], ours)[:, :WIDTH], theirs)

    state, tokens = make_state(), tokens_of(3)
    torch.testing.assert_close(ready(step, state, buckets=(4,))(tokens, state), step(tokens, state))


@pytest.mark.parametrize("head", ["inside", "outside"])
def test_an_operator_is_told_the_number_of_tokens_and_not_the_buckets(head):
    class Step:
        head = torch.randn(WIDTH, WIDTH)

        def __call__(self, tokens, state):
            count = tokens.shape[0]
            x = toy.scale(toy.scale(TABLE[tokens], state.memory, count), state.memory, 2 * count + 1)
            return x @ self.head, count

    step, state = Step(), make_state()
    pieces = ready(step, state, buckets=(2, 8), head=head)
    for count in (8, 3, 5, 2):
        tokens = tokens_of(count)
        torch.testing.assert_close(pieces(tokens, state), step(tokens, state))


def test_a_number_of_tokens_that_is_traced_by_itself_is_no_argument_of_an_operator():
    def step(tokens, state):
        count = tokens.shape[0]
        return toy.scale(TABLE[tokens] * (2 if count <= 2 else 3), state.memory, count)

    with pytest.raises(Unsupported, match="scale 0 is given a number that follows from that of the tokens, and 2 of"):
        ready(step, make_state(), buckets=(2, 8))


class Plain:
    """A state in which nobody finds a tensor."""

    def __init__(self) -> None:
        self.memory = torch.rand(ROWS, WIDTH)


def test_a_tensor_of_the_state_that_would_not_be_found_again_is_no_weight():
    with pytest.raises(Unsupported, match="uses 1_memory, a tensor that is in no field of a dataclass, no mapping"):
        ready(lambda tokens, state: toy.read(TABLE[tokens], state.memory), Plain())


def uses_all(tokens, state):
    return toy.read(TABLE[tokens], state.memory) @ state.other * state.scale


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda state: {"other": state.other.t()}, r"other at 0x\w+ had the strides \[6, 1\]; it has \[1, 6\] now"),
        (lambda state: {"other": state.other.view(torch.int32)}, "was of torch.float32; it is of torch.int32 now"),
        (lambda state: {"other": None}, "other was a tensor; it is None now"),
        (lambda state: {"scale": 3.0}, "scale was 2.0; it is 3.0 now"),
        (lambda state: {"scale": 2}, "scale was 2.0; it is 2 now"),
        (lambda state: {"others": (b"", object, {3})}, r"others\[2\] was None; it is \{3\} now"),
        (lambda state: {"others": (state.other, object, None)}, r"others\[0\] was b''; it is a tensor now"),
    ],
)
@pytest.mark.parametrize("is_whole", [False, True])
def test_a_replay_is_refused_once_anything_is_not_as_it_was_captured(change, said, is_whole):
    state, tokens = two(), tokens_of(3)
    if is_whole:
        step = BucketedStep(lambda tokens, state: TABLE[tokens] @ state.other * state.scale, (4,), (0,), FakeGraphs())
        step.capture(some(state))
    else:
        step = ready(uses_all, state, buckets=(4,))
    step(tokens, state)
    vars(state).update(change(state))
    with pytest.raises(StaleGraphError, match=f"the graphs of bucket 4 were captured when .*{said}. {NOW}"):
        step(tokens, state)


def test_an_equal_view_in_a_tensors_place_is_that_tensor():
    state, tokens = two(), tokens_of(3)
    pieces = ready(uses_all, state, buckets=(4,))
    state.other = state.other.view(WIDTH, WIDTH)
    torch.testing.assert_close(pieces(tokens, state), uses_all(tokens, state))


def reads_both(tokens, state):
    return toy.read(grow(tokens, state), state.other)


def test_tensors_of_one_memory_are_traced_as_such_and_refused_once_they_part():
    traces, shared = Traces(reads_both), torch.rand(ROWS, WIDTH)
    for state in (two(memory=shared, other=shared), two(other=torch.rand(ROWS, WIDTH))):
        pieces, twin, tokens = ready(traces, state, buckets=(4,)), copy.deepcopy(state), tokens_of(3)
        torch.testing.assert_close(pieces(tokens, state), reads_both(tokens, twin))
    tied = two(memory=shared, other=shared)
    pieces = ready(reads_both, tied, buckets=(4,))
    tied.other = shared.clone()
    with pytest.raises(StaleGraphError, match="other was at "):
        pieces(tokens_of(3), tied)


OVERLAPS = {
    "some rows": lambda base: {"memory": base[:ROWS], "other": base[4 : 4 + ROWS]},
    "within": lambda base: {"memory": base, "other": base[4 : 4 + ROWS]},
    "every second row": lambda base: {"memory": base[::2], "other": base[1::2]},
    "other bounds": lambda base: {
        "memory": base[:ROWS],
        "other": base.view(-1)[3 : 3 + ROWS * WIDTH].view(ROWS, WIDTH),
    },
}
"""Tensors of a state that are views of one memory."""


def changes_both(tokens, state):
    both = toy.grow(grow(tokens, state), state.other)
    return toy.read(both[:, WIDTH:], state.memory)


@pytest.mark.parametrize("share", OVERLAPS.values(), ids=OVERLAPS)
def test_views_of_one_another_in_a_state_are_read_as_the_operators_have_left_them(share):
    base, traces = torch.rand(2 * ROWS, WIDTH), Traces(changes_both)
    ready(traces, two(other=torch.rand(ROWS, WIDTH)), buckets=(2, 8))  # a trace of tensors that share nothing
    state, before = two(**share(base)), base.clone()
    pieces = ready(traces, state, buckets=(2, 8))
    base.copy_(before)
    for count in (8, 1, 5, 2):
        twin, tokens = base.clone(), tokens_of(count)
        torch.testing.assert_close(pieces(tokens, state), changes_both(tokens, two(**share(twin))))
        torch.testing.assert_close(base, twin)
    outside = Traces(lambda tokens, state: grow(tokens, state) @ state.other[:WIDTH])
    ready(outside, two(), buckets=(4,))
    with pytest.raises(Unsupported, match="reads other outside of an operator, and grow 0 changes it"):
        ready(outside, state, buckets=(4,))


def test_a_step_that_reads_a_value_of_its_state_is_traced_for_each():
    traces = Traces(uses_all)
    for scale in (2.0, 3.0, 5.0):
        state, tokens = two(scale=scale), tokens_of(3)
        torch.testing.assert_close(ready(traces, state, buckets=(4,))(tokens, state), uses_all(tokens, state))


def test_a_bucket_is_captured_with_a_state_like_the_one_it_was_warmed_up_with():
    pieces = PiecewiseStep(uses_all, Options((4,)), FakeGraphs())
    pieces.warm_up(some(two()))
    with pytest.raises(ArgumentError, match="bucket 4 was warmed up with a state of other sizes or values"):
        pieces.capture(some(two(scale=3.0)))


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        (torch.rand(3, 1), r"argument 1 is \[3, 1\] of torch.float32; captured was \[3, 6\] of torch.float32"),
        (torch.rand(1, WIDTH), r"argument 1 is \[1, 6\] of"),
        (torch.rand(3, WIDTH).double(), r"argument 1 is \[3, 6\] of torch.float64"),
    ],
)
def test_an_argument_of_another_shape_or_dtype_is_neither_spread_nor_converted(weights, said):
    def step(tokens, weights, state):
        return toy.read(TABLE[tokens] * weights.sum(dim=1, keepdim=True), state.memory)

    state = make_state()
    arguments = lambda bucket: (tokens_of(bucket), torch.rand(bucket, WIDTH), state)  # noqa: E731
    pieces = PiecewiseStep(step, Options((4,)), FakeGraphs())
    pieces.warm_up(arguments)
    pieces.capture(arguments)
    with pytest.raises(ArgumentError, match=f"step: {said}"):
        pieces(tokens_of(3), weights, state)
