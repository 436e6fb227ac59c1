"""Units as records have them, SI without a prefix: what a program reports in milliseconds is kept in seconds.

So one metric has one unit in every run, whoever reported it, and whatever reads it needs to know no other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["CONVERSIONS", "Conversion"]


@dataclass(frozen=True)
class Conversion:
    """A unit in terms of one that records have: so many times it, or such a part of it."""

    unit: str
    times: int = 1
    part: int = 1

    def __call__(self, value: float) -> float:
        """A value in the other unit. A part is divided by a whole number, which rounds once: no 0.11830000000000002."""
        return value * self.times / self.part


def _conversions() -> dict[str, Conversion]:
    found = {"%": Conversion("share", part=100)}
    for names, part in (
        (("sec", "second", "seconds"), 1),
        (("ms", "msec", "millisecond", "milliseconds"), 10**3),
        (("us", "µs", "μs", "usec", "microsecond", "microseconds"), 10**6),
        (("ns", "nsec", "nanosecond", "nanoseconds"), 10**9),
    ):
        found |= {name: Conversion("s", part=part) for name in names}
    for power, letter in enumerate("kMGTP", start=1):
        for unit in ("B", "B/s", "FLOP", "FLOP/s", "Hz"):
            found[letter + unit] = Conversion(unit, times=1000**power)
        found[f"{letter}FLOPS"] = Conversion("FLOP/s", times=1000**power)
        for unit in ("B", "B/s"):
            found[f"{letter.upper()}i{unit}"] = Conversion(unit, times=1024**power)
    return found


CONVERSIONS: Mapping[str, Conversion] = _conversions()
"""By the unit that is converted. `KB` isn't among them: it has been 1000 bytes to some and 1024 to others."""
