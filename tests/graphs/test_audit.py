"""The audit's judgement, on memory that is made up: every stale address is found, and nothing else is called one."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace

import pytest
from graphs.made_memory import (
    BASE,
    OWN_POOL,
    PAGE,
    SEGMENT,
    SEGMENT_PAGES,
    MadeMemory,
    address_of,
    captured,
    kernel,
    member,
    whole,
)
from hypothesis import given
from hypothesis import strategies as st

from gpubench.graphs.audit import (
    MEMBER_ALIGNMENT,
    MOST_PACKED,
    MOST_STRUCT_BYTES,
    NEAR_BYTES,
    TENSOR_MAP_BYTES,
    Audit,
    Captured,
    audit,
)
from gpubench.graphs.memory import Memory, Pool, read_memory
from gpubench.graphs.nodes import Argument, GraphNodes
from gpubench.records import PointerState

FREED, REUSED, UNMAPPED, UNKNOWN = PointerState


def judge(graph: Captured, memory: MadeMemory, is_valid: Callable[[int], bool] = lambda _: False) -> Audit:
    return audit(graph, memory.state, {graph.pool}, is_valid)


def states(found: Audit) -> list[PointerState]:
    return [stale.state for stale in found.stale]


places = st.tuples(st.integers(0, 2), st.integers(0, SEGMENT_PAGES - 1))
actions = st.lists(
    st.one_of(
        st.tuples(st.just("allocate"), places, st.integers(1, 3)),
        st.tuples(st.sampled_from(["free", "pass_on"]), st.integers(0, 30), st.none()),
        st.tuples(st.just("unmap"), st.integers(0, 2), st.none()),
        st.tuples(st.just("map"), st.integers(0, 2), st.none()),
    ),
    max_size=40,
)


def perform(memory: MadeMemory, plan: list[tuple[str, object, object]]) -> None:
    for action, what, pages in plan:
        if action == "allocate":
            memory.allocate(*what, pages)
        elif action in ("free", "pass_on"):
            living = sorted(set(memory.owner.values()))
            if living:
                chosen = living[what % len(living)]
                had = sorted(where for where, number in memory.owner.items() if number == chosen)
                memory.free(chosen)
                if action == "pass_on":
                    memory.allocate(*had[0], len(had))
        elif action == "unmap":
            memory.unmap(what)
        else:
            memory.map(what)


def truth(memory: MadeMemory, segment: int, page: int) -> PointerState:
    """What is at a page now, for somebody who should not be there."""
    if segment not in memory.mapped:
        return UNMAPPED
    return REUSED if (segment, page) in memory.owner else FREED


@given(before=actions, after=actions, within=st.integers(0, PAGE // MEMBER_ALIGNMENT - 1).map(MEMBER_ALIGNMENT.__mul__))
def test_an_address_is_stale_if_its_owner_at_the_capture_has_it_no_more(before, after, within) -> None:
    memory = MadeMemory()
    perform(memory, before)
    then = dict(memory.owner)
    addresses = {where: address_of(*where, within) for where in then}
    graph = captured(memory, kernel(*(member(address) for address in addresses.values())))

    perform(memory, after)

    expected = {
        addresses[where]: truth(memory, *where) for where, owner in then.items() if memory.owner.get(where) != owner
    }
    assert {stale.argument.value: stale.state for stale in judge(graph, memory).stale} == expected


@given(before=actions, after=actions)
def test_a_parameter_that_points_to_nobodys_memory_at_the_capture_is_stale_and_a_member_is_garbage(
    before, after
) -> None:
    memory = MadeMemory()
    perform(memory, before)
    free = [(s, p) for s in memory.mapped for p in range(SEGMENT_PAGES) if (s, p) not in memory.owner]
    words = [word for where in free for word in (whole(address_of(*where)), member(address_of(*where)))]
    graph = captured(memory, kernel(*words))

    perform(memory, after)

    found = {(stale.argument.value, stale.argument.is_whole): stale.state for stale in judge(graph, memory).stale}
    assert found == {(address_of(*where), True): truth(memory, *where) for where in free}


@given(before=actions, after=actions, words=st.lists(st.integers(0, 2**64 - 1), max_size=20))
def test_numbers_are_no_addresses(before, after, words) -> None:
    memory = MadeMemory()
    perform(memory, before)
    far = [word for word in words if not BASE - NEAR_BYTES <= word < BASE + 4 * SEGMENT + NEAR_BYTES]
    graph = captured(memory, kernel(*map(whole, far), *map(member, far)))

    perform(memory, after)

    assert judge(graph, memory) == Audit(1, 0, (), {})


@pytest.mark.parametrize(
    "word",
    [
        0,
        1,
        2**32 - 1,
        *(struct.unpack("<Q", struct.pack("<d", value))[0] for value in (1.0, -1.0, 1e-300, 1e300, float("nan"))),
        struct.unpack("<Q", struct.pack("<ff", 1.0, 2.0))[0],
        struct.unpack("<Q", struct.pack("<ii", 4096, 128))[0],
        struct.unpack("<Q", struct.pack("<q", -1))[0],
    ],
)
def test_sizes_strides_floats_and_packed_numbers_are_no_addresses(word: int) -> None:
    memory = MadeMemory()
    graph = captured(memory, kernel(whole(word), member(word)))
    assert judge(graph, memory).pointers == 0


def test_the_graphs_own_pool_is_its_own_whatever_state_a_block_is_in() -> None:
    memory = MadeMemory(pools={1: OWN_POOL})
    graph = captured(memory, kernel(whole(address_of(1, 3)), member(address_of(1, 4))))
    memory.free(memory.allocate(1, 3, 1) or 0)
    assert judge(graph, memory) == Audit(1, 2, (), {})


@pytest.mark.parametrize(("pools", "expected"), [({(1, 0), (2, 0)}, []), ({(1, 0)}, [FREED])])
def test_another_graphs_pool_is_no_hazard_as_long_as_that_graph_lives(
    pools: set[Pool], expected: list[PointerState]
) -> None:
    memory = MadeMemory(pools={2: (2, 0)})
    output = memory.allocate(2, 0, 1)
    graph = captured(memory, kernel(whole(address_of(2, 0))))
    memory.free(output or 0)
    assert states(audit(graph, memory.state, pools, lambda _: False)) == expected


def test_what_the_graph_allocates_when_it_runs_is_its_own() -> None:
    memory = MadeMemory()
    start = address_of(40, 0)
    graph = captured(memory, kernel(whole(start + 8)), own=((start, start + PAGE),))
    assert judge(graph, memory).stale == ()


def test_a_librarys_memory_is_good_while_cuda_knows_of_it() -> None:
    memory = MadeMemory()
    graph = captured(memory, kernel(whole(address_of(40, 0))))
    assert judge(graph, memory, is_valid=lambda _: True) == Audit(1, 1, (), {})
    assert states(judge(graph, memory)) == [UNKNOWN]


def test_an_address_in_a_struct_that_nobody_knows_is_no_address() -> None:
    memory = MadeMemory()
    graph = captured(memory, kernel(member(address_of(40, 0))))
    assert judge(graph, memory) == Audit(1, 0, (), {})


def test_memory_that_somebody_else_got_is_reused_though_it_looks_as_before() -> None:
    memory = MadeMemory()
    scratch = memory.allocate(0, 0, 2)
    graph = captured(memory, kernel(whole(address_of(0, 1)), member(address_of(0, 0))))
    then = memory.state
    memory.free(scratch or 0)
    memory.allocate(0, 0, 2)
    assert memory.state.segments == then.segments
    assert states(judge(graph, memory)) == [REUSED, REUSED]


def test_unmapped_memory_that_a_library_has_taken_since_is_reused() -> None:
    memory = MadeMemory()
    scratch = memory.allocate(0, 0, 2)
    graph = captured(memory, kernel(whole(address_of(0, 1))))
    memory.free(scratch or 0)
    memory.unmap(0)
    assert states(judge(graph, memory)) == [UNMAPPED]
    assert states(judge(graph, memory, is_valid=lambda _: True)) == [REUSED]


def test_memory_that_came_after_the_capture_is_not_what_a_remembered_address_meant() -> None:
    memory = MadeMemory(num_segments=1)
    graph = captured(memory, kernel(whole(address_of(1, 0)), member(address_of(1, 0))))
    memory.map(1)
    memory.allocate(1, 0, 1)
    assert [(stale.state, stale.argument.is_whole) for stale in judge(graph, memory).stale] == [(REUSED, True)]


def test_without_a_record_a_block_that_was_taken_again_can_not_be_told_and_a_free_one_can() -> None:
    memory = MadeMemory()
    scratch, cache = memory.allocate(0, 0, 1), memory.allocate(0, 1, 1)
    graph = captured(memory, kernel(whole(address_of(0, 0)), whole(address_of(0, 1), parameter=1)))
    memory.free(scratch or 0)
    memory.free(cache or 0)
    memory.allocate(0, 0, 1)
    cut = read_memory(memory.snapshot(), most_entries=len(memory.trace))
    found = audit(graph, cut, set(), lambda _: False)
    assert [(stale.argument.parameter, stale.state) for stale in found.stale] == [(1, FREED)]


def test_it_is_said_who_had_the_memory_and_who_gave_it_back() -> None:
    memory = MadeMemory()
    memory.free(memory.allocate(0, 0, 2, "an_earlier_owner") or 0)
    scratch = memory.allocate(0, 0, 2, "make_scratch")
    graph = captured(memory, kernel(whole(address_of(0, 1))))
    memory.free(scratch or 0, "release")
    memory.free(memory.allocate(0, 0, 3, "a_later_owner") or 0, "later")

    freed = judge(graph, memory).stale[0].freed

    assert freed is not None
    assert (freed.start, freed.end) == (address_of(0, 0), address_of(0, 2))
    assert freed.allocated_at is not None
    assert freed.freed_at is not None
    assert (freed.allocated_at.function, freed.freed_at.function) == ("make_scratch", "release")
    assert freed.freed_at.file == "/home/me/mine.py", "torch's own frames are passed over"


def test_nodes_that_are_alike_are_one_finding() -> None:
    memory = MadeMemory()
    scratch = memory.allocate(0, 0, 1)
    address = address_of(0, 0)
    nodes = [kernel(whole(address)), kernel(whole(address)), kernel(whole(address), name="other")]
    graph = captured(memory, *nodes)
    memory.free(scratch or 0)
    found = judge(graph, memory)
    assert [(stale.kernel, stale.nodes) for stale in found.stale] == [("kernel", 2), ("other", 1)]
    assert (found.nodes, found.pointers) == (3, 3)


def test_memory_that_was_taken_during_the_capture_counts_as_had() -> None:
    memory = MadeMemory()
    before = memory.state.without_trace()
    memory.allocate(0, 0, 1)  # by another thread, from the common pool
    nodes = GraphNodes([kernel(Argument(0, 0, 8, address_of(0, 0)))])
    graph = replace(captured(memory), nodes=nodes, before=before)
    assert judge(graph, memory) == Audit(1, 1, (), {})


# What is a pointer in a struct, and what is a leftover ----------------------------------------------------------------

large_sizes = st.integers(MOST_STRUCT_BYTES // 8 + 1, 512).map(lambda words: 8 * words)
withins = st.integers(0, PAGE // MEMBER_ALIGNMENT - 1).map(MEMBER_ALIGNMENT.__mul__) | st.integers(0, PAGE - 1)
offsets = st.integers(0, 63).map(lambda word: 8 * word)


@given(before=actions, after=actions, within=withins, size=large_sizes, offset=offsets, cut=st.booleans())
def test_in_a_large_struct_only_an_aligned_address_of_a_block_that_was_given_back_is_possible_and_none_is_certain(
    before, after, within, size, offset, cut
) -> None:
    memory = MadeMemory()
    scratch = memory.allocate(0, 0, 1)
    perform(memory, before)
    offset += 8 * (size == TENSOR_MAP_BYTES)  # its head is another matter
    then = dict(memory.owner)
    addresses = {where: address_of(*where, within) for where in then}
    graph = captured(memory, kernel(*(member(address, offset, size) for address in addresses.values())))

    if scratch in memory.owner.values():
        memory.free(scratch)
    perform(memory, after)

    state = read_memory(memory.snapshot(), most_entries=len(memory.trace) if cut else None)
    found = audit(graph, state, {graph.pool}, lambda _: False)
    is_told = not cut and within % MEMBER_ALIGNMENT == 0
    gone = {addresses[where] for where, owner in then.items() if memory.owner.get(where) != owner}
    assert {stale.argument.value for stale in found.stale} == (gone if is_told else set())
    assert not any(stale.is_certain for stale in found.stale)


@given(within=withins, size=st.integers(2, MOST_STRUCT_BYTES // 8).map(lambda words: 8 * words))
def test_in_a_struct_of_few_pointers_an_aligned_one_is_certain(within: int, size: int) -> None:
    memory = MadeMemory()
    scratch = memory.allocate(0, 0, 1)
    graph = captured(memory, kernel(member(address_of(0, 0, within), size - 8, size)))
    memory.free(scratch or 0)
    assert [stale.is_certain for stale in judge(graph, memory).stale] == [True] * (within % MEMBER_ALIGNMENT == 0)


def test_a_tensor_maps_address_is_certain() -> None:
    memory = MadeMemory()
    scratch = memory.allocate(0, 0, 1)
    graph = captured(memory, kernel(member(address_of(0, 0), 0, TENSOR_MAP_BYTES)))
    memory.free(scratch or 0)
    assert [stale.is_certain for stale in judge(graph, memory).stale] == [True]


@given(low=st.integers(0, MOST_PACKED - 1), size=st.integers(2, 500).map(lambda words: 8 * words))
def test_a_number_beside_the_upper_half_of_an_old_address_is_never_certain(low: int, size: int) -> None:
    """What torch's concatenation left on an H200: an extent, or 1, below 0x7ff5, in a segment that begins at 4 GiB."""
    start = 0x7FF5_0000_0000
    segment = {"device": 0, "address": start, "total_size": MOST_PACKED, "segment_pool_id": (0, 0)}
    taken = {"action": "alloc", "addr": start, "size": MOST_PACKED}

    def state(name: str, *trace: dict[str, object]) -> Memory:
        block = {"address": start, "size": MOST_PACKED, "state": name}
        return read_memory({"segments": [{**segment, "blocks": [block]}], "device_traces": [trace]})

    then = state("active_allocated", taken)
    now = state("inactive", taken, {**taken, "action": "free_requested"})
    nodes = GraphNodes([kernel(member(start + low, 8, size), whole(start + low))])
    found = audit(Captured(nodes, OWN_POOL, then, then), now, (), lambda _: False).stale

    possible = [] if low % MEMBER_ALIGNMENT else [(False, False)]
    assert [(each.argument.is_whole, each.is_certain) for each in found] == [*possible, (True, True)]
