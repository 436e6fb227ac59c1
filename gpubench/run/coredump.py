"""The GPU's core dump: who raised the exception, though the host learned of it elsewhere and later.

With dumps on, the driver writes a core file and aborts the process when a kernel faults, inside a CUDA graph too, or
when it is asked to by a pipe. It is a light one, without memory: 3 MB of a small program, 110 to 190 of a worker that
has loaded torch's libraries onto an H200 and filled it with threads. Nothing is paid until then. cuda-gdb names the
kernel, its source line and the thread. Beside a profiler the driver makes no dumps.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from gpubench.records import FaultingKernel

__all__ = [
    "HOW_TO_GET",
    "CoreReader",
    "ask_for_cores",
    "cuda_error_of",
    "dump_environment",
    "find_cores",
    "find_cuda_gdb",
    "parse_cuda_gdb",
    "remove_pipes",
]

KEPT_BYTES = 1 << 30
"""Of a run's core files together; of a crash after that, what its core said is kept and the file is not.

Of several crashes with one exception in one line of one kernel, the first one's file is kept."""

LEFT_OUT = "skip_nonrelocated_elf_images,skip_global_memory,skip_shared_memory,skip_local_memory,skip_constbank_memory"
"""All memory. Never `skip_abort`: the process would go on and dump once more at every call."""

_PATTERN = "gpu.*.core"
_PIPES = "gpu.*.pipe"
_READ_TIMEOUT_S = 60.0
_USUAL_PLACES = ("/usr/local/cuda/bin/cuda-gdb", "/usr/local/cuda-*/bin/cuda-gdb", "/opt/cuda/bin/cuda-gdb")
_Fault = tuple[str, str, int | None, str]
"""Kernel, file, line, exception."""

HOW_TO_GET = "install the CUDA toolkit's (NVIDIA's packages call it cuda-gdb-13-0), or name one in GPUBENCH_CUDA_GDB"
_MOST_CHARACTERS = 1 << 20
"""Of the debugger's output; what it has to say comes first."""
_NAME_LENGTH = 4000

_CUDA_ERRORS = {
    "Illegal Address": "cudaErrorIllegalAddress",
    "Misaligned Address": "cudaErrorMisalignedAddress",
    "Illegal Instruction": "cudaErrorIllegalInstruction",
    "Invalid Address Space": "cudaErrorInvalidAddressSpace",
    "Invalid PC": "cudaErrorInvalidPc",
    "Stack Overflow": "cudaErrorHardwareStackError",
    "Assert": "cudaErrorAssert",
}
"""What the runtime calls an exception whose name ends or begins like this; others have no single name there."""


def dump_environment(folder: Path) -> dict[str, str]:
    """What a worker needs so that the GPU's exceptions leave a light core file in its folder."""
    return {
        "CUDA_ENABLE_COREDUMP_ON_EXCEPTION": "1",
        "CUDA_COREDUMP_FILE": str(folder.resolve() / _PATTERN.replace("*", "%p")),
        "CUDA_COREDUMP_GENERATION_FLAGS": LEFT_OUT,
        "CUDA_ENABLE_USER_TRIGGERED_COREDUMP": "1",
        "CUDA_COREDUMP_PIPE": str(folder.resolve() / _PIPES.replace("*", "%p")),
    }


def ask_for_cores(folder: Path) -> bool:
    """Have the processes that work in a folder dump what their GPU is at, and abort; False if none is listening."""
    asked = [_write_to(pipe) for pipe in folder.glob(_PIPES)]
    return any(asked)


def remove_pipes(folder: Path) -> None:
    """Once the processes have ended, which leave them behind."""
    for pipe in folder.glob(_PIPES):
        pipe.unlink()


def _write_to(pipe: Path) -> bool:
    try:
        descriptor = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        return os.write(descriptor, b"1") == 1
    except OSError:
        return False
    finally:
        os.close(descriptor)


def find_cores(folder: Path) -> list[Path]:
    """The core files in a worker's folder, oldest first."""
    return sorted(folder.glob(_PATTERN), key=lambda path: path.stat().st_mtime_ns)


def find_cuda_gdb(environ: Mapping[str, str] | None = None) -> str:
    """The debugger: $GPUBENCH_CUDA_GDB, else the one on PATH, else the newest in its usual places; "" for none."""
    environ = os.environ if environ is None else environ
    named = environ.get("GPUBENCH_CUDA_GDB", "") or shutil.which("cuda-gdb", path=environ.get("PATH"))
    if named:
        return named if shutil.which(named) else ""
    found = [path for place in _USUAL_PLACES for path in Path("/").glob(place.lstrip("/")) if os.access(path, os.X_OK)]
    return str(max(found, key=lambda path: [int(n) for n in re.findall(r"\d+", str(path))])) if found else ""


def cuda_error_of(exception: str) -> str:
    """The runtime's name for an exception in the debugger's words; "" where it has none of its own."""
    return next((name for text, name in _CUDA_ERRORS.items() if text.lower() in exception.lower()), "")


@dataclass(frozen=True)
class CoreReader:
    """Reads core files and puts them where they are kept."""

    debugger: str
    timeout_s: float = _READ_TIMEOUT_S
    kept_bytes: int = KEPT_BYTES
    _known: dict[_Fault, str] = field(default_factory=dict)
    """The cores that are kept, by what they say."""

    def collect(self, worker: Path, cell: Path, *, is_hang: bool = False) -> FaultingKernel | None:
        """What the first core in a worker's folder says, with the file moved to the cell's; None if there is none.

        Both folders lie in the run's `artifacts`, whose cores are counted against what is kept. The core of a hang
        was asked for; it is worth nothing if the GPU was idle.
        """
        cores = find_cores(worker)
        if not cores:
            return None
        found = self.read(cores[0])  # the first one to raise; others of the same process follow from it
        for core in cores[1:]:
            core.unlink()
        if is_hang and self.debugger and not found.kernel:
            cores[0].unlink()
            return None
        if is_hang and not found.exception and found.kernel:
            found = replace(found, note="it raised nothing: it was running")
        return self._keep(found, cores[0], cell)

    def read(self, core: Path) -> FaultingKernel:
        """What one core says; the reason as a note if it can't be read."""
        if not self.debugger:
            return FaultingKernel(note=f"no cuda-gdb here to read the core with: {HOW_TO_GET}")
        # by its name alone: what a path may hold is no matter for the debugger's own syntax
        command = [self.debugger, "-nx", "-batch", "-ex", f"target cudacore {core.name}", "-ex", "bt"]
        try:
            done = subprocess.run(
                command,
                cwd=core.parent,
                start_new_session=True,  # Ctrl-C ends the sweep, when this has been read
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=self.timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return FaultingKernel(note=f"cuda-gdb was not done with the core after {self.timeout_s:g} s")
        except OSError as error:
            return FaultingKernel(note=f"{self.debugger} can't be started: {error.strerror}")
        return parse_cuda_gdb(done.stdout[:_MOST_CHARACTERS].decode(errors="replace"))

    def _keep(self, found: FaultingKernel, core: Path, cell: Path) -> FaultingKernel:
        artifacts = cell.parent
        held = sum(each.stat().st_size for each in artifacts.glob(f"*/{_PATTERN}"))
        same = self._known.get(_fault_of(found), "") if found.kernel else ""
        if same or held > self.kept_bytes:
            core.unlink()
            why = f"{same} is like it" if same else f"this run's others take {self.kept_bytes >> 20} MB already"
            return replace(found, note="; ".join(filter(None, [found.note, f"its core is not kept: {why}"])))
        cell.mkdir(parents=True, exist_ok=True)
        kept = str(core.rename(cell / core.name).relative_to(artifacts.parent))
        self._known[_fault_of(found)] = kept
        return replace(found, core=kept)


def _fault_of(found: FaultingKernel) -> _Fault:
    return found.kernel, found.file, found.line, found.exception


_EXCEPTION = re.compile(r"^CUDA Exception: (.+)$|^(Assertion failed)\.?$", re.MULTILINE)
_FOCUS = re.compile(r"block \((\d+),(\d+),(\d+)\), thread \((\d+),(\d+),(\d+)\)")
_KERNEL = re.compile(r"^#\d+\s+(?:0x[0-9a-f]+ in )?(.+?)<<<\(", re.MULTILINE)
_PLACE = re.compile(r"^#0\s.* at (\S.*):(\d{1,9})$", re.MULTILINE)
_RAISED_IN = re.compile(
    r"^The exception was triggered at PC 0x[0-9a-f]+\s+(\S.*?)\s+\((.+):(\d{1,9})\)\s*$", re.MULTILINE
)


def parse_cuda_gdb(output: str) -> FaultingKernel:
    """Read the debugger's words; what they don't say stays unknown, and its last complaint becomes the note.

    The line is that of the program counter at the exception where the debugger gives it, else the innermost frame's,
    which is a few instructions on.
    """
    exception = _EXCEPTION.search(output)
    launched = _KERNEL.search(output)
    raised = _RAISED_IN.search(output)
    if exception is None and launched is None:
        return FaultingKernel(note=f"cuda-gdb could not read the core: {_complaint(output)}")
    innermost = _PLACE.search(output)
    file, line = (innermost[1], int(innermost[2])) if innermost else ("", None)
    if raised:
        # told with the file's name alone; the frame, some instructions on, may be in another one
        file, line = file if Path(file).name == raised[2] else raised[2], int(raised[3])
    kernel = launched[1] if launched else raised[1] if raised else ""
    focus = _FOCUS.search(output)
    indices = [int(index) for index in focus.groups()] if focus else None
    return FaultingKernel(
        kernel=kernel.strip().removeprefix("void ")[:_NAME_LENGTH],  # a template's instance is told with its type
        file=file,
        line=line,
        block=indices[:3] if indices else None,
        thread=indices[3:] if indices else None,
        exception=(exception[1] or exception[2]).strip() if exception else "",
    )


def _complaint(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    complaints = [line for line in lines if re.search(r"fail|error|not |can't", line, re.IGNORECASE)]
    return next(iter(complaints + lines[-1:]), "it said nothing")[:300]
