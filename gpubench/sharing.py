"""What the cells of one worker may share: built by the first that asks for it, kept for those that come after.

Whether anything is kept, and for how long, is the worker's to decide; outside of one, everything is built anew.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

__all__ = ["Shelf", "shared", "use_shelf"]

T = TypeVar("T")


class Shelf(Protocol):
    """Where what is shared is kept."""

    def take(self, what: str, of: object, build: Callable[[], T]) -> T: ...


@dataclass
class _State:
    """This process, which runs one cell at a time."""

    shelf: Shelf | None = None


_state = _State()


def shared(what: str, of: object, build: Callable[[], T]) -> T:
    """What `build()` gives, or what it gave before to this cell or to one of its kin.

    `what` names it in the record: "weights". `of` is all that it depends on, and its repr tells one from another. The
    generators are seeded from both before `build` is called, and put back after it, so that the value is the same
    whichever cell builds it, and so are the inputs that the cell draws next.

    Kin are cells with equal values of the arguments that the workload was registered with: `shares=("model", …)`.
    Without them a cell shares with nobody but its own reference. When cells of other kin come, it is dropped, and its
    method `close()` is called if it has one. It is for inputs and set-ups, not for steps; nobody may change it.
    """
    return build() if _state.shelf is None else _state.shelf.take(what, of, build)


def use_shelf(shelf: Shelf | None) -> None:
    """Keep what is shared there from now on; None: nowhere."""
    _state.shelf = shelf
