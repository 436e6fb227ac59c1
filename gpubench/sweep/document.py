"""A YAML file as a tree that remembers where each key was written.

Everything a sweep says is said about a place in its file, so the tree keeps file and line of every node, through
anchors, merge keys, overlays and `--set`. Reading never runs anything and never costs more than the limits below,
whatever the file holds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from gpubench.errors import ConfigError, Location
from gpubench.records import Scalar
from gpubench.scalars import parse_scalar
from gpubench.sweep.problems import show

__all__ = [
    "MAX_BYTES",
    "MAX_DEPTH",
    "MAX_NODES",
    "Document",
    "KeyPath",
    "Node",
    "format_path",
    "parse_node",
    "read_document",
]

MAX_BYTES = 1 << 20
MAX_NODES = 100_000
"""Scalars, lists and mappings, after aliases are expanded."""
MAX_DEPTH = 64

KeyPath = tuple[str | int, ...]
"""Keys of mappings and indices of lists, from the root: `("axes", "backend", 1)`."""

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAG = "tag:yaml.org,2002:"
_SCALAR_TAGS = {_TAG + "null": type(None), _TAG + "bool": bool, _TAG + "int": int, _TAG + "float": float}
_HINTS = {
    "mapping values are not allowed": "a value with a colon needs quotes, and keys of a mapping the same indent",
    "expected key": "look at the indent here and above",
    "expected <block end>": "look at the indent here and above",
    "end of stream": "a quote isn't closed",
}


@dataclass(frozen=True, slots=True)
class Node:
    """A value and where it was written; its children are nodes too."""

    value: Scalar | dict[str, Node] | list[Node]
    file: str
    line: int | None
    """Of the key, for a mapping's value."""
    written_at: KeyPath | None = None
    """Its path in the file, where that isn't its path in the tree: an overlay's part, merged in."""

    @property
    def entries(self) -> dict[str, Node]:
        """A mapping's values by key; nothing of any other node."""
        return self.value if isinstance(self.value, dict) else {}

    @property
    def elements(self) -> list[Node]:
        """A list's values; nothing of any other node."""
        return self.value if isinstance(self.value, list) else []

    def child(self, step: str | int) -> Node | None:
        """What a key or an index leads to; None if it leads nowhere."""
        if isinstance(step, str):
            return self.entries.get(step)
        return self.elements[step] if 0 <= step < len(self.elements) else None

    def plain(self) -> Any:
        """The value with plain Python values inside."""
        if isinstance(self.value, dict):
            return {key: child.plain() for key, child in self.value.items()}
        if isinstance(self.value, list):
            return [child.plain() for child in self.value]
        return self.value


@dataclass(frozen=True, slots=True)
class Document:
    """A file whose root is a mapping."""

    root: Node

    def locate(self, path: Iterable[str | int]) -> Location:
        """Where a key path was written; of a path that isn't there, the part that is."""
        node, written = self.root, KeyPath()
        for step in path:
            child = node.child(step)
            if child is None:
                break
            node = child
            written = (*written, step) if child.written_at is None else child.written_at
        return Location(node.file, node.line, format_path(written))


def format_path(path: Iterable[str | int]) -> str:
    """`axes.backend[1]`."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def read_document(path: Path) -> Document:
    """Read a sweep file. `ConfigError` with file and line for anything that isn't a mapping in YAML within limits."""
    file = str(path)
    root = parse_node(_read_text(path), file)
    if root.value is None:
        raise ConfigError("the file is empty; a sweep has at least a workload and axes", Location(file))
    if not isinstance(root.value, dict):
        raise ConfigError(f"want a mapping with workload and axes, got {show(root.plain())}", Location(file, root.line))
    return Document(root)


def parse_node(text: str, file: str) -> Node:
    """One YAML document as a tree; `file` is what errors call it. Nothing in it is the node of null."""
    composer = _Composer(file)
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            composer.take(event)
    except yaml.MarkedYAMLError as error:
        raise _syntax_error(error, text, file) from None
    except yaml.reader.ReaderError as error:
        line = 1 + text.count("\n", 0, error.position)
        raise ConfigError(f"not YAML: {error.reason}", Location(file, line)) from None
    return composer.root or Node(None, file, 1)


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError("no such file", Location(str(path))) from None
    except IsADirectoryError:
        raise ConfigError("a folder; name the YAML file in it", Location(str(path))) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"can't be read: {reason}", Location(str(path))) from None
    if len(data) > MAX_BYTES:
        raise ConfigError("larger than 1 MiB, the most a sweep file may be", Location(str(path)))
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = 1 + data.count(b"\n", 0, error.start)
        raise ConfigError(
            f"not UTF-8: byte 0x{data[error.start]:02x}; save the file as UTF-8", Location(str(path), line)
        ) from None


def _short(tag: str | None) -> str:
    """A tag as users write it: `!!int`."""
    return "!!" + tag.removeprefix(_TAG) if tag and tag.startswith(_TAG) else str(tag)


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _syntax_error(error: yaml.MarkedYAMLError, text: str, file: str) -> ConfigError:
    mark = error.problem_mark or error.context_mark
    assert mark, "what is read from text has a mark"
    lines = text.splitlines()
    message = f"not YAML: {error.problem or error.context}"
    if error.problem and error.context_mark and error.context_mark.line < mark.line:
        message += f", {error.context} that starts on line {error.context_mark.line + 1}"
    found = lines[mark.line][mark.column : mark.column + 1] if mark.line < len(lines) else ""
    hint = next((hint for part, hint in _HINTS.items() if part in message), "")
    if found == "\t":
        hint = "indent with spaces, not tabs"
    elif found and found in "%@`":
        hint = f"a value that starts with {found} needs quotes"
    return ConfigError(f"{message}; {hint}" if hint else message, Location(file, min(mark.line + 1, len(lines))))


@dataclass(slots=True)
class _Open:
    """A list or mapping whose end hasn't come yet."""

    value: dict[str, Node] | list[Node]
    line: int
    anchor: str | None
    nodes_before: int
    height: int = 0
    """Of the highest child so far."""
    key: str | None = None
    key_line: int = 0
    merges: list[Node] | None = None
    merges_next: bool = False
    """The key just read is `<<`: the next value is merged in."""

    @property
    def step(self) -> str | int:
        return len(self.value) if isinstance(self.value, list) else self.key or ""


@dataclass(frozen=True, slots=True)
class _Anchored:
    """What an alias stands for, and what it costs to expand it."""

    node: Node
    size: int
    height: int


class _Composer:
    """Events to nodes, without recursion, so that no file can exhaust the stack.

    What an alias would expand to is counted when the alias is read, so a file of a few nested aliases is refused
    before anything walks it.
    """

    def __init__(self, file: str) -> None:
        self.root: Node | None = None
        self._file = file
        self._open: list[_Open] = []
        self._anchors: dict[str, _Anchored] = {}
        self._num_nodes = 0
        self._num_documents = 0

    def take(self, event: yaml.Event) -> None:
        match event:
            case yaml.ScalarEvent():
                self._scalar(event)
            case yaml.AliasEvent():
                self._alias(event)
            case yaml.CollectionStartEvent():
                self._start(event)
            case yaml.CollectionEndEvent():
                self._end()
            case yaml.DocumentStartEvent():
                self._num_documents += 1
                if self._num_documents > 1:
                    raise self._error("a second document starts here; a sweep is one document", self._line(event))

    def _scalar(self, event: yaml.ScalarEvent) -> None:
        line = self._line(event)
        self._count(1, line)
        is_plain = event.tag is None and event.implicit[0]
        node = Node(self._value(event, is_plain), self._file, line)
        if event.anchor:
            self._anchors[event.anchor] = _Anchored(node, 1, 0)
        self._add(node, is_merge=is_plain and event.value == "<<")

    def _value(self, event: yaml.ScalarEvent, is_plain: bool) -> Scalar:
        tag, text, line = event.tag, event.value, self._line(event)
        if not _is_text(text):
            raise self._error("half of a surrogate pair, which no text can hold", line)
        if tag in (None, "!", _TAG + "str") and not is_plain:
            return str(text)
        if tag is not None and tag not in _SCALAR_TAGS:
            raise self._error(f"the tag {_short(tag)} isn't allowed; a sweep holds plain values only", line)
        try:
            value = parse_scalar(text)
        except ValueError as error:
            raise self._error(f"{show(text)} is {error}", line) from None
        wanted = _SCALAR_TAGS[tag] if tag else None
        if wanted is float and type(value) is int:
            return float(value)
        if tag is not None and type(value) is not wanted:
            raise self._error(f"{show(text)} doesn't fit its tag {_short(tag)}", line)
        return value

    def _alias(self, event: yaml.AliasEvent) -> None:
        line, name = self._line(event), event.anchor
        if any(frame.anchor == name for frame in self._open):
            raise self._error(f"the alias *{name} lies inside what it stands for", line)
        if name not in self._anchors:
            raise self._error(f"the alias *{name} has no anchor; write &{name} before it, or quote the string", line)
        anchored = self._anchors[name]
        self._count(anchored.size, line)
        self._check_depth(len(self._open) + anchored.height, line)
        self._add(replace(anchored.node, line=line), anchored.height)

    def _start(self, event: yaml.CollectionStartEvent) -> None:
        line = self._line(event)
        is_mapping = isinstance(event, yaml.MappingStartEvent)
        if event.tag not in (None, "!", _TAG + ("map" if is_mapping else "seq")):
            raise self._error(f"the tag {_short(event.tag)} isn't allowed; a sweep holds plain values only", line)
        self._check_depth(len(self._open) + 1, line)
        self._open.append(_Open({} if is_mapping else [], line, event.anchor, self._num_nodes))
        self._count(1, line)

    def _end(self) -> None:
        frame = self._open.pop()
        value = frame.value
        if isinstance(value, dict):
            merged: dict[str, Node] = {}
            for part in frame.merges or ():
                merged |= {key: child for key, child in part.entries.items() if key not in merged}
            value = {**merged, **value}
        node = Node(value, self._file, frame.line)
        if frame.anchor:
            self._anchors[frame.anchor] = _Anchored(node, self._num_nodes - frame.nodes_before, frame.height + 1)
        self._add(node, frame.height + 1)

    def _add(self, node: Node, height: int = 0, *, is_merge: bool = False) -> None:
        if not self._open:
            self.root = node
            return
        frame = self._open[-1]
        frame.height = max(frame.height, height)
        if isinstance(frame.value, list):
            frame.value.append(node)
        elif frame.merges_next:
            frame.merges = [*(frame.merges or ()), *self._merged(node)]
            frame.merges_next = False
        elif frame.key is None:
            frame.merges_next = is_merge
            if not is_merge:
                self._set_key(frame, node)
        else:
            frame.value[frame.key] = replace(node, line=frame.key_line)
            frame.key = None

    def _set_key(self, frame: _Open, node: Node) -> None:
        key, line = node.value, node.line
        assert line is not None, "what was read from a file has a line"
        if not isinstance(key, str):
            shown = show(node.plain()) if not isinstance(key, dict | list) else "a list or mapping"
            raise self._error(f"a key must be a string, got {shown}; put it in quotes if it is one", line)
        assert isinstance(frame.value, dict), "only mappings have keys"
        if key in frame.value:
            first = frame.value[key].line
            raise self._error(f"the key {show(key)} is given twice, first on line {first}; keep one", line)
        frame.key, frame.key_line = key, line

    def _merged(self, node: Node) -> list[Node]:
        parts = node.value if isinstance(node.value, list) else [node]
        if not all(isinstance(part.value, dict) for part in parts):
            raise self._error("<< merges a mapping or a list of mappings, as in <<: *base", node.line)
        return parts

    def _count(self, size: int, line: int) -> None:
        self._num_nodes += size
        if self._num_nodes > MAX_NODES:
            raise self._error(f"more than {MAX_NODES:,} values once aliases are expanded", line, with_path=False)

    def _check_depth(self, depth: int, line: int) -> None:
        if depth > MAX_DEPTH:
            raise self._error(f"nested more than {MAX_DEPTH} deep", line, with_path=False)

    def _line(self, event: yaml.Event) -> int:
        assert event.start_mark, "what is read from text has a mark"
        return event.start_mark.line + 1

    def _error(self, message: str, line: int | None, *, with_path: bool = True) -> ConfigError:
        path = format_path(frame.step for frame in self._open if frame.step != "") if with_path else ""
        return ConfigError(message, Location(self._file, line, path))
