"""A cell under audit: it is warned of each stale address once, or stopped by the first, and its record says all."""

from __future__ import annotations

import pytest

from gpubench.graphs.audit import Audit, Stale
from gpubench.graphs.nodes import Argument
from gpubench.records import Hazard, Outcome, PointerState
from gpubench.worker.failure import CellStopped
from gpubench.worker.pointers import MOST_HAZARDS, MOST_WARNINGS, PointerAudit


class FakeWatch:
    """A watch that sees what it is told to."""

    def __init__(self, *audits: Audit, problem: str = "") -> None:
        self.audits = list(audits)
        self.problem = problem
        self.is_open = False

    @property
    def num_seen(self) -> int:
        return len(self.audits)

    def open(self) -> None:
        self.is_open = True

    def audit(self) -> list[Audit]:
        return [] if self.problem else self.audits

    def stop_recording(self) -> None: ...

    def close(self) -> None:
        self.is_open = False


def graph(*addresses: int, unread: dict[str, int] | None = None) -> Audit:
    stale = tuple(
        Stale("no_such_kernel", Argument(2, 0, 8, address), PointerState.FREED, None, 4, 1) for address in addresses
    )
    return Audit(1000, 8000, stale, unread or {})


def audit_of(watch: FakeWatch, *, is_fatal: bool = False) -> tuple[PointerAudit, list[list[Hazard]]]:
    told: list[list[Hazard]] = []
    return PointerAudit(watch, [], told.append, is_fatal=is_fatal), told


def test_what_is_stale_is_told_at_once_and_warned_of_once() -> None:
    watch = FakeWatch(graph(0x7F00))
    audit, told = audit_of(watch)

    (warning,) = audit.look()

    assert warning == (
        "a CUDA graph holds a stale address: no_such_kernel: argument 2 = 0x7f00, memory that was given back"
    )
    assert told == [audit.hazards]
    assert audit.look() == []
    watch.audits.append(graph(0x7F00, 0x8F00))
    assert len(audit.look()) == 1
    assert [hazard.address for hazard in audit.hazards] == [0x7F00, 0x8F00]
    assert len(told) == 2


def test_a_cell_that_must_not_go_on_is_stopped_by_the_first() -> None:
    audit, told = audit_of(FakeWatch(graph(0x7F00, 0x8F00)), is_fatal=True)

    with pytest.raises(CellStopped, match="0x7f00, memory that was given back, and 1 more") as stopped:
        audit.look()

    assert stopped.value.outcome is Outcome.INVALID
    assert len(told[0]) == len(audit.hazards) == 2


def test_many_are_warned_of_in_few_lines_and_kept_within_limits() -> None:
    audit, _ = audit_of(FakeWatch(graph(*range(1, 151))))

    warnings = audit.look()

    assert len(warnings) == MOST_WARNINGS + 1
    assert warnings[-1] == f"and {150 - MOST_WARNINGS} more stale addresses in its CUDA graphs"
    assert len(audit.hazards) == MOST_HAZARDS


def test_the_record_says_what_was_looked_at() -> None:
    audit, _ = audit_of(FakeWatch())
    assert (audit.look(), audit.details) == ([], {})

    watch = FakeWatch(graph(), graph(unread={"conditional": 2}))
    audit, _ = audit_of(watch)
    assert audit.look() == []
    told = "2 graphs, 2,000 nodes, 16,000 addresses, none stale; 2 conditional nodes not looked into"
    assert audit.details == {"graph_pointers": told}
    watch.audits = [graph(1)]
    audit.look()
    assert audit.details == {"graph_pointers": "1 graph, 1,000 nodes, 8,000 addresses, 1 stale"}


def test_without_cuda_bindings_the_record_says_how_to_get_them() -> None:
    audit, _ = audit_of(FakeWatch(graph(), problem="cuda-bindings is not installed; pip install 'gpubench[audit]'"))
    assert audit.look() == []
    assert audit.details == {
        "graph_pointers": "not checked: cuda-bindings is not installed; pip install 'gpubench[audit]'"
    }


def test_the_watch_is_open_until_the_audit_is_closed() -> None:
    watch = FakeWatch()
    audit, _ = audit_of(watch)
    assert watch.is_open
    audit.close()
    assert not watch.is_open


@pytest.mark.parametrize("is_fatal", [False, True])
def test_what_is_only_possible_is_kept_and_counted_and_neither_warned_of_nor_stops(is_fatal: bool) -> None:
    found = graph(0x7F00).stale[0]
    possible = found._replace(argument=Argument(1, 1352, 3392, 0x7FF500000080), is_certain=False)
    audit, told = audit_of(FakeWatch(Audit(10, 86, (possible,), {})), is_fatal=is_fatal)

    assert audit.look() == []

    assert told == [audit.hazards]
    assert not audit.hazards[0].is_certain
    assert audit.hazards[0].text.endswith("; perhaps a leftover in a struct")
    assert audit.details == {"graph_pointers": "1 graph, 10 nodes, 86 addresses, none stale, 1 possibly"}
