"""Sizes that a workload's maker was given: each must be large enough, and the first that isn't is named alone."""

from __future__ import annotations

from gpubench.errors import ArgumentError

__all__ = ["check_sizes"]


def check_sizes(least: int = 1, **sizes: int | None) -> None:
    """Raise ArgumentError for the first size below `least`: "heads is 0; wanted at least 1". None is no size."""
    for name, size in sizes.items():
        if size is not None and size < least:
            raise ArgumentError(f"{name} is {size}; wanted at least {least}")
