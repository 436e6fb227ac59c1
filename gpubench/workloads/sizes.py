"""Sizes that a workload's maker was given, each of which must be large enough, and what they add up to on a device."""

from __future__ import annotations

from collections.abc import Mapping

from gpubench.errors import ArgumentError

__all__ = ["check_sizes", "tell_misfit"]


def check_sizes(least: int = 1, **sizes: int | None) -> None:
    """Raise ArgumentError for the first size below `least`: "heads is 0; wanted at least 1". None is no size."""
    for name, size in sizes.items():
        if size is not None and size < least:
            raise ArgumentError(f"{name} is {size}; wanted at least {least}")


def tell_misfit(needs: Mapping[str, int], device_bytes: float) -> str | None:
    """Why parts of so many bytes, by name, can't be on a device together; None if they can."""
    total = sum(needs.values())
    if total <= device_bytes:
        return None
    parts = ", ".join(f"{name} {amount / 1e9:.1f}" for name, amount in needs.items())
    return f"needs {total / 1e9:.1f} GB ({parts}); the device has {device_bytes / 1e9:.1f} GB"
