"""The page as text: complete, safe, and honest; tests/browser opens it."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_runs import MadeCell, make_run

from gpubench.analysis.run import load_run
from gpubench.records import Ceilings, CheckResult, KernelShare, Outcome
from gpubench.report.content import read_content
from gpubench.report.html import render_html
from gpubench.report.payload import ALL_TAILS_BYTES, page_data, script_json

TIMES = {"step_time": [[1e-5] * 6]}
HOSTILE = '</script><script>alert("1")</script>\u2028\u202e<img src=x onerror=alert(1)>'


def render(tmp_path, cells, **header):
    return render_html(read_content([load_run(make_run(tmp_path, cells, **header))]))


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), lambda inner: st.lists(inner, max_size=4)))
def test_data_in_the_page_reads_back_and_cannot_end_its_element(data):
    text = script_json({"data": data})
    assert not set(text) & set("<>&\u2028\u2029")
    text.encode("utf-8")
    assert json.loads(text)["data"] == _without_nan(data)


def _without_nan(data):
    if isinstance(data, list):
        return [_without_nan(item) for item in data]
    if isinstance(data, float) and (data != data or data in (float("inf"), float("-inf"))):
        return None
    return data


def test_a_lone_surrogate_does_not_stop_a_page(tmp_path):
    page = render(tmp_path, [MadeCell({"mode": "bad \\udc80 byte"}, TIMES, reason="x")])
    page.encode("utf-8")


def test_the_page_loads_nothing(tmp_path):
    page = render(tmp_path, [MadeCell({"batch": 1}, TIMES)])
    ours = page.split("<script>/**\n* plotly.js")[0] + page.rpartition('<script>"use strict"')[2]
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", ours)
    assert "default-src 'none'" in ours


def test_what_users_wrote_is_escaped_wherever_the_template_puts_it(tmp_path):
    cells = [MadeCell({"backend": HOSTILE, HOSTILE: 1}, {HOSTILE: [[1.0] * 6]}, outcome=o) for o in Outcome]
    sweep = {"note": HOSTILE, "pareto": {"x": HOSTILE + "x", "y": "y"}}
    page = render(tmp_path, cells, name="evil", sweep=sweep)
    assert page.count("<script") - page.split("<script>/**\n* plotly.js")[1].count("<script") == 2
    assert "<img src=x" not in page
    assert "\u202e" not in page.partition('<script type="application/json"')[0]


@pytest.mark.parametrize(
    ("outcomes", "words"),
    [
        ([], "This run has no cells."),
        ([Outcome.OK], "The one cell is ok."),
        ([Outcome.CRASH], 'The one cell is not ok.</strong> <span class="rest">1 crashed.'),
        ([Outcome.OK, Outcome.OOM, None, Outcome.OOM], '1 of 4 cells is ok.</strong> <span class="rest">2 ran out of'),
    ],
)
def test_the_verdict_counts_what_became_of_the_cells(tmp_path, outcomes, words):
    page = render(tmp_path, [MadeCell({"n": n}, TIMES, outcome=outcome) for n, outcome in enumerate(outcomes)])
    assert words in page


def test_the_page_says_what_every_metric_is_and_which_timer_made_it(tmp_path):
    page = render(tmp_path, [MadeCell({}, TIMES, profile={"span": [1e-6] * 6})])
    assert 'leaves it out</td><td class="nowrap">cuda_event' in page
    assert 'to the end of its last</td><td class="nowrap">nsys' in page


def test_latencies_of_requests_have_a_section_with_their_percentiles_and_other_pages_have_none(tmp_path):
    cells = [MadeCell({"backend": "eager", "concurrency": 8}, {"e2e": [[1e-3 * n for n in range(1, 102)]]})]
    page = render(tmp_path / "a", cells)
    assert '<td class="nowrap number" dir="auto">51.0 / 91.0 / 100 ms</td>' in page
    assert 'id="latencies"' not in render(tmp_path / "b", [MadeCell({"n": 1}, {"step_time": [[1e-3] * 6]})])


def test_data_has_the_end_of_the_stderr_of_failed_cells_only(tmp_path):
    cells = [
        MadeCell({"n": 1}, outcome=Outcome.CRASH, stderr="first\n" * 2000 + "the last words"),
        MadeCell({"n": 2}, TIMES, stderr="chatter"),
    ]
    data = page_data(read_content([load_run(make_run(tmp_path, cells))]))
    assert list(data["tails"]["rows"]) == [0]
    tail = data["tails"]["rows"][0]
    assert tail.endswith("the last words")
    assert len(tail) <= 4096


def test_logs_beyond_the_limit_are_left_out_and_counted(tmp_path):
    count = ALL_TAILS_BYTES // 4096 + 30
    cells = [MadeCell({"n": n}, outcome=Outcome.CRASH, stderr="x" * 4096) for n in range(count)]
    data = page_data(read_content([load_run(make_run(tmp_path, cells))]))
    assert len(data["tails"]["rows"]) + data["tails"]["left_out"] == count
    assert data["tails"]["left_out"] == 30


def test_values_that_are_equal_but_of_different_kinds_stay_apart(tmp_path):
    cells = [MadeCell({"tile": value}, TIMES) for value in (1, True, "1", None)]
    data = page_data(read_content([load_run(make_run(tmp_path, cells))]))
    (axis,) = [axis for axis in data["axes"] if axis["key"] == "tile"]
    assert axis["values"] == {"values": [1, True, "1", None], "codes": [0, 1, 2, 3]}
    assert not axis["numeric"]


def test_whole_numbers_stay_whole_where_a_cell_lacks_the_axis(tmp_path):
    cells = [MadeCell({"tile": 64}, TIMES), MadeCell({}, TIMES), MadeCell({"tile": 128}, TIMES)]
    data = page_data(read_content([load_run(make_run(tmp_path, cells))]))
    (axis,) = [axis for axis in data["axes"] if axis["key"] == "tile"]
    assert json.dumps(axis["values"]["values"]) == "[64, null, 128]"
    assert axis["numeric"]


def test_inner_ranges_are_with_their_cell(tmp_path):
    cells = [MadeCell({"n": 1}, TIMES), MadeCell({"n": 2}, TIMES, profile={"span|mlp": [2.0] * 6})]
    data = page_data(read_content([load_run(make_run(tmp_path, cells))]))
    assert data["ranges"] == {
        "names": ["mlp"],
        "metrics": [["span", "nsys", "s"]],
        "rows": {1: [[0, 0, 2.0, 2.0, 2.0]]},
        "nested": {},
        "left_out": 0,
    }


def test_ranges_that_lie_in_others_are_named(tmp_path):
    cell = MadeCell({}, TIMES, profile={"busy|layer": [2.0] * 6, "busy|mlp": [1.0] * 6})
    nested = dataclasses.replace(cell, profile_details={"nested_ranges": ["mlp"]})
    data = page_data(read_content([load_run(make_run(tmp_path, [cell, nested]))]))
    assert data["ranges"]["nested"] == {1: [1]}


def test_conditions_and_warnings_are_with_their_cell_and_warnings_are_grouped(tmp_path):
    clocks = {
        "sm_hz": [1410e6, 1980e6],
        "memory_hz": [3201e6, 3201e6],
        "temperature_c": [35, 42.5],
        "throttled_by": ["power cap"],
        "throttled_samples": [[0, 2]],
    }
    details = {"clocks": clocks, "l2": "cold", "launch": "idle: all of it"}
    cells = [
        MadeCell({"n": 1}, TIMES, details=details, warnings=["2 of 6 samples ran throttled"]),
        MadeCell({"n": 2}, TIMES, profile_details={"replay_kernels": "as eager"}, profile={"busy": [1.0]}),
        MadeCell({"n": 3}, TIMES, warnings=["4 of 6 samples ran throttled"]),
    ]
    data = page_data(read_content([load_run(make_run(tmp_path, cells))]))
    told = {column["label"]: column["values"]["values"] for column in data["conditions"]}
    assert told == {
        "L2 cache": ["cold", ""],
        "launch": ["idle", ""],
        "SM clock": ["1,410–1,980 MHz", ""],
        "memory clock": ["3,201 MHz", ""],
        "temperature": ["35–42.5 °C", ""],
        "throttled": ["2 of 6 samples (power cap)", ""],
        "replay's kernels": ["", "as eager"],
    }
    assert data["cautions"] == [["2 of 6 samples ran throttled (the first cell's numbers)", [0, 2]]]
    assert data["recorded"] == {0: ["2 of 6 samples ran throttled"], 2: ["4 of 6 samples ran throttled"]}


def test_ceilings_are_with_the_cells_of_their_gpu(tmp_path):
    cells = [MadeCell({"n": 1}, TIMES), MadeCell({"n": 2}, outcome=None)]
    data = page_data(read_content([load_run(make_run(tmp_path, cells, ceilings=Ceilings(4.3e12, 780e12)))]))
    (kind,) = data["ceilings"]["kinds"]
    assert kind == {"gpu": "NVIDIA H200", "bytes_per_s": 4.3e12, "flop_per_s": 780e12, "dtype": "bfloat16"}
    assert data["ceilings"]["codes"] == [0, None]
    assert "copy 4.30 TB/s, bfloat16 matmul 780 TFLOP/s" in render(
        tmp_path / "page", cells, ceilings=Ceilings(4.3e12, 780e12)
    )


def test_what_only_serves_another_figure_is_on_no_axis_and_in_no_table(tmp_path):
    profile = {"busy": [5e-6] * 6, "profiled_step": [3e-5] * 6}
    cell = MadeCell({}, TIMES, profile=profile)
    data = page_data(read_content([load_run(make_run(tmp_path, [cell]))]))
    assert [metric["key"] for metric in data["series"]] == ["step_time", "busy", "launch_overhead", "tax"]
    assert data["values"].keys() == {"step_time", "busy", "launch_overhead", "tax"}


def test_kernels_and_checks_are_with_their_cell(tmp_path):
    kernels = [KernelShare(f"kernel_{n}", "kernel", 2, 1e-6, 5e-7, 0.04) for n in range(25)]
    check = CheckResult("torch", True, 0.02, 0.0, 1e-3, "out[3]: got 1.25, want 1.26")
    profiled = MadeCell({"n": 2}, TIMES, profile={"span": [2.0] * 6}, kernels=kernels, check=check)
    cells = [MadeCell({"n": 1}, TIMES), profiled]
    data = page_data(read_content([load_run(make_run(tmp_path, cells))]))
    assert list(data["kernels"]["rows"]) == [1]
    assert len(data["kernels"]["rows"][1]) == data["kernels"]["most"] == 20
    assert data["kernels"]["rows"][1][0] == [0, 2, 1e-6, 0.04]
    assert data["kernels"]["names"][0] == "kernel_0"
    assert data["checks"] == {1: ["torch", True, 1e-3, "out[3]: got 1.25, want 1.26"]}
