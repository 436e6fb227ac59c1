"""A cell's figures in a line of the terminal."""

from __future__ import annotations

from made_runs import MadeCell, make_run

from gpubench.cli.figures import headline
from gpubench.records import Pass
from gpubench.store import read_run


def line(tmp_path, cell: MadeCell, pass_: Pass) -> str:
    return headline([record for record in read_run(make_run(tmp_path, [cell])).records if record.pass_ is pass_])


def test_the_step_time_and_what_follows_from_it_are_medians_over_all_trials_in_their_own_units(tmp_path):
    samples = {"step_time": [[1e-3, 2e-3], [3e-3]], "tok_s_user": [[4660.0], [4660.0]], "tok_s_gpu": [[1.0], [1.0]]}
    told = line(tmp_path, MadeCell({}, samples), Pass.TIMING)
    assert told == "step_time 2.00 ms  tok_s_user 4,660 tok/s (cuda_event)"


def test_of_latencies_of_requests_the_percentiles_are_told_and_nothing_else(tmp_path):
    ttft = [1e-3 * n for n in range(1, 102)]
    samples = {"step_time": [[1e-3]], "ttft": [ttft[:50], ttft[50:]], "itl": [[9e-4] * 9 + [2e-3]]}
    told = line(tmp_path, MadeCell({}, samples), Pass.TIMING)
    assert told == "ttft 51.0 / 91.0 / 100 ms  itl 900 µs / 1.01 ms / 1.90 ms (p50 / p90 / p99, cuda_event)"


def test_the_profiled_pass_tells_kernel_time_and_span(tmp_path):
    profile = {"kernel_sum": [18e-6], "busy": [18e-6], "span": [19e-6], "profiled_step": [88e-6], "span|mlp": [9e-6]}
    told = line(tmp_path, MadeCell({}, {"step_time": [[1e-3]]}, profile=profile), Pass.PROFILE)
    assert told == "kernel_sum 18.0 µs  span 19.0 µs (nsys)"


def test_of_graphs_traced_as_a_whole_the_span_is_all_there_is(tmp_path):
    told = line(tmp_path, MadeCell({}, {}, profile={"span": [19e-6], "profiled_step": [88e-6]}), Pass.PROFILE)
    assert told == "span 19.0 µs (nsys)"


def test_a_cell_without_figures_has_nothing_to_tell(tmp_path):
    assert line(tmp_path, MadeCell({}), Pass.TIMING) == ""
