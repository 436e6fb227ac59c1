"""What this machine can measure: each finding with its remedy, for `gpubench doctor`."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gpubench.errors import ProfilerError
from gpubench.machine import has_cuda_torch, read_machine
from gpubench.profilers.nsys import find_nsys, try_nsys
from gpubench.run.coredump import HOW_TO_GET, find_cuda_gdb
from gpubench.run.sanitizer import HOW_TO_GET_SANITIZER, find_sanitizer

__all__ = ["Finding", "examine"]


@dataclass(frozen=True)
class Finding:
    """One thing looked at. `missing` limits what can be measured, `bad` keeps gpubench from working."""

    subject: str
    state: Literal["good", "missing", "bad"]
    told: str
    remedy: str = ""


def examine() -> list[Finding]:
    """Look at everything a sweep may need; slow looks (an import of torch) are left to the sweep itself."""
    return [
        *_python(),
        *_gpu(),
        *_timers(),
        *_debugger(),
        *_audit(),
        *_sanitizer(),
        *_compilers(),
        *_browser(),
        *_results(),
    ]


def _python() -> Iterator[Finding]:
    yield Finding("python", "good", f"{platform.python_version()} at {sys.executable}")
    for name in ("torch", "triton"):
        try:
            yield Finding(name, "good", importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield Finding(name, "bad" if name == "torch" else "missing", "not installed", f"pip install {name}")


def _gpu() -> Iterator[Finding]:
    machine = read_machine()
    if not machine.gpus:
        remedy = "sweeps run their `overlay: {cpu: …}` here; for GPU figures use a machine with an NVIDIA driver"
        yield Finding("GPU", "missing", machine.gpu_problem, remedy)
        return
    for gpu in machine.gpus:
        size = f"{gpu.memory_bytes / 2**30:.0f} GiB"
        yield Finding(f"GPU {gpu.index}", "good", f"{gpu.name}, {size}, sm{gpu.capability.replace('.', '')}")
    yield Finding("driver", "good", f"{machine.driver}, serves CUDA {machine.cuda}")
    if not has_cuda_torch():
        remedy = "install a torch built with CUDA; until then every sweep runs on the CPU"
        yield Finding("torch", "bad", "this torch is a CPU build: it can't use the GPU", remedy)


def _timers() -> Iterator[Finding]:
    yield Finding("timer wall", "good", "always there; counts everything the host does")
    if read_machine().gpus and has_cuda_torch():
        yield Finding("timer cuda_event", "good", "step time on the GPU; reads short steps too long")
    else:
        remedy = "use a machine with an NVIDIA driver, and a torch built with CUDA"
        yield Finding("timer cuda_event", "missing", "needs a GPU", remedy)
    try:
        nsys = find_nsys()
        try_nsys(nsys)
        yield Finding("timer nsys", "good", f"{nsys} at {nsys.path}; kernel times by NVTX range")
    except ProfilerError as error:
        told, _, remedy = str(error).partition(": ")
        yield Finding("timer nsys", "missing", told, remedy)


def _debugger() -> Iterator[Finding]:
    debugger = find_cuda_gdb()
    if debugger:
        yield Finding("cuda-gdb", "good", f"{debugger}; names the kernel that a GPU's core dump is of")
    else:
        yield Finding("cuda-gdb", "missing", "a crash on a GPU leaves a core that can't be read here", HOW_TO_GET)


def _audit() -> Iterator[Finding]:
    subject = "cuda-bindings"
    try:
        version = importlib.metadata.version(subject)
        yield Finding(subject, "good", f"{version}; stale addresses in CUDA graphs are found before a replay")
    except importlib.metadata.PackageNotFoundError:
        told = "CUDA graphs can't be searched for stale addresses"
        yield Finding(subject, "missing", told, "pip install 'gpubench[audit]'")


def _sanitizer() -> Iterator[Finding]:
    program = find_sanitizer()
    if program:
        yield Finding(
            "compute-sanitizer", "good", f"{program}; `gpubench triage --escalate` runs failed cells under it"
        )
    else:
        told = "failed cells can't be run again with their accesses checked"
        yield Finding("compute-sanitizer", "missing", told, HOW_TO_GET_SANITIZER)


def _compilers() -> Iterator[Finding]:
    compiler = shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++")
    if compiler:
        yield Finding("C++ compiler", "good", f"{compiler}; torch.compile works on the CPU")
    else:
        yield Finding("C++ compiler", "missing", "torch.compile can't build CPU code", "apt-get install g++")


def _browser() -> Iterator[Finding]:
    browser = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "firefox"))), None)
    if browser:
        yield Finding("browser", "good", f"{browser}; opens the report, which needs no network")
    else:
        yield Finding("browser", "missing", "none here", "copy the report's one HTML file to where there is one")


def _results() -> Iterator[Finding]:
    folder = Path("results")
    writable = os.access(folder if folder.exists() else Path.cwd(), os.W_OK)
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    if writable:
        yield Finding("results", "good", f"{folder.resolve()}, {free:.0f} GiB free")
    else:
        yield Finding("results", "bad", f"{folder.resolve()} can't be written", "choose a folder with --out")
