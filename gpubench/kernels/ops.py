"""Launchers as torch operators, `torch.ops.gpubench.*`: torch.compile and graph capture see what they change."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch

__all__ = ["as_op", "as_seam", "cut_at_seams"]

F = TypeVar("F", bound=Callable[..., Any])


def as_op(name: str, *, mutates: Sequence[str]) -> Callable[[F], F]:
    """Register a launcher as `torch.ops.gpubench.<name>` and hand it back as it is.

    The launcher writes into the tensors named by `mutates`, all of which belong to the caller, and returns None. So the
    operator allocates nothing, and its fake has nothing to compute: the shapes are those of the caller's tensors.
    torch.library.custom_op would do the same at seven times the cost of a call (14.6 µs against 2.0 on a CPU): it
    wraps the launcher in Python, where this registers it with the dispatcher itself.
    """

    def register(launcher: F) -> F:
        _register(name, launcher, mutates, _fake)
        return launcher

    return register


def as_seam(name: str, *, mutates: Sequence[str], fake: Callable[..., Any] | None = None) -> Callable[[F], F]:
    """Make a function of torch's operators one at which a step's graph can be cut: `torch.ops.gpubench.<name>`.

    Only while `cut_at_seams` is open is it that operator. Otherwise it is the function, and torch.compile fuses what is
    in it with what is around it. `mutates` names the tensors it writes into; if it returns one of its own, `fake` takes
    the same arguments and returns an empty tensor of that shape and dtype.
    """

    def register(function: F) -> F:
        _register(name, function, mutates, fake or _fake)
        operator = getattr(torch.ops.gpubench, name)

        @functools.wraps(function)
        def call(*arguments: Any) -> Any:
            return operator(*arguments) if _seams.is_open else function(*arguments)

        return cast("F", call)

    return register


@contextmanager
def cut_at_seams() -> Iterator[None]:
    """A block in which seams are operators, for whoever traces a step to cut it."""
    _seams.is_open = True
    try:
        yield
    finally:
        _seams.is_open = False


@dataclass
class _Seams:
    is_open: bool = False


_seams = _Seams()


def _register(name: str, function: Callable[..., Any], mutates: Sequence[str], fake: Callable[..., Any]) -> None:
    qualified = f"gpubench::{name}"
    torch.library.define(qualified, torch.library.infer_schema(function, mutates_args=tuple(mutates)))
    torch.library.impl(qualified, ("cpu", "cuda"), function)
    torch.library.register_fake(qualified, fake)


def _fake(*_args: Any, **_kwargs: Any) -> None:
    """What torch.compile runs instead of the launcher."""
