"""Open ranges survive the process that opened them, and an exception knows which it has left."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gpubench.marks import RangeMarks, name_ranges, pad, read_marks
from gpubench.ranges import annotate, left_ranges, mark_ranges, prepare_ranges, switch_ranges


@pytest.fixture
def marks(tmp_path: Path) -> Iterator[Path]:
    """The file that ranges are marked in, as in an unprofiled pass."""
    path = tmp_path / "ranges.bin"
    prepare_ranges(RangeMarks(path), torch.compiler.is_dynamo_compiling)
    switch_ranges(on=False)
    yield path
    prepare_ranges(None, bool)
    switch_ranges(on=True)


def test_open_ranges_are_in_the_file_outermost_first(marks: Path) -> None:
    with annotate("layer_03"):
        with annotate("attention"):
            assert read_marks(marks) == ["layer_03", "attention"]
        with annotate("mlp"):
            assert read_marks(marks) == ["layer_03", "mlp"]
    assert read_marks(marks) == []


def test_a_range_within_itself_is_two(marks: Path) -> None:
    with annotate("block"), annotate("block"):
        assert read_marks(marks) == ["block", "block"]
    assert read_marks(marks) == []


def test_a_killed_process_leaves_them_behind(tmp_path: Path) -> None:
    program = f"""
import os, signal
from pathlib import Path
from gpubench.marks import RangeMarks
from gpubench.ranges import annotate, prepare_ranges, switch_ranges
prepare_ranges(RangeMarks(Path({str(tmp_path / "ranges.bin")!r})), bool)
switch_ranges(on=False)
with annotate("layer_03"), annotate("attention"):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -9
    assert read_marks(tmp_path / "ranges.bin") == ["layer_03", "attention"]


def test_while_samples_are_taken_nothing_is_marked(marks: Path) -> None:
    mark_ranges(on=False)
    with annotate("attention"):
        assert read_marks(marks) == []
    mark_ranges(on=True)
    with annotate("attention"):
        mark_ranges(on=False)
    mark_ranges(on=True)
    switch_ranges(on=False)  # a new cell
    assert read_marks(marks) == []


def test_ranges_may_be_deeper_and_names_longer_than_there_is_room_for(marks: Path) -> None:
    def descend(depth: int) -> None:
        if depth:
            with annotate(f"{depth} " + "ä" * 200):
                descend(depth - 1)
        else:
            assert len(read_marks(marks)) == 32

    descend(300)
    switch_ranges(on=False)
    assert read_marks(marks) == []


@given(st.binary(max_size=5000))
def test_any_file_is_read_without_a_complaint(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("marks") / "ranges.bin"
    path.write_bytes(content)
    assert isinstance(read_marks(path), list)
    RangeMarks(path).enter(pad("x"))
    path.write_bytes(content[:1] + path.read_bytes()[1:])
    assert len(read_marks(path)) <= 32


def test_an_exception_takes_the_names_along_that_it_leaves(marks: Path) -> None:
    with pytest.raises(ZeroDivisionError) as caught, annotate("layer_03"), annotate("attention"):
        _ = 1 / 0
    assert left_ranges(caught.value) == ["layer_03", "attention"]


def test_an_exception_made_from_another_was_where_that_one_was(marks: Path) -> None:
    with pytest.raises(RuntimeError) as caught:
        try:
            with annotate("attention"):
                _ = 1 / 0
        except ZeroDivisionError as error:
            raise RuntimeError("it failed") from error
    assert left_ranges(caught.value) == ["attention"]
    assert left_ranges(ValueError()) == []


def test_an_exception_that_is_caught_within_a_range_is_none_of_it(marks: Path) -> None:
    with annotate("attention"):
        try:
            raise KeyError
        except KeyError as error:
            inner = error
    assert left_ranges(inner) == []


def test_the_workers_own_ranges_are_left_out() -> None:
    assert name_ranges(["cell=cell_003", "cell=cell_003/rep", "layer_03", "attention"]) == "layer_03/attention"


# Inductor's own imports use what torch has since deprecated.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_range_within_a_compiled_region_is_left_out_and_compiles_once(marks: Path) -> None:
    from torch._dynamo.utils import counters

    torch.compiler.reset()
    counters.clear()

    @torch.compile(fullgraph=True, backend="eager")
    def step(x: torch.Tensor) -> torch.Tensor:
        with annotate("inner"):
            return x + 1

    for is_marked in (True, False):
        mark_ranges(on=is_marked)
        switch_ranges(on=not is_marked)
        assert torch.equal(step(torch.ones(2)), torch.full((2,), 2.0))
    assert counters["stats"]["unique_graphs"] == 1
