"""A sweep multiplied out: which cells there are, in which order, under which names."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpubench.catalogue import Catalogue
from gpubench.errors import ConfigError
from gpubench.sweep import Grid, expand, load_sweep

GRID = """\
workload: mla_decode
axes:
  backend: [torch, triton]
  batch: [1, 8]
  isl: [512, 2048]
params: {model: tiny}
"""
CRASHES = """\
workload: decode_step
axes:
  concurrency: [1, 2, 4, 8, 16, 32]
  parallel: [TEP, DEP]
  gvr: [true, false]
params: {backend: graph}
"""


def test_cells_are_the_product_of_the_axes_as_written(cells: Any) -> None:
    grid = cells(GRID)
    assert [cell.index for cell in grid.cells] == list(range(8))
    assert [tuple(cell.axes.values()) for cell in grid.cells] == list(
        itertools.product(["torch", "triton"], [1, 8], [512, 2048])
    )
    assert grid.names == ("backend", "batch", "isl")
    assert all(cell.params == {"model": "tiny"} and cell.workload == "mla_decode" for cell in grid.cells)
    assert grid.cells[-1].arguments == {"model": "tiny", "batch": 8, "isl": 2048}


def test_the_backend_comes_last_in_an_id(cells: Any) -> None:
    assert [cell.cell_id for cell in cells(GRID).cells][3:5] == [
        "cell_003_B008_ISL2048_torch",
        "cell_004_B001_ISL0512_triton",
    ]


def test_twenty_four_cells_of_a_decode_step_have_the_names_that_triage_knows(cells: Any) -> None:
    grid = cells(CRASHES)
    assert len(grid.cells) == 24
    assert [grid.cells[index].cell_id for index in (13, 17, 21)] == [
        "cell_013_C008_TEP_GVRF",
        "cell_017_C016_TEP_GVRF",
        "cell_021_C032_TEP_GVRF",
    ]
    assert grid.cells[13].axes == {"concurrency": 8, "parallel": "TEP", "gvr": False}
    assert {cell.backend for cell in grid.cells} == {"graph"}


def test_an_axis_of_one_value_is_an_axis_but_in_no_id(cells: Any) -> None:
    cell = cells(GRID.replace("[1, 8]", "8")).cells[0]
    assert cell.axes == {"backend": "torch", "batch": 8, "isl": 512}
    assert cell.cell_id == "cell_000_ISL0512_torch"


def test_axes_that_move_together_count_as_one_after_the_others(cells: Any) -> None:
    grid = cells(
        "workload: mla_decode\naxes: {batch: [1, 8]}\nparams: {model: tiny}\nzip: [{isl: 1, tp: 2}, {isl: 3, tp: 4}]\n"
    )
    assert [tuple(cell.axes.values()) for cell in grid.cells] == [(1, 1, 2), (1, 3, 4), (8, 1, 2), (8, 3, 4)]
    assert grid.cells[1].cell_id == "cell_001_B001_ISL003_TP004"


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ("{model: tiny, tp: 2}, {model: deepseek-v3, tp: 4}", "cell_001_B001_deepseek-v3"),
        (
            "{model: tiny, tp: 2}, {model: deepseek-v3, tp: 4}, {model: deepseek-v3, tp: 8}",
            "cell_001_B001_deepseek-v3_TP004",
        ),
        ("{isl: 1, tp: 2}, {isl: 3, tp: 4}", "cell_001_B001_ISL003_TP004"),
    ],
)
def test_what_a_name_decides_is_not_in_an_id_again(cells: Any, rows: str, expected: str) -> None:
    params = "{isl: 64}" if "model" in rows else "{model: tiny}"
    grid = cells(f"workload: mla_decode\naxes: {{batch: [1, 8]}}\nparams: {params}\nzip: [{rows}]\n")
    assert grid.cells[1].cell_id == expected
    assert grid.cells[1].axes["tp"] == 4


def test_excluded_cells_leave_gaps_in_the_numbers(cells: Any) -> None:
    grid = cells(GRID + "exclude:\n- {backend: torch, isl: '>512'}\n- {batch: 8, backend: triton}\n")
    assert [cell.index for cell in grid.cells] == [0, 2, 4, 5]
    assert grid.num_excluded == 4
    assert grid.warnings == ()


def test_an_exclude_that_matches_nothing_is_a_warning(cells: Any) -> None:
    assert cells(GRID + "exclude:\n- {batch: 8}\n- {isl: 4096}\n").warnings == (
        "sweep.yaml:9: exclude[1]: matches no cell",
    )


def test_an_exclude_may_name_a_param(cells: Any) -> None:
    assert len(cells(GRID + "exclude: [{model: tiny, batch: 1}]\n").cells) == 4


def test_included_cells_are_numbered_on(cells: Any) -> None:
    grid = cells(GRID + "include: [{backend: triton, batch: 256, isl: 512}]\n")
    last = grid.cells[-1]
    assert (last.index, last.cell_id) == (8, "cell_008_B256_ISL0512_triton")
    assert last.params == {"model": "tiny"}


def test_an_included_cell_inherits_axes_of_one_value(cells: Any) -> None:
    grid = cells(GRID.replace("[512, 2048]", "[512]") + "include: [{backend: triton, batch: 256}]\n")
    assert grid.cells[-1].axes == {"backend": "triton", "batch": 256, "isl": 512}


def test_a_param_that_an_included_cell_changes_becomes_an_axis(cells: Any) -> None:
    grid = cells(GRID + "include: [{backend: triton, batch: 1, isl: 512, model: deepseek-v3}]\n")
    assert grid.names == ("backend", "batch", "isl", "model")
    assert grid.cells[0].axes["model"] == "tiny"
    assert grid.cells[-1].axes["model"] == "deepseek-v3"
    assert grid.cells[-1].cell_id == "cell_008_B001_ISL0512_deepseek-v3_triton"
    assert grid.cells[0].params == {}


def test_an_argument_that_only_an_included_cell_gives_stays_absent_elsewhere(cells: Any) -> None:
    grid = cells(GRID + "include: [{backend: triton, batch: 1, isl: 512, dtype: float16}]\n")
    assert "dtype" not in grid.cells[0].arguments
    assert (grid.cells[0].cell_id, grid.cells[-1].cell_id) == (
        "cell_000_B001_ISL0512_torch",
        "cell_008_B001_ISL0512_float16_triton",
    )


def test_lists_that_included_cells_vary_are_an_axis_by_which_they_are_told_apart(cells: Any) -> None:
    rows = "".join(f"- {{lengths: {each}}}\n" for each in ([2, 4], [16, 64, 256], [1], list(range(40))))
    grid = cells("workload: mla_decode\nparams: {model: tiny, batch: 1, isl: 2, lengths: [2, 4]}\ninclude:\n" + rows)
    assert grid.names == ("lengths",)
    assert [cell.axes["lengths"] for cell in grid.cells] == [
        "[2, 4]",
        "[16, 64, 256]",
        "[1]",
        "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9… #05b3cf",
    ]
    assert [cell.cell_id for cell in grid.cells] == [
        "cell_000_LENG2-4",
        "cell_001_LENG16-64-256",
        "cell_002_LENG1",
        "cell_003_LENG0-1-2-3-4-5-6-7-8-9-05b3cf",
    ]
    assert [cell.arguments["lengths"] for cell in grid.cells] == [[2, 4], [16, 64, 256], [1], list(range(40))]


def test_a_cell_that_was_excluded_can_be_included(cells: Any) -> None:
    grid = cells(GRID + "exclude: [{backend: triton}]\ninclude: [{backend: triton, batch: 8, isl: 2048}]\n")
    assert [cell.index for cell in grid.cells] == [0, 1, 2, 3, 8]


def test_a_sweep_may_consist_of_included_cells_alone(cells: Any) -> None:
    grid = cells("workload: mla_decode\nparams: {model: tiny}\ninclude: [{batch: 1, isl: 2}, {batch: 3, isl: 2}]\n")
    assert [(cell.cell_id, cell.backend) for cell in grid.cells] == [
        ("cell_000_B001", "torch"),
        ("cell_001_B003", "torch"),
    ]


def test_a_sweep_of_params_alone_is_one_cell(cells: Any) -> None:
    grid = cells("workload: mla_decode\nparams: {model: tiny, batch: 1, isl: 2}\n")
    assert [cell.cell_id for cell in grid.cells] == ["cell_000"]


def test_a_backend_that_is_not_named_is_the_baseline(cells: Any) -> None:
    cell = cells(GRID.replace("  backend: [torch, triton]\n", "")).cells[0]
    assert cell.backend == "torch"
    assert "backend" not in {**cell.axes, **cell.params}


def test_values_are_stored_as_the_workload_takes_them(cells: Any) -> None:
    grid = cells(GRID.replace("{model: tiny}", "{model: tiny, lengths: [1, 2], window: null}") + "zip: [{scale: 2}]\n")
    assert (repr(grid.cells[0].axes["scale"]), grid.cells[0].params["lengths"]) == ("2.0", [1, 2])


def test_a_backend_without_an_option_gets_one_cell_for_all_its_values(cells: Any) -> None:
    grid = cells(GRID.replace("  isl: [512, 2048]", "  isl: [512]\n  block_v: [16, 32]"))
    assert [(cell.index, cell.cell_id) for cell in grid.cells] == [
        (0, "cell_000_B001_torch"),
        (2, "cell_002_B008_torch"),
        (4, "cell_004_B001_BV016_triton"),
        (5, "cell_005_B001_BV032_triton"),
        (6, "cell_006_B008_BV016_triton"),
        (7, "cell_007_B008_BV032_triton"),
    ]
    assert "block_v" not in grid.cells[0].arguments


def test_an_option_does_not_change_the_key_of_a_backend_without_it(cells: Any) -> None:
    plain, optioned = cells(GRID), cells(GRID.replace("tiny}", "tiny, block_v: 32}"))
    keys = [{cell.cell_id: cell.key for cell in grid.cells} for grid in (plain, optioned)]
    changed = {cell_id for cell_id in keys[0] if keys[0][cell_id] != keys[1][cell_id]}
    assert changed == {cell.cell_id for cell in plain.cells if cell.backend == "triton"}


def test_a_workload_with_open_axes_takes_any_name(cells: Any) -> None:
    grid = cells("workload: command\naxes: {threads: [1, 2], mode: [fast, 3]}\nparams: {run: 'x {threads}'}\n")
    assert [cell.cell_id for cell in grid.cells] == [
        "cell_000_THRE001_fast",
        "cell_001_THRE001_MODE003",
        "cell_002_THRE002_fast",
        "cell_003_THRE002_MODE003",
    ]


def test_the_largest_grid_is_expanded_and_the_next_one_refused(cells: Any) -> None:
    values = {"a": list(range(1000)), "b": list(range(10)), "c": list(range(10))}
    text = "workload: command\nparams: {run: x}\naxes: " + json.dumps(values) + "\nexclude: [{a: '>0'}]\n"
    assert cells(text).num_excluded == 99_900
    with pytest.raises(ConfigError, match="100,001 cells"):
        cells(text + "include: [{a: 0, b: 0, c: 10}]\n")


def _keys(grid: Grid) -> dict[str, Any]:
    return {cell.key: (cell.workload, cell.backend, cell.arguments) for cell in grid.cells}


names = st.sampled_from(["alpha", "beta", "gamma", "delta"])
values = st.lists(
    st.integers(-3, 9) | st.sampled_from(["x", "y", "8", True, False, None, 0.5]),
    min_size=1,
    max_size=4,
    unique_by=repr,
)


def _expand(folder: Path, catalogue: Catalogue, **sections: Any) -> Grid:
    params = {"run": "true", **sections.pop("params", {})}
    path = folder / "property.yaml"
    path.write_text(json.dumps({"workload": "command", "params": params, **sections}))
    return expand(load_sweep(path), catalogue)


@given(axes=st.dictionaries(names, values, min_size=1), data=st.data())
def test_keys_do_not_depend_on_the_order_of_axes_or_on_what_is_a_param(
    tmp_path_factory: pytest.TempPathFactory, catalogue: Catalogue, axes: dict[str, list[Any]], data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp()
    shuffled = {name: data.draw(st.permutations(axes[name])) for name in data.draw(st.permutations(sorted(axes)))}
    params = {name: axis[0] for name, axis in shuffled.items() if len(axis) == 1}
    swept = {name: axis for name, axis in shuffled.items() if len(axis) > 1}
    written = _expand(folder, catalogue, axes=axes)
    assert _keys(_expand(folder, catalogue, axes=swept, params=params)) == _keys(written)
    assert len(_keys(written)) == len(written.cells)


@given(axes=st.dictionaries(names, values, min_size=1), bound=st.integers(-3, 9))
def test_the_grid_is_the_product_less_what_is_excluded(
    tmp_path_factory: pytest.TempPathFactory, catalogue: Catalogue, axes: dict[str, list[Any]], bound: int
) -> None:
    first, *_ = axes
    is_number = [isinstance(value, int | float) and not isinstance(value, bool) for value in axes[first]]
    kept = [
        dict(zip(axes, point, strict=True))
        for point in itertools.product(*axes.values())
        if not (type(point[0]) in (int, float) and point[0] > bound)
    ]
    exclude = [{first: f">{bound}"}] if any(is_number) else []
    if not kept:
        with pytest.raises(ConfigError, match="no cell is left"):
            _expand(tmp_path_factory.getbasetemp(), catalogue, axes=axes, exclude=exclude)
        return
    grid = _expand(tmp_path_factory.getbasetemp(), catalogue, axes=axes, exclude=exclude)
    assert [cell.axes for cell in grid.cells] == kept
    assert len(grid.cells) + grid.num_excluded == len(list(itertools.product(*axes.values())))


sections = st.sampled_from(
    ["workload", "axes", "params", "zip", "exclude", "include", "measure", "overlay", "pareto", "x"]
)
leaves = st.sampled_from([None, True, 0, 8, -1.5, "", "torch", "triton", "tiny", "mla_decode", "command", ">3", "8"])
inner_keys = st.sampled_from(["backend", "batch", "isl", "model", "block_v", "run", "scale", "trials", "x", "group"])
anything = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(inner_keys, inner, max_size=3), max_leaves=8
)


@given(
    st.fixed_dictionaries({"workload": st.sampled_from(["mla_decode", "command", "decode_step"])}),
    st.dictionaries(sections, anything),
)
def test_whatever_a_file_says_it_is_a_grid_or_an_error_with_a_place(
    tmp_path_factory: pytest.TempPathFactory, catalogue: Catalogue, base: dict[str, Any], document: dict[str, Any]
) -> None:
    path = tmp_path_factory.getbasetemp() / "anything.yaml"
    path.write_text(json.dumps({**base, **document}))
    try:
        grid = expand(load_sweep(path, overlay="x"), catalogue)
    except ConfigError as error:
        assert all(line.startswith(f"{path}:1: ") for line in str(error).splitlines())
    else:
        assert len({cell.cell_id for cell in grid.cells}) == len(grid.cells) > 0
