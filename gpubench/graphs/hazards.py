"""What an audit found, as records keep it: with the kernel's source, its parameter's name, and words for a reader."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from gpubench.graphs.audit import Audit, Stale
from gpubench.graphs.nodes import Argument
from gpubench.graphs.sources import KernelSource, find_source
from gpubench.records import Frame, Hazard, PointerState

__all__ = ["Identity", "describe_hazard", "identity_of", "make_hazards"]

Identity = tuple[str, str, int]
"""Kernel, parameter and address: what is alike in these is one hazard."""

LONGEST_NAME = 60
"""Of a kernel in a sentence; a record has all of it."""

_WORDS = {
    PointerState.FREED: "memory that was given back",
    PointerState.REUSED: "memory that was given back and is somebody else's now",
    PointerState.UNMAPPED: "memory that was given back and is not mapped any more",
    PointerState.UNKNOWN: "no memory that anybody had",
}


def make_hazards(audits: Iterable[Audit], source_of: Callable[[str, int], KernelSource] = find_source) -> list[Hazard]:
    """The stale addresses of a cell's graphs, in the order of the nodes that hold them."""
    found: dict[Identity, Hazard] = {}
    sources: dict[tuple[str, int], KernelSource] = {}
    for stale in (stale for audit in audits for stale in audit.stale):
        kernel = (stale.kernel, stale.num_parameters)
        if kernel not in sources:
            sources[kernel] = source_of(*kernel)
        hazard = _make_hazard(stale, sources[kernel])
        earlier = found.get(identity_of(hazard))
        nodes = hazard.nodes + earlier.nodes if earlier else hazard.nodes
        found[identity_of(hazard)] = replace(hazard, nodes=nodes)
    return list(found.values())


def identity_of(hazard: Hazard) -> Identity:
    return hazard.kernel, hazard.parameter, hazard.address


def describe_hazard(hazard: Hazard) -> str:
    """`fill_scratch (faulty.py:54): scratch = 0x7f…, memory that was given back (taken at …; freed at …)`."""
    name = hazard.kernel if len(hazard.kernel) <= LONGEST_NAME else f"{hazard.kernel[: LONGEST_NAME - 1]}…"
    place = f" ({Path(hazard.file).name}:{hazard.line})" if hazard.file else ""
    sites = (("taken", hazard.allocated_at), ("given back", hazard.freed_at))
    told = "; ".join(f"{word} {_name_site(site)}" for word, site in sites if site)
    where = f" ({told})" if told else ""
    times = f", in {hazard.nodes:,} nodes" if hazard.nodes > 1 else ""
    return f"{name}{place}: {hazard.parameter} = {hazard.address:#x}, {_WORDS[hazard.state]}{where}{times}"


def _make_hazard(stale: Stale, source: KernelSource) -> Hazard:
    return Hazard(
        kernel=stale.kernel,
        parameter=_name_parameter(stale.argument, source),
        address=stale.argument.value,
        state=stale.state,
        nodes=stale.nodes,
        file=source.file,
        line=source.line,
        allocated_at=stale.freed.allocated_at if stale.freed else None,
        freed_at=stale.freed.freed_at if stale.freed else None,
    )


def _name_parameter(argument: Argument, source: KernelSource) -> str:
    number = argument.parameter
    if isinstance(number, str):
        return number
    name = source.parameters[number] if number < len(source.parameters) else f"argument {number}"
    return name if argument.is_whole else f"{name} + {argument.offset} B"


def _name_site(site: Frame) -> str:
    return f"at {Path(site.file).name}:{site.line} in {site.function}"
