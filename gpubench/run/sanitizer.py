"""compute-sanitizer around a worker, and what it found: which access of which kernel, at which line, from whose call.

Without torch's caching allocator every tensor is an allocation of its own, so that what lies outside of one, or in one
that was given back, is told from what doesn't. CUDA graphs can't be captured then, and core dumps are off.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gpubench.machine import Gpu
from gpubench.run.launcher import Launch, PlainLauncher
from gpubench.settings import GRAPHS
from gpubench.triage.verdicts import Answer

__all__ = [
    "HOW_TO_GET_SANITIZER",
    "LOG",
    "Finding",
    "HostFrame",
    "SanitizerLauncher",
    "SanitizerReport",
    "find_sanitizer",
    "parse_sanitizer",
    "read_log",
]

HOW_TO_GET_SANITIZER = "install the CUDA toolkit's, or name one in GPUBENCH_COMPUTE_SANITIZER"

LOG = "sanitizer.txt"
MOST_CHARACTERS = 4 << 20
"""Of a log: the first error is at its beginning, and every thread repeats it."""
MOST_FINDINGS = 1000
LONGEST_LINE = 8000
LONGEST_NAME = 4000

_USUAL_PLACES = ("usr/local/cuda/bin/compute-sanitizer", "usr/local/cuda-*/bin/compute-sanitizer")


def find_sanitizer(environ: Mapping[str, str] | None = None) -> str:
    """$GPUBENCH_COMPUTE_SANITIZER, else the one on PATH, else the newest in its usual places; "" for none."""
    environ = os.environ if environ is None else environ
    named = environ.get("GPUBENCH_COMPUTE_SANITIZER", "") or shutil.which("compute-sanitizer", path=environ.get("PATH"))
    if named:
        return named if shutil.which(named) else ""
    found = [path for place in _USUAL_PLACES for path in Path("/").glob(place) if os.access(path, os.X_OK)]
    return str(max(found, key=lambda path: [int(n) for n in re.findall(r"\d+", str(path))])) if found else ""


class SanitizerLauncher(PlainLauncher):
    """A worker under one tool of compute-sanitizer, which writes its log into the worker's folder."""

    goodbye_s = 60.0

    def __init__(self, program: str, tool: str) -> None:
        super().__init__(has_dumps=False, variables={GRAPHS: "off", "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"})
        self._program = program
        self._tool = tool

    def launch(self, job: Path, gpu: Gpu | None) -> Launch:
        plain = super().launch(job, gpu)
        log = str(job.with_name(LOG)).replace("%", "%%")  # which the program would replace by something
        options = ["--tool", self._tool, "--target-processes", "all", "--log-file", log]
        return Launch([self._program, *options, *plain.command], plain.environment)


@dataclass(frozen=True)
class HostFrame:
    """A frame of the host at the launch: Python's has a file and a line, a library's its name."""

    function: str
    file: str
    line: int | None = None


@dataclass(frozen=True)
class Finding:
    """One error, as one thread or one pair of accesses made it."""

    answer: Answer
    told: str
    """In the tool's words: `Invalid __global__ write of size 16 bytes`."""
    kernel: str = ""
    file: str = ""
    line: int | None = None
    note: str = ""
    """About the address: `is out of bounds and is 8 bytes after the nearest allocation at 0x… of size 512 bytes`."""
    access: str = ""
    """`read`, `write`, `atomic` … of an access …"""
    size_bytes: int | None = None
    """… and how much it was."""
    host: tuple[HostFrame, ...] = ()
    """At the launch, as it was printed: the native frames first, then Python's, innermost first."""

    @property
    def place(self) -> str:
        """`wild_store (faults.py:7)`."""
        where = f" ({Path(self.file).name}:{self.line})" if self.file else ""
        return f"{self.kernel}{where}"

    @property
    def launched_at(self) -> HostFrame | None:
        """The innermost frame of Python's that is not Triton's or torch's own."""
        frames = (frame for frame in self.host if frame.line is not None and frame.file.endswith(".py"))
        return next((frame for frame in frames if Path(frame.file).name not in _LAUNCHING), None)


@dataclass(frozen=True)
class SanitizerReport:
    """A tool's log."""

    findings: tuple[Finding, ...] = ()
    """In the order in which they were seen; the first is the one to believe."""
    problem: str = ""
    """Why the tool could not do its work, in its words."""


_LAUNCHING = frozenset(
    {"jit.py", "driver.py", "autotuner.py", "_ops.py", "library.py", "custom_ops.py", "triton.py", "_compile.py"}
)
"""Files of Triton and torch between a line of the user's and a kernel: the log has names without folders."""

_HEADS: Sequence[tuple[Answer, re.Pattern[str]]] = (
    (
        Answer.INVALID_ACCESS,
        re.compile(r"(?:Potential i|I)nvalid __\w+__ (?P<access>\w+)(?: of size (?P<size>[\d,]+))?.*"),
    ),
    (
        Answer.INVALID_ACCESS,
        re.compile(r"(?:Warp )?(?:Illegal|Misaligned|Invalid|Out-of-range) (?:\w+ )*?(?:Address|PC|Instruction).*"),
    ),
    (Answer.DEVICE_ASSERT, re.compile(r"(?:Warp|Device) assert.*", re.IGNORECASE)),
    (Answer.UNINITIALISED, re.compile(r"Uninitialized __\w+__ memory (?P<access>\w+)(?: of size (?P<size>[\d,]+))?.*")),
    (Answer.RACE, re.compile(r"(?:ERROR|WARNING): .*?(?:Race reported|Potential \w+ hazard).*", re.IGNORECASE)),
    (Answer.BARRIER, re.compile(r"(?:Barrier error|Deadlock) detected.*")),
)
_PREFIX = re.compile(r"^=========(?: |$)")
_AT = re.compile(r"^(?:at|.*(?: access|\)) at) (?P<place>\S.*)$")
_FRAME = re.compile(r"^Device Frame:\s*(?P<place>(?!NVIDIA )\S.*?)(?: \[0x[0-9a-f]+\])?$")
_OFFSET = re.compile(r"[+:]0x[0-9a-f]+$")
_HOST = re.compile(r"^Host Frame:\s*(?P<rest>.*)$")
_PYTHON = re.compile(r"^(?P<function>.+) in (?P<file>[^\[\]]+):(?P<line>\d{1,9})$")
_NATIVE = re.compile(r"^(?P<function>.*?)\s*\[0x[0-9a-f]+\] in (?P<file>.+)$")
_NOTE = re.compile(r"^(?:Access to|Address) (0x[0-9a-f]+) (?P<what>.+)$")
_MORE = re.compile(r"^and (?P<what>is .+)$")
_PROBLEM = re.compile(
    r"^(?:Internal Sanitizer Error|Internal error): (?P<why>.*)"
    r"|^Error: (?P<what>(?:Target application terminated before|Failed|Unable|No ).*)"
    r"|^(?P<whole>Unable to .*|Failed to .*|.*(?:not supported|No supported devices|insufficient permission).*)$"
)


def read_log(path: Path) -> str:
    """The beginning of a log, where the first error is."""
    with path.open("rb") as file:
        return file.read(MOST_CHARACTERS).decode(errors="replace")


def parse_sanitizer(text: str) -> SanitizerReport:
    """Read a log, or the output that it was printed into the midst of. Of what is no log, nothing is found."""
    findings: list[Finding] = []
    problem = ""
    for block in _blocks(text[:MOST_CHARACTERS]):
        finding = _read_block(block)
        if finding is not None and len(findings) < MOST_FINDINGS:
            findings.append(finding)
        elif finding is None and not problem:
            problem = next(filter(None, map(_problem_of, block)), "")
    return SanitizerReport(tuple(findings), problem)


def _blocks(text: str) -> Iterator[list[str]]:
    """Its paragraphs, each a list of lines without the tool's mark; an error's details are indented."""
    block: list[str] = []
    for line in text.splitlines():
        if not _PREFIX.match(line):
            continue
        body = line[10:LONGEST_LINE]
        is_head = bool(body) and not body.startswith(" ") and not body.startswith("and ")
        if (is_head or not body.strip()) and block:
            yield block
            block = []
        if body.strip():
            block.append(body.strip())
    if block:
        yield block


def _read_block(block: Sequence[str]) -> Finding | None:
    head = block[0]
    for answer, pattern in _HEADS:
        if match := pattern.match(head):
            return _finding(answer, match, block)
    return None


def _finding(answer: Answer, match: re.Match[str], block: Sequence[str]) -> Finding:
    named = match.groupdict()
    place = next((found["place"] for line in block if (found := _AT.match(line))), "")
    frames = [found["place"] for line in block if (found := _FRAME.match(line))]
    kernel, file, line = _read_place(place)
    if frames:  # it happened in a device function: the outermost frame is the kernel's
        kernel = _read_place(frames[-1])[0]
        _, file, line = next((read for read in map(_read_place, [place, *frames]) if read[1]), ("", "", None))
    notes = [found["what"] for line in block if (found := _NOTE.match(line) or _MORE.match(line))]
    return Finding(
        answer=answer,
        told=block[0].partition(" at ")[0] if answer is Answer.RACE else block[0],
        kernel=kernel,
        file=file,
        line=line,
        note=" and ".join(notes),
        access=named.get("access") or "",
        size_bytes=_number(named.get("size") or ""),
        host=tuple(frame for line in block if (frame := _host_frame(line)) is not None),
    )


def _read_place(place: str) -> tuple[str, str, int | None]:
    """Kernel, file and line of `wild_store+0x150 in faults.py:7`; a kernel compiled without lines has no file."""
    name, _, source = place.rpartition(" in ")
    file, _, line = source.rpartition(":")
    if not name or not file or not line.isdecimal() or len(line) > 9:
        name, file, line = place, "", ""
    return _OFFSET.sub("", name).strip().removeprefix("void ")[:LONGEST_NAME], file, int(line) if line else None


def _number(text: str) -> int | None:
    digits = text.replace(",", "")
    return int(digits) if digits.isdecimal() and len(digits) < 20 else None


def _host_frame(line: str) -> HostFrame | None:
    host = _HOST.match(line)
    if not host:
        return None
    if native := _NATIVE.match(host["rest"]):
        return HostFrame(native["function"], native["file"])
    if python := _PYTHON.match(host["rest"]):
        return HostFrame(python["function"], python["file"], int(python["line"]))
    return None


def _problem_of(line: str) -> str:
    found = _PROBLEM.match(line)
    return (found["why"] or found["what"] or found["whole"] or "")[:300] if found else ""
