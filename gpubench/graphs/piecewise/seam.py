"""What the phases need of whoever captures: CUDA, or in tests a recorder that replays over poisoned memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from torch import Tensor

__all__ = ["Graph", "Graphs", "MemoryInUse"]

T = TypeVar("T")


class Graph(Protocol):
    """A capture: kernels with their addresses."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing was launched, so that there is nothing to replay; it may own memory all the same."""
        ...

    def replay(self) -> None:
        """Run the kernels, on the current stream, with what is at their addresses now."""
        ...

    def reset(self) -> None:
        """Drop the capture, and its share of the pool."""
        ...


@dataclass(frozen=True)
class MemoryInUse:
    """Bytes of a device that are taken at one moment."""

    device: int
    """By everybody."""
    reserved: int
    """By torch's allocator, of the driver."""
    allocated: int
    """By tensors, of the allocator."""
    pool: int
    """Reserved for the captures of one pool."""


class Graphs(Protocol):
    """Captures graphs, and knows whose memory they use."""

    def new_pool(self) -> Any:
        """A pool of memory for captures. What one capture has let go of, a later one in the same pool gets."""
        ...

    def wait(self) -> None:
        """Wait for all work."""
        ...

    def settle(self) -> None:
        """Wait for all work, and give cached memory back, so that a capture or a measurement begins from rest."""
        ...

    def warm_up(self, run: Callable[[], T]) -> T:
        """Run on the stream that captures will use, where libraries take their workspaces."""
        ...

    def capture(self, run: Callable[[], T], pool: Any) -> tuple[Graph, T]:
        """Record what `run` launches, with memory from the pool."""
        ...

    def borrow(self, value: Tensor, owner: object) -> Tensor:
        """The same memory as another tensor, which doesn't keep it from being given to others but keeps `owner`."""
        ...

    def device_bytes(self) -> int:
        """What is taken of the device by everybody: all there is, less what the driver calls free."""
        ...

    def memory(self, pool: Any) -> MemoryInUse:
        """What is in use now."""
        ...
