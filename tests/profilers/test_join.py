"""From a trace to a cell's figures."""

from __future__ import annotations

from pathlib import Path

import pytest
from nsys_traces import GRAPH, KERNEL, Call, Given, Node, Operation, Range, write_trace

from gpubench.profilers.join import CellProfile, join_cell, join_program
from gpubench.profilers.projection import project
from gpubench.records import Timer

NSYS = Path(__file__).parents[1] / "data" / "nsys"


def samples(profile: CellProfile, name: str = "") -> dict[str, list[int]]:
    """Each metric's samples in whole ns."""
    return {m.metric: [round(s * 1e9) for s in m.samples] for m in profile.measurements if m.range == name}


def joined(tmp_path: Path, cell_id: str = "a", **made: list[object]) -> CellProfile:
    return join_cell(project(write_trace(tmp_path / "made.sqlite", Given(**made))), cell_id)


def test_every_repetition_is_a_sample_of_every_metric() -> None:
    profile = join_cell(project(NSYS / "node.sqlite"), "graph")
    assert samples(profile) == {
        "kernel_sum": [18656, 18720, 18560, 18496, 18560],
        "busy": [18656, 18720, 18560, 18496, 18560],
        "span": [19136, 19168, 19040, 18944, 19008],
        "gap": [480, 448, 480, 448, 448],
        "profiled_step": [88554, 37796, 40552, 48901, 38460],
    }
    assert {(m.unit, m.timer) for m in profile.measurements} == {("s", Timer.NSYS)}


def test_replays_that_nobody_waited_for_were_queued() -> None:
    profile = join_cell(project(NSYS / "node.sqlite"), "graph")
    assert profile.warnings == [
        "4 of 5 profiled repetitions were queued behind the one before, so that their launch delay is a queue's"
    ]
    assert join_cell(project(NSYS / "node.sqlite"), "eager").warnings == []


def test_the_kernels_of_a_cell_add_up_to_its_kernel_sum() -> None:
    profile = join_cell(project(NSYS / "node.sqlite"), "eager")
    assert [kernel.count for kernel in profile.kernels] == [1] * 5
    assert sum(kernel.share for kernel in profile.kernels) == pytest.approx(1)
    total = sum(kernel.total_s for kernel in profile.kernels)
    assert total * 5 == pytest.approx(sum(samples(profile)["kernel_sum"]) / 1e9)
    assert [kernel.total_s for kernel in profile.kernels] == sorted((k.total_s for k in profile.kernels), reverse=True)


def test_of_graphs_traced_as_a_whole_the_span_alone_is_known() -> None:
    profile = join_cell(project(NSYS / "graph.sqlite"), "graph")
    assert samples(profile) == {
        "span": [18784, 19040, 18912, 18912, 18912],
        "profiled_step": [74515, 35378, 37175, 43889, 54271],
    }
    assert "traced as a whole" in profile.warnings[-1]


def test_inner_ranges_are_summed_per_repetition_and_parents_are_not_added_to_children(tmp_path: Path) -> None:
    first = [Range("cell=a/rep", 0, 100), Range("layer", 10, 40), Range("attention", 15, 30), Range("layer", 50, 90)]
    second = [Range("cell=a/rep", 200, 300), Range("layer", 210, 240)]
    other = [Range("cell=b/rep", 400, 500), Range("layer", 410, 440)]
    calls = [Call(start, start + 1, number) for number, start in enumerate([20, 35, 60, 220, 420])]
    operations = [Operation(1000 + 100 * n, 1000 + 100 * n + 10 + n, n) for n in range(5)]
    profile = joined(tmp_path, ranges=[*first, *second, *other], calls=calls, operations=operations)
    assert samples(profile)["kernel_sum"] == [33, 13]
    assert samples(profile, "layer") == {
        "kernel_sum": [33, 13],
        "busy": [33, 13],
        "span": [111 + 12, 13],
        "gap": [90, 0],
    }
    assert samples(profile, "attention")["kernel_sum"] == [10]


def test_a_replay_has_the_inner_ranges_of_its_capture(tmp_path: Path) -> None:
    capture = [Range("cell=a", 0, 90), Range("cell=a/capture", 10, 30), Range("mlp", 11, 14), Range("mlp", 15, 18)]
    repetitions = [Range("cell=a/rep", 100, 110), Range("cell=a/rep", 200, 210)]
    profile = joined(
        tmp_path,
        ranges=[*capture, *repetitions],
        calls=[Call(101, 102, 1), Call(201, 202, 2)],
        operations=[
            Operation(110, 115, 1, node=100),
            Operation(120, 126, 1, node=101),
            Operation(210, 217, 2, node=100),
            Operation(220, 228, 2, node=101),
        ],
        nodes=[Node(12, 100), Node(16, 101)],
    )
    assert samples(profile, "mlp") == {"kernel_sum": [11, 15], "busy": [11, 15], "span": [11, 15], "gap": [0, 0]}
    assert {m.range for m in profile.measurements} == {"", "mlp"}


def test_a_replay_within_a_range_of_the_name_it_was_captured_in_counts_once(tmp_path: Path) -> None:
    capture = [Range("cell=a/capture", 10, 30), Range("mlp", 11, 14), Range("mlp", 15, 18)]
    replay = [Range("cell=a/rep", 100, 140), Range("mlp", 101, 120), Range("mlp", 102, 110)]
    profile = joined(
        tmp_path,
        ranges=[*capture, *replay],
        calls=[Call(103, 104, 1), Call(121, 122, 2)],
        operations=[
            Operation(110, 115, 1, node=100),
            Operation(115, 122, 1),
            Operation(130, 141, 2, node=101),  # of another graph, replayed outside
        ],
        nodes=[Node(12, 100), Node(16, 101)],
    )
    assert samples(profile, "mlp") == {"kernel_sum": [23], "busy": [23], "span": [23], "gap": [0]}


def test_a_profiled_step_lasts_from_the_opening_of_its_range_to_the_end_of_its_last_operation(tmp_path: Path) -> None:
    profile = joined(
        tmp_path,
        ranges=[Range("cell=a/rep", 100, 110), Range("cell=a/rep", 200, 290), Range("cell=a/rep", 300, 310)],
        calls=[Call(101, 102, 1), Call(103, 104, 2), Call(201, 202, 3)],
        operations=[Operation(120, 180, 1), Operation(130, 150, 2), Operation(205, 206, 3)],
    )
    assert samples(profile)["profiled_step"] == [80, 6]


def test_ranges_that_lie_in_other_inner_ranges_are_named(tmp_path: Path) -> None:
    profile = joined(
        tmp_path,
        ranges=[
            *[Range("cell=a/capture", 0, 50), Range("mlp", 2, 20), Range("gemm", 4, 10)],
            *[Range("cell=a/rep", 100, 200), Range("layer", 101, 150), Range("attention", 110, 140)],
            *[Range("cell=b/rep", 300, 400), Range("outer", 301, 350), Range("layer", 302, 340)],
        ],
        calls=[Call(120, 121, 1), Call(130, 131, 2), Call(310, 311, 3)],
        operations=[Operation(125, 126, 1), Operation(135, 139, 2, node=7), Operation(315, 316, 3)],
        nodes=[Node(5, 7)],
    )
    assert {m.range for m in profile.measurements} == {"", "layer", "attention", "mlp", "gemm"}
    assert profile.nested_ranges == ["attention", "gemm"]


@pytest.mark.parametrize("cell_id", ["eager", "graph"])
def test_layers_nest_alike_when_they_are_launched_and_when_they_are_replayed(cell_id: str) -> None:
    profile = join_cell(project(NSYS / "nested.sqlite"), cell_id)
    assert {m.range for m in profile.measurements} == {"", "layer", "attention", "mlp"}
    assert profile.nested_ranges == ["attention", "mlp"]


def replay_and_eager(tmp_path: Path, replayed: list[str], eager: list[str], kind: str = KERNEL) -> CellProfile:
    """Two repetitions that replay these kernels, and one eager run."""
    calls = [Call(11, 12, 1), Call(21, 22, 2)]
    operations = [
        Operation(100 * call + 10 * n, 100 * call + 10 * n + 5, call, name=name, node=n, kind=kind)
        for call in (1, 2)
        for n, name in enumerate(replayed)
    ]
    for number, name in enumerate(eager):
        calls.append(Call(31 + number, 32 + number, 3 + number))
        operations.append(Operation(500 + 10 * number, 505 + 10 * number, 3 + number, name=name))
    ranges = [Range("cell=a", 0, 90), *(Range("cell=a/rep", start, start + 5) for start in (10, 20))]
    ranges += [Range("cell=a/eager", 30, 80)] if eager else []
    return joined(tmp_path, ranges=ranges, calls=calls, operations=operations)


@pytest.mark.parametrize(
    ("replayed", "eager", "difference"),
    [
        (["gemm", "norm", "gemm"], ["norm", "gemm", "gemm"], ""),
        (["gemm"], ["gemm", "norm"], "replay lacks 1 × norm"),
        (["gemm", "gemm", "copy"], ["gemm"], "replay has 1 × copy, 1 × gemm more than eager"),
        (["gemm", "x" * 100], ["gemm"] * 3, f"replay lacks 2 × gemm, has 1 × {'x' * 79}… more than eager"),
        (["gemm"], ["gemm", *"abcdef"], "replay lacks 1 × a, 1 × b, 1 × c, 1 × d and 2 other kernels"),
    ],
)
def test_the_kernels_of_a_replay_are_held_against_the_eager_steps(
    tmp_path: Path, replayed: list[str], eager: list[str], difference: str
) -> None:
    profile = replay_and_eager(tmp_path, replayed, eager)

    assert (profile.has_eager, profile.replay_difference) == (True, difference)
    assert len(samples(profile)["kernel_sum"]) == 2, "the eager run is no repetition"
    assert sum(kernel.count for kernel in profile.kernels) == len(replayed)


def test_without_an_eager_run_or_of_a_graph_traced_as_a_whole_nothing_is_compared(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    profiles = [
        replay_and_eager(tmp_path, ["gemm"], []),
        replay_and_eager(tmp_path / "whole", ["graph"], ["gemm"], kind=GRAPH),
    ]

    assert [(profile.has_eager, profile.replay_difference) for profile in profiles] == [(False, "")] * 2


def test_an_eager_run_that_launched_from_another_thread_is_not_compared(tmp_path: Path) -> None:
    profile = joined(
        tmp_path,
        ranges=[Range("cell=a/rep", 0, 10), Range("cell=a/eager", 20, 30)],
        calls=[Call(1, 2, 1), Call(21, 22, 2), Call(23, 24, 3, tid=2)],
        operations=[Operation(10, 20, 1), Operation(40, 45, 2), Operation(50, 60, 3)],
    )

    assert not profile.has_eager


def test_a_cell_whose_work_was_launched_from_elsewhere_gets_no_figures(tmp_path: Path) -> None:
    profile = joined(
        tmp_path,
        ranges=[Range("cell=a/rep", 0, 10)],
        calls=[Call(1, 2, 1), Call(3, 4, 2, tid=2)],
        operations=[Operation(10, 20, 1), Operation(20, 50, 2)],
    )
    assert profile.measurements == []
    assert profile.kernels == []
    assert profile.warnings == [
        "kernel times refused: 75% of the GPU time in a repetition of a was launched from other threads, which its "
        "ranges don't see"
    ]


def test_a_cell_that_is_not_in_the_trace_says_so() -> None:
    profile = join_cell(project(NSYS / "node.sqlite"), "cell_404")
    assert profile.measurements == []
    assert profile.warnings == ["no profiled repetition of cell_404 is in the trace, so that there are no kernel times"]


def test_repetitions_that_queue_are_warned_of(tmp_path: Path) -> None:
    profile = joined(
        tmp_path,
        ranges=[Range("cell=a/rep", 0, 3), Range("cell=a/rep", 4, 8)],
        calls=[Call(1, 2, 1), Call(5, 6, 2)],
        operations=[Operation(5, 50, 1), Operation(49, 60, 2)],
    )
    assert profile.warnings[0].startswith("1 of 2 profiled repetitions were queued behind the one before")
    assert len(samples(profile)["span"]) == 2


def test_another_program_has_a_measurement_per_range_of_its_own() -> None:
    profile = join_program(project(NSYS / "node.sqlite"))
    assert {m.range for m in profile.measurements} == {"torchnvtx"}
    assert samples(profile, "torchnvtx") == {"kernel_sum": [18240], "busy": [18240], "span": [88895], "gap": [70655]}


def test_another_program_without_ranges_says_why_it_has_no_kernel_times(tmp_path: Path) -> None:
    path = write_trace(tmp_path / "made.sqlite", Given([], [Call(1, 2, 1)], [Operation(5, 6, 1)]))
    assert join_program(project(path, may_be_empty=True)).warnings == [
        "no kernel times: the program opened no NVTX range"
    ]
