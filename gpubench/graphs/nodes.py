"""The nodes of a captured CUDA graph and the values in them that may be addresses, read through cuda-bindings.

A kernel's parameters are read as they lie in the node: whatever has eight bytes or more, word by word, for a struct
that is passed by value may hold pointers too. Which words are pointers nobody wrote down; the audit judges that.
"""

from __future__ import annotations

import ctypes
import importlib.util
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

__all__ = [
    "LOWEST_ADDRESS",
    "Argument",
    "GraphNodes",
    "Node",
    "can_read_nodes",
    "is_host_memory",
    "is_valid_address",
    "read_nodes",
]

LOWEST_ADDRESS = 1 << 32
"""A GPU's memory lies above it where the host's does, too; sizes, counts and strides mostly lie below."""
HIGHEST_ADDRESS = 1 << 57
"""Five levels of page tables; a double, and two floats side by side, mostly lie above."""
WORD = 8


class Argument(NamedTuple):
    """A word of a node that may be an address."""

    parameter: str | int
    """A kernel's by number; `source` and `destination` of a copy or a fill."""
    offset: int
    """Within the parameter, in bytes."""
    size: int
    """The parameter's, in bytes; a copy's or a fill's end is a word."""
    value: int

    @property
    def is_whole(self) -> bool:
        """The parameter is this word and nothing else."""
        return self.size == WORD


class Node(NamedTuple):
    """A kernel, a copy or a fill."""

    kernel: str
    """Demangled; `[memcpy]` and `[memset]` for the others."""
    arguments: tuple[Argument, ...]
    num_parameters: int = 0
    """A kernel's, those that are too small for an address included."""


@dataclass(frozen=True)
class GraphNodes:
    """A graph's nodes, those of graphs within it included."""

    nodes: list[Node] = field(default_factory=list)
    own: list[tuple[int, int]] = field(default_factory=list)
    """Ranges that the graph allocates by itself, when it runs."""
    unread: Counter[str] = field(default_factory=Counter)
    """Nodes that may hold addresses and that can't be looked into, by their type."""


def can_read_nodes() -> bool:
    """Whether cuda-bindings is installed."""
    try:
        return importlib.util.find_spec("cuda.bindings.driver") is not None
    except ModuleNotFoundError:
        return False


def is_valid_address(address: int) -> bool:
    """Whether CUDA knows memory at an address, whoever took it: torch, a library, the host for the GPU to see.

    The host's own memory is valid, too: libraries pass its addresses to kernels that don't follow them there.
    """
    from cuda.bindings import driver

    status, _ = driver.cuPointerGetAttribute(driver.CUpointer_attribute.CU_POINTER_ATTRIBUTE_MEMORY_TYPE, address)
    return bool(status == driver.CUresult.CUDA_SUCCESS) or is_host_memory(address)


def is_host_memory(address: int) -> bool:
    """Whether this process may read there. What the driver has reserved for the GPU may not be read."""
    for line in Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines():
        span, permissions, *rest = line.split(maxsplit=5)
        start, end = (int(bound, 16) for bound in span.split("-"))
        if start <= address < end:
            return permissions.startswith("r") and not (len(rest) == 4 and rest[3].startswith("/dev/nvidia"))
    return False


def read_nodes(graph: int) -> GraphNodes:
    """Read a cudaGraph_t that is still there, as torch's `raw_cuda_graph()` gives it."""
    reader = _Reader()
    reader.read(graph)
    return reader.found


class _Kernel(NamedTuple):
    """What is the same in all launches of a kernel."""

    name: str
    parameters: tuple[tuple[int, int], ...]
    """Offset and size in bytes."""


class _Reader:
    """Reads one graph; what is learned of a kernel is kept until its end."""

    def __init__(self) -> None:
        from cuda.bindings import driver

        self.driver = driver
        self.found = GraphNodes()
        self._kernels: dict[tuple[int, int], _Kernel] = {}
        kinds = driver.CUgraphNodeType
        self._read_node = {
            kinds.CU_GRAPH_NODE_TYPE_KERNEL: self._read_kernel,
            kinds.CU_GRAPH_NODE_TYPE_MEMCPY: self._read_copy,
            kinds.CU_GRAPH_NODE_TYPE_MEMSET: self._read_fill,
            kinds.CU_GRAPH_NODE_TYPE_GRAPH: self._read_child,
            kinds.CU_GRAPH_NODE_TYPE_MEM_ALLOC: self._read_allocation,
        }
        self._harmless = {
            getattr(kinds, f"CU_GRAPH_NODE_TYPE_{name}")
            for name in (
                "EMPTY",
                "HOST",
                "WAIT_EVENT",
                "EVENT_RECORD",
                "EXT_SEMAS_SIGNAL",
                "EXT_SEMAS_WAIT",
                "MEM_FREE",
            )
        }

    def read(self, graph: Any) -> None:
        _, count = self._ask(self.driver.cuGraphGetNodes, graph)
        if not count:
            return
        nodes, _ = self._ask(self.driver.cuGraphGetNodes, graph, count)
        for node in nodes:
            kind = self._ask(self.driver.cuGraphNodeGetType, node)
            read = self._read_node.get(kind)
            if read is not None:
                read(node)
            elif kind not in self._harmless:
                self.found.unread[kind.name.removeprefix("CU_GRAPH_NODE_TYPE_").lower()] += 1

    def _read_kernel(self, node: Any) -> None:
        launch = self._ask(self.driver.cuGraphKernelNodeGetParams, node)
        key = (int(launch.func), int(launch.kern))
        kernel = self._kernels.get(key)
        if kernel is None:
            kernel = self._kernels[key] = self._describe(launch)
        values = _packed(launch.extra, kernel) if launch.extra else _each(launch.kernelParams, kernel)
        words = (
            Argument(number, offset, len(value), word)
            for number, value in values
            for offset, word in _words(value)
            if LOWEST_ADDRESS <= word < HIGHEST_ADDRESS
        )
        self.found.nodes.append(Node(kernel.name, tuple(words), len(kernel.parameters)))

    def _describe(self, launch: Any) -> _Kernel:
        driver = self.driver
        if int(launch.func):
            handle, ask_name, ask_parameter = launch.func, driver.cuFuncGetName, driver.cuFuncGetParamInfo
        else:
            handle, ask_name, ask_parameter = launch.kern, driver.cuKernelGetName, driver.cuKernelGetParamInfo
        parameters: list[tuple[int, int]] = []
        while True:  # until it says that there is no such parameter
            status, offset, size = ask_parameter(handle, len(parameters))
            if status != driver.CUresult.CUDA_SUCCESS:
                break
            parameters.append((offset, size))
        name = self._ask(ask_name, handle).decode(errors="replace")
        return _Kernel(torch._C._demangle(name), tuple(parameters))

    def _read_copy(self, node: Any) -> None:
        copy = self._ask(self.driver.cuGraphMemcpyNodeGetParams, node)
        on_device = (self.driver.CUmemorytype.CU_MEMORYTYPE_DEVICE, self.driver.CUmemorytype.CU_MEMORYTYPE_UNIFIED)
        ends = (
            ("source", copy.srcMemoryType, copy.srcDevice),
            ("destination", copy.dstMemoryType, copy.dstDevice),
        )
        arguments = (Argument(name, 0, WORD, int(address)) for name, kind, address in ends if kind in on_device)
        self.found.nodes.append(Node("[memcpy]", tuple(arguments)))

    def _read_fill(self, node: Any) -> None:
        fill = self._ask(self.driver.cuGraphMemsetNodeGetParams, node)
        self.found.nodes.append(Node("[memset]", (Argument("destination", 0, WORD, int(fill.dst)),)))

    def _read_child(self, node: Any) -> None:
        self.read(self._ask(self.driver.cuGraphChildGraphNodeGetGraph, node))

    def _read_allocation(self, node: Any) -> None:
        taken = self._ask(self.driver.cuGraphMemAllocNodeGetParams, node)
        self.found.own.append((int(taken.dptr), int(taken.dptr) + taken.bytesize))

    def _ask(self, function: Any, *arguments: Any) -> Any:
        """Call the driver; a status that isn't success is a defect of this module, and says so."""
        status, *answers = function(*arguments)
        if status != self.driver.CUresult.CUDA_SUCCESS:
            raise RuntimeError(f"{function.__name__} of a captured graph: {status.name}")
        return answers[0] if len(answers) == 1 else answers


def _each(addresses: int, kernel: _Kernel) -> Iterator[tuple[int, bytes]]:
    """The parameters by number, of an array of their addresses; those too small for a pointer are left out."""
    if not addresses or not kernel.parameters:
        return
    where = (ctypes.c_uint64 * len(kernel.parameters)).from_address(addresses)
    for number, (_, size) in enumerate(kernel.parameters):
        if size >= WORD:
            yield number, ctypes.string_at(where[number], size)


def _packed(extra: int, kernel: _Kernel) -> Iterator[tuple[int, bytes]]:
    """The same, of parameters that were given as one buffer: pairs of a key and a value, up to a key of 0."""
    keys = (ctypes.c_uint64 * 5).from_address(extra)
    given = dict(zip(keys[0:4:2], keys[1:4:2], strict=True))
    buffer = given.get(1)  # CU_LAUNCH_PARAM_BUFFER_POINTER
    for number, (offset, size) in enumerate(kernel.parameters):
        if buffer and size >= WORD:
            yield number, ctypes.string_at(buffer + offset, size)


def _words(value: bytes) -> Iterator[tuple[int, int]]:
    """Every aligned word with its offset."""
    if len(value) == WORD:
        yield 0, int.from_bytes(value, "little")
        return
    count = len(value) // WORD
    for number, word in enumerate(struct.unpack_from(f"<{count}Q", value)):
        yield WORD * number, word
