"""Changing a document before it is used: an overlay merged in, `--set key=value` applied."""

from __future__ import annotations

from dataclasses import replace

from gpubench.errors import ConfigError, Location
from gpubench.sweep.document import Document, KeyPath, Node, parse_node
from gpubench.sweep.problems import nearest, unknown

__all__ = ["apply_override", "merge_overlay"]


def merge_overlay(document: Document, name: str) -> Document:
    """The document with its overlay of that name merged in: mappings merge, all else replaces. Without one, itself."""
    overlays = document.root.child("overlay")
    part = overlays.child(name) if overlays else None
    return document if part is None else Document(_merge(document.root, part, ("overlay", name)))


def apply_override(document: Document, override: str, sections: frozenset[str]) -> Document:
    """The document with one `key=value` of `--set` applied; the value is YAML.

    The key is a path (`measure.trials`), one of `sections`, or the bare name of an axis or a param. A name that the
    file doesn't have becomes a param, unless it looks like a mistyped one. `ConfigError` names the flag.
    """
    flag = f"--set {override}"
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError("want key=value, as in --set measure.trials=1", Location(flag))
    try:
        value = _from_flag(parse_node(text, flag), flag)
    except ConfigError as error:
        raise ConfigError(error.message, Location(flag)) from None
    path = _resolve(document.root, key.strip(), sections, flag)
    root = _without_twin(document.root, path)
    return Document(_replace_at(root, path, value))


def _merge(base: Node, part: Node, written_at: KeyPath) -> Node:
    if not isinstance(base.value, dict) or not isinstance(part.value, dict):
        return replace(part, written_at=written_at)
    merged = dict(base.value)
    for key, child in part.value.items():
        below = merged.get(key)
        child_at = (*written_at, key)
        merged[key] = replace(child, written_at=child_at) if below is None else _merge(below, child, child_at)
    return replace(base, value=merged)


def _from_flag(node: Node, flag: str) -> Node:
    value = node.value
    if isinstance(value, dict):
        value = {key: _from_flag(child, flag) for key, child in value.items()}
    elif isinstance(value, list):
        value = [_from_flag(child, flag) for child in value]
    return Node(value, flag, None)


def _resolve(root: Node, key: str, sections: frozenset[str], flag: str) -> tuple[str, ...]:
    path = tuple(key.split("."))
    if len(path) > 1 or key in sections:
        return path
    names = {section: list(_entries(root, section)) for section in ("axes", "params")}
    for section, known in names.items():
        if key in known:
            return (section, key)
    if any(row.child(key) for row in _elements(root, "zip")):
        raise ConfigError(f"{key} moves together with other axes; set zip as a whole", Location(flag))
    own = [name for known in names.values() for name in known]
    # The workload's arguments aren't known yet: what only resembles a key, as state_dtype does dtype, may be one.
    if nearest(key, [*own, *sections], likeness=0.8):
        message = unknown("key", key, [*own, *sorted(sections)])
        raise ConfigError(f"{message}; to add an argument write params.{key}=…", Location(flag))
    return ("params", key)


def _without_twin(root: Node, path: tuple[str, ...]) -> Node:
    """Setting `axes.tp` turns the param `tp` into an axis, and the other way round: one of them has to go."""
    twin = {"axes": "params", "params": "axes"}.get(path[0], "")
    section = root.child(twin)
    if section is None or len(path) != 2 or path[1] not in section.entries:
        return root
    kept = {key: child for key, child in section.entries.items() if key != path[1]}
    return replace(root, value={**root.entries, twin: replace(section, value=kept)})


def _replace_at(node: Node | None, path: tuple[str, ...], value: Node) -> Node:
    if not path:
        return value
    if node is None or node.value is None:
        node = Node({}, value.file, None)
    if not isinstance(node.value, dict):
        raise ConfigError(f"there is no key {path[0]!r} here: the value is not a mapping", Location(value.file))
    child = node.value.get(path[0])
    return replace(node, value={**node.value, path[0]: _replace_at(child, path[1:], value)})


def _entries(root: Node, key: str) -> dict[str, Node]:
    node = root.child(key)
    return node.entries if node else {}


def _elements(root: Node, key: str) -> list[Node]:
    node = root.child(key)
    return node.elements if node else []
