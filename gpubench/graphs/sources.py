"""Where a Triton kernel of this process has its source, and what its parameters are called.

A graph's node knows a kernel by its name alone. This asks Triton's own functions, all that Python knows of, so it is
for the rare case that something is wrong with a kernel and somebody has to be told where.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

__all__ = ["KernelSource", "find_source"]

HIDDEN_PARAMETERS = 2
"""At most so many Triton adds behind a kernel's own: scratch memory, and a profiler's."""


@dataclass(frozen=True)
class KernelSource:
    """A kernel as somebody wrote it."""

    file: str = ""
    line: int | None = None
    """In which it begins."""
    parameters: tuple[str, ...] = ()
    """Those that are passed at a launch, in order; none where it isn't known which they are."""


UNKNOWN = KernelSource()


def find_source(kernel: str, num_parameters: int) -> KernelSource:
    """The source of the Triton kernel with this name and so many parameters; an empty one if it isn't Triton's.

    Two functions of one name can't be told apart, unless their parameters do so.
    """
    found = {_describe(function, num_parameters) for function in _functions(kernel)}
    if len(found) > 1:
        found = {source for source in found if source.parameters}
    return found.pop() if len(found) == 1 else UNKNOWN


def _functions(kernel: str) -> Iterator[Any]:
    try:
        from triton.runtime.jit import JITFunction
    except ImportError:
        return
    for thing in gc.get_objects():
        # A proxy may refuse isinstance; and some of Triton's functions have no Python function.
        if issubclass(type(thing), JITFunction) and getattr(thing.fn, "__name__", "") == kernel:
            yield thing


def _describe(function: Any, num_parameters: int) -> KernelSource:
    code = function.fn.__code__
    names = {_names(compiled) for compiled in _compiled(function)}
    fitting = [own for own in names if len(own) <= num_parameters <= len(own) + HIDDEN_PARAMETERS]
    return KernelSource(code.co_filename, code.co_firstlineno, fitting[0] if len(fitting) == 1 else ())


def _compiled(function: Any) -> Iterator[Any]:
    for cache in function.device_caches.values():
        yield from cache[0].values()


def _names(compiled: Any) -> tuple[str, ...]:
    """The parameters of one compilation: constants are not passed."""
    return tuple(name for name, kind in compiled.src.signature.items() if kind != "constexpr")
