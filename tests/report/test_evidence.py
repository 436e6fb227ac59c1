"""What a page carries behind its figures: samples, memory by bucket, stale addresses, signatures; and its size."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from made_runs import MadeCell, make_large_run, make_run
from plotly.offline import get_plotlyjs

from gpubench.analysis.run import load_run
from gpubench.records import Hazard, KernelShare, Outcome, PointerState
from gpubench.report.content import read_content
from gpubench.report.evidence import ALL_TAILS_BYTES, TAIL_BYTES, files, hazards, printed, signatures
from gpubench.report.html import render_html
from gpubench.report.memory import memory
from gpubench.report.payload import page_data
from gpubench.report.samples import DIGITS, MOST_SAMPLES, _quantise, samples

TIMES = {"step_time": [[1e-5] * 6]}


def content_of(tmp_path, cells):
    return read_content([load_run(make_run(tmp_path, cells))])


def read_back(found) -> list[list[float]]:
    least, greatest, text = found
    span = (greatest - least) / (len(DIGITS) - 1)
    return [[least + span * DIGITS.index(digit) for digit in trial] for trial in text.split(" ")]


_VALUE = st.floats(1e-9, 1e9)


@given(st.lists(st.lists(_VALUE, min_size=1, max_size=200), min_size=1, max_size=5))
def test_samples_read_back_in_their_order_within_a_step_of_their_scale(trials):
    found = _quantise([("step_time", 3, trials)])["step_time"][3]
    least, greatest = min(map(min, trials)), max(map(max, trials))
    shown = read_back([least, greatest, found[2]])
    assert len(shown) == len(trials)
    assert sum(map(len, shown)) <= MOST_SAMPLES
    for trial, back in zip(trials, shown, strict=True):
        nth = -(-len(trial) // len(back))
        kept = trial[::nth] if len(trial) > len(back) else trial
        for value, again in zip(kept, back, strict=False):
            assert abs(value - again) <= 0.51 * (greatest - least) / (len(DIGITS) - 1) + 1e-9 * greatest


def test_more_trials_than_samples_fit_still_show_each_of_them():
    found = _quantise([("step_time", 0, [[float(n)] for n in range(100)])])
    assert len(found["step_time"][0][2].split(" ")) == 100


def test_samples_that_are_no_numbers_are_somewhere_on_the_scale():
    found = _quantise([("ratio", 0, [[1.0, float("inf"), float("nan"), 2.0]])])
    assert len(found["ratio"][0][2]) == 4


def test_samples_are_of_the_timer_that_the_figure_is_of(tmp_path):
    cell = MadeCell({}, {"step_time": [[1.0, 2.0], [3.0]]}, profile={"busy": [5.0, 6.0], "busy|mlp": [9.0]})
    found = samples(content_of(tmp_path, [MadeCell({"n": 1}, outcome=Outcome.CRASH), cell]))
    assert found["step_time"] == {1: [1.0, 3.0, f"A{DIGITS[32]} /"]}
    assert found["busy"] == {1: [5.0, 6.0, "A/"]}
    assert "launch_overhead" not in found


def test_memory_is_by_bucket_in_the_order_of_capture(tmp_path):
    profile = {
        "memory_reserved|bucket 64": [7.0],
        "memory_reserved|bucket 8": [4.0, 6.0],
        "capture_time|bucket 8": [0.5],
        "capture_time|prefill bucket 1024": [0.25],
        "replay_time|bucket 8": [0.1],
        "memory_pool|bucket 8": [3.0],
        "busy|bucket 8": [1.0],
        "memory_pool|layer": [1.0],
    }
    content = content_of(tmp_path, [MadeCell({"n": 1}, TIMES), MadeCell({"n": 2}, TIMES, profile=profile)])
    found = memory(content)
    rows = [["", 64, None, 7.0, None], ["", 8, 0.5, 5.0, 3.0], ["prefill", 1024, 0.25, None, None]]
    assert found == {"parts": ["reserved", "pool"], "rows": {1: rows}}
    ranges = page_data(content)["ranges"]
    assert {ranges["metrics"][number][0] for _, number, *_ in ranges["rows"][1]} == {"busy", "memory_pool"}


def test_a_hazard_in_several_records_is_one(tmp_path):
    hazard = Hazard("fill", "scratch", 0x7F00, PointerState.FREED)
    cell = MadeCell({"n": 2}, {"step_time": [[1.0] * 3] * 2}, hazards=[hazard])
    assert hazards(content_of(tmp_path, [MadeCell({"n": 1}, TIMES), cell])) == {1: [1, [hazard.text]]}


def test_the_end_of_what_failed_cells_printed_is_kept_up_to_a_limit(tmp_path):
    count = ALL_TAILS_BYTES // TAIL_BYTES + 5
    cells = [MadeCell({"n": n}, outcome=Outcome.CRASH) for n in range(count)] + [MadeCell({"n": count}, TIMES)]
    path = make_large_run(tmp_path, cells)
    for cell in range(count + 1):
        folder = path / "artifacts" / f"cell_{cell:03d}"
        folder.mkdir(parents=True)
        (folder / "stdout.txt").write_text("x" * 10_000 + "the last words", encoding="utf-8")
    found = printed(read_content([load_run(path)]))
    assert list(found) == list(range(count - 5))
    assert found[0].endswith("the last words")
    assert len(found[0]) <= TAIL_BYTES


def test_what_a_cell_left_besides_its_logs_is_told_by_its_path_in_the_run(tmp_path):
    path = make_run(tmp_path, [MadeCell({"n": 1}, TIMES), MadeCell({"n": 2}, TIMES)])
    cell_id = read_content([load_run(path)]).wide["cell_id"][1]
    folder = path / "artifacts" / cell_id
    folder.mkdir(parents=True)
    for name in ("stderr.txt", "requests.jsonl"):
        (folder / name).write_text("x")
    assert files(read_content([load_run(path)])) == {1: [f"artifacts/{cell_id}/requests.jsonl"]}


def test_cells_are_with_their_signature_also_where_runs_are_laid_over_one_another(tmp_path):
    cells = [MadeCell({"n": n}, outcome=outcome, reason="x") for n, outcome in enumerate((Outcome.CRASH, Outcome.OOM))]
    runs = [load_run(make_run(tmp_path / name, [*cells, MadeCell({"n": 9}, TIMES)], name=name)) for name in "ab"]
    content = read_content(runs)
    found = signatures(content, content.triages())
    assert sorted(found["rows"]) == [0, 1, 3, 4]
    titles = [found["found"][found["rows"][row]] for row in (0, 1, 3, 4)]
    assert titles[:2] == titles[2:]
    assert titles[0] != titles[1]


def test_a_page_is_plotly_and_at_most_two_kilobytes_per_cell(tmp_path):
    """Of cells with three trials of thirty samples, a profiled pass, twenty kernels and six ranges."""
    kernels = [KernelShare(f"kernel_{n}<{'T, ' * 40}>", "kernel", 32, 1.234e-6 * n, 1e-7, 0.05) for n in range(20)]
    spread = [[1e-5 * (1 + 0.0123456789 * number / (trial + 1)) for number in range(30)] for trial in range(3)]
    rates = [[1 / value for value in trial] for trial in spread]
    profile = dict.fromkeys(("kernel_sum", "busy", "span", "gap"), spread[0][:10])
    cells = [
        MadeCell(
            {"backend": "torch" if n % 2 else "triton", "batch": n},
            {"step_time": spread, "tok_s_user": rates, "tok_s_gpu": rates},
            profile=profile,
            kernels=kernels,
        )
        for n in range(1000)
    ]
    content = read_content([load_run(make_large_run(tmp_path, cells))])
    data = page_data(content)
    page = render_html(content)
    evidence = sum(len(str(data[name])) for name in ("kernels", "ranges", "tails"))
    assert len(page) - len(get_plotlyjs()) - evidence < 150_000 + 2000 * len(cells)
