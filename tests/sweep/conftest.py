"""A small catalogue made by hand, and sweeps written to files: all that these tests need of the rest of gpubench."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from gpubench.catalogue import AxisInfo, BackendInfo, Catalogue, WorkloadInfo
from gpubench.sweep import Grid, Sweep, expand, load_sweep, select


def _backend(name: str, is_baseline: bool = False) -> BackendInfo:
    return BackendInfo(name=name, is_baseline=is_baseline, requires=[], origin="test")


def _workload(name: str, axes: list[AxisInfo], backends: list[BackendInfo], open_axes: bool = False) -> WorkloadInfo:
    return WorkloadInfo(name, "", axes, backends, [], "test", open_axes)


@pytest.fixture(scope="session")
def catalogue() -> Catalogue:
    mla = _workload(
        "mla_decode",
        [
            AxisInfo("model", "str", required=True, choices=["deepseek-v3", "tiny"]),
            AxisInfo("batch", "int", required=True),
            AxisInfo("isl", "int", required=True),
            AxisInfo("tp", "int", required=False, default=1),
            AxisInfo("dtype", "str", required=False, default="bfloat16", choices=["bfloat16", "float16"]),
            AxisInfo("scale", "float", required=False, default=1.0),
            AxisInfo("window", "int", required=False, optional=True),
            AxisInfo("causal", "bool", required=False, default=True),
            AxisInfo("lengths", "list", required=False, default=[]),
            AxisInfo("block_v", "int", required=False, default=16, backends=["triton"]),
        ],
        [_backend("torch", is_baseline=True), _backend("triton")],
    )
    decode = _workload(
        "decode_step",
        [
            AxisInfo("concurrency", "int", required=True),
            AxisInfo("parallel", "str", required=False, default="TEP", choices=["TEP", "DEP"]),
            AxisInfo("gvr", "bool", required=False, default=True),
        ],
        [_backend("eager"), _backend("graph")],
    )
    command = _workload(
        "command", [AxisInfo("run", "str", required=True)], [_backend("shell", is_baseline=True)], open_axes=True
    )
    return Catalogue({workload.name: workload for workload in (mla, decode, command)})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, so that messages name plain `sweep.yaml`."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


Load = Callable[..., Sweep]
Cells = Callable[..., Grid]


@pytest.fixture
def load(folder: Path) -> Load:
    """Write a sweep's text to sweep.yaml and load it."""

    def from_text(text: str, *, overlay: str | None = None, overrides: Sequence[str] = ()) -> Sweep:
        (folder / "sweep.yaml").write_text(text, encoding="utf-8")
        return load_sweep(Path("sweep.yaml"), overlay=overlay, overrides=overrides)

    return from_text


@pytest.fixture
def cells(load: Load, catalogue: Catalogue) -> Cells:
    """From a sweep's text to its grid."""

    def from_text(text: str, *, only: Sequence[str] = (), overrides: Sequence[str] = ()) -> Grid:
        return select(expand(load(text, overrides=overrides), catalogue), only)

    return from_text
