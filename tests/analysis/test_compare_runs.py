"""Two runs cell by cell: what is paired, what is judged, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from made_runs import MadeCell, make_run

from gpubench.analysis.compare import RunComparison, compare_runs
from gpubench.analysis.metrics import METRICS
from gpubench.analysis.run import Run, load_run
from gpubench.analysis.verdicts import Figure, Verdict, judge
from gpubench.catalogue import AxisInfo
from gpubench.errors import UsageError
from gpubench.records import Outcome, Timer
from gpubench.report.compare_text import show_comparison

STEP = METRICS["step_time"]


def steady(seconds: float, noise: float = 0.001, count: int = 10) -> list[float]:
    return [seconds * (1 + noise * (n - count / 2)) for n in range(count)]


def cell(batch: int, seconds: float = 1e-3, **kind) -> MadeCell:
    return MadeCell({"backend": "torch", "batch": batch}, {"step_time": [steady(seconds)] * 3}, **kind)


def run_of(folder: Path, cells: list[MadeCell], **header) -> Run:
    return load_run(make_run(folder, cells, **header))


def compared(folder: Path, before: list[MadeCell], after: list[MadeCell], **kind) -> RunComparison:
    return compare_runs(run_of(folder, before), run_of(folder, after), **kind)


def told(found: RunComparison) -> dict[int, list[Verdict]]:
    return {cell.pair.arguments["batch"]: list(cell.verdicts) for cell in found.cells}


def test_every_fate_of_a_cell_has_its_word(tmp_path: Path) -> None:
    dead = {"outcome": Outcome.CRASH, "reason": "signal 11"}
    skip = {"outcome": Outcome.SKIPPED, "reason": "needs triton"}
    before = [cell(n) for n in range(4)] + [cell(4, **dead), cell(5, **dead), cell(6), cell(7, **skip), cell(9)]
    after = [cell(0, 1.1e-3), cell(1, 0.9e-3), cell(2, 1.0001e-3), cell(3, **dead)]
    after += [cell(4), cell(5, **dead), cell(6, **skip), cell(7), cell(8), cell(9, outcome=None)]
    found = compared(tmp_path, before, after)
    words = [
        "slower",
        "faster",
        "same",
        "newly failing",
        "newly ok",
        "still failing",
        "missing",
        "new",
        "new",
        "missing",
    ]
    assert told(found) == {n: [word] for n, word in enumerate(words)}
    assert found.has_regression
    assert found.cells[3].why == "crash: signal 11"
    assert found.cells[6].why == "skipped: needs triton"
    assert found.cells[9].why == "not run"


def test_what_only_the_first_run_has_is_missing_and_no_regression(tmp_path: Path) -> None:
    found = compared(tmp_path, [cell(1), cell(2)], [cell(1)])
    assert told(found) == {1: ["same"], 2: ["missing"]}
    assert not found.has_regression


def test_swapping_the_runs_swaps_the_words(tmp_path: Path) -> None:
    one = run_of(tmp_path, [cell(1), cell(2), cell(3)])
    other = run_of(tmp_path, [cell(1, 1.05e-3), cell(2, 0.97e-3), cell(3, 1.005e-3)])
    assert told(compare_runs(one, other)) == {1: ["slower"], 2: ["faster"], 3: ["same"]}
    assert told(compare_runs(other, one)) == {1: ["faster"], 2: ["slower"], 3: ["same"]}


def test_a_rate_that_falls_is_slower(tmp_path: Path) -> None:
    def rated(value: float) -> list[MadeCell]:
        return [MadeCell({"batch": 1}, {"goodput": [steady(value)] * 3})]

    found = compared(tmp_path, rated(100.0), rated(90.0), metrics=["goodput"])
    assert told(found) == {1: ["slower"]}


def test_a_count_of_what_ran_changes_for_neither_better_nor_worse(tmp_path: Path) -> None:
    def served(decoding: float) -> list[MadeCell]:
        figures = {"tok_s_user": [steady(100)] * 3, "decoding": [steady(decoding)] * 3}
        return [MadeCell({"backend": "graph", "batch": 1}, figures)]

    sides = served(20), served(30)
    for before, after in (sides, sides[::-1]):
        found = compared(tmp_path, before, after, metrics=["decoding"])
        assert told(found) == {1: ["changed"]}
        assert not found.has_regression
        assert show_comparison(found).headline == "Of 1 cell: 1 changed."
        assert "Of decoding neither way is better" in show_comparison(found).rule


def test_no_frontier_moves_over_a_count_of_what_ran(tmp_path: Path) -> None:
    cells = [MadeCell({"backend": "graph", "batch": 1}, {"tok_s_user": [steady(9)], "decoding": [steady(8)]})]
    plotted = {"pareto": {"x": "tok_s_user", "y": "decoding"}}
    one, other = (run_of(tmp_path, cells, sweep=plotted) for _ in range(2))
    assert compare_runs(one, other).movements == ()
    with pytest.raises(UsageError, match="decoding: neither more nor less of it is better"):
        one.frontier("tok_s_user", "decoding")


def figure(median: float, half: float, timer: str = "cuda_event", count: int = 30, trials: int = 3) -> Figure:
    return Figure(median, median / (1 + half), median * (1 + half), timer, count, trials)


@pytest.mark.parametrize(
    ("change", "half", "verdict"),
    [
        (1.05, 0.01, "slower"),
        (1.05, 0.04, "unclear"),
        (1.015, 0.0001, "same"),
        (1.015, 0.01, "unclear"),
        (1.021, 0.001, "slower"),
        (1.0, 0.001, "same"),
        (1.0, 0.05, "unclear"),
        (0.95, 0.01, "faster"),
    ],
)
def test_a_verdict_weighs_the_interval_and_the_threshold(change: float, half: float, verdict: str) -> None:
    assert judge(STEP, figure(1e-3, half), figure(1e-3 * change, half), 0.02).verdict == verdict


def test_too_few_samples_give_no_verdict_unless_there_are_trials() -> None:
    one, other = figure(1e-3, 0.0, count=5, trials=1), figure(2e-3, 0.0, count=5, trials=1)
    found = judge(STEP, one, other, 0.02)
    assert (found.verdict, found.why) == ("unclear", "5 samples can't tell: 6 samples or 3 trials can")
    found = judge(STEP, replace(one, num_samples=320, warnings=("too few samples",)), figure(2e-3, 0.01), 0.02)
    assert found.why == "320 samples of fewer readings can't tell: 6 samples or 3 trials can"
    assert judge(
        STEP, replace(one, num_samples=3, trials=3), replace(other, num_samples=3, trials=3), 0.02
    ).verdict == ("slower")
    assert judge(STEP, one, one, 0.02).verdict == "same"


def test_a_profilers_clock_decides_nothing_below_its_grain() -> None:
    kernel = METRICS["kernel_sum"]
    close = judge(kernel, figure(1e-6, 0.001, "nsys"), figure(1.06e-6, 0.001, "nsys"), 0.02)
    assert (close.verdict, close.why) == ("same", "closer than the profiler's clock can tell")
    assert judge(kernel, figure(1e-6, 0.001, "nsys"), figure(1.07e-6, 0.001, "nsys"), 0.02).verdict == "slower"
    assert judge(STEP, figure(1e-6, 0.001), figure(1.06e-6, 0.001), 0.02).verdict == "slower"


def test_figures_that_are_not_positive_have_no_ratio() -> None:
    overhead = METRICS["launch_overhead"]
    below = Figure(-1e-6, -2e-6, 1e-6, "cuda_event, nsys", 10, 3)
    found = judge(overhead, below, figure(1e-6, 0.1), 0.02)
    assert (found.verdict, found.change) == ("unclear", None)


def test_step_time_and_kernel_sum_are_compared_where_both_runs_have_them(tmp_path: Path) -> None:
    both = run_of(tmp_path, [cell(1, profile={"kernel_sum": steady(1e-4)})])
    one = run_of(tmp_path, [cell(1)])
    assert [metric.key for metric in compare_runs(both, both).metrics] == ["step_time", "kernel_sum"]
    assert [metric.key for metric in compare_runs(both, one).metrics] == ["step_time"]


def test_without_them_what_the_plot_shows_is_compared_and_else_all_that_is_shared(tmp_path: Path) -> None:
    cells = [MadeCell({"batch": 1}, {"goodput": [steady(1.0)], "e2e": [steady(1.0)], "itl": [steady(1.0)]})]
    plotted = run_of(tmp_path, cells, sweep={"pareto": {"x": "e2e", "y": "goodput", "group": []}})
    assert [metric.key for metric in compare_runs(plotted, plotted).metrics] == ["e2e", "goodput"]
    plain = run_of(tmp_path, cells)
    assert {metric.key for metric in compare_runs(plain, plain).metrics} == {"e2e", "goodput", "itl"}


def test_of_served_requests_what_users_wait_for_is_compared_and_not_the_iterations(tmp_path: Path) -> None:
    times = ("step_time", "ttft", "tpot", "itl")
    served = run_of(tmp_path, [MadeCell({"batch": 1}, {name: [steady(1.0)] for name in times})])
    assert [metric.key for metric in compare_runs(served, served).metrics] == ["ttft", "tpot"]


def test_a_metric_that_a_run_lacks_is_refused_with_those_that_both_have(tmp_path: Path) -> None:
    one = run_of(tmp_path, [cell(1)])
    with pytest.raises(UsageError, match=r"--metric step_tme: .*did you mean 'step_time'\? both runs have: step_time"):
        compare_runs(one, one, metrics=["step_tme"])


def renamed(run: Run, gpu: str) -> Run:
    records = [replace(record, gpu=gpu) for record in run.stored.records]
    return Run(replace(run.stored, records=records))


def test_other_gpus_are_refused_by_name_unless_forced(tmp_path: Path) -> None:
    one = run_of(tmp_path, [cell(1)])
    other = renamed(run_of(tmp_path, [cell(1)]), "cuda:0 NVIDIA B200")
    with pytest.raises(UsageError, match=r"ran on NVIDIA H200, .* on NVIDIA B200.*--force"):
        compare_runs(one, other)
    assert any("Forced" in note and "B200" in note for note in compare_runs(one, other, force=True).notes)


def test_other_timers_are_refused_by_name_unless_forced(tmp_path: Path) -> None:
    one, made = run_of(tmp_path, [cell(1)]), run_of(tmp_path, [cell(1)])
    records = [
        replace(record, measurements=[replace(m, timer=Timer.WALL) for m in record.measurements])
        for record in made.stored.records
    ]
    other = Run(replace(made.stored, records=records))
    with pytest.raises(UsageError, match=r"step time was timed by cuda_event in .*, by wall in .*--force"):
        compare_runs(one, other)
    assert told(compare_runs(one, other, force=True)) == {1: ["same"]}


def with_axis(run: Run, axis: AxisInfo) -> Run:
    workload = run.header.workload
    axes = [*(known for known in workload.axes if known.name != axis.name), axis]
    header = replace(run.header, workload=replace(workload, axes=axes))
    return Run(replace(run.stored, header=header))


def test_an_axis_of_one_run_only_is_its_default_in_the_other(tmp_path: Path) -> None:
    def launched(how: str) -> MadeCell:
        return MadeCell({"backend": "torch", "batch": 1, "launch": how}, {"step_time": [steady(1e-3)] * 3})

    axis = AxisInfo("launch", "str", False, "eager")
    old = with_axis(run_of(tmp_path, [cell(1)]), axis)
    new = with_axis(run_of(tmp_path, [launched("eager"), launched("graph")]), axis)
    found = compare_runs(old, new)
    assert [cell.verdicts for cell in found.cells] == [("same",), ("new",)]
    assert any("launch is given in" in note and "its default, 'eager'" in note for note in found.notes)
    assert found.axes == ("launch",)


def test_an_axis_without_a_default_matches_nothing_and_says_so(tmp_path: Path) -> None:
    old = run_of(tmp_path, [cell(1)])
    new = run_of(tmp_path, [MadeCell({"backend": "torch", "batch": 1, "heads": 8}, {"step_time": [steady(1e-3)]})])
    with pytest.raises(UsageError, match=r"no cell in common.*heads is given in .* has no default in the other"):
        compare_runs(old, new)


def test_what_was_a_constant_and_is_swept_now_is_the_same_cell(tmp_path: Path) -> None:
    swept = [MadeCell({"backend": "torch", "batch": 1, "tp": tp}, {"step_time": [steady(1e-3)] * 3}) for tp in (8, 4)]
    found = compared(tmp_path, [cell(1)], swept)
    assert [cell.verdicts for cell in found.cells] == [("same",), ("new",)]


def test_runs_of_nothing_or_of_something_else_say_so_in_a_sentence(tmp_path: Path) -> None:
    one, nothing = run_of(tmp_path, [cell(1)]), run_of(tmp_path, [])
    with pytest.raises(UsageError, match="has no cells: there is nothing to compare"):
        compare_runs(one, nothing)
    workload = replace(one.header.workload, name="rmsnorm")
    cells = [replace(asked, workload="rmsnorm") for asked in one.header.cells]
    other = Run(replace(one.stored, header=replace(one.header, workload=workload, cells=cells)))
    with pytest.raises(UsageError, match=r"is of mla_decode, .* of rmsnorm: they have no cell in common"):
        compare_runs(one, other)


def test_runs_without_ok_cells_are_compared_by_fate(tmp_path: Path) -> None:
    dead = [cell(1, outcome=Outcome.OOM, reason="too large")]
    assert told(compared(tmp_path, dead, dead)) == {1: ["still failing"]}
    assert told(compared(tmp_path, dead, [cell(1)])) == {1: ["newly ok"]}
    assert compared(tmp_path, [cell(1)], dead).has_regression


def test_an_interrupted_run_and_an_older_schema_are_noted(tmp_path: Path) -> None:
    cut = run_of(tmp_path, [cell(1), cell(2, outcome=None)])
    whole = run_of(tmp_path, [cell(1), cell(2)])
    old = Run(replace(whole.stored, header=replace(whole.header, schema=0)))
    found = compare_runs(old, cut)
    assert any("is not complete: 1 of 2 cells have not been run" in note for note in found.notes)
    assert any("older gpubench (schema 0 of" in note for note in found.notes)
    assert told(found) == {1: ["same"], 2: ["missing"]}


def test_one_trial_is_noted_and_three_are_not(tmp_path: Path) -> None:
    single = [MadeCell({"batch": 1}, {"step_time": [steady(1e-3)]})]
    assert any(note.startswith("One trial of a cell") for note in compared(tmp_path, single, single).notes)
    assert compared(tmp_path, [cell(1)], [cell(1)]).notes == ()


def test_what_is_amiss_with_a_whole_run_is_noted(tmp_path: Path) -> None:
    one = run_of(tmp_path, [cell(1)])
    short = run_of(tmp_path, [cell(1)], sweep={"measure": {"trials": 5}})
    (note,) = compare_runs(one, short).notes
    assert note.startswith(f"{short.run_id}: Some cells lack trials")
    assert note.endswith("cell_000 has 3 of 5 trials")


def test_step_times_launched_differently_are_noted(tmp_path: Path) -> None:
    found = compared(tmp_path, [cell(1, details={"launch": "idle: …"})], [cell(1, details={"launch": "graph, 8"})])
    assert "Step times are of different things: launched idle in the first run, graph in the second." in found.notes


def test_what_differs_between_environments_is_named(tmp_path: Path) -> None:
    one = run_of(tmp_path, [cell(1)])
    header = replace(one.header, environment={**one.header.environment, "driver": "590.10"})
    found = compare_runs(one, Run(replace(one.stored, header=header)))
    assert found.differences == ("driver 580.65 → 590.10",)
