"""Workloads as a worker uses them: make the inputs, give a set-up those it asks for, call the step."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from gpubench.registry import Step, Workload, get_workload
from gpubench.workloads import load_builtin

load_builtin()


@dataclass(frozen=True)
class Ready:
    """A backend that has been set up."""

    workload: Workload
    inputs: Mapping[str, Any]
    step: Step

    def reference(self) -> Any:
        """What the oracle says of these inputs."""
        oracle = self.workload.oracle_function
        assert oracle is not None, f"{self.workload.name} has an oracle"
        return oracle(**self.inputs)


@pytest.fixture
def set_up() -> Callable[..., Ready]:
    def make(workload: str, backend: str, **arguments: Any) -> Ready:
        found = get_workload(workload)
        torch.manual_seed(0)
        inputs = found.make(**arguments)
        wanted = inspect.signature(found.backends[backend].setup).parameters
        step = found.backends[backend].setup(**{name: inputs[name] for name in wanted if name in inputs})
        return Ready(found, inputs, step)

    return make
