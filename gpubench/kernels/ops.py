"""Launchers as torch operators, `torch.ops.gpubench.*`: torch.compile and graph capture see what they change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch

__all__ = ["as_op"]

F = TypeVar("F", bound=Callable[..., Any])


def as_op(name: str, *, mutates: Sequence[str], fake: Callable[..., Any] | None = None) -> Callable[[F], F]:
    """Register a launcher as `torch.ops.gpubench.<name>` and hand it back as it is.

    The launcher writes into the tensors named by `mutates`, all of which belong to the caller, and returns None. So the
    operator allocates nothing, and its fake has nothing to compute: the shapes are those of the caller's tensors.
    One that returns a tensor of its own (what is made of torch's operators) needs a `fake`: a function of the same
    arguments that returns an empty tensor of that shape and dtype.
    torch.library.custom_op would do the same at seven times the cost of a call (14.6 µs against 2.0 on a CPU): it
    wraps the launcher in Python, where this registers it with the dispatcher itself.
    """

    def register(launcher: F) -> F:
        qualified = f"gpubench::{name}"
        torch.library.define(qualified, torch.library.infer_schema(launcher, mutates_args=tuple(mutates)))
        torch.library.impl(qualified, ("cpu", "cuda"), launcher)
        torch.library.register_fake(qualified, fake or _fake)
        return launcher

    return register


def _fake(*_args: Any, **_kwargs: Any) -> None:
    """What torch.compile runs instead of the launcher."""
