"""Projecting ranges: against what nsys says, and against the definition worked out slowly."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nsys_traces import GRAPH, KERNEL, MEMCPY, MEMSET, Call, Given, Node, Operation, Range, write_trace
from slow_projection import SlowProjection, label

from gpubench.profilers.projection import Projection, project
from gpubench.profilers.scrub import scrub
from gpubench.profilers.tables import INSTANCE_COLUMNS, KERNEL_COLUMNS, RANGE_COLUMNS

NSYS = Path(__file__).parents[1] / "data" / "nsys"


def rows(table: pd.DataFrame) -> list[dict[str, object]]:
    return table.astype(object).where(table.notna(), None).to_dict("records")


@pytest.mark.parametrize("name", ["node", "graph"])
class TestAgainstNsys:
    def test_every_range_that_nsys_keeps_has_its_projection(self, name: str) -> None:
        projection = project(NSYS / f"{name}.sqlite")
        theirs = pd.read_csv(NSYS / f"{name}.nvtx_gpu_proj_trace.csv").dropna(subset="Name")
        assert len(theirs) >= 6
        ours = {(row["range"], row["host_start_ns"]): row for row in rows(projection.instances)}
        for row in theirs.to_dict("records"):
            found = ours[row["Name"], row["Orig Start (ns)"]]
            assert found["start_ns"] == row["Projected Start (ns)"]
            assert found["span_ns"] == row["Projected Duration (ns)"]
            assert found["host_ns"] == row["Orig Duration (ns)"]
            assert found["launches"] == row["NumGPUOps"]
            assert (found["pid"], found["tid"], found["depth"]) == (row["PID"], row["TID"], row["Lvl"])

    def test_every_range_summary_has_its_median(self, name: str) -> None:
        projection = project(NSYS / f"{name}.sqlite")
        ours = {row["range"]: row for row in rows(projection.ranges)}
        for row in pd.read_csv(NSYS / f"{name}.nvtx_gpu_proj_sum.csv").to_dict("records"):
            found = ours[row["Range"]]
            assert found["span_ns_median"] == row["Proj Med (ns)"]
            assert found["instances"] == row["Range Instances"]
            assert found["launches"] == row["Total GPU Ops"]

    def test_every_kernel_of_every_range_has_its_times(self, name: str) -> None:
        projection = project(NSYS / f"{name}.sqlite")
        theirs = pd.read_csv(NSYS / f"{name}.nvtx_kern_sum.csv").dropna(subset="NVTX Range")
        ours = {(row["range"], row["kernel"]): row for row in rows(projection.kernels)}
        assert len(theirs) >= 10
        for row in theirs.to_dict("records"):
            found = ours[row["NVTX Range"], row["Kernel Name"]]
            assert found["count"] == row["Kern Inst"]
            assert found["total_ns"] == row["Total Time (ns)"]
            assert found["median_ns"] == row["Med (ns)"]

    def test_columns_are_the_declared_ones(self, name: str) -> None:
        projection = project(NSYS / f"{name}.sqlite")
        assert tuple(projection.instances.columns) == INSTANCE_COLUMNS
        assert tuple(projection.ranges.columns) == RANGE_COLUMNS
        assert tuple(projection.kernels.columns) == KERNEL_COLUMNS


def test_the_ranges_that_nsys_loses_when_graphs_are_traced_whole_are_there() -> None:
    projection = project(NSYS / "graph.sqlite")
    assert projection.mode == "graph"
    replays = projection.instances[projection.instances["range"] == "gpubench:cell=graph/rep"]
    assert replays["span_ns"].tolist() == [18784, 19040, 18912, 18912, 18912]
    assert replays["operations"].tolist() == [1] * 5
    assert replays["kernel_sum_ns"].isna().all()


def test_a_replay_traced_node_by_node_has_all_its_kernels_and_one_launch() -> None:
    projection = project(NSYS / "node.sqlite")
    assert projection.mode == "node"
    replays = projection.instances[projection.instances["range"] == "gpubench:cell=graph/rep"]
    assert replays["operations"].tolist() == [5] * 5
    assert replays["launches"].tolist() == [1] * 5
    assert replays["kernel_sum_ns"].tolist() == [18656, 18720, 18560, 18496, 18560]
    assert (replays["kernel_sum_ns"] <= replays["span_ns"]).all()
    assert projection.unattributed_share == 0


moments = st.integers(0, 40)
threads = st.integers(1, 2)
processes = st.integers(1, 2)
correlations = st.none() | st.integers(1, 6)


@st.composite
def spans(draw: st.DrawFn) -> tuple[int, int]:
    return tuple(sorted((draw(moments), draw(moments))))


@st.composite
def ranges_(draw: st.DrawFn) -> Range:
    start, end = draw(spans())
    return Range(
        name=draw(st.sampled_from(["cell=a/rep", "attention", "mlp", ""])),
        start=start,
        end=draw(st.sampled_from([end, end, end, None])),
        tid=draw(threads),
        pid=draw(processes),
        domain=draw(st.sampled_from(["gpubench", "other", ""])),
        style=draw(st.sampled_from([59, 60])),
        registered=draw(st.booleans()),
    )


calls_ = st.builds(
    lambda span, correlation, tid, pid: Call(*span, correlation, tid, pid), spans(), correlations, threads, processes
)
operations_ = st.builds(
    lambda span, correlation, pid, kind, name, device, node: Operation(
        *span, correlation, pid, kind, name, device, None if kind == GRAPH else node
    ),
    spans(),
    correlations,
    processes,
    st.sampled_from([KERNEL, KERNEL, KERNEL, MEMCPY, MEMSET, GRAPH]),
    st.sampled_from(["gemm", "softmax"]),
    st.integers(0, 1),
    st.none() | st.integers(1, 4),
)
nodes_ = st.builds(
    # a clone is numbered after its original, as a graph's nodes are
    lambda start, node, back, tid, pid: Node(start, node, node - back if 0 < back < node else None, tid, pid),
    moments,
    st.integers(1, 4),
    st.integers(0, 3),
    threads,
    processes,
)
traces = st.builds(
    Given,
    st.lists(ranges_(), max_size=9),
    st.lists(calls_, min_size=1, max_size=9),
    st.lists(operations_, max_size=12),
    st.lists(nodes_, max_size=6, unique_by=lambda node: (node.pid, node.node)),
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(made=traces)
def test_any_trace_is_projected_as_defined(made: Given, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = write_trace(tmp_path_factory.mktemp("trace") / "made.sqlite", made)
    fast, slow = project(path, may_be_empty=True), SlowProjection(made)
    assert len(fast.instances) == len(slow.closed())
    renumbered = {row: number for number, row in enumerate(slow.closed())}
    for row, found in zip(slow.closed(), rows(fast.instances), strict=True):
        item = slow.ranges[row]
        expected = {
            "range": label(item),
            **slow.figures(slow.members(row)),
            **{f"exclusive_{name}": value for name, value in slow.figures(slow.own(row)).items() if name != "start_ns"},
            "host_ns": item.end - item.start,
            "host_start_ns": item.start,
            "pid": item.pid,
            "tid": item.tid,
            "device": slow.device(row),
            "depth": len(slow.ancestors(row)),
            "parent": renumbered.get(max(slow.ancestors(row), default=None)),
            "recursive": any(label(slow.ranges[outer]) == label(item) for outer in slow.ancestors(row)),
            "queued_behind": slow.is_queued(row),
            "unattributed_share": pytest.approx(slow.unattributed_share(row)),
        }
        assert {name: found[name] for name in expected} == expected
    kernels = {
        (row["range"], row["kernel"]): (row["count"], row["total_ns"], row["median_ns"]) for row in rows(fast.kernels)
    }
    assert kernels == slow.kernels()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(made=traces)
def test_what_is_summed_up_adds_up(made: Given, tmp_path_factory: pytest.TempPathFactory) -> None:
    projection = project(write_trace(tmp_path_factory.mktemp("trace") / "made.sqlite", made), may_be_empty=True)
    timed = projection.instances.dropna(subset="span_ns")
    assert (timed["busy_ns"] <= timed["span_ns"]).all()
    assert (timed["exclusive_operations"] <= timed["operations"]).all()
    assert timed["exclusive_operations"].sum() <= projection.operations
    kernels = projection.kernels[projection.kernels["kind"] == "kernel"].groupby("range")["count"].sum()
    for row in rows(projection.ranges):
        assert kernels.get(row["range"], 0) <= row["operations"]
    assert 0 <= projection.unattributed_share <= 1


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(made=traces)
def test_replayed_kernels_go_to_the_ranges_they_were_captured_in(
    made: Given, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = write_trace(tmp_path_factory.mktemp("trace") / "made.sqlite", made)
    fast, slow = project(path, may_be_empty=True), SlowProjection(made)
    expected: dict[tuple[str, str], int] = {}
    per_instance: dict[tuple[int, str], int] = {}
    renumbered = {row: number for number, row in enumerate(slow.closed())}
    for operation, chain in zip(slow.operations, slow.chain_of, strict=True):
        captured = slow.captured_chain(operation)
        for name in {label(slow.ranges[row]) for row in captured}:
            key = (name, operation.kind)
            expected[key] = expected.get(key, 0) + 1
        outermost = [
            row
            for row in captured
            if label(slow.ranges[row]) not in {label(slow.ranges[outer]) for outer in slow.ancestors(row)}
        ]
        for row in set(chain) & set(renumbered):
            for inside in outermost:
                where = (renumbered[row], label(slow.ranges[inside]))
                per_instance[where] = per_instance.get(where, 0) + 1
    found = fast.captured_kernels.assign(kind=fast.captured_kernels["kind"].str.upper())
    assert found.groupby(["range", "kind"])["count"].sum().to_dict() == expected
    assert {(row["instance"], row["captured"]): row["operations"] for row in rows(fast.captured)} == per_instance


def one(tmp_path: Path, **made: list[object]) -> Projection:
    return project(write_trace(tmp_path / "made.sqlite", Given(**made)))


def test_a_kernel_belongs_to_the_range_that_launched_it_not_to_the_one_it_ran_in(tmp_path: Path) -> None:
    projection = one(
        tmp_path,
        ranges=[Range("first", 0, 10), Range("second", 20, 30)],
        calls=[Call(1, 2, 1), Call(21, 22, 2)],
        operations=[Operation(23, 27, 1), Operation(28, 29, 2)],
    )
    assert projection.instances["start_ns"].tolist() == [23, 28]
    assert projection.instances["launch_delay_ns"].tolist() == [22, 7]


def test_the_same_correlation_id_in_two_processes_is_two_launches(tmp_path: Path) -> None:
    projection = one(
        tmp_path,
        ranges=[Range("rep", 0, 10, pid=1), Range("rep", 0, 10, pid=2)],
        calls=[Call(1, 2, 7, pid=1), Call(1, 2, 7, pid=2)],
        operations=[Operation(5, 6, 7, pid=1), Operation(5, 9, 7, pid=2)],
    )
    assert projection.instances["span_ns"].tolist() == [1, 4]


def test_streams_that_overlap_are_busy_once_but_summed_twice(tmp_path: Path) -> None:
    projection = one(
        tmp_path,
        ranges=[Range("rep", 0, 10)],
        calls=[Call(1, 2, 1), Call(3, 4, 2), Call(5, 6, 3)],
        operations=[Operation(10, 20, 1), Operation(12, 30, 2), Operation(40, 45, 3)],
    )
    (row,) = rows(projection.instances)
    assert (row["span_ns"], row["busy_ns"], row["kernel_sum_ns"], row["gap_ns"]) == (35, 25, 33, 10)


def test_copies_and_fills_keep_the_gpu_busy_but_are_no_kernels(tmp_path: Path) -> None:
    projection = one(
        tmp_path,
        ranges=[Range("rep", 0, 10)],
        calls=[Call(1, 2, 1), Call(3, 4, 2), Call(5, 6, 3)],
        operations=[Operation(10, 20, 1, kind=MEMCPY), Operation(20, 25, 2), Operation(25, 26, 3, kind=MEMSET)],
    )
    (row,) = rows(projection.instances)
    assert (row["busy_ns"], row["kernel_sum_ns"], row["operations"]) == (16, 5, 3)
    assert projection.kernels["kernel"].tolist() == ["[memcpy Host-to-Device]", "gemm", "[memset]"]


def test_a_graph_traced_both_ways_counts_once(tmp_path: Path) -> None:
    projection = one(
        tmp_path,
        ranges=[Range("rep", 0, 10)],
        calls=[Call(1, 2, 1)],
        operations=[Operation(10, 40, 1, kind=GRAPH), Operation(10, 20, 1), Operation(30, 40, 1)],
    )
    (row,) = rows(projection.instances)
    assert (row["operations"], row["kernel_sum_ns"], row["busy_ns"]) == (2, 20, 20)


def test_a_range_without_operations_stays_with_nulls(tmp_path: Path) -> None:
    projection = one(
        tmp_path,
        ranges=[Range("idle", 0, 10), Range("rep", 20, 30)],
        calls=[Call(21, 22, 1)],
        operations=[Operation(25, 26, 1)],
    )
    idle = rows(projection.instances)[0]
    assert idle["range"] == "gpubench:idle"
    assert (idle["operations"], idle["launches"], idle["host_ns"]) == (0, 0, 10)
    assert {idle[name] for name in ("start_ns", "span_ns", "busy_ns", "kernel_sum_ns", "gap_ns", "device")} == {None}


def test_a_range_that_was_never_closed_is_the_place_of_the_crash_and_not_timed(tmp_path: Path) -> None:
    projection = one(
        tmp_path,
        ranges=[
            Range("cell=a", 0, None),
            Range("cell=a/rep", 5, 9),
            Range("cell=a/rep", 10, None),
            Range("mlp", 12, None),
        ],
        calls=[Call(6, 7, 1), Call(13, 14, 2)],
        operations=[Operation(8, 9, 1), Operation(20, 21, 2)],
    )
    assert projection.instances["range"].tolist() == ["gpubench:cell=a/rep"]
    assert projection.instances["parent"].isna().all()
    assert projection.open_ranges["range"].tolist() == ["gpubench:cell=a", "gpubench:cell=a/rep", "gpubench:mlp"]
    assert projection.open_ranges["depth"].tolist() == [0, 1, 2]
    assert projection.open_ranges["operations"].tolist() == [2, 1, 1]
    assert projection.unattributed_share == 0


@pytest.mark.parametrize("is_scrubbed", [False, True])
def test_a_range_that_ends_with_the_recording_was_never_closed(tmp_path: Path, is_scrubbed: bool) -> None:
    made = Given(
        ranges=[Range("cell=a/rep", 5, 9), Range("cell=b", 10, 100), Range("cell=b/rep", 12, 100)],
        calls=[Call(6, 7, 1), Call(13, 14, 2)],
        operations=[Operation(8, 9, 1), Operation(20, 21, 2)],
    )
    path = write_trace(tmp_path / "made.sqlite", made)
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE ANALYSIS_DETAILS (globalVid, duration, startTime, stopTime)")
        database.execute("INSERT INTO ANALYSIS_DETAILS VALUES (1, 100, 1000, 1100)")
        database.commit()
    projection = project(scrub(path, tmp_path / "clean.sqlite") if is_scrubbed else path)
    assert projection.instances["range"].tolist() == ["gpubench:cell=a/rep"]
    assert projection.open_ranges["range"].tolist() == ["gpubench:cell=b", "gpubench:cell=b/rep"]


def test_a_range_that_waited_for_an_earlier_one_is_flagged(tmp_path: Path) -> None:
    projection = one(
        tmp_path,
        ranges=[Range("rep", 0, 3), Range("rep", 4, 8), Range("rep", 100, 110)],
        calls=[Call(1, 2, 1), Call(5, 6, 2), Call(101, 102, 3)],
        operations=[Operation(5, 50, 1), Operation(49, 60, 2), Operation(105, 110, 3)],
    )
    assert projection.instances["queued_behind"].tolist() == [False, True, False]
    assert projection.ranges["queued_behind"].tolist() == [1]


def test_on_one_stream_a_launch_before_the_earlier_range_has_finished_is_what_tells_a_queue(tmp_path: Path) -> None:
    projection = one(
        tmp_path,
        ranges=[Range("rep", 0, 3), Range("rep", 4, 8)],
        calls=[Call(1, 2, 1), Call(5, 6, 2)],
        operations=[Operation(5, 50, 1), Operation(50, 60, 2)],
    )
    assert projection.instances["queued_behind"].tolist() == [False, True]


def test_work_from_another_thread_is_missed_and_said_so(tmp_path: Path) -> None:
    projection = one(
        tmp_path,
        ranges=[Range("rep", 0, 10), Range("rep", 20, 30)],
        calls=[Call(1, 2, 1), Call(4, 5, 2, tid=2), Call(21, 22, 3)],
        operations=[Operation(10, 20, 1), Operation(20, 50, 2), Operation(60, 70, 3)],
    )
    assert projection.instances["operations"].tolist() == [1, 1]
    assert projection.instances["unattributed_share"].tolist() == [0.75, 0.0]
    assert projection.unattributed_share == pytest.approx(0.6)


def test_work_from_another_thread_is_missed_even_where_that_thread_has_ranges_of_its_own(tmp_path: Path) -> None:
    projection = one(
        tmp_path,
        ranges=[Range("rep", 0, 10), Range("layer", 3, 6, tid=2)],
        calls=[Call(1, 2, 1), Call(4, 5, 2, tid=2)],
        operations=[Operation(10, 20, 1), Operation(20, 50, 2)],
    )
    assert projection.instances["unattributed_share"].tolist() == [0.75, 0.0]
    assert projection.unattributed_share == 0


def test_a_name_nested_in_itself_is_not_counted_twice(tmp_path: Path) -> None:
    projection = one(
        tmp_path,
        ranges=[Range("layer", 0, 20), Range("layer", 5, 10)],
        calls=[Call(1, 2, 1), Call(6, 7, 2)],
        operations=[Operation(10, 20, 1), Operation(20, 30, 2)],
    )
    (row,) = rows(projection.ranges)
    assert (row["instances"], row["operations"], row["launches"]) == (2, 2, 2)
    assert projection.kernels["count"].tolist() == [2]
    assert projection.instances["exclusive_kernel_sum_ns"].tolist() == [10, 10]


def test_a_replay_is_broken_down_by_the_layers_it_was_captured_in(tmp_path: Path) -> None:
    layers = [Range("attention", 11, 14), Range("mlp", 15, 18), Range("attention", 19, 22), Range("mlp", 23, 26)]
    captured = [Node(12 + 4 * number, 100 + number) for number in range(4)]
    cloned = [Node(40, 200 + number, 100 + number) for number in range(4)]
    kernels = [Operation(110 + 10 * n, 110 + 10 * n + 2 + n % 2, 1, node=200 + n, name=f"k{n}") for n in range(4)]
    projection = one(
        tmp_path,
        ranges=[Range("cell=a/capture", 10, 30), *layers, Range("cell=a/rep", 100, 108)],
        calls=[Call(101, 102, 1)],
        operations=kernels,
        nodes=captured + cloned,
    )
    found = {row["captured"]: row for row in rows(projection.captured) if row["range"] == "gpubench:cell=a/rep"}
    assert list(found) == ["gpubench:cell=a/capture", "gpubench:attention", "gpubench:mlp"]
    attention = found["gpubench:attention"]
    assert (attention["times"], attention["operations"], attention["kernel_sum_ns"]) == (2, 2, 4)
    assert found["gpubench:mlp"]["kernel_sum_ns"] == 6
    whole = found["gpubench:cell=a/capture"]
    assert (whole["span_ns"], whole["busy_ns"], whole["gap_ns"]) == (33, 10, 23)
    names = projection.captured_kernels.set_index("range")["kernel"]
    assert sorted(names["gpubench:attention"]) == ["k0", "k2"]
