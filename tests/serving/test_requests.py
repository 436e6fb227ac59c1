"""Lengths of requests, as numbers, ranges and files, and what is said of those that can't be meant."""

from __future__ import annotations

import numpy as np
import pytest

from gpubench.errors import ArgumentError
from gpubench.serving.requests import deal_lengths, draw_lengths, parse_length, read_pairs


def test_a_length_is_a_number_or_a_range():
    assert parse_length("isl", 7) == (7, 7)
    assert parse_length("osl", {"uniform": [3, 9]}) == (3, 9)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (0, "isl is 0; wanted at least 1"),
        (-3, "isl is -3; wanted at least 1"),
        (True, "isl: wanted a number of tokens or {uniform: [low, high]}; got True"),
        (1.5, "got 1.5"),
        ("long", "got 'long'"),
        (None, "got None"),
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
        parse_length("isl", given)
    assert said in str(caught.value)


def test_uniform_lengths_take_both_ends_and_nothing_beyond():
    drawn = draw_lengths(50, 20, (2, 4), (7, 7))
    assert drawn.isl.shape == drawn.osl.shape == (50, 20)
    assert set(drawn.isl.ravel()) == {2, 3, 4}
    assert set(drawn.osl.ravel()) == {7}
    assert drawn.capacity == 11


def write(folder, text):
    path = folder / "pairs.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def test_pairs_are_read_from_csv_and_dealt_in_their_order(tmp_path):
    file = read_pairs(write(tmp_path, "isl, osl\n10,1\n20, 2\n\n30,3\n"))
    assert file.pairs == [(10, 1), (20, 2), (30, 3)]
    assert file.words.startswith("pairs.csv, 3 pairs, sha256 ")
    dealt = deal_lengths(2, 3, file.pairs)
    assert dealt.isl.tolist() == [[10, 30, 20], [20, 10, 30]]
    assert dealt.osl.tolist() == [[1, 3, 2], [2, 1, 3]]
    assert np.array_equal(deal_lengths(1, 2, [(5, 6)]).isl, [[5, 5]])


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
        ("isl,osl\n10,1,2\n", "pairs.csv:2: wanted two numbers, isl,osl; got '10,1,2'"),
        ("isl,osl\n10\n", "pairs.csv:2: wanted two numbers, isl,osl; got '10'"),
        ('isl,osl\n"10,1\n', "pairs.csv:2: "),
        (b"isl,osl\n\xff\xfe,1\n", "is no text: "),
    ],
)
def test_nonsense_in_a_file_is_refused_with_its_line_and_value(tmp_path, text, said):
    with pytest.raises(ArgumentError) as caught:
        read_pairs(write(tmp_path, text))
    assert said in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ArgumentError, match=r"pairs: can't read .*nowhere.csv: No such file"):
        read_pairs(str(tmp_path / "nowhere.csv"))
