"""nsys itself: finding it, wrapping a worker in it, exporting what it recorded, and saying in a sentence what is wrong.

One session spans many cells: recording is on only between cudaProfilerStart and cudaProfilerStop, and what they bracket
ends up in one report.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gpubench.errors import ProfilerError, ReportLost

__all__ = [
    "OLDEST_VERSION",
    "Nsys",
    "check_ranges",
    "export_report",
    "find_nsys",
    "find_report",
    "profile_command",
    "try_nsys",
    "worker_environment",
]

OLDEST_VERSION = (2023, 1)
"""The first with all the options that `profile_command` gives."""

_HINT = "install Nsight Systems (https://developer.nvidia.com/nsight-systems) or name it in GPUBENCH_NSYS"
_USUAL_PLACES = (
    "/opt/nvidia/nsight-systems/*/bin/nsys",
    "/opt/nvidia/nsight-systems-cli/*/bin/nsys",
    "/opt/nvidia/nsight-systems/*/target-linux-*/nsys",
    "/opt/nvidia/nsight-systems-cli/*/target-linux-*/nsys",
    "/usr/local/cuda*/bin/nsys",
    "/usr/lib/nsight-systems/target-linux-*/nsys",
)
_START_TIMEOUT_S = 60.0
_TRIALS_S = ("0.5", "5")
"""Seconds that the program recorded on trial lives. If it ends while nsys is still taking hold of it, which takes long
on a busy machine, nothing is left; then one that lives longer is tried."""
_EXPORT_TIMEOUT_S = 600.0

_ALLOWED = re.compile(
    r"(PATH|HOME|USER|LOGNAME|SHELL|TERM|LANG|LANGUAGE|TZ|TMPDIR|TEMP|TMP|CC|CXX|VIRTUAL_ENV|LD_LIBRARY_PATH|LIBRARY_PATH"
    r"|CPATH|(LC|XDG|PYTHON|CUDA|CUPTI|NVIDIA|NVTX|NCCL|CUBLAS|CUDNN|TORCH|TORCHINDUCTOR|PYTORCH|TRITON|OMP|MKL|KMP"
    r"|GPUBENCH|CONDA)(_?[A-Z0-9_]*))"
)
_SECRET = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|API_?KEY|ACCESS_?KEY|PRIVATE|AUTH", re.IGNORECASE)

_REASONS = (
    (
        r"no space left|disk (is )?full|not enough (disk )?space",
        "the disk is full: free some room, or choose another with --out (and TMPDIR, where nsys has files of its own)",
    ),
    (
        r"INSUFFICIENT_PRIVILEGES|ERR_NVGPUCTRPERM",
        "the driver reserves profiling for root: load it with NVreg_RestrictProfilingToAdminUsers=0, or run as root",
    ),
    (
        r"permission denied|operation not permitted|not permitted",
        "nsys lacks a permission: in a container add --cap-add=SYS_ADMIN, and let TMPDIR be writable",
    ),
    (
        r"importer.*not found",
        "its importer is missing or can't be started: reinstall Nsight Systems whole, with the folder host-linux-x64 "
        "beside target-linux-x64, and the library libdw",
    ),
    (r"unrecogni[sz]ed option", "it does not know an option that gpubench needs: install a newer Nsight Systems"),
)


@dataclass(frozen=True)
class Nsys:
    """An nsys that says its version."""

    path: Path
    version: str
    """`2025.3.1.90`"""

    def __str__(self) -> str:
        return f"nsys {self.version}"


def find_nsys(environ: Mapping[str, str] | None = None, places: Sequence[str] = _USUAL_PLACES) -> Nsys:
    """The nsys to use: $GPUBENCH_NSYS, else the one on PATH, else the newest in its usual places.

    `ProfilerError` with the fix if there is none, if it does not start, or if it is too old.
    """
    environ = os.environ if environ is None else environ
    named = environ.get("GPUBENCH_NSYS")
    found = named or shutil.which("nsys", path=environ.get("PATH")) or _newest(places)
    if not found:
        raise ProfilerError(f"no nsys on PATH, under /opt/nvidia or in /usr/local/cuda: {_HINT}")
    return _ask_version(Path(found))


def profile_command(nsys: Nsys, worker: Sequence[str], output: Path, *, has_gpu: bool) -> list[str]:
    """The command that runs a worker under nsys and leaves `output`.nsys-rep.

    Without a GPU nothing can call cudaProfilerStart, so that recording is on from the start.
    """
    capture = ["--capture-range=cudaProfilerApi", "--capture-range-end=none"] if has_gpu else []
    return [
        str(nsys.path),
        "profile",
        "--trace=cuda,nvtx",
        "--sample=none",
        "--cpuctxsw=none",
        "--cuda-graph-trace=node",
        *capture,
        f"--output={output}",
        "--force-overwrite=true",
        *worker,
    ]


def worker_environment(environ: Mapping[str, str], also: Iterable[str] = ()) -> dict[str, str]:
    """What a profiled worker gets to see of the environment, for a report keeps all of it.

    Only what Python, CUDA and the compilers read passes, and nothing whose name speaks of a secret; names in `also`
    pass as well.
    """
    wanted = set(also)
    return {
        name: value
        for name, value in environ.items()
        if name in wanted or (_ALLOWED.fullmatch(name) and not _SECRET.search(name))
    }


def find_report(output: Path, log: str) -> Path:
    """The report that nsys left at `output`, or a `ProfilerError` that says from `log` why there is none.

    `ReportLost` where the log gives no reason that its reader could mend: on a busy machine nsys now and then loses
    what it recorded (its agent's connection breaks, its importer fails over a file that it then reads without a fault).
    """
    report = output.with_name(f"{output.name}.nsys-rep")
    if report.is_file() and report.stat().st_size:
        return report
    kind = ProfilerError if _mendable(log) else ReportLost
    raise kind(f"nsys left no report at {report}: {_why(log)}")


def export_report(nsys: Nsys, report: Path, export: Path, timeout_s: float = _EXPORT_TIMEOUT_S) -> Path:
    """Export a report to sqlite; `ProfilerError` if nsys can't."""
    if not report.is_file():
        raise ProfilerError(f"{report}: no such report")
    command = [
        nsys.path,
        "export",
        "--type=sqlite",
        "--quiet=true",
        "--force-overwrite=true",
        f"--output={export}",
        report,
    ]
    status, log = _run([str(part) for part in command], timeout_s)
    if status or not export.is_file():
        raise ProfilerError(f"{report}: {nsys} can't export it: {_why(log)}")
    return export


def try_nsys(nsys: Nsys) -> None:
    """Record a program that does nothing, to learn before a sweep whether a report comes out of it."""
    for seconds in _TRIALS_S:
        with tempfile.TemporaryDirectory(prefix="gpubench-nsys-") as folder:
            output = Path(folder, "trial")
            command = profile_command(nsys, ("sleep", seconds), output, has_gpu=False)
            _, log = _run(command, _START_TIMEOUT_S, worker_environment(os.environ))
            try:
                find_report(output, log)
            except ReportLost:
                if seconds == _TRIALS_S[-1]:
                    raise
            else:
                return


def check_ranges(found: Collection[str], expected: Iterable[str], nsys: str, nvtx: str) -> None:
    """Refuse a trace in which ranges are missing that were opened while it was recorded.

    `nsys` and `nvtx` are their versions. Newer nvtx packages talk to newer tools alone: under an older nsys their
    domains appear, and nothing else does.
    """
    missing = [name for name in expected if name not in found]
    if not missing:
        return
    if not found and nvtx and _numbers(nvtx) >= (0, 2, 12):
        raise ProfilerError(
            f"nsys {nsys} recorded none of the ranges that nvtx {nvtx} opened: install Nsight Systems 2025.3 or newer, "
            "or the last nvtx that older ones understand (pip install nvtx==0.2.11)"
        )
    others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    raise ProfilerError(
        f"range {missing[0]!r}{others} is missing from the trace that nsys {nsys} made with nvtx {nvtx or '(none)'}: "
        "was it opened while recording was on?"
    )


def _newest(places: Sequence[str]) -> str | None:
    found = [path for pattern in places for path in Path("/").glob(pattern.lstrip("/")) if os.access(path, os.X_OK)]
    return str(max(found, key=lambda path: _numbers(str(path)))) if found else None


def _ask_version(path: Path) -> Nsys:
    status, log = _run([str(path), "--version"], _START_TIMEOUT_S)
    version = re.search(r"version (\d+(?:\.\d+)+)", log)
    if status or not version:
        raise ProfilerError(f"{path} does not start: {_why(log)}")
    if _numbers(version[1]) < OLDEST_VERSION:
        oldest = ".".join(map(str, OLDEST_VERSION))
        raise ProfilerError(f"{path} is version {version[1]}, and {oldest} is the oldest that serves: {_HINT}")
    return Nsys(path, version[1])


def _run(command: list[str], timeout_s: float, environ: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Exit status and everything said; `ProfilerError` if it can't be started or does not end."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            env=environ,
            check=False,
            start_new_session=True,  # a Ctrl-C that stops a sweep must not end an export whose cells have been run
        )
    except OSError as error:
        raise ProfilerError(f"{command[0]} can't be started: {error.strerror}; {_HINT}") from None
    except subprocess.TimeoutExpired:
        raise ProfilerError(
            f"{' '.join(command[:2])} did not end within {timeout_s:.0f} s: end what it waits for"
        ) from None
    return done.returncode, f"{done.stdout}\n{done.stderr}"


def _why(log: str) -> str:
    """What a log gives as the reason, with the way out where it is known."""
    if reason := _mendable(log):
        return reason
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    complaints = [line for line in lines if re.search(r"error|fail|can't|cannot|not found", line, re.IGNORECASE)]
    return [*(complaints or lines[-1:]), "recording never began, or nsys was killed"][0]


def _mendable(log: str) -> str:
    """The reason that a log gives, with the way out; "" if it gives none that is known."""
    return next((reason for pattern, reason in _REASONS if re.search(pattern, log, re.IGNORECASE)), "")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version))
