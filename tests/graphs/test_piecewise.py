"""Steps captured in pieces, over memory that is recycled and poisoned; each rule by the fault that it prevents."""

from __future__ import annotations

import copy
import gc
import random
import weakref
from dataclasses import replace

import pytest
import torch
from graphs.fake_graphs import FakeGraphs
from graphs.toy import ROWS, SEEN, WIDTH, State, Toy, make_state, ready, some, tokens_of

from gpubench.errors import ArgumentError, StaleGraphError, Unsupported
from gpubench.graphs.bucketed import BucketedStep
from gpubench.graphs.piecewise import trace
from gpubench.graphs.piecewise.operators import Operator
from gpubench.graphs.piecewise.split import Piece
from gpubench.graphs.piecewise.start import start_in_two_phases
from gpubench.graphs.piecewise.step import Options, PiecewiseStep
from gpubench.graphs.piecewise.traces import Traces
from gpubench.models.dense import DenseCache, DenseModel
from gpubench.models.presets import PRESETS
from gpubench.workloads.decode_step import next_tokens

EVERY_WAY = [
    {"out_buffers": out_buffers, "pool": pool, "head": head}
    for out_buffers in ("owned", "per_call")
    for pool in ("shared", "private")
    for head in ("inside", "outside")
]


@pytest.mark.parametrize("options", EVERY_WAY, ids=lambda options: "-".join(options.values()))
def test_pieces_compute_what_the_step_does_whatever_lies_in_the_padding(options):
    toy, state = Toy(), make_state()
    twin = copy.deepcopy(state)
    pieces = ready(toy, state, **options)
    for count in (8, 1, 3, 4, 2, 7, 5, 1):
        tokens = tokens_of(count)
        torch.testing.assert_close(pieces(tokens, state), toy(tokens, twin))
        torch.testing.assert_close(state.memory, twin.memory)


def first(cache: DenseCache, count: int) -> DenseCache:
    """The cache of the first sequences."""
    return replace(cache, keys=[k[:count] for k in cache.keys], values=[v[:count] for v in cache.values])


def grown(model: DenseModel, cache: DenseCache, length: int) -> DenseCache:
    """A longer cache elsewhere that begins with the same."""
    larger = model.make_cache(ROWS, length)
    for new, old in zip((*larger.keys, *larger.values), (*cache.keys, *cache.values), strict=True):
        new[:, :, : cache.length] = old
    return larger


def test_a_dense_model_in_pieces_is_itself_over_256_steps_as_batches_change_and_its_cache_grows_and_moves():
    torch.manual_seed(0)
    chosen = random.Random(0)
    model, captures = PRESETS["tiny-dense"].build(torch.float32), 0
    cache = model.make_cache(ROWS, 16)
    pieces = PiecewiseStep(lambda tokens, cache: next_tokens(model, cache, tokens), Options((1, 2, 4, 8)), FakeGraphs())
    for number in range(256):
        tokens = torch.randint(1024, (chosen.randint(1, ROWS),))
        if number % 64 == 0:
            if number:
                cache = grown(model, cache, 2 * cache.length)
                with pytest.raises(StaleGraphError, match=r"were captured when \S+ was at 0x"):
                    pieces(tokens, cache)
            pieces.reset()
            before = copy.deepcopy(cache)
            pieces.warm_up(some(cache))
            pieces.capture(some(cache))
            captures += 1
            for new, old in zip((*cache.keys, *cache.values), (*before.keys, *before.values), strict=True):
                new.copy_(old)
        twin = copy.deepcopy(cache)
        want = next_tokens(model, first(twin, len(tokens)), tokens)
        torch.testing.assert_close(pieces(tokens, cache), want, rtol=1e-4, atol=1e-4)
        for own, other in zip((*cache.keys, *cache.values), (*twin.keys, *twin.values), strict=True):
            torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-4)
    assert captures == 4


def test_output_info_is_kept_for_each_operator_and_not_for_the_piece_before_several():
    pieces = ready(Toy(), make_state())
    (plan,) = pieces._plans
    assert [type(part) for part in plan.parts] == [Piece, Operator, Operator, Piece, Operator, Piece]
    shapes = {operator.name: pieces._learned[4][1].get(operator.node) for operator in plan.operators}
    assert shapes["read 0"].shape == (4, WIDTH)
    assert shapes["grow 0"].shape == (4, 2 * WIDTH)
    assert shapes["fill 0"] is None, "it returns nothing"


def test_warming_up_makes_no_entry():
    graphs, state = FakeGraphs(), make_state()
    pieces = PiecewiseStep(Toy(), Options((4, 8)), graphs)
    pieces.warm_up(some(state))
    assert pieces.buckets == []
    assert graphs.captured == []
    with pytest.raises(RuntimeError, match="bucket 4 isn't captured"):
        pieces(tokens_of(3), state)


def test_nothing_is_captured_before_its_bucket_was_warmed_up():
    pieces = PiecewiseStep(Toy(), Options((4, 8)), FakeGraphs())
    with pytest.raises(RuntimeError, match=r"buckets \[4, 8\] haven't been warmed up"):
        pieces.capture(some(make_state()))


def test_operators_run_on_the_rows_that_are_tokens_alone():
    toy, state = Toy(), make_state()
    pieces = ready(toy, state)
    SEEN.clear()
    pieces(tokens_of(3), state)
    assert SEEN == [("read", 3), ("grow", 3), ("fill", 3)]


def test_the_largest_bucket_is_captured_first_so_that_the_others_fit_into_its_memory():
    state = make_state()
    pieces = PiecewiseStep(Toy(), Options((1, 2, 4, 8)), FakeGraphs())
    pieces.warm_up(some(state))
    costs = pieces.capture(some(state))
    assert [cost.bucket for cost in costs] == [8, 4, 2, 1]
    assert costs[0].pool > 0
    assert [cost.pool for cost in costs[1:]] == [0, 0, 0]


def test_private_pools_share_nothing():
    state, graphs = make_state(), FakeGraphs()
    pieces = PiecewiseStep(Toy(), Options((4, 8), pool="private"), graphs)
    pieces.warm_up(some(state))
    costs = pieces.capture(some(state))
    assert len(graphs.pools) == 2
    assert all(cost.pool > 0 for cost in costs)


def test_a_captured_value_gives_its_memory_back_once_its_last_reader_is_captured():
    graphs = FakeGraphs()
    pieces = PiecewiseStep(Toy(), Options((8,)), graphs)
    state = make_state()
    pieces.warm_up(some(state))
    pieces.capture(some(state))
    assert graphs.pools[0].live == 0, "the program knows addresses alone"


def test_a_deeper_step_needs_no_larger_pool():
    def make_step(depth):
        def step(tokens, state):
            x = table[tokens]
            for _ in range(depth):
                x = torch.ops.toy.read(x * 2 + 1, state.memory).sigmoid()
            return x

        return step

    def pool_of(depth):
        pieces, state = PiecewiseStep(make_step(depth), Options((8,)), FakeGraphs()), make_state()
        pieces.warm_up(some(state))
        return pieces.capture(some(state))[0].pool

    table = torch.randn(32, WIDTH)
    assert pool_of(12) == pool_of(4)


def test_a_replay_after_the_cache_moved_is_refused_and_names_graph_bucket_and_address():
    toy, state = Toy(), make_state()
    pieces = ready(toy, state)
    was = state.memory.data_ptr()
    state.memory = state.memory.clone()
    SEEN.clear()
    with pytest.raises(StaleGraphError) as caught:
        pieces(tokens_of(3), state)
    assert SEEN == [], "nothing ran"
    assert str(caught.value) == (
        f"step: the graphs of bucket 4 were captured when memory was at {was:#x}; it is at "
        f"{state.memory.data_ptr():#x} now. Call reset, then warm_up and capture"
    )


def test_a_replay_after_the_caches_sizes_changed_is_refused():
    state = State(torch.rand(2 * ROWS, WIDTH))
    pieces = ready(Toy(), state)
    state.memory = state.memory[:ROWS]
    with pytest.raises(StaleGraphError, match=r"memory at 0x\w+ had the sizes \[16, 6\]; it has \[8, 6\] now"):
        pieces(tokens_of(3), state)


def test_a_reset_drops_graphs_and_all_that_was_learned_and_steps_go_on_after_another_capture():
    toy, state = Toy(), make_state()
    pieces = ready(toy, state)
    graphs = pieces._graphs
    old = list(graphs.captured)
    pieces.reset()
    assert all(graph.was_reset for graph in old)
    assert pieces.buckets == []
    with pytest.raises(RuntimeError, match="haven't been warmed up"):
        pieces.capture(some(state))
    state.memory = state.memory.clone()
    pieces.warm_up(some(state))
    pieces.capture(some(state))
    twin = copy.deepcopy(state)
    tokens = tokens_of(3)
    torch.testing.assert_close(pieces(tokens, state), toy(tokens, twin))


def test_a_step_with_two_arguments_per_token_is_traced_once_for_all_numbers_of_tokens():
    def step(tokens, weights, state):
        return torch.ops.toy.read(table[tokens] * weights[:, None], state.memory) * 2

    table, state = torch.randn(32, WIDTH), make_state()
    pieces = PiecewiseStep(step, Options((2, 4, 8)), FakeGraphs())
    arguments = lambda bucket: (tokens_of(bucket), torch.rand(bucket), state)  # noqa: E731
    pieces.warm_up(arguments)
    pieces.capture(arguments)
    assert len(pieces._plans) == 1
    given = arguments(3)
    torch.testing.assert_close(pieces(*given), step(*given))


def test_a_step_that_is_cut_again_is_traced_again_for_the_first_cache_of_other_sizes_alone():
    traces = Traces(Toy())
    first, again = (ready(traces, make_state(), pool=pool) for pool in ("shared", "private"))
    assert again._plans[0].traced is first._plans[0].traced
    assert again.trace_time == first.trace_time > 0
    larger, largest = (ready(traces, State(torch.rand(times * ROWS, WIDTH))) for times in (2, 3))
    assert larger._plans[0].traced is not first._plans[0].traced
    assert largest._plans[0].traced is larger._plans[0].traced
    state = State(torch.rand(5 * ROWS, WIDTH))
    pieces, twin, tokens = ready(traces, state), copy.deepcopy(state), tokens_of(3)
    torch.testing.assert_close(pieces(tokens, state), traces.step(tokens, twin))


def test_a_step_that_uses_a_caches_size_is_traced_for_each():
    traces = Traces(lambda tokens, state: torch.ops.toy.read(table[tokens] * state.memory.shape[0], state.memory))
    table = torch.randn(32, WIDTH)
    for times in (1, 2, 3):
        state, tokens = State(torch.rand(times * ROWS, WIDTH)), tokens_of(3)
        pieces = ready(traces, state)
        torch.testing.assert_close(pieces(tokens, state), traces.step(tokens, state))


def test_buckets_with_caches_of_their_own_sizes_share_a_trace_unless_the_step_uses_these():
    def step(tokens, state):
        rows = torch.cat((table[tokens], state.memory)) if is_used else table[tokens]
        return torch.ops.toy.read(rows[: tokens.shape[0]] + (rows.shape[0] - tokens.shape[0]) * is_used, state.memory)

    table, states = torch.randn(32, WIDTH), {bucket: State(torch.rand(bucket, WIDTH)) for bucket in (2, 4, 8)}
    for is_used in (False, True):
        pieces = PiecewiseStep(step, Options((2, 4, 8)), FakeGraphs())
        pieces.warm_up(lambda bucket: (tokens_of(bucket), states[bucket]))
        pieces.capture(lambda bucket: (tokens_of(bucket), states[bucket]))
        assert len(pieces._plans) == (3 if is_used else 1)
        for bucket, state in states.items():
            tokens = tokens_of(bucket)
            torch.testing.assert_close(pieces(tokens, state), step(tokens, state))


def test_a_fake_that_promises_another_shape_is_found_at_warm_up():
    def step(tokens, state):
        return torch.ops.toy.lie(table[tokens], state.memory) + 1

    table = torch.randn(32, WIDTH)
    pieces = PiecewiseStep(step, Options((4,)), FakeGraphs())
    with pytest.raises(ArgumentError, match=r"lie 0 returned \(4, 1\) torch.float32; its fake said \(4, 6\)"):
        pieces.warm_up(some(make_state()))


def test_waiting_for_the_gpu_under_capture_fails():
    def step(tokens, state):
        x = torch.ops.toy.read(table[tokens], state.memory)
        return x * float(torch.ones(()).item())

    table = torch.randn(32, WIDTH)
    with pytest.raises(RuntimeError, match="it waits for the GPU"):
        ready(step, make_state(), buckets=(4,))


def test_what_changes_the_cache_outside_of_an_operator_cannot_be_cut():
    def step(tokens, state):
        state.memory[0].add_(1)
        return torch.ops.toy.read(table[tokens], state.memory)

    table = torch.randn(32, WIDTH)
    with pytest.raises(Unsupported, match="add_ changes memory outside of an operator"):
        ready(step, make_state())


def test_a_step_that_cannot_be_traced_for_any_number_of_tokens_says_what_would_help():
    def step(tokens, state):
        return torch.ops.toy.read(table[tokens] + state.memory[:, :1], state.memory)

    table = torch.randn(32, WIDTH)
    with pytest.raises(Unsupported, match="what uses the cache must be in operators registered with torch"):
        ready(step, make_state())


def test_much_that_follows_from_the_cache_cannot_be_read_outside_of_an_operator():
    def step(tokens, state):
        x = torch.ops.toy.read(table[tokens], state.memory)
        return (x @ (state.memory * 2).T).sum(dim=1)

    table = torch.randn(32, WIDTH)
    state = State(torch.rand(1 << 15, WIDTH))
    with pytest.raises(Unsupported, match="reads 786,432 B that follow from the state outside of an operator"):
        ready(step, state)


def test_a_tensor_of_the_state_is_read_where_it_is_however_large():
    def step(tokens, state):
        x = torch.ops.toy.read(table[tokens], state.memory)
        return (torch.cat((x, state.memory)) @ x.T).sum(dim=0)

    table, state = torch.randn(32, WIDTH), State(torch.rand(1 << 15, WIDTH))
    pieces = ready(step, state, buckets=(4,))
    assert not pieces._plans[0].copied
    state.memory.uniform_()
    tokens = tokens_of(4)
    torch.testing.assert_close(pieces(tokens, state), step(tokens, state))
    state.memory = state.memory.clone()
    with pytest.raises(StaleGraphError):
        pieces(tokens, state)


def test_what_pieces_read_of_the_cache_while_operators_change_it_cannot_be_cut():
    def step(tokens, state):
        return torch.ops.toy.grow(table[tokens] * state.memory[-1], state.memory)

    table = torch.randn(32, WIDTH)
    with pytest.raises(Unsupported, match="reads memory outside of an operator, and grow 0 changes it"):
        ready(step, make_state())


def test_caches_that_buckets_were_captured_with_are_not_kept():
    pieces = PiecewiseStep(Toy(), Options((4, 8)), FakeGraphs())
    kept = []

    def arguments(bucket):
        state = make_state()
        kept.append(weakref.ref(state.memory))
        return tokens_of(bucket), state

    pieces.warm_up(arguments)
    pieces.capture(arguments)
    gc.collect()
    assert [ref() for ref in kept] == [None] * len(kept)


def test_what_pieces_read_of_the_state_follows_it_from_step_to_step():
    def step(tokens, state):
        return torch.ops.toy.read(table[tokens] * state.memory[-1], state.memory) * 2

    table, state = torch.randn(32, WIDTH), make_state()
    pieces = ready(step, state)
    for _ in range(3):
        state.memory[-1].uniform_()
        tokens = tokens_of(3)
        torch.testing.assert_close(pieces(tokens, state), step(tokens, state))


def test_what_every_layer_takes_from_the_state_is_computed_and_copied_once():
    model = PRESETS["tiny-dense"].build(torch.float32)
    pieces = PiecewiseStep(lambda tokens, cache: next_tokens(model, cache, tokens), Options((4,)), FakeGraphs())
    pieces.warm_up(some(model.make_cache(ROWS, 16)))
    (plan,) = pieces._plans
    assert len(plan.copied) == 2, "cosines and sines"


def test_a_branch_on_the_number_of_tokens_is_traced_for_both_sides():
    def step(tokens, state):
        x = torch.ops.toy.read(table[tokens], state.memory)
        return x * 2 if tokens.shape[0] > 4 else x * 3

    table, state = torch.randn(32, WIDTH), make_state()
    pieces = ready(step, state)
    for count, factor in ((8, 2), (2, 3), (4, 3)):
        tokens = tokens_of(count)
        torch.testing.assert_close(pieces(tokens, state), torch.ops.toy.read(table[tokens], state.memory) * factor)


@pytest.mark.parametrize("head", ["inside", "outside"])
@pytest.mark.parametrize(("limit", "buckets"), [(1, (1, 8)), (2, (2, 8)), (2, (1, 2, 8))])
def test_a_branch_that_the_smallest_numbers_alone_take_is_traced_for_each_of_them(limit, buckets, head):
    class Step:
        head = torch.randn(WIDTH, WIDTH)

        def __call__(self, tokens, state):
            x = torch.ops.toy.read(table[tokens], state.memory)
            y = torch.ops.toy.grow(x * 2 if tokens.shape[0] <= limit else x * 3, state.memory)
            return y.view(tokens.shape[0], 2, WIDTH).sum(dim=1) @ self.head

    table, state, step = torch.randn(32, WIDTH), make_state(), Step()
    pieces = ready(step, state, buckets, head=head)
    twin = copy.deepcopy(state)
    for count in (8, 2, 1, 5):
        tokens = tokens_of(count)
        padded = next(bucket for bucket in buckets if bucket >= count)
        if (padded <= limit) == (count <= limit):  # else the padded step takes the other way: right, but another
            torch.testing.assert_close(pieces(tokens, state), step(tokens, twin))
        else:
            step(tokens, twin), pieces(tokens, state)
        torch.testing.assert_close(state.memory, twin.memory)


def test_no_number_is_tried_that_another_trace_is_for(monkeypatch):
    def step(tokens, state):
        x = torch.ops.toy.read(table[tokens], state.memory)
        return x * 2 if tokens.shape[0] <= 2 else x * 3 if tokens.shape[0] <= 4 else x * 4

    table, state, tried = torch.randn(32, WIDTH), make_state(), []
    kept = trace._trace
    monkeypatch.setattr(trace, "_trace", lambda *given, **options: tried.append(given[-1]) or kept(*given, **options))
    pieces = ready(step, state, buckets=(2, 4, 16))
    assert len(tried) == 4, "one for each side, and another of the last to see which dimension is the tokens'"
    for count, factor in ((8, 4), (4, 3), (2, 2)):
        tokens = tokens_of(count)
        torch.testing.assert_close(pieces(tokens, state), torch.ops.toy.read(table[tokens], state.memory) * factor)


def test_a_head_left_outside_runs_on_as_many_rows_as_there_are_tokens():
    toy, state = Toy(), make_state()
    pieces = ready(toy, state, head="outside")
    (plan,) = pieces._plans
    assert [part.is_captured for part in plan.parts if isinstance(part, Piece)] == [True, True, True, False]
    assert pieces(tokens_of(3), state)["y"].shape == (3, WIDTH)


def test_a_step_larger_than_any_bucket_is_refused_with_the_numbers():
    state = make_state()
    pieces = ready(Toy(), state, buckets=(2, 4))
    with pytest.raises(ArgumentError, match=r"a step of 5 tokens: buckets \[2, 4\] hold 1 to 4"):
        pieces(tokens_of(5), state)


def test_a_start_in_two_phases_captures_with_a_small_cache_releases_all_and_captures_with_the_final_one():
    toy, graphs = Toy(), FakeGraphs()
    pieces = PiecewiseStep(toy, Options((2, 4, 8)), graphs)
    small, final = State(torch.rand(ROWS, WIDTH)), make_state()
    released = []

    def make_final():
        released.append([graph.was_reset for graph in graphs.captured])
        return some(final)

    start = start_in_two_phases(pieces, lambda: some(small), make_final)
    assert released == [[True] * (len(graphs.captured) // 2)]
    assert start.estimated == sum(cost.device for cost in start.costs) > 0
    assert start.kept == 0
    assert 0 < start.release_time < start.recapture_time < start.start_time
    with pytest.raises(StaleGraphError):
        pieces(tokens_of(3), small)
    twin, tokens = copy.deepcopy(final), tokens_of(3)
    torch.testing.assert_close(pieces(tokens, final), toy(tokens, twin))


def test_a_piece_forks_to_a_second_stream_and_joins_before_what_needs_it():
    shared, gate, routed = torch.randn(WIDTH, WIDTH), torch.randn(WIDTH, 1), torch.randn(WIDTH, WIDTH)

    def step(tokens, state):
        x = torch.ops.toy.read(table[tokens], state.memory)
        beside = x + torch.relu(x @ shared) * torch.sigmoid(x @ gate)
        return torch.tanh(x @ routed) + beside

    table, state = torch.randn(32, WIDTH), make_state()
    pieces = PiecewiseStep(step, Options((4, 8), streams=2), FakeGraphs(), beside=[shared, gate])
    pieces.warm_up(some(state))
    pieces.capture(some(state))
    tokens = tokens_of(3)
    torch.testing.assert_close(pieces(tokens, state), step(tokens, state))
    graph = pieces._plans[0].parts[-1].module.graph
    body = [getattr(node.target, "__name__", node.target) for node in graph.nodes if node.op.startswith("call")]
    branch = ["fork", "matmul", "relu", "matmul", "sigmoid", "mul", "add", "resume"]
    assert body == [*branch, "matmul", "tanh", "join", "add"]
    join = next(node for node in graph.nodes if node.target == "join")
    assert len(join.args) == 3 + 6, "what the branch reads and makes lives until then"


def test_a_branch_beside_which_nothing_runs_is_none():
    shared = torch.randn(WIDTH, WIDTH)

    def step(tokens, state):
        return torch.sigmoid(torch.ops.toy.read(table[tokens], state.memory) @ shared) + 1

    table = torch.randn(32, WIDTH)
    pieces = PiecewiseStep(step, Options((4,), streams=2), FakeGraphs(), beside=[shared])
    pieces.warm_up(some(make_state()))
    assert not any(node.op == "call_module" for node in pieces._plans[0].parts[-1].module.graph.nodes)


@pytest.mark.parametrize("make", [PiecewiseStep, BucketedStep])
def test_a_step_is_set_up_as_it_will_run_outside_of_the_default_device(make):
    table, state = torch.randn(32, WIDTH), make_state()

    def step(tokens, state):
        return torch.ops.toy.read(table[tokens] + torch.arange(WIDTH), state.memory)

    tokens = {count: tokens_of(count) for count in (2, 4)}
    pieces = (
        PiecewiseStep(step, Options((2, 4)), FakeGraphs())
        if make is PiecewiseStep
        else BucketedStep(step, (2, 4), (0,), FakeGraphs())
    )
    with torch.device("meta"):  # where such a step would compute nothing
        pieces.warm_up(lambda bucket: (tokens[bucket], state))
        pieces.capture(lambda bucket: (tokens[bucket], state))
        assert torch.empty(1).is_meta, "the set-up goes on where it was"
    assert torch.equal(pieces(tokens[4], state), step(tokens[4], state))
