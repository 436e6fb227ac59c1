"""What can be swept: workloads, their backends and their axes, as a worker tells it and the parent checks it.

The parent never imports a workload. A worker imports them all, describes them in these terms, and the description
travels as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter
from pydantic.dataclasses import dataclass

__all__ = [
    "IMPORTING",
    "PROBLEM",
    "AxisInfo",
    "BackendInfo",
    "Catalogue",
    "MetricInfo",
    "WorkloadInfo",
    "dump_catalogue",
    "parse_catalogue",
]

IMPORTING, PROBLEM = ".importing", ".problem"
"""Suffixes of the files beside a catalogue in the making: the plugin that is being imported, and why it can't be."""

_FROZEN = ConfigDict(extra="ignore", ser_json_inf_nan="constants")
AxisKind = Literal["int", "float", "bool", "str", "list", "map", "any"]


@dataclass(frozen=True, config=_FROZEN)
class AxisInfo:
    """One argument of a workload, or one keyword option of some of its backends."""

    name: str
    kind: AxisKind
    required: bool
    default: Any = None
    choices: list[Any] = Field(default_factory=list)
    """The values allowed, when they are enumerable; empty otherwise."""
    optional: bool = False
    """None (YAML's null) is allowed too."""
    backends: list[str] = Field(default_factory=list)
    """The backends this is an option of; empty: an argument of the workload itself."""


@dataclass(frozen=True, config=_FROZEN)
class BackendInfo:
    """One implementation of a workload."""

    name: str
    is_baseline: bool
    requires: list[str]
    origin: str
    """The file that registered it."""


@dataclass(frozen=True, config=_FROZEN)
class MetricInfo:
    """A metric a workload derives from its step time."""

    name: str
    unit: str
    higher_is_better: bool
    description: str = ""


@dataclass(frozen=True, config=_FROZEN)
class WorkloadInfo:
    """One workload."""

    name: str
    description: str
    axes: list[AxisInfo]
    backends: list[BackendInfo]
    metrics: list[MetricInfo]
    origin: str
    open_axes: bool = False
    """Any axis name is accepted (the `command` workload's placeholders)."""
    measures_itself: bool = False
    """Its step has figures of its own: it is another program (`command`) …"""
    in_process: bool = False
    """… or runs in the worker (`closed_loop`)."""
    shares: list[str] = Field(default_factory=list)
    """Arguments: cells in which these are equal are kin, and may share what they build."""

    def kin(self, arguments: Mapping[str, Any]) -> str:
        """What is equal in cells of one kin, as JSON; "" if cells of this workload share nothing."""
        if not self.shares:
            return ""
        defaults = {axis.name: axis.default for axis in self.axes}
        return json.dumps({name: arguments.get(name, defaults.get(name)) for name in self.shares}, sort_keys=True)

    @property
    def is_program(self) -> bool:
        """Its step is another program."""
        return self.measures_itself and not self.in_process

    @property
    def baseline(self) -> str | None:
        return next((backend.name for backend in self.backends if backend.is_baseline), None)


@dataclass(frozen=True, config=_FROZEN)
class Catalogue:
    """All that is registered."""

    workloads: dict[str, WorkloadInfo]
    files: dict[str, str] = Field(default_factory=dict)
    """sha256 by path of every file it was made from: while they are unchanged, so is the catalogue."""


_CATALOGUE = TypeAdapter(Catalogue)


def parse_catalogue(text: bytes) -> Catalogue:
    return _CATALOGUE.validate_json(text)


def dump_catalogue(catalogue: Catalogue) -> bytes:
    return _CATALOGUE.dump_json(catalogue)
