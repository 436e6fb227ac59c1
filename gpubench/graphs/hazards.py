"""What an audit found, as records keep it: with the kernel's source and its parameter's name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from gpubench.graphs.audit import Audit, Stale
from gpubench.graphs.nodes import Argument
from gpubench.graphs.sources import KernelSource, find_source
from gpubench.records import Hazard

__all__ = ["Identity", "identity_of", "make_hazards"]

Identity = tuple[str, str, int]
"""Kernel, parameter and address: what is alike in these is one hazard."""


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
        certain=stale.is_certain,
    )


def _name_parameter(argument: Argument, source: KernelSource) -> str:
    number = argument.parameter
    if isinstance(number, str):
        return number
    name = source.parameters[number] if number < len(source.parameters) else f"argument {number}"
    return name if argument.is_whole else f"{name} + {argument.offset} B"
