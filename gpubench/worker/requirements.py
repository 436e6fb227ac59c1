"""What a backend needs in order to run here, and how to get what is missing."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
from collections.abc import Iterable

from gpubench.settings import uses_interpreter
from gpubench.worker.device import Device

__all__ = ["find_unmet"]

_CAPABILITY = re.compile(r"sm(\d+)(\d)[a-z]?")


def find_unmet(requires: Iterable[str], device: Device) -> str:
    """One sentence that names every requirement that isn't met and the way to it; "" when all are.

    A requirement is `cuda`, `sm90` (a compute capability, at least), `triton` (its kernels can be launched here),
    `c++` (what torch.compile needs on a CPU), or a module, as `flashinfer` or, where pip calls it something else,
    `flashinfer-python:flashinfer`. Modules are looked up, not imported: that can take ten seconds.
    """
    missing = [text for text in (_missing(requirement, device) for requirement in requires) if text]
    return f"needs {'; and '.join(missing)}" if missing else ""


def _missing(requirement: str, device: Device) -> str:
    if requirement == "cuda":
        return "" if device.is_cuda else f"cuda: a CUDA GPU; this is {device.name}"
    if requirement == "c++":
        return "" if device.is_cuda or _has_compiler() else "a C++ compiler: install g++ or clang, or name one in CXX"
    if match := _CAPABILITY.fullmatch(requirement):
        return _missing_capability((int(match[1]), int(match[2])), device)
    package, _, module = requirement.rpartition(":")
    if not _is_installed(module):
        return f"{module}: pip install {package or module}"
    if module == "triton" and not (device.is_cuda or uses_interpreter()):
        return "triton on a CUDA GPU; on a CPU, TRITON_INTERPRET=1 runs its kernels in an interpreter"
    return ""


def _missing_capability(wanted: tuple[int, int], device: Device) -> str:
    if device.capability is not None and device.capability >= wanted:
        return ""
    found = "has none" if device.capability is None else "has {}.{}".format(*device.capability)
    return f"compute capability {wanted[0]}.{wanted[1]} or newer; {device.name} {found}"


def _has_compiler() -> bool:
    named = os.environ.get("CXX", "").split()[:1]
    return any(shutil.which(name) for name in (*named, "g++", "clang++", "c++"))


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ModuleNotFoundError, ValueError):  # a parent package that isn't there, or a module without a spec
        return False
