"""What is said of a stale address: which kernel, which parameter, whose memory, how often."""

from __future__ import annotations

import pytest
from graphs.made_memory import member, whole

from gpubench.graphs.audit import Audit, Stale
from gpubench.graphs.hazards import identity_of, make_hazards
from gpubench.graphs.memory import Freed
from gpubench.graphs.nodes import Argument
from gpubench.graphs.sources import KernelSource, find_source
from gpubench.records import Frame, Hazard, PointerState

FREED = Freed(0x7F00, 0x7F80, Frame("/x/mine.py", 3, "make_scratch"), Frame("/x/mine.py", 9, "release"))
SOURCE = KernelSource("/x/kernels/topk.py", 31, ("x", "scratch"))


def stale(argument: Argument, kernel: str = "topk", freed: Freed | None = FREED, nodes: int = 1) -> Stale:
    return Stale(kernel, argument, PointerState.REUSED, freed, 4, nodes)


def hazards_of(*stales: Stale, source: KernelSource = SOURCE) -> list[Hazard]:
    return make_hazards([Audit(9, 9, stales, {})], lambda kernel, num_parameters: source)


def test_a_parameter_is_named_where_its_name_is_known() -> None:
    assert [hazard.parameter for hazard in hazards_of(stale(whole(1, 1)), stale(whole(2, 3)))] == [
        "scratch",
        "argument 3",
    ]
    assert hazards_of(stale(whole(1, 1)), source=KernelSource())[0].parameter == "argument 1"
    assert hazards_of(stale(member(1, offset=16)), source=KernelSource())[0].parameter == "argument 0 + 16 B"
    assert hazards_of(stale(whole(1, "destination"), kernel="[memset]"))[0].parameter == "destination"


def test_what_several_graphs_hold_alike_is_one_hazard_in_so_many_nodes() -> None:
    audits = [
        Audit(9, 9, (stale(whole(1, 1), nodes=2),), {}),
        Audit(9, 9, (stale(whole(1, 1)), stale(whole(5, 1))), {}),
    ]
    found = make_hazards(audits, lambda kernel, num_parameters: SOURCE)
    assert [(identity_of(hazard), hazard.nodes) for hazard in found] == [
        (("topk", "scratch", 1), 3),
        (("topk", "scratch", 5), 1),
    ]


def test_a_hazard_in_words() -> None:
    hazard = hazards_of(stale(whole(0x7F00, 1), nodes=61))[0]
    assert hazard.text == (
        "topk (topk.py:31): scratch = 0x7f00, memory that was given back and is somebody else's now "
        "(taken at mine.py:3 in make_scratch; given back at mine.py:9 in release), in 61 nodes"
    )
    bare = hazards_of(stale(whole(0x7F00), kernel="k" * 99, freed=None), source=KernelSource())[0]
    assert bare.text == (f"{'k' * 59}…: argument 0 = 0x7f00, memory that was given back and is somebody else's now")


@pytest.mark.parametrize("state", PointerState)
def test_every_state_has_words_of_its_own(state: PointerState) -> None:
    others = {Hazard("k", "x", 1, other).text for other in PointerState if other is not state}
    assert Hazard("k", "x", 1, state).text not in others


def test_a_triton_kernels_source_is_found_by_its_name() -> None:
    pytest.importorskip("triton")
    from gpubench.kernels.faulty import fill_scratch

    source = find_source("fill_scratch", 6)

    assert source.file.endswith("gpubench/kernels/faulty.py")
    assert source.line == fill_scratch.fn.__code__.co_firstlineno
    assert source.parameters == (), "it was never compiled here"


def test_of_a_kernel_that_is_not_tritons_nothing_is_said() -> None:
    assert find_source("void at::native::elementwise_kernel<4>(int)", 3) == KernelSource()


def test_the_parameters_of_a_compilation_are_those_that_are_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    from types import SimpleNamespace

    from gpubench.kernels.faulty import read_scratch

    def compiled(**signature: str) -> SimpleNamespace:
        return SimpleNamespace(src=SimpleNamespace(signature=signature))

    kinds = [
        compiled(scratch="*fp32", out="*fp32", n="i32", BLOCK="constexpr"),
        compiled(scratch="*fp32", out="*fp32", n="constexpr", BLOCK="constexpr"),
    ]
    monkeypatch.setattr(read_scratch, "device_caches", {0: (dict(enumerate(kinds)),)})

    assert find_source("read_scratch", 5).parameters == ("scratch", "out", "n")
    assert find_source("read_scratch", 2).parameters == ("scratch", "out")
    assert find_source("read_scratch", 4).parameters == (), "either could have so many, with what Triton adds"
