"""Signatures as schemas: what the parameters of a workload and of its backends' set-ups are as axes."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, Union

from gpubench.catalogue import AxisInfo, AxisKind

__all__ = ["axes_of", "common_option", "options_of"]

_NO_AXES = frozenset({"backend", "cell", "workload"})
"""What sweeps and records call something else."""

_KINDS: dict[Any, AxisKind] = {
    int: "int",
    float: "float",
    bool: "bool",
    str: "str",
    list: "list",
    dict: "map",
    Any: "any",
}


def axes_of(make: Callable[..., Any]) -> list[AxisInfo]:
    """The arguments of a function that makes inputs, an axis each, less `**rest`; TypeError for what can't be one."""
    hints = typing.get_type_hints(make)
    parameters = inspect.signature(make).parameters.values()
    return [_axis(p, hints.get(p.name, Any)) for p in parameters if p.kind is not p.VAR_KEYWORD]


def options_of(setup: Callable[..., Any], backend: str) -> list[AxisInfo]:
    """The keyword-only parameters of a backend's set-up that have a default; TypeError for what can't be an axis."""
    hints = typing.get_type_hints(setup)
    parameters = inspect.signature(setup).parameters.values()
    options = [p for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is not p.empty]
    return [_axis(option, hints.get(option.name, Any), [backend]) for option in options]


def common_option(known: AxisInfo, other: AxisInfo) -> AxisInfo:
    """An option that several backends have: it takes what any of them does, and each refuses what it doesn't.

    Defaults that differ become a text that no value of it equals: nobody can be told to have one of them.
    """
    is_same = known.default == other.default and type(known.default) is type(other.default)
    return replace(
        known,
        default=known.default if is_same else f"{known.default} or {other.default}",
        kind=known.kind if known.kind == other.kind else "any",
        choices=list(dict.fromkeys([*known.choices, *other.choices])) if known.choices and other.choices else [],
        optional=known.optional or other.optional,
        backends=[*known.backends, *other.backends],
    )


def _axis(parameter: inspect.Parameter, hint: Any, backends: list[str] | None = None) -> AxisInfo:
    if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL):
        raise TypeError(
            f"parameter {parameter.name!r}: sweeps give arguments by name, which this one can't be given by"
        )
    if parameter.name in _NO_AXES:
        raise TypeError(f"parameter {parameter.name!r}: an axis can't be called that; call it something else")
    choices: list[Any] = []
    optional = False
    if typing.get_origin(hint) in (Union, types.UnionType):
        members = [member for member in typing.get_args(hint) if member is not type(None)]
        optional = len(members) < len(typing.get_args(hint))
        hint = members[0] if len(members) == 1 else Any
    if typing.get_origin(hint) is Literal:
        choices = list(typing.get_args(hint))
        hint = type(choices[0])
    kind = _KINDS.get(typing.get_origin(hint) or hint)
    if kind is None:
        raise TypeError(
            f"parameter {parameter.name!r}: {hint!r} can't be an axis; use int, float, bool, str or a Literal"
        )
    required = parameter.default is parameter.empty
    if not required and not _is_plain(parameter.default):
        raise TypeError(
            f"parameter {parameter.name!r}: no sweep can hold its default, {parameter.default!r}; "
            "take a name for it, as dtype: str = 'bfloat16' does"
        )
    return AxisInfo(
        name=parameter.name,
        kind=kind,
        required=required,
        default=None if required else parameter.default,
        choices=choices,
        optional=optional,
        backends=backends or [],
    )


def _is_plain(value: Any) -> bool:
    """Whether YAML and JSON have such a value."""
    if isinstance(value, list):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    return value is None or isinstance(value, bool | int | float | str)
