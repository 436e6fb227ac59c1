"""Names and values held against what a workload says it takes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from gpubench.catalogue import AxisInfo, WorkloadInfo
from gpubench.sweep.problems import show, unknown

__all__ = ["ArgumentError", "Arguments", "canonical", "is_scalar"]

_KIND_TYPES: Mapping[str, type] = {"int": int, "float": float, "bool": bool, "str": str, "list": list, "map": dict}
_KIND_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "a string",
    "list": "a list",
    "map": "a mapping",
}


class ArgumentError(ValueError):
    """A name a workload doesn't know, or a value it doesn't take."""


class Arguments:
    """What a workload takes: its own arguments, the options of its backends, and `backend` itself."""

    def __init__(self, workload: WorkloadInfo) -> None:
        self.workload = workload
        names = [backend.name for backend in workload.backends]
        backend = AxisInfo(name="backend", kind="str", required=False, choices=names)
        self._infos = {"backend": backend, **{axis.name: axis for axis in workload.axes}}
        self._option_of = {axis.name: frozenset(axis.backends) for axis in workload.axes if axis.backends}

    @property
    def names(self) -> list[str]:
        return list(self._infos)

    @property
    def required(self) -> list[str]:
        return [axis.name for axis in self.workload.axes if axis.required]

    def check_name(self, name: str, what: str) -> None:
        """`ArgumentError` for a name the workload doesn't take; `what` is the word for it: axis, param."""
        if name not in self._infos and not self.workload.open_axes:
            raise ArgumentError(unknown(what, name, self.names, of=self.workload.name))

    def coerce(self, name: str, value: Any) -> Any:
        """The value as the workload takes it: 1 as 1.0 for a float. `ArgumentError` if it doesn't take it."""
        info = self._infos.get(name)
        if info is None or (value is None and info.optional):
            return value
        if info.choices:
            return self._chosen(info, value)
        if info.kind == "float" and type(value) is int:
            return float(value)
        if info.kind != "any" and type(value) is not _KIND_TYPES[info.kind]:
            raise ArgumentError(f"got {show(value)}; {name} of {self.workload.name} takes {_KIND_WORDS[info.kind]}")
        return value

    def takes(self, backend: str, name: str) -> bool:
        """Whether a backend takes an argument: all take the workload's own, an option is taken by some."""
        return name not in self._option_of or backend in self._option_of[name]

    def without_foreign_options(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments less the options that their backend doesn't have."""
        backend = arguments["backend"]
        return {name: value for name, value in arguments.items() if self.takes(backend, name)}

    def owners(self, name: str) -> list[str]:
        """The backends that a name is an option of; none: it is the workload's own argument."""
        return sorted(self._option_of.get(name, ()))

    def _chosen(self, info: AxisInfo, value: Any) -> Any:
        for choice in info.choices:
            if canonical(choice) == canonical(value):
                return choice
            if type(choice) is float and type(value) is int and choice == value:
                return choice
        raise ArgumentError(unknown(info.name, value, info.choices, of=self.workload.name))


def canonical(value: Any) -> str:
    """One text per value, the same for mappings in any order; 1, 1.0, true and "1" stay apart."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def is_scalar(value: Any) -> bool:
    """Whether a value can be swept: neither a list nor a mapping."""
    return not isinstance(value, list | dict)
