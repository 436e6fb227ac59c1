"""What two runs were made with that is not the same: software, measured code, settings."""

from __future__ import annotations

from collections.abc import Iterator

from gpubench.analysis.run import Run

__all__ = ["differences"]

_SOFTWARE = ("driver", "cuda", "torch", "triton", "python", "gpubench")


def differences(before: Run, after: Run) -> Iterator[str]:
    """In words, `driver 580.65 → 590.10`; what is the same isn't said. GPUs and timers are not among them."""
    old, new = ({**run.header.environment, **run.header.fingerprint} for run in (before, after))
    for name in dict.fromkeys((*_SOFTWARE, *old.get("peers", ()), *new.get("peers", ()))):
        if old.get(name) != new.get(name):
            yield f"{name} {old.get(name) or 'unknown'} → {new.get(name) or 'unknown'}"
    if old.get("code") != new.get("code"):
        yield "the measured code"
    settings = [run.header.sweep.get("measure") or {} for run in (before, after)]
    for name in dict.fromkeys((*settings[0], *settings[1])):
        values = [setting.get(name) for setting in settings]
        if values[0] != values[1]:
            yield f"measure.{name} {values[0]} → {values[1]}"
