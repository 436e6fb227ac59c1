"""A sweep file becomes a sweep: defaults filled in, overlay merged, flags applied, everything still locatable."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpubench.errors import ConfigError
from gpubench.sweep import find_plugins, load_sweep
from gpubench.sweep.document import Document, Node
from gpubench.sweep.overlay import merge_overlay

SWEEP = """\
workload: mla_decode
axes:
  backend: [torch, triton]
  isl: [512, 2048]
params: {model: deepseek-v3, batch: 8}
overlay:
  cpu:
    params: {model: tiny}
    axes: {isl: [32]}
    measure: {trials: 1}
"""


def test_what_is_not_written_has_its_default(load: Any) -> None:
    spec = load("workload: mla_decode\naxes: {isl: 512}\n").spec
    assert spec.name == "sweep"
    assert spec.axes == {"isl": [512]}
    assert (spec.order, spec.isolation, spec.pareto, spec.plugins) == ("cells", "worker", None, [])
    assert (spec.measure.trials, spec.check.against, spec.timeout_s.cell, spec.triage.coredump) == (
        3,
        "auto",
        120,
        True,
    )


def test_a_section_left_empty_is_not_given(load: Any) -> None:
    spec = load("workload: mla_decode\naxes: {isl: 1}\nparams:\nexclude:\nmeasure:\npareto:\n").spec
    assert (spec.params, spec.exclude, spec.measure.trials, spec.pareto) == ({}, [], 3, None)


def test_a_number_for_timeout_is_the_cells(load: Any) -> None:
    base = "workload: mla_decode\naxes: {isl: 1}\n"
    assert load(base + "timeout_s: 7").spec.timeout_s.cell == 7
    assert load(base + "timeout_s: {setup: 3, cell: 9}").spec.timeout_s.setup == 3


def test_pareto_plots_throughput_unless_told_otherwise(load: Any) -> None:
    pareto = load("workload: mla_decode\naxes: {isl: 1}\npareto: {title: Decode}\n").spec.pareto
    assert (pareto.x, pareto.y, pareto.group, pareto.title) == ("tok_s_user", "tok_s_gpu", ["backend"], "Decode")


def test_an_overlay_merges_mappings_and_replaces_lists(load: Any) -> None:
    sweep = load(SWEEP, overlay="cpu")
    assert sweep.spec.axes == {"backend": ["torch", "triton"], "isl": [32]}
    assert sweep.spec.params == {"model": "tiny", "batch": 8}
    assert sweep.spec.measure.trials == 1


def test_an_overlay_that_the_file_lacks_changes_nothing(load: Any) -> None:
    assert load(SWEEP, overlay="gpu").resolved == load(SWEEP).resolved


def test_an_overlay_can_empty_a_section(load: Any) -> None:
    text = "workload: mla_decode\naxes: {isl: 1}\nexclude: [{isl: 1}]\noverlay: {cpu: {exclude: }}\n"
    assert load(text, overlay="cpu").spec.exclude == []


def test_what_comes_from_an_overlay_is_located_there(load: Any) -> None:
    sweep = load(SWEEP, overlay="cpu")
    assert str(sweep.locate("axes", "isl", 0)) == "sweep.yaml:9: overlay.cpu.axes.isl[0]"
    assert str(sweep.locate("params", "model")) == "sweep.yaml:8: overlay.cpu.params.model"
    assert str(sweep.locate("params", "batch")) == "sweep.yaml:5: params.batch"


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("measure.trials=1", "measure.trials", 1),
        ("measure.timer=wall", "measure.timer", "wall"),
        ("name=on", "name", "on"),
        ("timeout_s={cell: 1e1}", "timeout_s.cell", 10.0),
        ("axes.isl=[1, 2]", "axes.isl", [1, 2]),
        ("isl=8", "axes.isl", [8]),
        ("isl=[8]", "axes.isl", [8]),
        ("params.batch=4", "params.batch", 4),
        ("batch=0x10", "params.batch", 16),
        ("params.tp=2", "params.tp", 2),
        ("dtype=float16", "params.dtype", "float16"),
    ],
)
def test_set_changes_one_key(load: Any, override: str, path: str, value: Any) -> None:
    changed = load(SWEEP, overrides=[override])
    found = changed.resolved
    for key in path.split("."):
        found = found[key]
    assert found == value
    assert changed.locate(*path.split(".")).file == f"--set {override}"


def test_set_comes_after_the_overlay_and_the_last_flag_wins(load: Any) -> None:
    sweep = load(SWEEP, overlay="cpu", overrides=["isl=64", "measure.trials=5", "isl=128"])
    assert (sweep.spec.axes["isl"], sweep.spec.measure.trials) == ([128], 5)


def test_set_turns_a_param_into_an_axis_and_back(load: Any) -> None:
    swept = load(SWEEP, overrides=["axes.batch=[1, 2]"]).spec
    assert (swept.axes["batch"], swept.params) == ([1, 2], {"model": "deepseek-v3"})
    fixed = load(SWEEP, overrides=["params.isl=64"]).spec
    assert (list(fixed.axes), fixed.params["isl"]) == (["backend"], 64)


def test_plugins_are_found_beside_the_sweep_then_here_and_modules_stay_names(folder: Path) -> None:
    (folder / "sub").mkdir()
    for name in ("sub/beside.py", "here.py", "both.py", "sub/both.py"):
        (folder / name).write_text("")
    (folder / "sub/s.yaml").write_text(
        "workload: x\naxes: {a: 1}\nplugins: [beside.py, here.py, both.py, my_pkg.kernels]\n"
    )
    plugins = load_sweep(Path("sub/s.yaml")).plugins
    assert plugins == [
        str(folder / "sub/beside.py"),
        str(folder / "here.py"),
        str(folder / "sub/both.py"),
        "my_pkg.kernels",
    ]


def test_plugins_named_by_a_flag_are_found_here(folder: Path) -> None:
    (folder / "mine.py").write_text("")
    assert find_plugins(["mine.py", "my_pkg"]) == [str(folder / "mine.py"), "my_pkg"]
    with pytest.raises(ConfigError) as caught:
        find_plugins(["x" * 300 + ".py"])
    assert str(caught.value).startswith("--plugin xxx")


def test_the_resolved_sweep_is_json_and_loads_as_the_same_sweep(load: Any, folder: Path) -> None:
    text = SWEEP + "zip: [{tp: 1, scale: .inf}]\nexclude: [{isl: '>1'}]\ntimeout_s: 5\npareto: {x: step_time}\n"
    sweep = load(text, overlay="cpu", overrides=["measure.max_time_s=2", "name=again"])
    (folder / "again.yaml").write_text(json.dumps(sweep.resolved).replace("Infinity", ".inf"))
    again = load_sweep(folder / "again.yaml", overlay="cpu")
    assert again.resolved == sweep.resolved
    assert again.resolved["zip"] == [{"tp": 1, "scale": math.inf}]
    assert again.spec.name == "again"
    assert "overlay" not in sweep.resolved


def _node(value: Any) -> Node:
    if isinstance(value, dict):
        return Node({key: _node(child) for key, child in value.items()}, "f", 1)
    return Node([_node(child) for child in value] if isinstance(value, list) else value, "f", 1)


keys = st.sampled_from(["a", "b", "c"])
plain = st.recursive(
    st.integers(0, 3) | st.none(), lambda inner: st.lists(inner, max_size=2) | st.dictionaries(keys, inner, max_size=3)
)
mappings = st.dictionaries(keys, plain, max_size=3)


@given(mappings, mappings)
def test_merging_an_overlay_twice_is_merging_it_once(base: dict[str, Any], part: dict[str, Any]) -> None:
    document = Document(_node({**base, "overlay": {"x": part}}))
    once = merge_overlay(document, "x")
    assert merge_overlay(once, "x").root.plain() == once.root.plain()


@given(mappings, mappings)
def test_a_merged_overlay_wins_wherever_it_speaks(base: dict[str, Any], part: dict[str, Any]) -> None:
    def covers(merged: Any, over: Any) -> bool:
        if isinstance(merged, dict) and isinstance(over, dict):
            return all(key in merged and covers(merged[key], child) for key, child in over.items())
        return bool(merged == over)

    merged = merge_overlay(Document(_node({**base, "overlay": {"x": part}})), "x").root.plain()
    assert covers(merged, part)
    assert set(merged) == {*base, *part, "overlay"}


def test_importing_the_package_loads_nothing_heavy() -> None:
    heavy = "{'torch', 'triton', 'numpy', 'pandas', 'plotly', 'pyarrow', 'rich', 'typer'}"
    code = f"import sys, gpubench.sweep; print(sorted({heavy} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_an_argument_that_resembles_an_axis_can_be_set_by_its_bare_name(load: Any) -> None:
    assert load(SWEEP, overrides=["state_model=tiny"]).spec.params["state_model"] == "tiny"
