"""How a kernel gets into gpubench: `@workload`, `.backend`, `.oracle`, `.metric` and their like.

    @gpubench.workload("rmsnorm")
    def rmsnorm(rows: int, dim: int, dtype: str = "bfloat16"):
        return {"x": torch.randn(rows, dim), "w": torch.randn(dim)}

    @rmsnorm.backend("torch", baseline=True)
    def _(x, w):
        return lambda: torch.nn.functional.rms_norm(x, w.shape, w)

The signature is the schema of the axes; the mapping it returns is what backends and the oracle ask for by parameter
name. A backend's set-up returns the step, which is what gets timed; a keyword-only parameter of a backend that names
no input is an option of its own, and so one more axis. Every decorator hands its function back.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from gpubench.catalogue import BackendInfo, MetricInfo, WorkloadInfo
from gpubench.parameters import axes_of, common_option, options_of
from gpubench.records import CheckResult, Timer, plain_metric_name

__all__ = [
    "Backend",
    "Metric",
    "OwnMeasurement",
    "Step",
    "Workload",
    "check_metric_name",
    "get_workload",
    "registered",
    "workload",
]

Step = Callable[[], Any]
"""What is timed. It returns its outputs: a tensor, or a tuple, list or mapping of them, or None.

A step that replays a CUDA graph may have an attribute `eager`, a function without parameters that runs the same without
the graph: then the profiled pass compares the kernels of both. Any step may have an attribute `measured`, a list of
`OwnMeasurement`: what its set-up measured, which goes into the record.
"""

F = TypeVar("F", bound=Callable[..., Any])
MetricFunction = Callable[..., float]

_workloads: dict[str, Workload] = {}
_INSTALLED_IN = Path(__file__).parent


@dataclass(frozen=True)
class Backend:
    """One implementation of a workload: its set-up, and what it needs to run."""

    name: str
    setup: Callable[..., Step]
    is_baseline: bool
    requires: tuple[str, ...]
    origin: str


@dataclass(frozen=True)
class Metric:
    """A metric derived from a sample of the step time."""

    name: str
    unit: str
    higher_is_better: bool
    function: MetricFunction
    """`(cell, seconds) -> float`, where `cell` is a namespace of the cell's arguments."""
    origin: str


@dataclass(frozen=True)
class OwnMeasurement:
    """What a workload measured itself: one reading, or all of a metric in their order.

    The step of a workload that `measures_itself` returns a list of them; another step may have them from its set-up, as
    an attribute `measured`.
    """

    metric: str
    unit: str
    value: float | list[float]
    range: str = ""
    """What it is of, if not of the whole step: `bucket 8`."""
    timer: Timer | None = None
    """Who timed it, if a timer of gpubench's did."""
    repeats: float = 1.0
    """How often one reading is in `value`, on average: what many waited for at once is one reading."""
    higher_is_better: bool | None = None
    """Of a metric of the workload's own; None: its unit decides, a rate is better high and all else low."""

    def __post_init__(self) -> None:
        check_metric_name(self.metric)


@dataclass
class Workload:
    """What is computed, and everything registered for it."""

    name: str
    make: Callable[..., Mapping[str, Any]]
    description: str
    origin: str
    open_axes: bool = False
    measures_itself: bool = False
    """The step returns its own measurements: a list of `OwnMeasurement`. It is another program (`command`) …"""
    in_process: bool = False
    """… or runs here (`closed_loop`): then there is no profiled pass of it."""
    shares: tuple[str, ...] = ()
    """Arguments: cells in which these are equal may share what they build with `gpubench.shared`."""
    backends: dict[str, Backend] = field(default_factory=dict)
    metrics: dict[str, Metric] = field(default_factory=dict)
    oracle_function: Callable[..., Any] | None = None
    compare_function: Callable[..., Any] | None = None
    check_function: Callable[..., CheckResult] | None = None
    reset_function: Callable[..., None] | None = None
    bytes_function: Callable[..., float] | None = None
    flop_function: Callable[..., float] | None = None
    fits_function: Callable[..., str | None] | None = None
    label_function: Callable[..., Mapping[str, Any]] | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Mapping[str, Any]:
        return self.make(*args, **kwargs)

    def backend(self, name: str, *, baseline: bool = False, requires: typing.Sequence[str] = ()) -> Callable[[F], F]:
        """Register one implementation: a set-up that takes inputs by name and returns the step.

        `requires` names what must be there, else the cell is `skipped` with the reason: modules to import
        (`triton`, `flashinfer-python:flashinfer` when pip's name differs), `cuda`, `sm90` for a compute capability.
        """

        def register(function: F) -> F:
            if name in self.backends:
                previous = self.backends[name].origin
                raise ValueError(
                    f"backend {name!r} of {self.name} is registered twice: {previous} and {_origin(function)}"
                )
            first = next((backend for backend in self.backends.values() if backend.is_baseline), None)
            if baseline and first is not None:
                raise ValueError(
                    f"{self.name} has a baseline, {first.name!r} ({first.origin}); {name!r} can't be another"
                )
            created = Backend(name, function, baseline, tuple(requires), _origin(function))
            options_of(function, name)  # one that can't be an axis fails here
            self.backends[name] = created
            return function

        return register

    def metric(self, name: str, *, unit: str, higher_is_better: bool = True) -> Callable[[F], F]:
        """Register `(cell, seconds) -> float`, evaluated for every sample of the step time."""

        check_metric_name(name)

        def register(function: F) -> F:
            signature = inspect.signature(function)
            try:
                signature.bind("cell", "seconds")
            except TypeError:
                raise TypeError(
                    f"metric {name!r} of {self.name} is called with (cell, seconds), but takes {signature}"
                ) from None
            self.metrics[name] = Metric(name, unit, higher_is_better, function, _origin(function))
            return function

        return register

    def oracle(self, function: F) -> F:
        """Register the truth in fp32 or fp64: takes inputs by name, returns the step's outputs; untimed."""
        self.oracle_function = function
        return function

    def compare(self, function: F) -> F:
        """Register `(out, ref, **inputs) -> None | str` where allclose isn't the question: None, or what differs."""
        signature = inspect.signature(function)
        leading = list(signature.parameters.values())[:2]
        if len(leading) < 2 or any(p.kind not in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in leading):
            raise TypeError(
                f".compare of {self.name} is called with (out, ref) before any input, but takes {signature}"
            )
        self.compare_function = function
        return function

    def check(self, function: F) -> F:
        """Register `(step, **inputs) -> CheckResult` of a workload that measures itself: was what it just did right?

        It is called after each run of the step, untimed. Other workloads have their outputs compared.
        """
        if not self.measures_itself:
            raise TypeError(
                f".check of {self.name} would never be called: the workload doesn't measure itself; "
                "use .oracle for the truth, or .compare where allclose isn't the question"
            )
        self.check_function = function
        return function

    def reset(self, function: F) -> F:
        """Register what restores state between samples: takes inputs by name; untimed."""
        self.reset_function = function
        return function

    def bytes(self, function: F) -> F:
        """Register the fewest bytes a step must move through device memory, from the workload's arguments."""
        self.bytes_function = function
        return function

    def flop(self, function: F) -> F:
        """Register the floating-point operations a step must do, from the workload's arguments."""
        self.flop_function = function
        return function

    def fits(self, function: F) -> F:
        """Register `(**arguments, device_bytes) -> None | str`: why the sizes can't fit, before any allocation."""
        self.fits_function = function
        return function

    def label(self, function: F) -> F:
        """Register what the record should say of a cell besides its axes: `{"layers": "4 of 61"}`."""
        self.label_function = function
        return function

    def info(self) -> WorkloadInfo:
        """This workload as the catalogue tells it."""
        axes = {axis.name: axis for axis in axes_of(self.make)}
        for backend in self.backends.values():
            for option in options_of(backend.setup, backend.name):
                known = axes.get(option.name)
                if known is None:
                    axes[option.name] = option
                elif known.backends:
                    axes[option.name] = common_option(known, option)
        return WorkloadInfo(
            name=self.name,
            description=self.description,
            axes=list(axes.values()),
            backends=[
                BackendInfo(name=b.name, is_baseline=b.is_baseline, requires=list(b.requires), origin=b.origin)
                for b in self.backends.values()
            ],
            metrics=[
                MetricInfo(m.name, m.unit, m.higher_is_better, (inspect.getdoc(m.function) or "").split("\n")[0])
                for m in self.metrics.values()
            ],
            origin=self.origin,
            open_axes=self.open_axes,
            measures_itself=self.measures_itself,
            in_process=self.in_process,
            shares=list(self.shares),
        )


def check_metric_name(name: str) -> None:
    """ValueError for a name that tables have for something else: a part of another metric, or one timer's figure."""
    better = plain_metric_name(name) or "one word"
    if better != name:
        raise ValueError(f"{name!r} can't name a metric: tables have such names for parts of others; call it {better}")


def workload(
    name: str,
    *,
    open_axes: bool = False,
    measures_itself: bool = False,
    in_process: bool = False,
    shares: typing.Sequence[str] = (),
) -> Callable[[Callable[..., Any]], Workload]:
    """Register a workload: the decorated function makes the inputs, and its signature is the schema of its axes.

    Types that may be swept: `int`, `float`, `bool`, `str`, a `Literal` of them, and `T | None`; a `list` or `dict`
    can only be a param. The worker sets the default device and the seed before it calls the function.

    The step of one that `measures_itself` returns its own figures; `in_process` says that it is no other program.

    `shares` names arguments. Cells in which these are equal run next to each other in one worker, and may share what
    they build with `gpubench.shared`.
    """

    if in_process and not measures_itself:
        raise TypeError(f"workload {name!r} is in_process, which is said of one that measures_itself alone")

    def register(function: Callable[..., Any]) -> Workload:
        if name in _workloads:
            raise ValueError(
                f"workload {name!r} is registered twice: {_workloads[name].origin} and {_origin(function)}"
            )
        description = inspect.getdoc(function) or ""
        created = Workload(
            name, function, description, _origin(function), open_axes, measures_itself, in_process, tuple(shares)
        )
        known = [axis.name for axis in created.info().axes]  # a signature that can't be an axis schema fails here
        if unknown := [argument for argument in shares if argument not in known]:
            raise TypeError(
                f"workload {name!r} shares by {unknown[0]!r}, which is no argument of it: {', '.join(known)}"
            )
        _workloads[name] = created
        return created

    return register


def get_workload(name: str) -> Workload:
    """The workload of that name, for extending it from another file."""
    try:
        return _workloads[name]
    except KeyError:
        raise KeyError(f"no workload {name!r}; registered: {', '.join(sorted(_workloads)) or 'none'}") from None


def registered() -> Mapping[str, Workload]:
    """All workloads by name, as registered so far."""
    return types.MappingProxyType(_workloads)


def _origin(function: Callable[..., Any]) -> str:
    code = getattr(inspect.unwrap(function), "__code__", None)
    if code is None:
        return f"a {type(function).__name__}"  # a partial, or an object with __call__: it has no line
    file = Path(code.co_filename)
    if file.is_relative_to(_INSTALLED_IN):  # our own are the same everywhere, and runs that name them get published
        file = file.relative_to(_INSTALLED_IN.parent)
    return f"{file}:{code.co_firstlineno}"
