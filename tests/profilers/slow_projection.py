"""The projection as it is defined, loop by loop: what the fast one is compared with."""

from __future__ import annotations

from statistics import median

from nsys_traces import GRAPH, KERNEL, Given, Operation, Range

INFINITY = float("inf")


class SlowProjection:
    def __init__(self, given: Given) -> None:
        self.given = given
        order = sorted(
            range(len(given.ranges)),
            key=lambda i: (
                given.ranges[i].pid,
                given.ranges[i].tid,
                given.ranges[i].start,
                -end_of(given.ranges[i]),
                i,
            ),
        )
        self.ranges = [given.ranges[i] for i in order]
        launched = {(o.pid, o.correlation) for o in given.operations if o.kind != GRAPH and o.correlation is not None}
        self.operations = [o for o in given.operations if o.kind != GRAPH or (o.pid, o.correlation) not in launched]
        self.call_of = [self._find_call(operation) for operation in self.operations]
        self.chain_of = [self._find_chain(call) for call in self.call_of]

    def _find_call(self, operation: Operation):
        calls = [
            (call.tid, call.start, -call.end, row)
            for row, call in enumerate(self.given.calls)
            if call.pid == operation.pid and call.correlation == operation.correlation is not None
        ]
        return self.given.calls[min(calls)[-1]] if calls else None

    def _find_chain(self, call) -> list[int]:
        """The ranges that a call lies in, outermost first."""
        if call is None:
            return []
        return [
            row
            for row, outer in enumerate(self.ranges)
            if (outer.pid, outer.tid) == (call.pid, call.tid)
            and outer.start <= call.start
            and call.end <= end_of(outer)
        ]

    def ancestors(self, row: int) -> list[int]:
        inner = self.ranges[row]
        return [
            other
            for other, outer in enumerate(self.ranges[:row])
            if (outer.pid, outer.tid) == (inner.pid, inner.tid)
            and outer.start <= inner.start
            and end_of(inner) <= end_of(outer)
        ]

    def closed(self) -> list[int]:
        return [row for row, item in enumerate(self.ranges) if item.end is not None]

    def members(self, row: int) -> list[int]:
        return [o for o, chain in enumerate(self.chain_of) if row in chain]

    def own(self, row: int) -> list[int]:
        return [o for o, chain in enumerate(self.chain_of) if chain and chain[-1] == row]

    def figures(self, members: list[int]) -> dict[str, int | None]:
        if not members:
            names = ("start_ns", "span_ns", "busy_ns", "kernel_sum_ns", "gap_ns")
            return {**dict.fromkeys(names), "operations": 0, "launches": 0}
        found = [self.operations[o] for o in members]
        start, end = min(o.start for o in found), max(o.end for o in found)
        busy = len({t for o in found for t in range(o.start, o.end)})
        has_graph = any(o.kind == GRAPH for o in found)
        return {
            "start_ns": start,
            "span_ns": end - start,
            "busy_ns": busy,
            "kernel_sum_ns": None if has_graph else sum(o.end - o.start for o in found if o.kind == KERNEL),
            "gap_ns": end - start - busy,
            "operations": len(found),
            "launches": len({id(self.call_of[o]) for o in members}),
        }

    def is_queued(self, row: int) -> bool:
        device = self.device(row)
        if device is None:
            return False
        item = self.ranges[row]
        earlier = [
            max(self.operations[o].end for o in self.members(other))
            for other, before in enumerate(self.ranges)
            if (before.pid, before.tid) == (item.pid, item.tid)
            and end_of(before) < item.start
            and self.device(other) == device
        ]
        first = min(self.members(row), key=lambda o: (self.operations[o].start, self.call_of[o].start))
        return bool(earlier) and self.call_of[first].start < max(earlier)

    def device(self, row: int) -> int | None:
        devices = {self.operations[o].device for o in self.members(row)}
        return devices.pop() if len(devices) == 1 else None

    def unattributed_share(self, row: int) -> float:
        item = self.ranges[row]
        missed = sum(
            o.end - o.start
            for o, call, chain in zip(self.operations, self.call_of, self.chain_of, strict=True)
            if row not in chain and call and call.pid == item.pid and item.start <= call.start <= end_of(item)
        )
        own = sum(self.operations[o].end - self.operations[o].start for o in self.members(row))
        return missed / max(missed + own, 1)

    def kernels(self) -> dict[tuple[str, str], tuple[int, int, float]]:
        durations: dict[tuple[str, str], list[int]] = {}
        for operation, chain in zip(self.operations, self.chain_of, strict=True):
            names = {label(self.ranges[row]) for row in chain if self.ranges[row].end is not None}
            for name in names:
                durations.setdefault((name, kernel_label(operation)), []).append(operation.end - operation.start)
        return {key: (len(found), sum(found), median(found)) for key, found in durations.items()}

    def captured_chain(self, operation: Operation) -> list[int]:
        node, seen = operation.node, set()
        nodes = [n for n in self.given.nodes if n.pid == operation.pid]
        while node not in seen:
            seen.add(node)
            node = next((n.original for n in reversed(nodes) if n.node == node and n.original is not None), node)
        births = sorted((n for n in nodes if n.node == node), key=lambda n: n.start)
        if operation.node is None or not births:
            return []
        born = births[0]
        return [
            row
            for row, item in enumerate(self.ranges)
            if (item.pid, item.tid) == (born.pid, born.tid) and item.start <= born.start <= end_of(item)
        ]


def end_of(item: Range) -> float:
    return INFINITY if item.end is None else item.end


def label(item: Range) -> str:
    return f"{item.domain}:{item.name}" if item.domain else item.name


def kernel_label(operation: Operation) -> str:
    return {KERNEL: operation.name, "MEMCPY": "[memcpy Host-to-Device]", "MEMSET": "[memset]", GRAPH: "[graph]"}[
        operation.kind
    ]
