"""Reading a kernel's parameters as they lie in memory; whole graphs are read on a GPU."""

from __future__ import annotations

import ctypes
import mmap
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpubench.graphs.nodes import _each, _Kernel, _packed, _words, is_host_memory

values = st.lists(st.binary(min_size=1, max_size=40), max_size=8)


@given(values)
def test_parameters_are_read_by_an_array_of_their_addresses_or_from_one_buffer(given_values: list[bytes]) -> None:
    offsets, size = [], 0
    for value in given_values:
        size = -(-size // 8) * 8
        offsets.append(size)
        size += len(value)
    kernel = _Kernel("kernel", tuple(zip(offsets, map(len, given_values), strict=True)))
    expected = [(number, value) for number, value in enumerate(given_values) if len(value) >= 8]

    buffers = [ctypes.create_string_buffer(value, len(value)) for value in given_values]
    array = (ctypes.c_uint64 * max(1, len(buffers)))(*map(ctypes.addressof, buffers))
    assert list(_each(ctypes.addressof(array), kernel)) == expected

    packed = ctypes.create_string_buffer(size + 1)
    for offset, value in zip(offsets, given_values, strict=True):
        packed[offset : offset + len(value)] = value
    length = ctypes.c_uint64(size)
    extra = (ctypes.c_uint64 * 5)(1, ctypes.addressof(packed), 2, ctypes.addressof(length), 0)
    assert list(_packed(ctypes.addressof(extra), kernel)) == expected


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=6), st.binary(max_size=7))
def test_a_struct_is_read_word_by_word(words: list[int], rest: bytes) -> None:
    value = struct.pack(f"<{len(words)}Q", *words) + rest
    assert list(_words(value)) == [(8 * number, word) for number, word in enumerate(words)]


@pytest.mark.parametrize("addresses", [0, None])
def test_a_kernel_without_parameters_has_none(addresses: int) -> None:
    assert list(_each(addresses, _Kernel("kernel", ((0, 8),)))) == []


def test_memory_that_this_process_may_read_is_the_hosts_and_what_is_only_reserved_is_not() -> None:
    here = ctypes.create_string_buffer(64)
    assert is_host_memory(ctypes.addressof(here))
    with mmap.mmap(-1, 1 << 16) as mapped:
        address = ctypes.addressof(ctypes.c_char.from_buffer(mapped))
        assert is_host_memory(address + 100)
        libc = ctypes.CDLL(None)
        assert libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(1 << 16), 0) == 0
        assert not is_host_memory(address + 100)
        libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(1 << 16), mmap.PROT_READ | mmap.PROT_WRITE)
    assert not is_host_memory(1 << 32)
