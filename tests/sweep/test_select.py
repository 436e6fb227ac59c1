"""`--only` picks a part of a grid, whose cells keep their numbers and names."""

from __future__ import annotations

from typing import Any

import pytest

from gpubench.errors import UsageError

GRID = """\
workload: mla_decode
axes:
  backend: [torch, triton]
  batch: [1, 8, 32]
  window: [null, 4]
  causal: [true, false]
params: {model: tiny, isl: 8}
"""


@pytest.mark.parametrize(
    ("only", "expected"),
    [
        ([], list(range(24))),
        (["backend=triton"], list(range(12, 24))),
        (["backend=triton,torch"], list(range(24))),
        (["batch=8"], [4, 5, 6, 7, 16, 17, 18, 19]),
        (["batch=0x8", "backend=torch"], [4, 5, 6, 7]),
        (["batch=>8", "backend=torch"], [8, 9, 10, 11]),
        (["batch>8", "backend=torch"], [8, 9, 10, 11]),
        (["batch>=8", "batch<32", "backend==torch"], [4, 5, 6, 7]),
        (["batch!=8", "backend!=triton", "window=null", "causal=true"], [0, 8]),
        (["batch=1,>8", "backend=torch", "window=4", "causal=false"], [3, 11]),
        (["model=tiny", "isl=8", "cell=3"], [3]),
        (["cell=013"], [13]),
        (["cell=cell_013,2"], [2, 13]),
        (["cell=cell_013_B001_WINDOWnone_CAUSALF_triton"], [13]),
        ([" batch = 8 , 32 ", "window=4", "causal=true"], [6, 10, 18, 22]),
    ],
)
def test_only_selects(cells: Any, only: list[str], expected: list[int]) -> None:
    assert [cell.index for cell in cells(GRID, only=only).cells] == expected


def test_a_selected_cell_is_named_as_in_the_whole_grid(cells: Any) -> None:
    whole = {cell.index: cell for cell in cells(GRID).cells}
    assert all(cell == whole[cell.index] for cell in cells(GRID, only=["batch=8"]).cells)


def test_a_text_that_looks_like_a_number_is_found(cells: Any) -> None:
    text = "workload: command\naxes: {version: ['8', '9', 8.5]}\nparams: {run: x}\n"
    assert [cell.axes["version"] for cell in cells(text, only=["version=8,8.5"]).cells] == ["8", 8.5]


@pytest.mark.parametrize(
    ("only", "expected"), [("mix=[16,64]", [0]), ("mix=[16, 64],x", [0, 2]), ("mix={a: [1, 2], b: 3}", [1])]
)
def test_a_list_or_mapping_is_chosen_as_yaml_writes_it(cells: Any, only: str, expected: list[int]) -> None:
    mixes = ("[16, 64]", "{b: 3, a: [1, 2]}", "x", "[16]")
    rows = "".join(f"- {{mix: {mix}}}\n" for mix in mixes)
    grid = cells("workload: command\nparams: {run: x}\ninclude:\n" + rows, only=[only])
    assert [cell.index for cell in grid.cells] == expected


@pytest.mark.parametrize(
    ("only", "message"),
    [
        (
            ["batch=[1"],
            "--only batch=[1: '[1' is not YAML: did not find expected ',' or ']', "
            "while parsing a flow sequence that starts on line 1",
        ),
        (["backend"], "--only backend: want axis=value, as in --only backend=triton"),
        (["=3"], "--only =3: want axis=value, as in --only backend=triton"),
        (
            ["bach=3"],
            "--only bach=3: unknown axis 'bach'; did you mean 'batch'? "
            "known: backend, batch, window, causal, model, isl, cell",
        ),
        (["backend=tritn"], "--only backend=tritn: no cell fits; did you mean 'triton'? backend takes: torch, triton"),
        (["batch=9"], "--only batch=9: no cell fits; batch takes: 1, 8, 32"),
        (["window=9"], "--only window=9: no cell fits; window takes: null, 4"),
        (["causal=1"], "--only causal=1: no cell fits; causal takes: true, false"),
        (
            ["backend=>3"],
            "--only backend=>3: > compares numbers, and backend has none; name its values instead: torch, triton",
        ),
        (["batch=>many"], "--only batch=>many: > compares numbers, got 'many'; for that very text write '==>many'"),
        (
            ["batch=1e999"],
            "--only batch=1e999: '1e999' is a number beyond what a double holds; write .inf if infinity is meant",
        ),
        (["cell=first"], "--only cell=first: want a cell's number or its id, as in --only cell=13"),
        (
            ["cell=99"],
            "--only cell=99: no such cell; the grid's are cell_000_B001_WINDOWnone_CAUSALT_torch "
            "to cell_023_B032_WINDOW004_CAUSALF_triton",
        ),
        (
            ["backend=torch", "backend=triton"],
            "--only backend=torch --only backend=triton: no cell fits all of these at once; "
            "alternatives of one axis go into one flag, as in backend=a,b",
        ),
    ],
)
def test_a_selection_that_cannot_be_meant_is_answered_with_the_flag(cells: Any, only: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        cells(GRID, only=only)
    assert str(caught.value) == message
