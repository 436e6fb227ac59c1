"""NVTX ranges: names on the host's timeline that the profilers later project onto the GPU's.

All ranges lie in the domain `gpubench`, so that `nsys` names them `gpubench:attention`. An unprofiled pass switches
them off: then they cost next to nothing, and its step times are those of the step alone.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

__all__ = ["DOMAIN", "annotate", "switch_ranges"]

DOMAIN = "gpubench"

_NO_RANGE = nullcontext()
_is_on = True


def annotate(name: str) -> AbstractContextManager[object]:
    """Open the NVTX range `gpubench:name` around a block, for instance around a layer of a model.

    Ranges nest. They survive a graph capture: what a replay runs is given back to the range it was captured in.
    """
    if not _is_on:
        return _NO_RANGE
    import nvtx

    range_: AbstractContextManager[object] = nvtx.annotate(name, domain=DOMAIN)
    return range_


def switch_ranges(on: bool) -> None:
    """Open ranges from now on, or leave them out."""
    global _is_on  # noqa: PLW0603 - one process measures one thing at a time
    _is_on = on
