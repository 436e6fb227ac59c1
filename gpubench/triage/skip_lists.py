"""Data: names in a stack that don't say where the fault is. Whose a file is, `gpubench.stacks` knows."""

from __future__ import annotations

__all__ = ["ANONYMOUS", "COMPILING", "PASSING", "REFERENCE", "REPORTING"]

REPORTING = frozenset(
    {
        "_local_scalar_dense",
        "_sync",
        "check_error",
        "cpu",
        "cuda_synchronize",
        "device_synchronize",
        "elapsed_time",
        "empty_cache",
        "item",
        "max_memory_allocated",
        "mem_get_info",
        "memory_allocated",
        "memory_reserved",
        "memory_snapshot",
        "memory_stats",
        "nonzero",
        "numpy",
        "query",
        "sync",
        "synchronize",
        "tolist",
        "wait",
    }
)
"""Functions in which an earlier fault surfaces: they wait for the GPU, copy from it, or ask the allocator."""

PASSING = ("gpubench/graphs/", "gpubench/ranges.py", "gpubench/registry.py")
"""gpubench's own code that steps pass through on their way: it is nobody's kernel."""

COMPILING = ("/triton/compiler/", "/triton/backends/", "/torch/_inductor/", "/torch/utils/cpp_extension.py")
"""Files in which a kernel is being built: time that runs out there is neither the step's nor the GPU's."""

ANONYMOUS = frozenset({"", "<dictcomp>", "<genexpr>", "<lambda>", "<listcomp>", "<module>", "_", "step"})
"""Functions that every backend has one of: only together with the backend do they say which one."""

REFERENCE = ("gpubench/worker/check.py", "_run_reference")
"""File and function within which it is not the cell's backend that runs, but what its output is to be compared with."""
