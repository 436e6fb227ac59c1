"""NVTX ranges: names on the host's timeline that the profilers later project onto the GPU's.

All ranges lie in the domain `gpubench`, so that `nsys` names them `gpubench:attention`. Without the nvtx package
the ranges cost nothing and mean nothing, which is also what an unprofiled pass wants.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["DOMAIN", "annotate"]

DOMAIN = "gpubench"


@contextmanager
def annotate(name: str) -> Iterator[None]:
    """Open the NVTX range `gpubench:name` around a block, for instance around a layer of a model.

    Ranges nest. They survive a graph capture: what a replay runs is given back to the range it was captured in.
    """
    import nvtx

    with nvtx.annotate(name, domain=DOMAIN):
        yield
