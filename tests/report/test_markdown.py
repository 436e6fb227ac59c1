"""The report for a pull request."""

from __future__ import annotations

from made_runs import MadeCell, make_run

from gpubench.analysis.run import load_run
from gpubench.records import Ceilings, Outcome
from gpubench.report.content import read_content
from gpubench.report.markdown import MAX_OPEN, MAX_ROWS, escape, markdown_report


def steady(seconds: float) -> dict[str, list[list[float]]]:
    return {"step_time": [[seconds * (1 + 0.001 * n) for n in range(10)]]}


def report(tmp_path, cells, **header) -> str:
    return markdown_report(read_content([load_run(make_run(tmp_path, cells, **header))]))


def pair(batch: int, torch: float, triton: float, **kind) -> list[MadeCell]:
    return [
        MadeCell({"backend": "torch", "batch": batch}, steady(torch)),
        MadeCell({"backend": "triton", "batch": batch}, steady(triton), **kind),
    ]


def test_wins_and_losses_against_the_baseline_are_counted_alike(tmp_path):
    text = report(tmp_path, [*pair(1, 2e-5, 1e-5), *pair(2, 1e-5, 4e-5), *pair(3, 1e-5, 1e-5)])
    assert "faster in 1 (at best 2.00×), slower in 1 (at worst 0.25×), no clear difference in 1 of 3 shapes" in text
    assert "geometric mean 0.79×" in text
    assert "| 1 | triton | 20.1 µs | 10.0 µs | ▲ 2.00× (1.99–2.01) |" in text
    assert "| 2 | triton | 10.0 µs | 40.2 µs | ▼ 0.25× (0.25–0.25) |" in text
    assert "| 3 | triton | 10.0 µs | 10.0 µs | ≈ 1.000× (" in text


def test_a_backend_that_failed_at_a_shape_is_in_the_table_with_its_outcome(tmp_path):
    text = report(tmp_path, [*pair(1, 1e-5, 1e-5), *pair(2, 1e-5, 1e-5, outcome=Outcome.CRASH, reason="signal 11")])
    assert "| 2 | triton | 10.0 µs | crash | – |" in text
    assert "not comparable in 1 of 2 shapes" in text
    assert "| crash | cell\\_003 | triton | 2 | measure | signal 11 |" in text


def profiled(seconds: float) -> dict[str, list[float]]:
    return {"kernel_sum": [seconds * (1 + 0.0001 * n) for n in range(10)]}


def test_a_backend_can_win_in_kernel_time_and_lose_in_step_time(tmp_path):
    cells = [
        MadeCell({"backend": "torch", "batch": 1}, steady(1e-5), profile=profiled(8e-6)),
        MadeCell({"backend": "triton", "batch": 1}, steady(2e-5), profile=profiled(2e-6)),
    ]
    text = report(tmp_path, cells)
    assert "### Against torch: step time by cuda\\_event and kernel sum by nsys" in text
    assert "**triton**, step time: slower in 1 (at worst 0.50×) of 1 shape;" in text
    assert "**triton**, kernel sum: faster in 1 (at best 4.00×) of 1 shape;" in text
    assert "| 1 | triton | 10.0 µs | 20.1 µs | ▼ 0.50× (0.50–0.50) | 8.00 µs | 2.00 µs | ▲ 4.00× (4.00–4.00) |" in text


def test_what_the_ranges_of_a_step_took_is_a_table_and_nothing_in_it_counts_twice(tmp_path):
    times = {"busy": [2e-3] * 3, "busy|attention": [5e-4] * 3, "busy|moe": [1e-3] * 3, "busy|topk": [2e-4] * 3}
    plain = {"busy": [2e-3] * 3, "busy|attention": [1e-3] * 3}
    cells = [
        MadeCell({"n": 1}, steady(2e-3), profile=times, profile_details={"nested_ranges": ["topk"]}),
        MadeCell({"n": 2}, steady(2e-3), profile=plain),
        MadeCell({"n": 3}, steady(2e-3)),
    ]
    text = report(tmp_path, cells)
    assert "### Where the time goes" in text
    assert "| n | busy | attention | moe | in no range |" in text
    assert "| 1 | 2.00 ms | 500 µs (25%) | 1.00 ms (50%) | 500 µs (25%) |" in text
    assert "| 2 | 2.00 ms | 1.00 ms (50%) |  | 1.00 ms (50%) |" in text
    assert "Where the time goes" not in report(tmp_path, cells[2:])


def test_kernel_times_within_a_profilers_grain_are_no_win(tmp_path):
    def versus(torch: float, triton: float) -> str:
        cells = [
            MadeCell({"backend": "torch"}, steady(1e-3), profile=profiled(torch)),
            MadeCell({"backend": "triton"}, steady(1e-3), profile=profiled(triton)),
        ]
        return next(line for line in report(tmp_path, cells).splitlines() if line.startswith("| triton"))

    assert "≈ 1.02× (" in versus(1.019e-3, 1e-3)
    assert "▲ 1.03× (" in versus(1.03e-3, 1e-3)
    assert "≈ 1.06× (" in versus(1.06e-6, 1e-6)
    assert "▲ 1.10× (" in versus(1.10e-6, 1e-6)


def test_what_a_profiler_could_not_see_is_not_compared(tmp_path):
    cells = [
        MadeCell({"backend": "torch", "batch": 1}, steady(1e-5), profile=profiled(8e-6)),
        MadeCell({"backend": "triton", "batch": 1}, steady(1e-5)),
    ]
    text = report(tmp_path, cells)
    assert "kernel sum: not comparable in 1 of 1 shape\n" in text
    assert "| 8.00 µs | – | – |" in text


def test_each_run_is_compared_with_its_own_baseline(tmp_path):
    runs = [load_run(make_run(tmp_path, pair(1, seconds, 1e-5))) for seconds in (2e-5, 3e-5)]
    text = markdown_report(read_content(runs))
    assert "2.00× (" in text
    assert "3.00× (" in text


def test_the_frontier_is_listed_in_the_order_of_x(tmp_path):
    def cell(batch: int, user: float, gpu: float) -> MadeCell:
        return MadeCell({"batch": batch}, {"tok_s_user": [[user] * 6], "tok_s_gpu": [[gpu] * 6]})

    text = report(tmp_path, [cell(1, 10, 100), cell(2, 20, 50), cell(3, 5, 5)])
    assert "2 of 3 ok cells" in text
    assert text.index("| cell\\_001 | 2 |") < text.index("| cell\\_000 | 1 |")
    assert "cell\\_002" not in text


def test_numbers_stand_on_the_right_and_texts_on_the_left(tmp_path):
    def cell(backend: str, batch: int) -> MadeCell:
        axes = {"backend": backend, "batch": batch, "layout": backend}
        figures = {"tok_s_user": [[10.0 * batch] * 6], "tok_s_gpu": [[10.0 / batch] * 6]}
        return MadeCell(axes, {**figures, **steady(1e-5)})

    lines = report(tmp_path, [cell(backend, batch) for backend in ("torch", "triton") for batch in (1, 2)]).splitlines()
    rules = {head: lines[place + 1] for place, head in enumerate(lines[:-1]) if lines[place + 1].startswith("| ---")}
    (frontier,) = [rule for head, rule in rules.items() if head.startswith("| cell")]
    assert frontier == "| --- | --- | ---: | --- | ---: | ---: |"


def test_environment_timer_gpu_and_date_stand_in_one_line(tmp_path):
    last = report(tmp_path, pair(1, 1e-5, 1e-5)).strip().splitlines()[-1]
    for word in ("NVIDIA H200", "torch 2.11.0", "timed by cuda\\_event", "21 November 2026"):
        assert word in last


def test_profiler_and_ceilings_stand_in_that_line_too(tmp_path):
    cell = MadeCell({}, steady(1e-5), profile=profiled(8e-6), profile_details={"profiler": "nsys 2025.3.1.0"})
    last = report(tmp_path, [cell], ceilings=Ceilings(4.3e12, 780e12)).strip().splitlines()[-1]
    assert "timed by cuda\\_event, nsys · profiled by nsys 2025.3.1.0" in last
    assert "copy 4.30 TB/s, bfloat16 matmul 780 TFLOP/s" in last


def test_warnings_are_listed_once_with_the_number_of_cells(tmp_path):
    cells = [MadeCell({"n": n}, steady(1e-5), warnings=[f"{n + 3} of 10 samples ran throttled"]) for n in range(3)]
    assert "### Warnings\n\n- **3 cells**: 3 of 10 samples ran throttled (the first cell's numbers)" in report(
        tmp_path, cells
    )
    many = [MadeCell({"n": n}, steady(1e-5), warnings=["too hot by " + "x" * n]) for n in range(20)]
    assert "- and 8 more, in the page" in report(tmp_path / "many", many)


def test_a_run_without_cells_or_without_ok_ones_still_makes_a_report(tmp_path):
    assert "**This run has no cells.**" in report(tmp_path / "a", [])
    dead = report(tmp_path / "b", [MadeCell({"batch": 1}, outcome=Outcome.OOM, reason="too large")])
    assert "**The one cell is not ok.** 1 ran out of memory." in dead
    assert "too large" in dead


def test_long_tables_are_cut_and_say_so(tmp_path):
    cells = [MadeCell({"batch": n}, outcome=Outcome.CRASH, reason="x" * 1000) for n in range(MAX_ROWS + 40)]
    text = report(tmp_path, cells)
    assert "40 more rows are in the page and the CSV." in text
    assert len(text) < 65_536


def test_nothing_a_user_wrote_becomes_markup(tmp_path):
    hostile = "<script>|`*_[x](javascript:1)\n\n# head @everyone"
    text = report(tmp_path, [MadeCell({"backend": hostile}, outcome=Outcome.CRASH, reason=hostile)])
    (row,) = [line for line in text.splitlines() if line.startswith("| crash")]
    assert row.replace("\\|", "").count("|") == 5
    assert "<script>" not in text
    assert escape(hostile) == "&lt;script&gt;\\|\\`\\*\\_\\[x\\](javascript:1) \\# head \\@everyone"


def test_a_long_comparison_is_folded_and_its_losses_are_not(tmp_path):
    cells = [cell for batch in range(MAX_OPEN + 1) for cell in pair(batch, 2e-5, 1e-5 if batch else 4e-5)]
    opened, _, folded = report(tmp_path, cells).partition(f"<details><summary>All {MAX_OPEN + 1} rows</summary>\n\n|")
    assert "Slower than torch:" in opened
    assert opened.count("▼") == 1
    assert folded.partition("</details>")[0].count("▲") == MAX_OPEN
    assert "<details>" not in report(tmp_path / "short", pair(1, 2e-5, 1e-5))


def test_cells_that_the_triage_has_told_of_are_folded(tmp_path):
    dead = MadeCell({"backend": "torch"}, outcome=Outcome.CRASH, reason="signal 11")
    text = report(tmp_path / "dead", [dead])
    assert "### Crash triage" in text
    assert "<details><summary>1 cell, one by one</summary>\n\n| outcome" in text
    skipped = MadeCell({"backend": "torch"}, outcome=Outcome.SKIPPED, reason="needs triton")
    assert "<details>" not in report(tmp_path / "skipped", [skipped])


def test_figures_stand_cell_by_cell_where_there_is_no_baseline_and_no_frontier(tmp_path):
    cells = [MadeCell({"batch": batch}, steady(batch * 1e-5)) for batch in (1, 2)]
    assert "| 2 | 20.1 µs (20.0 µs – 20.2 µs) |" in report(tmp_path / "a", cells)
    assert "### Figures" not in report(tmp_path / "b", pair(1, 1e-5, 1e-5))


def test_latencies_of_requests_stand_with_their_percentiles_of_all_trials(tmp_path):
    ttft = [1e-3 * n for n in range(1, 102)]
    cells = [MadeCell({"concurrency": users}, {"ttft": [ttft[:50], ttft[50:]]}) for users in (1, 8)]
    failed = MadeCell({"concurrency": 64}, outcome=Outcome.OOM)
    text = report(tmp_path / "a", [*cells, failed])
    assert "### Latencies (p50 / p90 / p99, by cuda\\_event)\n\n| concurrency | TTFT |" in text
    assert "| 8 | 51.0 / 91.0 / 100 ms |" in text
    assert "### Latencies" not in report(tmp_path / "b", pair(1, 1e-5, 1e-5))


def test_captured_graphs_have_a_row_per_cell_with_what_all_buckets_took(tmp_path):
    took = {8: (0.05, 100e6, 90e6), 2: (0.03, 4e6, 0.0)}
    figures = {"step_time": [[1e-3] * 6]}
    for bucket, (seconds, device, reserved) in took.items():
        parts = {"capture_time": seconds, "memory_device": device, "memory_reserved": reserved}
        figures |= {f"{metric}|bucket {bucket}": [[value]] for metric, value in parts.items()}
    text = report(tmp_path / "a", [MadeCell({"n": 1}, figures), MadeCell({"n": 2}, steady(1e-3))])
    assert "### Memory of captured graphs" in text
    (row,) = [line for line in text.splitlines() if "| 2, 8 |" in line]
    assert "| 80.0 ms | 104 MB | 90.0 MB |" in row
    assert "Memory of captured" not in report(tmp_path / "b", pair(1, 1e-5, 1e-5))


def test_what_samples_say_against_a_figure_is_said_in_words(tmp_path):
    noisy = MadeCell({"n": 1}, {"step_time": [[1e-5, 2e-5] * 5]})
    few = MadeCell({"n": 2}, {"step_time": [[1e-5, 1e-5]]})
    slow = MadeCell({"n": 3}, {"step_time": [[2e-5, *[1e-5] * 9]]})
    apart = MadeCell({"n": 4}, {"step_time": [[s * (1 + 1e-4 * n) for n in range(10)] for s in (1e-5, 2e-5, 3e-5)]})
    text = report(tmp_path, [noisy, few, slow, apart])
    for words in ("is noisy: the interquartile", "has too few samples: under 6", "has a slow first sample: in most"):
        assert f": step time {words}" in text
    assert "- **1 cell**: step time has trials that disagree: the trials' medians" in text


def test_great_speed_ups_have_three_digits(tmp_path):
    text = report(tmp_path, [*pair(1, 1e-3, 1e-5), *pair(2, 2e-4, 1e-5)])
    assert "▲ 100× (100–100)" in text
    assert "▲ 20.0× (" in text
