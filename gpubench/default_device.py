"""The default device that set-ups run in, and the way out of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch.utils._device import DeviceContext

__all__ = ["without_default_device"]


@contextlib.contextmanager
def without_default_device() -> Iterator[None]:
    """A block, or a function, without the default device around it: a set-up that traces or times a step does it here.

    `with torch.device(…)` sends every torch call through a Python hook, which timed steps don't pay for. Dynamo traces
    it at every call: four times the time for a deep model.
    """
    with contextlib.ExitStack() as stack:
        while isinstance(torch.overrides._get_current_function_mode(), DeviceContext):  # type: ignore[no-untyped-call]
            stack.enter_context(torch.overrides._pop_mode_temporarily())
        yield
