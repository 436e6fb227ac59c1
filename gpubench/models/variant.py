"""Which model a cell means: a preset with other dimensions, cut to some layers, and of it the share of one rank."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from difflib import get_close_matches
from typing import Any, Literal, get_args, get_origin, get_type_hints

from gpubench.errors import ArgumentError
from gpubench.models.base import ModelConfig, Parallel
from gpubench.models.presets import PRESETS, cut, find_preset

__all__ = ["Variant"]

_RANK_FIELDS = ("expert_ranks", "held", "gvr")
"""What arguments of their own say."""

_MAY_BE_NONE = ("dense_layers", "shared_intermediate")
"""Sizes of what a model can do without: layers before the experts, a shared expert."""


@dataclass(frozen=True)
class Variant:
    """The arguments of a decode step that say which model it is. Making one checks them."""

    model: str
    layers: int | None = None
    parallel: Parallel | None = None
    ranks: int = 1
    gvr: bool = False
    shape: Mapping[str, Any] | None = None
    """Dimensions that differ from the preset's, named as the config's fields: {hidden: 1024, moe: {experts: 64}}."""

    def __post_init__(self) -> None:
        if self.ranks < 1:
            raise ArgumentError(f"ranks is {self.ranks}; wanted at least 1")
        if self.parallel is None and self.ranks > 1:
            raise ArgumentError(f"ranks: {self.ranks} ranks need parallel: TEP or DEP, to say what they divide")
        if self.parallel is not None and self.ranks == 1:
            raise ArgumentError(f"parallel: {self.parallel} divides a model between ranks; wanted ranks: 2 or more")

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Variant:
        """Those among all arguments of a cell."""
        return cls(**{name: given[name] for name in cls.__dataclass_fields__ if name in given})

    @property
    def whole(self) -> ModelConfig:
        """All layers, all ranks."""
        preset: Any = find_preset(self.model)
        changed: ModelConfig = override(preset, self.shape or {}, "shape")
        return changed

    @property
    def config(self) -> ModelConfig:
        """What is built; ArgumentError names what such a model can't have."""
        config = cut(self.whole, self.model, self.layers)
        if self.gvr:
            config = self._with_gvr(config)
        share: ModelConfig = config if self.parallel is None else config.rank_share(self.parallel, self.ranks)
        return share

    def rows(self, concurrency: int) -> int:
        """The sequences that one rank has: all of them, or under DEP its part, rounded up as ranks step together."""
        return -(-concurrency // self.ranks) if self.parallel == "DEP" else concurrency

    def check_length(self, isl: int) -> None:
        """ArgumentError if the model has no positions for that many tokens."""
        context = self.whole.context
        if isl > context:
            raise ArgumentError(f"isl: {isl} is beyond the cache: {self.model} has positions for {context} tokens")

    def label(self) -> dict[str, str]:
        """What a record says of it."""
        whole = self.whole
        changes = ", ".join(_changes(self.shape or {}))
        label = {
            "model": f"{self.model} with {changes}" if changes else self.model,
            "layers": f"{self.layers or whole.layers} of {whole.layers}",
        }
        if self.ranks > 1:
            label["rank"] = f"one rank of {self.ranks}, no communication"
        return label

    def _with_gvr(self, config: Any) -> Any:
        if not config.has_indexer:
            having = ", ".join(name for name, preset in PRESETS.items() if preset.has_indexer)
            raise ArgumentError(f"gvr: {self.model} has no indexer whose top-k it could find; {having} have one")
        return replace(config, gvr=True)


def override(config: Any, shape: Mapping[str, Any], place: str) -> Any:
    """`config` with other values in the fields that `shape` names, those of nested shapes by nested mappings."""
    known = {field.name: getattr(config, field.name) for field in fields(config) if field.name not in _RANK_FIELDS}
    hints = get_type_hints(type(config))
    changes = {}
    for name, value in shape.items():
        where = f"{place}.{name}"
        if name not in known:
            raise ArgumentError(f"{where}: no such dimension{_suggest(name, known)}; known: {', '.join(known)}")
        if known[name] is None:
            raise ArgumentError(f"{where}: this model has none that could be changed")
        if not is_dataclass(known[name]):
            changes[name] = _check_value(where, value, known[name], hints[name])
        elif isinstance(value, Mapping):
            changes[name] = override(known[name], value, where)
        else:
            first = fields(known[name])[0].name
            raise ArgumentError(
                f"{where}: wanted a mapping, as in {{{first}: {vars(known[name])[first]}}}; got {value!r}"
            )
    return replace(config, **changes)


def _check_value(where: str, value: Any, present: Any, hint: Any) -> Any:
    """A value of the present one's type and, if it is a number, of a size that means something."""
    if get_origin(hint) is Literal and value not in get_args(hint):
        raise ArgumentError(f"{where}: wanted {' or '.join(get_args(hint))}; got {value!r}")
    kind = type(present)
    if type(value) is int and kind is float:
        value = float(value)
    if type(value) is not kind:
        raise ArgumentError(f"{where}: wanted {_KINDS[kind]}, as {present!r} is; got {value!r}")
    if kind is float and not 0 < value < math.inf:
        raise ArgumentError(f"{where} is {value}; wanted a number above 0")
    least = 0 if present == 0 or where.rpartition(".")[2] in _MAY_BE_NONE else 1
    if kind is int and value < least:
        raise ArgumentError(f"{where} is {value}; wanted at least {least}")
    return value


_KINDS: dict[type, str] = {int: "a whole number", float: "a number", bool: "true or false", str: "a word"}


def _suggest(name: str, known: Mapping[str, Any]) -> str:
    """ ", did you mean …?": a field of that name in a nested shape, else one whose name is near."""
    for outer, value in known.items():
        if is_dataclass(value) and name in {field.name for field in fields(value)}:
            return f"; did you mean {outer}: {{{name}: …}}?"
    close = get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _changes(shape: Mapping[str, Any], prefix: str = "") -> list[str]:
    """hidden 1024, moe.experts 64: what was changed, flat."""
    found = []
    for name, value in shape.items():
        nested = isinstance(value, Mapping)
        found += _changes(value, f"{prefix}{name}.") if nested else [f"{prefix}{name} {value}"]
    return found
