"""What this machine is, as the parent can tell without importing torch: NVML, package metadata, the host.

The answers go into `run.json`, decide whether a sweep runs its CPU overlay, and make the fingerprint that a resume is
checked against.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import gpubench

__all__ = ["Gpu", "Machine", "describe_environment", "fingerprint", "has_cuda_torch", "hash_files", "read_machine"]

PACKAGE = Path(gpubench.__file__).parent

PEERS = ("flashinfer-python", "fla-core", "transformers")
"""Packages that backends may be made of; what is installed of them is recorded, and a resume refuses others."""

# Set by an engineer on purpose and changing what is measured. Nothing else of the environment is ever recorded: it
# holds tokens and passwords.
RECORDED_VARIABLES = (
    "CUBLAS_WORKSPACE_CONFIG",
    "CUDA_DEVICE_MAX_CONNECTIONS",
    "CUDA_LAUNCH_BLOCKING",
    "CUDA_MODULE_LOADING",
    "CUDA_VISIBLE_DEVICES",
    "NVIDIA_TF32_OVERRIDE",
    "OMP_NUM_THREADS",
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_CUDA_ALLOC_CONF",
    "PYTORCH_NO_CUDA_MEMORY_CACHING",
    "TORCHINDUCTOR_MAX_AUTOTUNE",
    "TRITON_INTERPRET",
)

# What can change a figure: the child's side of the package. A new report or a new flag makes no run stale.
MEASURING_CODE = (
    "worker",
    "workloads",
    "graphs",
    "models",
    "kernels",
    "registry.py",
    "ranges.py",
    "sharing.py",
    "tensors.py",
    "settings.py",
)


@dataclass(frozen=True)
class Gpu:
    """One GPU that CUDA programs started here may use."""

    index: int
    """As NVML numbers it, before CUDA_VISIBLE_DEVICES."""
    name: str
    uuid: str
    memory_bytes: int
    capability: str


@dataclass(frozen=True)
class Machine:
    """The host and its GPUs."""

    gpus: tuple[Gpu, ...]
    driver: str
    """The driver's version, "" without one."""
    cuda: str
    """The newest CUDA that the driver serves."""
    gpu_problem: str
    """Why no GPU was found, in one sentence; "" when there are some."""


@cache
def read_machine() -> Machine:
    """Ask NVML which GPUs there are; honours CUDA_VISIBLE_DEVICES as CUDA does."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return Machine((), "", "", f"no NVIDIA driver answers here (NVML: {error})")
    try:
        count = pynvml.nvmlDeviceGetCount()
        gpus = tuple(_read_gpu(pynvml, index) for index in range(count))
        driver = pynvml.nvmlSystemGetDriverVersion()
        version = pynvml.nvmlSystemGetCudaDriverVersion()
    finally:
        pynvml.nvmlShutdown()
    visible = _visible(gpus, os.environ.get("CUDA_VISIBLE_DEVICES"))
    problem = "" if visible else "CUDA_VISIBLE_DEVICES hides every GPU" if gpus else "the driver knows no GPU"
    return Machine(visible, driver, f"{version // 1000}.{version % 1000 // 10}", problem)


def has_cuda_torch() -> bool:
    """Whether the torch installed was built with CUDA, by its version's local part."""
    return not _version("torch").endswith("+cpu")


def describe_environment(machine: Machine) -> dict[str, Any]:
    """What a run was made on and with, for `run.json`; of the process's environment only a short allow-list."""
    return {
        "gpus": [asdict(gpu) for gpu in machine.gpus],
        "driver": machine.driver,
        "cuda": machine.cuda,
        **{name: _version(name) for name in ("torch", "triton", "nvtx", "numpy")},
        "peers": {name: version for name in PEERS if (version := _version(name))},
        "python": platform.python_version(),
        "gpubench": gpubench.__version__,
        **_commit(),
        "cpu": _cpu_name(),
        "cpu_count": os.cpu_count(),
        "host_memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "os": f"{platform.system()} {platform.release()}",
        "variables": {name: os.environ[name] for name in RECORDED_VARIABLES if name in os.environ},
    }


def fingerprint(environment: Mapping[str, Any], sweep_hash: str, plugin_files: Iterable[str]) -> dict[str, str]:
    """What must be the same for two runs' figures to belong together."""
    names = sorted({gpu["name"] for gpu in environment["gpus"]})
    return {
        "sweep": sweep_hash,
        "gpu": ", ".join(names) or f"none ({environment['cpu']})",
        "driver": environment["driver"],
        "torch": environment["torch"],
        "triton": environment["triton"],
        **environment["peers"],
        "code": _combine(hash_files(_measuring_files())),
        **{f"plugin {Path(file).name}": digest[:16] for file, digest in hash_files(plugin_files).items()},
    }


def hash_files(paths: Iterable[str | Path]) -> dict[str, str]:
    """sha256 by path; a file that is gone has none."""
    return {str(path): hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in paths if Path(path).is_file()}


def _read_gpu(pynvml: Any, index: int) -> Gpu:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
    return Gpu(
        index=index,
        name=pynvml.nvmlDeviceGetName(handle),
        uuid=pynvml.nvmlDeviceGetUUID(handle),
        memory_bytes=pynvml.nvmlDeviceGetMemoryInfo(handle).total,
        capability=f"{major}.{minor}",
    )


def _visible(gpus: tuple[Gpu, ...], variable: str | None) -> tuple[Gpu, ...]:
    """What CUDA would offer: the list is read up to its first entry that names no GPU."""
    if variable is None:
        return gpus
    chosen: list[Gpu] = []
    for entry in filter(None, (part.strip() for part in variable.split(","))):
        match = [g for g in gpus if str(g.index) == entry or (entry.startswith("GPU-") and g.uuid.startswith(entry))]
        if not match:
            break
        chosen += match
    return tuple(chosen)


@cache
def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _commit() -> dict[str, Any]:
    """gpubench's own git commit, when it runs from a checkout."""
    git = ["git", "-C", str(PACKAGE)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=10)
        status = subprocess.run(
            [*git, "status", "--porcelain", "--", "."], capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return {"commit": "", "is_dirty": None}
    return {"commit": head.stdout.strip(), "is_dirty": bool(status.stdout.strip())}


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _measuring_files() -> list[Path]:
    return [
        file
        for part in MEASURING_CODE
        for file in (sorted((PACKAGE / part).rglob("*.py")) if (PACKAGE / part).is_dir() else [PACKAGE / part])
    ]


def _combine(hashes: Mapping[str, str]) -> str:
    # by content alone: the same code in another folder is the same code
    return hashlib.sha256("".join(sorted(hashes.values())).encode()).hexdigest()[:16]
