"""What an H200 did, as nsys recorded it (tests/data/nsys/record.py): every figure is nsys's own where it has one."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from test_projection import NSYS, rows

from gpubench.profilers.join import join_cell
from gpubench.profilers.projection import Projection, project

SCENES = ("eager", "streams", "queued", "graph")
LAYERS = 3
KERNELS_PER_STEP = 21


@pytest.fixture(scope="module")
def nested() -> Projection:
    return project(NSYS / "nested.sqlite")


@pytest.fixture(scope="module")
def died() -> Projection:
    return project(NSYS / "died.sqlite")


def theirs(report: str) -> pd.DataFrame:
    """A report of `nsys stats`, with the names as they are: nsys puts a colon before one of the default domain."""
    table = pd.read_csv(NSYS / f"nested.{report}.csv")
    name = next((column for column in ("Name", "Range", "NVTX Range") if column in table), "")
    if report.startswith("nvtx"):
        table[name] = table[name].str.removeprefix(":")
    return table


def instances_of(projection: Projection, name: str) -> pd.DataFrame:
    found = projection.instances[projection.instances["range"] == f"gpubench:{name}"]
    assert len(found)
    return found


class TestAgainstNsys:
    def test_every_range_that_nsys_keeps_has_its_projection(self, nested: Projection) -> None:
        kept = theirs("nvtx_gpu_proj_trace")
        assert len(kept) > 100
        ours = {(row["range"], row["tid"], row["host_start_ns"]): row for row in rows(nested.instances)}
        for row in kept.to_dict("records"):
            found = ours[row["Name"], row["TID"], row["Orig Start (ns)"]]
            assert found["start_ns"] == row["Projected Start (ns)"]
            assert found["span_ns"] == row["Projected Duration (ns)"]
            assert found["host_ns"] == row["Orig Duration (ns)"]
            assert found["launches"] == row["NumGPUOps"]
            assert (found["pid"], found["depth"]) == (row["PID"], row["Lvl"])

    def test_nsys_keeps_every_range_that_ran_something(self, nested: Projection) -> None:
        assert len(theirs("nvtx_gpu_proj_trace")) == nested.instances["span_ns"].notna().sum()

    def test_parents_are_those_that_nsys_found(self, nested: Projection) -> None:
        kept = theirs("nvtx_gpu_proj_trace").set_index("RangeId")
        by_start = nested.instances.reset_index().set_index(["tid", "host_start_ns"])["index"]
        for row in kept.dropna(subset="ParentId").to_dict("records"):
            parent = kept.loc[int(row["ParentId"])]
            found = nested.instances.loc[by_start[row["TID"], row["Orig Start (ns)"]], "parent"]
            assert found == by_start[parent["TID"], parent["Orig Start (ns)"]]

    def test_every_range_summary_has_its_total_and_its_median(self, nested: Projection) -> None:
        ours = nested.instances.dropna(subset="span_ns").groupby("range")
        for row in theirs("nvtx_gpu_proj_sum").to_dict("records"):
            found = ours.get_group(row["Range"])
            assert len(found) == row["Range Instances"]
            assert found["span_ns"].sum() == row["Total Proj Time (ns)"]
            assert found["span_ns"].median() == row["Proj Med (ns)"]
            assert found["host_ns"].sum() == row["Total Range Time (ns)"]
            assert found["launches"].sum() == row["Total GPU Ops"]

    def test_every_kernel_of_every_range_has_its_times(self, nested: Projection) -> None:
        ours = {(row["range"], row["kernel"]): row for row in rows(nested.kernels)}
        kept = theirs("nvtx_kern_sum").dropna(subset="NVTX Range")  # some kernels ran in none
        summed = kept.groupby(["NVTX Range", "Kernel Name"])[["Kern Inst", "Total Time (ns)"]].sum()
        assert len(summed) > 40
        for (name, kernel), row in summed.iterrows():
            assert ours[name, kernel]["count"] == row["Kern Inst"]
            assert ours[name, kernel]["total_ns"] == row["Total Time (ns)"]
        on_one_thread = kept[~kept.duplicated(["NVTX Range", "Kernel Name"], keep=False)]
        for row in on_one_thread.to_dict("records"):
            assert ours[row["NVTX Range"], row["Kernel Name"]]["median_ns"] == row["Med (ns)"]

    def test_what_each_range_launched_itself_adds_up_to_all_that_ran_in_ranges(self, nested: Projection) -> None:
        everything = theirs("cuda_gpu_kern_sum")["Total Time (ns)"].sum()
        own = nested.instances["exclusive_kernel_sum_ns"].sum()
        top = nested.instances[nested.instances["depth"] == 0]["kernel_sum_ns"].sum()
        assert own == top
        assert own <= everything
        assert (own == everything) == (nested.unattributed_share == 0)


class TestEager:
    def test_the_layers_of_a_step_add_up_to_it_in_kernel_time_but_not_in_span(self, nested: Projection) -> None:
        for index, step in instances_of(nested, "cell=eager/rep").iterrows():
            layers = nested.instances[nested.instances["parent"] == index]
            assert layers["range"].tolist() == ["gpubench:layer"] * LAYERS
            assert layers["kernel_sum_ns"].sum() == step["kernel_sum_ns"]
            assert layers["operations"].sum() == step["operations"] == KERNELS_PER_STEP
            assert layers["span_ns"].sum() < step["span_ns"], "between layers the GPU waits for the host"
            assert step["exclusive_operations"] == 0

    def test_a_step_launched_kernel_by_kernel_is_mostly_gap_and_a_replay_of_it_is_not(self, nested: Projection) -> None:
        eager, replay = instances_of(nested, "cell=eager/rep"), instances_of(nested, "cell=graph/rep")
        assert (eager["gap_ns"] > eager["busy_ns"]).all()
        assert (replay["gap_ns"] < replay["busy_ns"] / 10).all()
        assert replay["kernel_sum_ns"].median() == pytest.approx(eager["kernel_sum_ns"].median(), rel=0.05)


class TestStreams:
    def test_copies_keep_the_gpu_busy_without_being_kernels(self, nested: Projection) -> None:
        steps = instances_of(nested, "cell=streams/rep")
        assert (steps["busy_ns"] > steps["kernel_sum_ns"]).all()
        assert (steps["busy_ns"] + steps["gap_ns"] == steps["span_ns"]).all()

        ran = nested.kernels[nested.kernels["range"] == "gpubench:cell=streams/rep"]
        by_kind = ran.groupby("kind")["total_ns"].sum()
        assert by_kind["kernel"] == steps["kernel_sum_ns"].sum()
        assert ran[ran["kind"] == "memcpy"]["kernel"].tolist() == ["[memcpy Host-to-Device]"]
        assert ran[ran["kind"] == "memset"]["count"].tolist() == [len(steps)], "a reduction's semaphores"
        assert by_kind.sum() >= steps["busy_ns"].sum(), "what overlaps is busy once"
        assert ran["count"].sum() == steps["operations"].sum()


class TestQueue:
    def test_repetitions_that_nobody_waited_for_are_flagged_and_others_are_not(self, nested: Projection) -> None:
        assert instances_of(nested, "cell=queued/rep")["queued_behind"].tolist() == [False, True, True]
        for scene in ("eager", "streams", "graph"):
            assert not instances_of(nested, f"cell={scene}/rep")["queued_behind"].any()

    def test_in_a_queue_the_launch_delay_is_the_time_spent_in_it(self, nested: Projection) -> None:
        first, second, third = rows(instances_of(nested, "cell=queued/rep"))
        assert second["launch_delay_ns"] > first["busy_ns"] / 2
        assert third["launch_delay_ns"] > second["launch_delay_ns"]


class TestThreads:
    def test_each_thread_has_its_own_ranges_and_what_it_launched(self, nested: Projection) -> None:
        (outer,) = rows(instances_of(nested, "cell=threads/rep"))
        (other,) = rows(instances_of(nested, "on another thread"))
        assert outer["tid"] != other["tid"]
        assert other["parent"] is None, "a range of one thread never lies in one of another"
        assert outer["host_start_ns"] < other["host_start_ns"]
        assert outer["operations"] == other["operations"] == KERNELS_PER_STEP

    def test_a_cell_that_does_not_see_all_of_its_work_gets_no_kernel_times(self, nested: Projection) -> None:
        profile = join_cell(nested, "threads")
        assert profile.measurements == []
        assert "was launched from other threads, which its ranges don't see" in profile.warnings[0]


class TestReplays:
    def test_a_replay_is_one_launch_of_all_its_kernels(self, nested: Projection) -> None:
        assert nested.mode == "node"
        replays = instances_of(nested, "cell=graph/rep")
        assert replays["launches"].tolist() == [1] * 4
        assert replays["operations"].tolist() == [KERNELS_PER_STEP] * 4

    def test_the_layers_that_a_replay_was_captured_in_add_up_to_it(self, nested: Projection) -> None:
        for index, replay in instances_of(nested, "cell=graph/rep").iterrows():
            inside = nested.captured[nested.captured["instance"] == index].set_index("captured")
            attention, mlp, layer = (inside.loc[f"gpubench:{name}"] for name in ("attention", "mlp", "layer"))
            assert [attention["times"], mlp["times"], layer["times"]] == [LAYERS] * 3
            for figure in ("kernel_sum_ns", "operations"):
                assert attention[figure] + mlp[figure] == layer[figure] == replay[figure]
            assert layer["start_ns"] == replay["start_ns"]
            assert layer["span_ns"] <= inside.loc["gpubench:cell=graph/capture", "span_ns"] == replay["span_ns"]

    def test_a_layer_runs_the_same_kernels_replayed_as_launched(self, nested: Projection) -> None:
        replays = len(instances_of(nested, "cell=graph/rep"))
        for name in ("gpubench:attention", "gpubench:mlp"):
            replayed = nested.captured_kernels[nested.captured_kernels["range"] == name]
            launched = nested.kernels[nested.kernels["range"] == name]
            assert len(replayed) >= 3
            assert set(replayed["kernel"]) <= set(launched["kernel"])
            assert (replayed["count"] % (LAYERS * replays) == 0).all(), "in every layer of every replay"

    def test_a_cells_record_has_the_layers_of_its_replays(self, nested: Projection) -> None:
        profile = join_cell(nested, "graph")
        sums = {m.range: m.samples for m in profile.measurements if m.metric == "kernel_sum"}
        assert set(sums) == {"", "layer", "attention", "mlp"}
        assert {len(samples) for samples in sums.values()} == {4}
        for whole, attention, mlp in zip(sums[""], sums["attention"], sums["mlp"], strict=True):
            assert attention + mlp == pytest.approx(whole)
        assert profile.warnings == []


@pytest.mark.parametrize("scene", SCENES)
def test_every_scene_makes_a_cell(nested: Projection, scene: str) -> None:
    profile = join_cell(nested, scene)
    assert {"kernel_sum", "busy", "span", "gap"} <= {m.metric for m in profile.measurements if m.range == ""}
    assert sum(kernel.share for kernel in profile.kernels) == pytest.approx(1)


class TestDeath:
    """An illegal access while two ranges were open, and the process aborted."""

    def test_the_cell_before_it_has_all_its_figures(self, died: Projection) -> None:
        before = instances_of(died, "cell=eager/rep")
        assert before["operations"].tolist() == [KERNELS_PER_STEP] * 4
        assert (before["kernel_sum_ns"] > 0).all()
        profile = join_cell(died, "eager")
        assert len(profile.measurements[0].samples) == 4
        assert profile.warnings == []

    def test_the_ranges_that_were_open_are_where_it_happened(self, died: Projection) -> None:
        # The killed process had closed this layer and opened another range, but its last events never arrived.
        assert died.open_ranges["range"].tolist() == ["gpubench:cell=died/rep", "gpubench:layer", "gpubench:attention"]
        assert died.open_ranges["depth"].tolist() == [0, 1, 2]
        assert "gpubench:cell=died/rep" not in set(died.instances["range"])


def test_nothing_of_the_machine_is_in_what_is_kept() -> None:
    for path in Path(NSYS).glob("*.sqlite"):
        assert b"PATH=" not in path.read_bytes(), path
