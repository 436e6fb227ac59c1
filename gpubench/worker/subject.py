"""What a cell asks for, ready to be called: its workload, arguments, seeded inputs and set-ups, all by name."""

from __future__ import annotations

import difflib
import hashlib
import inspect
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, TypeVar

from gpubench.errors import UsageError
from gpubench.records import Cell
from gpubench.registry import Backend, OwnMeasurement, Step, Workload, registered
from gpubench.worker.device import Device

__all__ = ["Prepared", "Subject", "call_by_name", "find_subject"]

Values = Mapping[str, Any]
T = TypeVar("T")


@dataclass(frozen=True)
class Subject:
    """A workload with its arguments filled in, and the backend to run."""

    workload: Workload
    backend: Backend
    arguments: Values
    """The cell's, over the defaults of the workload's signature; options of backends among them."""
    seed: int
    """The same for every backend, so that all of them get the same inputs."""
    device: Device
    artifacts: str = ""
    """The cell's own folder, for set-ups that ask for `artifacts`."""

    @property
    def namespace(self) -> SimpleNamespace:
        """What a metric gets as `cell`."""
        return SimpleNamespace(**{**self.arguments, "backend": self.backend.name})

    def make_inputs(self) -> Values:
        """Fresh inputs, equal at every call."""
        self.device.seed(self.seed)
        random.seed(self.seed)
        with self.device.default():
            inputs = call_by_name(self.workload.make, f"workload {self.workload.name}", self.arguments)
        if not isinstance(inputs, Mapping):
            raise UsageError(
                f"workload {self.workload.name} returned {type(inputs).__name__}; "
                'it returns its inputs by name: {"x": …}'
            )
        return inputs

    def set_up(self, backend: Backend, inputs: Values) -> Prepared:
        """Run a backend's set-up on these inputs."""
        role = f"backend {backend.name!r} of {self.workload.name}"
        with self.device.default():
            step = call_by_name(backend.setup, role, inputs, self.arguments, {"artifacts": self.artifacts})
        if not callable(step):
            raise UsageError(
                f"the set-up of {role} returned {type(step).__name__}; "
                "it returns the step, a function without parameters"
            )
        return Prepared(self, inputs, step)

    def call_hook(self, function: Callable[..., Any], name: str, **extra: Any) -> Any:
        """Call one of the workload's hooks that take its arguments (`bytes`, `flop`, `fits`, `label`)."""
        return call_by_name(function, f".{name} of {self.workload.name}", extra, self.arguments)


@dataclass(frozen=True)
class Prepared:
    """A backend that has been set up: the step, and the inputs it works on."""

    subject: Subject
    inputs: Values
    step: Step

    @property
    def turns(self) -> int:
        """How many set-ups take turns at being the step."""
        return 1

    @property
    def eager(self) -> Step | None:
        """The step without the CUDA graph that it replays, if it says what that is."""
        found: Step | None = getattr(self.step, "eager", None)
        return found

    @property
    def measured(self) -> list[OwnMeasurement]:
        """What the set-up measured, if the step says so."""
        found: list[OwnMeasurement] = getattr(self.step, "measured", [])
        return found

    @property
    def can_restore(self) -> bool:
        return self.subject.workload.reset_function is not None

    def restore(self) -> None:
        """Undo what the last step changed, where the workload says how."""
        reset = self.subject.workload.reset_function
        if reset is not None:
            call_by_name(reset, f".reset of {self.subject.workload.name}", self.inputs, self.subject.arguments)

    def run(self) -> Any:
        """One step from a restored state, finished when this returns; gives its outputs."""
        self.restore()
        outputs = self.step()
        self.subject.device.synchronize()
        return outputs


def find_subject(cell: Cell, seed: int, device: Device, artifacts: str = "") -> Subject:
    """Look a cell's workload and backend up; UsageError names the known ones."""
    workload = _find(registered(), cell.workload, "workload", "")
    backend = _find(workload.backends, cell.backend, "backend", f" of {workload.name}")
    parameters = inspect.signature(workload.make).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    arguments = {**defaults, **cell.arguments}
    accepts_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
    own = {name: value for name, value in arguments.items() if accepts_all or name in {p.name for p in parameters}}
    return Subject(workload, backend, arguments, _derive_seed(seed, workload.name, own), device, artifacts)


def call_by_name(function: Callable[..., Any], role: str, *sources: Values, leading: tuple[Any, ...] = ()) -> Any:
    """Call a function with what its parameters ask for by name; earlier sources win, `leading` comes first of all.

    `**anything` gets all there is. A parameter that nothing answers to, and that has no default, is a UsageError.
    """
    offered: dict[str, Any] = {}
    for source in reversed(sources):
        offered.update(source)
    chosen: dict[str, Any] = {}
    for parameter in list(inspect.signature(function).parameters.values())[len(leading) :]:
        if parameter.kind is parameter.VAR_KEYWORD:
            chosen = {**offered, **chosen}
        elif parameter.name in offered:
            chosen[parameter.name] = offered[parameter.name]
        elif parameter.default is parameter.empty and parameter.kind is not parameter.VAR_POSITIONAL:
            raise UsageError(f"{role} asks for {parameter.name!r}{_suggest(parameter.name, offered)}")
    return function(*leading, **chosen)


def _find(known: Mapping[str, T], name: str, kind: str, owner: str) -> T:
    if name not in known:
        raise UsageError(f"no {kind} {name!r}{owner}{_suggest(name, known)}")
    return known[name]


def _suggest(name: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    question = f"; did you mean {close[0]!r}?" if close else ";"
    return f"{question} there is: {', '.join(sorted(known)) or 'nothing'}"


def _derive_seed(seed: int, workload: str, arguments: Values) -> int:
    """32 bits, which every generator takes."""
    text = json.dumps([seed, workload, arguments], sort_keys=True, default=str)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4])
