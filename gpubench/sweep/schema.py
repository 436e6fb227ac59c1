"""What a sweep file may hold, as written: the keys, their types, and what contradicts what.

Whether its names exist is another question, which `expand` puts to the catalogue.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from gpubench.errors import ConfigError
from gpubench.predicates import PredicateError, parse_condition
from gpubench.settings import CheckSettings, MeasureSettings, TimeoutSettings, TriageSettings
from gpubench.sweep.document import Document, KeyPath
from gpubench.sweep.problems import known_list, nearest, show, unknown

__all__ = ["ParetoSettings", "SweepFile", "find_problems", "validate"]

_NAME = re.compile(r"[^\W\d][\w-]*")
_RESERVED = {"cell": "--only cell=… asks for a cell by number", "workload": "it is the sweep's own key"}


def _as_values(value: Any) -> Any:
    if value is None:
        raise PydanticCustomError("sweep", "no values; list some, or write [null] for the value null")
    if value == []:
        raise PydanticCustomError("sweep", "an empty list has no values to sweep; list at least one")
    return value if isinstance(value, list) else [value]


def _as_timeouts(value: Any) -> Any:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return {"cell": value} if is_number else value


def _scalar(value: Any) -> Any:
    if isinstance(value, list | dict):
        raise PydanticCustomError(
            "sweep",
            "got {got}; want a number, a string, true, false or null (lists and mappings go under params)",
            {"got": show(value)},
        )
    if isinstance(value, float) and math.isnan(value):
        raise PydanticCustomError("sweep", "got .nan, which equals nothing, not even itself; it can't be swept")
    return value


def _argument_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise PydanticCustomError(
            "sweep", "{name} can't name an axis; use letters, digits and _, a letter first", {"name": show(name)}
        )
    if name in _RESERVED:
        raise PydanticCustomError(
            "sweep", "an axis can't be called {name}: {why}", {"name": name, "why": _RESERVED[name]}
        )
    return name


def _condition(value: Any) -> Any:
    try:
        parse_condition("", value)
    except PredicateError as error:
        raise PydanticCustomError("sweep", "{text}", {"text": str(error)}) from None
    return value


def _non_empty(value: dict[str, Any]) -> dict[str, Any]:
    if not value:
        raise PydanticCustomError("sweep", "an empty mapping; name at least one axis and its value")
    return value


def _single(value: dict[str, Any]) -> dict[str, Any]:
    if len(value) > 1:
        raise PydanticCustomError("sweep", "{count} axes; want one axis and its value", {"count": len(value)})
    return value


_Name = Annotated[str, AfterValidator(_argument_name)]
_Scalar = Annotated[Any, AfterValidator(_scalar)]
_Row = Annotated[dict[_Name, _Scalar], AfterValidator(_non_empty)]
_One = Annotated[dict[_Name, _Scalar], AfterValidator(_non_empty), AfterValidator(_single)]
_Predicate = Annotated[dict[str, Annotated[Any, AfterValidator(_condition)]], AfterValidator(_non_empty)]


class ParetoSettings(BaseModel):
    """What the report plots (`pareto:` in a sweep)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    x: str = "tok_s_user"
    y: str = "tok_s_gpu"
    group: list[str] = Field(default_factory=lambda: ["backend"])
    """The axes whose values get a frontier each."""
    title: str | None = None


class SweepFile(BaseModel):
    """A sweep file, key by key; a key that is missing has the default given here."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    name: Annotated[str, Field(min_length=1)]
    workload: Annotated[str, Field(min_length=1)]
    axes: dict[_Name, Annotated[list[_Scalar], BeforeValidator(_as_values)]] = Field(default_factory=dict)
    params: dict[_Name, Any] = Field(default_factory=dict)
    zip: list[_Row] = Field(default_factory=list)
    exclude: list[_Predicate] = Field(default_factory=list)
    include: list[Annotated[dict[_Name, Any], AfterValidator(_non_empty)]] = Field(default_factory=list)
    plugins: list[Annotated[str, Field(min_length=1)]] = Field(default_factory=list)
    measure: MeasureSettings = MeasureSettings()
    check: CheckSettings = CheckSettings()
    timeout_s: Annotated[TimeoutSettings, BeforeValidator(_as_timeouts)] = TimeoutSettings()
    order: Literal["cells", "interleaved"] = "cells"
    isolation: Literal["worker", "cell"] = "worker"
    triage: TriageSettings = TriageSettings()
    overlay: dict[str, dict[str, Any]] = Field(default_factory=dict)
    pareto: ParetoSettings | None = None
    """None: the report plots what the run's metrics allow."""
    against: _One | None = None
    """The axis and its value that the report compares the others with; None: the workload's baseline."""

    @property
    def zip_names(self) -> list[str]:
        """The axes that move together."""
        return list(self.zip[0]) if self.zip else []


_SECTIONS: dict[str, type[BaseModel]] = {
    "": SweepFile,
    "measure": MeasureSettings,
    "check": CheckSettings,
    "timeout_s": TimeoutSettings,
    "triage": TriageSettings,
    "pareto": ParetoSettings,
}


def validate(document: Document, default_name: str) -> SweepFile | list[ConfigError]:
    """Read a document as a sweep; if it can't be one, every problem with its place."""
    given = {key: value for key, value in document.root.plain().items() if value is not None}
    try:
        sweep = SweepFile.model_validate({"name": default_name, **given}, strict=True)
    except ValidationError as error:
        return [_translate(details, document) for details in error.errors(include_url=False)]
    problems = [ConfigError(message, document.locate(path)) for path, message in find_problems(sweep)]
    return problems or sweep


def find_problems(sweep: SweepFile) -> Iterator[tuple[KeyPath, str]]:
    """What each key allows and the keys together don't, with the path to blame."""
    yield from _given_twice(sweep)
    yield from _uneven_zip(sweep)
    if sweep.measure.min_samples > sweep.measure.max_samples:
        low, high = sweep.measure.min_samples, sweep.measure.max_samples
        yield ("measure", "min_samples"), f"got {low}, more than measure.max_samples, which is {high}"
    for section in ("measure", "check", "timeout_s"):
        for key, value in getattr(sweep, section):
            if isinstance(value, float) and not math.isfinite(value):
                yield (section, key), f"got {value}; want a finite number"
    for name, part in sweep.overlay.items():
        if "overlay" in part:
            yield ("overlay", name, "overlay"), "an overlay can't hold overlays"


def _given_twice(sweep: SweepFile) -> Iterator[tuple[KeyPath, str]]:
    homes: dict[str, str] = {}
    for home, names in (("axes", sweep.axes), ("params", sweep.params), ("zip", sweep.zip_names)):
        for name in names:
            if name in homes:
                path: KeyPath = ("zip", 0, name) if home == "zip" else (home, name)
                yield path, f"{name} is under {homes[name]} too; keep it in one of them"
            homes[name] = home
    if isinstance(sweep.params.get("backend"), list):
        yield ("params", "backend"), "a list of backends is an axis; move it under axes"


def _uneven_zip(sweep: SweepFile) -> Iterator[tuple[KeyPath, str]]:
    for index, row in enumerate(sweep.zip):
        missing = [name for name in sweep.zip_names if name not in row]
        extra = [name for name in row if name not in sweep.zip_names]
        if missing:
            yield ("zip", index), f"missing {known_list(missing)}, which zip[0] has; rows of zip name the same axes"
        if extra:
            yield ("zip", index, extra[0]), f"zip[0] has no {known_list(extra)}; rows of zip name the same axes"


def _translate(details: ErrorDetails, document: Document) -> ConfigError:
    path = tuple(step for step in details["loc"] if step != "[key]")
    return ConfigError(_message(details, path), document.locate(path))


def _message(details: ErrorDetails, path: KeyPath) -> str:
    kind, context = details["type"], details.get("ctx", {})
    if kind == "sweep":
        return details["msg"]
    if kind == "missing":
        return f"missing key {path[-1]!r}; every sweep names one (gpubench list shows what there is)"
    if kind == "extra_forbidden":
        section = "" if len(path) == 1 else str(path[0])
        return unknown("key", path[-1], _SECTIONS[section].model_fields, of=section)
    got = f"got {show(details['input'])}"
    if path == ("timeout_s",):
        return f"{got}; want a number of seconds, or a mapping of stages to seconds"
    if kind == "literal_error":
        known = re.findall(r"'([^']*)'", context["expected"])
        close = nearest(str(details["input"]), known)
        return f"{got}; " + (f"did you mean {close!r}? " if close else "") + f"known: {', '.join(known)}"
    return f"{got}; want {_wanted(kind, context, details['msg'])}"


def _wanted(kind: str, context: dict[str, Any], fallback: str) -> str:
    words = {
        "int_type": "a whole number",
        "float_type": "a number",
        "bool_type": "true or false",
        "string_type": "a string (in quotes, if it looks like something else)",
        "string_too_short": "at least one character",
        "list_type": "a list",
        "dict_type": "a mapping",
        "model_type": "a mapping",
    }
    bounds = {"greater_than": "gt", "greater_than_equal": "ge", "less_than": "lt", "less_than_equal": "le"}
    signs = {"gt": "more than", "ge": "at least", "lt": "less than", "le": "at most"}
    if kind in bounds:
        return f"{signs[bounds[kind]]} {context[bounds[kind]]:g}"
    return words.get(kind, fallback)
