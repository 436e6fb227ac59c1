"""Lengths of requests, as numbers, ranges and files, and what is said of those that can't be meant."""

from __future__ import annotations

import pytest

from gpubench.errors import ArgumentError
from gpubench.serving.requests import parse_wanted


def test_a_length_is_a_number_or_a_range():
    wanted = parse_wanted(7, {"uniform": [3, 9]}, None)
    assert (wanted.isl, wanted.osl, wanted.longest) == ((7, 7), (3, 9), (7, 9))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (0, "isl is 0; wanted at least 1"),
        (-3, "isl is -3; wanted at least 1"),
        (True, "isl: wanted a number of tokens or {uniform: [low, high]}; got True"),
        (1.5, "got 1.5"),
        ("long", "got 'long'"),
        (None, "got None; or give pairs, a file of both lengths"),
        ({"normal": [1, 2]}, "got {'normal': [1, 2]}"),
        ({"uniform": [1, 2], "seed": 3}, "wanted a number"),
        ({"uniform": [1]}, "wanted a number"),
        ({"uniform": [1, 2.5]}, "wanted a number"),
        ({"uniform": "12"}, "wanted a number"),
        ({"uniform": [0, 4]}, "isl.uniform is 0; wanted at least 1"),
        ({"uniform": [9, 4]}, "isl.uniform: [9, 4] ends below where it begins"),
    ],
)
def test_a_length_that_cannot_be_meant_is_refused_with_what_was_given(given, said):
    with pytest.raises(ArgumentError) as caught:
        parse_wanted(given, 1, None)
    assert said in str(caught.value)


def test_uniform_lengths_take_both_ends_and_nothing_beyond():
    drawn = parse_wanted({"uniform": [2, 4]}, 7, None).draw(50, 20)
    assert drawn.isl.shape == drawn.osl.shape == (50, 20)
    assert set(drawn.isl.ravel()) == {2, 3, 4}
    assert set(drawn.osl.ravel()) == {7}
    assert drawn.capacity == 11


def write(folder, text):
    path = folder / "pairs.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def test_pairs_are_read_from_csv_and_dealt_in_their_order(tmp_path):
    wanted = parse_wanted(None, None, write(tmp_path, "isl, osl\n10,4\n20, 2\n\n18,5\n"))
    assert (wanted.isl, wanted.osl, wanted.longest) == ((10, 20), (2, 5), (18, 5))
    assert wanted.pairs.words.startswith("pairs.csv, 3 pairs, sha256 ")
    dealt = wanted.draw(2, 3)
    assert dealt.isl.tolist() == [[10, 18, 20], [20, 10, 18]]
    assert dealt.osl.tolist() == [[4, 5, 2], [2, 4, 5]]
    assert dealt.capacity == 23


def test_a_file_and_a_length_beside_it_are_one_too_many(tmp_path):
    path = write(tmp_path, "isl,osl\n10,4\n")
    with pytest.raises(ArgumentError, match=r"osl: 5 beside pairs: .*pairs.csv, which has every request's lengths"):
        parse_wanted(None, 5, path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "pairs.csv:1: wanted the columns isl,osl; got ''"),
        ("10,1\n", "pairs.csv:1: wanted the columns isl,osl; got '10,1'"),
        ("isl,osl\n", "has no pairs below its head"),
        ("isl,osl\n10,1\nten,1\n", "pairs.csv:3: isl is 'ten'; wanted a whole number, at least 1"),
        ("isl,osl\n10,0\n", "pairs.csv:2: osl is '0'; wanted a whole number, at least 1"),
        ("isl,osl\n10,-4\n", "pairs.csv:2: osl is '-4'"),
        ("isl,osl\n10,1.5\n", "pairs.csv:2: osl is '1.5'"),
        ("isl,osl\n10,\n", "pairs.csv:2: osl is ''"),
        (f"isl,osl\n1{'0' * 5000},2\n", "pairs.csv:2: isl is '100000000000…'; wanted a whole number"),
        ("isl,osl\n10,1,2\n", "pairs.csv:2: wanted two numbers, isl,osl; got '10,1,2'"),
        ("isl,osl\n10\n", "pairs.csv:2: wanted two numbers, isl,osl; got '10'"),
        ('isl,osl\n"10,1\n', "pairs.csv:2: "),
        (b"isl,osl\n\xff\xfe,1\n", "is no text: "),
    ],
)
def test_nonsense_in_a_file_is_refused_with_its_line_and_value(tmp_path, text, said):
    with pytest.raises(ArgumentError) as caught:
        parse_wanted(None, None, write(tmp_path, text))
    assert said in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ArgumentError, match=r"pairs: can't read .*nowhere.csv: No such file"):
        parse_wanted(None, None, str(tmp_path / "nowhere.csv"))
