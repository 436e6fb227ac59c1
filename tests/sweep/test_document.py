"""A document knows the line of every key, and no file can make reading it expensive."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpubench.errors import ConfigError
from gpubench.sweep.document import MAX_BYTES, MAX_DEPTH, MAX_NODES, Document, Node, parse_node, read_document

YAML_PIECES = st.sampled_from(
    ["b: ", "- ", "\n  ", "&x ", "*x", "<<: ", "!!int ", "!x ", ">\n", "--- ", "...\n"]
) | st.sampled_from("a1é~|[]{},:?#%@'\"\\\t\n \u2028\ufeff\x00")


def parse(text: str) -> Document:
    return Document(parse_node(text, "f.yaml"))


def refusal(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    return str(caught.value)


def test_every_key_path_has_its_line() -> None:
    document = parse("name: x\naxes:\n  batch:\n  - 1\n  - 2\n  isl: [3, 4]\n")
    places = {
        ("name",): "f.yaml:1: name",
        ("axes",): "f.yaml:2: axes",
        ("axes", "batch"): "f.yaml:3: axes.batch",
        ("axes", "batch", 1): "f.yaml:5: axes.batch[1]",
        ("axes", "isl", 0): "f.yaml:6: axes.isl[0]",
        (): "f.yaml:1",
    }
    assert {path: str(document.locate(path)) for path in places} == places


def test_a_path_that_is_not_there_is_located_as_far_as_it_goes() -> None:
    assert str(parse("a:\n  b: 1\n").locate(("a", "b", "c", 0))) == "f.yaml:2: a.b"


def test_an_alias_has_the_line_of_its_use_and_its_parts_the_lines_of_the_anchor() -> None:
    document = parse("base: &base\n  x: 1\nused: *base\n")
    assert document.locate(("used",)).line == 3
    assert document.locate(("used", "x")).line == 2
    assert document.root.plain() == {"base": {"x": 1}, "used": {"x": 1}}


def test_merge_keys_fill_in_what_is_not_written() -> None:
    text = "one: &one {a: 1, b: 1}\ntwo: &two {b: 2, c: 2}\nall: {<<: [*one, *two], c: 3}\nlast: {a: 0, <<: *one}\n"
    plain = parse(text).root.plain()
    assert list(plain["all"].items()) == [("a", 1), ("b", 1), ("c", 3)], "in the order of what is merged"
    assert plain["last"] == {"a": 0, "b": 1}


def test_a_quoted_merge_key_is_a_key() -> None:
    assert parse("'<<': 1").root.plain() == {"<<": 1}


def test_quotes_and_tags_decide_what_a_scalar_is() -> None:
    text = "[8, '8', !!str 8, ! 8, !!int 8, !!float 8, !!null '', !!bool 'true']"
    plain = parse(text).root.plain()
    assert plain == [8, "8", "8", "8", 8, 8.0, None, True]
    assert type(plain[5]) is float


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(b"\xef\xbb\xbfname: x\n")
    assert read_document(tmp_path / "x.yaml").root.plain() == {"name": "x"}


def test_a_billion_laughs_are_refused_before_they_are_expanded() -> None:
    lines = ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"{new}: &{new} [{', '.join(['*' + old] * 10)}]" for old, new in zip("abcdefgh", "bcdefghi", strict=True)]
    assert refusal("\n".join(lines)) == f"f.yaml:5: more than {MAX_NODES:,} values once aliases are expanded"


def test_merged_mappings_count_too() -> None:
    lines = ["a0: &a0 {" + ", ".join(f"k{n}: 1" for n in range(1000)) + "}"]
    lines += [f"b{n}: {{<<: *a0}}" for n in range(200)]
    assert "more than 100,000 values" in refusal("\n".join(lines))


@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "? ", "- - "])
def test_deep_nesting_is_refused(opening: str) -> None:
    assert refusal(opening * 20_000) == f"f.yaml:1: nested more than {MAX_DEPTH} deep"


def test_deep_nesting_through_aliases_is_refused() -> None:
    half = MAX_DEPTH // 2
    lines = ["a0: &a0 " + "[" * half + "]" * half]
    lines += [f"a{n}: &a{n} " + "[" * half + f"*a{n - 1}" + "]" * half for n in range(1, 20)]
    assert refusal("\n".join(lines)) == f"f.yaml:2: nested more than {MAX_DEPTH} deep"


def test_a_file_of_ten_megabytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "big.yaml"
    path.write_bytes(b"a: 1\n" * (2 * MAX_BYTES))
    with pytest.raises(ConfigError, match="larger than 1 MiB"):
        read_document(path)


def test_a_file_at_the_limit_is_read(tmp_path: Path) -> None:
    path = tmp_path / "full.yaml"
    path.write_bytes(b"a: 1\n#".ljust(MAX_BYTES, b"x"))
    assert read_document(path).root.plain() == {"a": 1}


def _parse_or_refuse(text: str) -> Node | None:
    try:
        return parse_node(text, "f.yaml")
    except ConfigError as error:
        assert error.location is not None
        assert error.location.file == "f.yaml"
        return None


@given(st.lists(YAML_PIECES, max_size=30).map("".join))
def test_pieces_of_yaml_in_any_order_are_read_or_refused(text: str) -> None:
    node = _parse_or_refuse(text)
    if node:
        node.plain()


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "garbage.yaml"
    path.write_bytes(data)
    try:
        read_document(path).root.plain()
    except ConfigError as error:
        assert str(error).startswith(str(path))
