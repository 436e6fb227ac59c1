"""What cells are grouped by: the kind of fault, where it is, and in which stage; the victim is kept apart.

Where a fault is: in the culprit's kernel if that is known, else in the kernel that the GPU caught, else in the top
frames of the cell's own code, else in its backend. What Python raised says itself what it is: there, the beginning of
the message counts as well. Line numbers, sizes and addresses are for the reader's eyes: an edit elsewhere in a file, or
another shape, makes no other signature.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from gpubench.records import CellRecord, Crash, Frame, Hazard, Outcome, Stage
from gpubench.stacks import first_in_app, is_in_app, parse_stack
from gpubench.triage.classes import CLASSES, Fault, classify, is_command
from gpubench.triage.normalise import normalise_file, normalise_function, normalise_kernel, normalise_text
from gpubench.triage.skip_lists import ANONYMOUS, PASSING, REFERENCE, REPORTING

__all__ = ["Culprit", "Kernel", "Signature", "signature_of"]

TOP_FRAMES = 3
LONGEST_MESSAGE = 120

_OWN_FAULT = {
    "misaligned address": "core: freed or foreign memory is aligned; the address itself is wrong",
    "out-of-range address": "core: the kernel left its own shared or local memory",
    "device stack overflow": "core: the kernel's own stack ran over",
}
"""By class: why a core alone shows that the kernel it caught did the damage. An illegal address doesn't: it may have
been handed a stale pointer, or an index that another kernel overwrote; nor does an assertion, which checks data."""

_WRONG_RESULTS = ("stale address", "mismatch", "unrepeatable output", "nan", "unwritten output", "zero output")
"""What a stale address can lead to, besides whatever surfaces at the next call that looks."""

_SAYING = ("python exception", "set-up exception", "import error")
"""What is raised where it happens: one line can raise several things, as a call into torch does, and they are several
faults. What surfaces later says whatever the call says that it surfaced in."""

_TRACEBACK = re.compile(r'^  File "(.*)", line (\d{1,9}), in (.*)$')
_CALLED = re.compile(r"when calling `(?:\w+::)*(\w+)")


@dataclass(frozen=True)
class Kernel:
    """A kernel and where its source is, so far as the core tells."""

    kernel: str
    """As the debugger spells it."""
    file: str
    line: int | None

    @property
    def text(self) -> str:
        """`wild_store (faults.py:7)`, short enough for a line."""
        name = normalise_kernel(self.kernel) or self.kernel
        place = f"{normalise_file(self.file)}:{self.line}" if self.line is not None else normalise_file(self.file)
        return f"{name} ({place})" if place else name


@dataclass(frozen=True)
class Culprit(Kernel):
    """The kernel that did the damage."""

    basis: str
    """What says so, beginning with one of: core, audit, contrast."""


@dataclass(frozen=True)
class Signature:
    """How and where one cell failed."""

    fault: Fault
    place: str
    """Normalised; what the key has of kernels and frames."""
    stage: Stage
    faulting: Kernel | None
    culprit: Culprit | None
    victim: str
    """The line of the cell's own code at which it surfaced: `faults.py:35 in step`; "" where no stack was left."""

    @property
    def key(self) -> str:
        """`illegal address | wild_store | measure`: equal for what is the same fault."""
        name = f"{self.fault.name} {self.fault.detail}".strip()
        where = normalise_kernel(self.culprit.kernel) if self.culprit else ""
        return f"{name} | {where or self.place} | {self.stage}"

    @property
    def id(self) -> str:
        """Eight hex digits of the key."""
        return hashlib.sha256(self.key.encode("utf-8", "replace")).hexdigest()[:8]

    @property
    def class_(self) -> str:
        return self.fault.name

    @property
    def title(self) -> str:
        """`illegal address in wild_store (faults.py:7)`, `ValueError at mine.py:12 in build`."""
        kernel = self.culprit or self.faulting
        if kernel is not None:
            return f"{self.fault.text} in {kernel.text}"
        if not self.victim:
            return f"{self.fault.text}, {self.place.partition(': ')[0]}"
        surfaced = ", surfaced" if CLASSES[self.fault.name].is_asynchronous else ""
        return f"{self.fault.text}{surfaced} at {self.victim}"

    def is_like(self, other: Signature) -> bool:
        """Whether the same happened, whoever has been blamed for it since."""
        return replace(self, culprit=None).key == replace(other, culprit=None).key

    def blaming(self, culprit: Culprit) -> Signature:
        """The same with a culprit that something else than the record has named."""
        return replace(self, culprit=culprit)


def signature_of(record: CellRecord) -> Signature:
    """The signature of a failed record, by all the evidence it holds."""
    crash = record.crash or Crash()
    frames = _stack(crash)
    fault = classify(record, frames)
    own = _own_frames(frames)
    who = "the reference" if _is_reference(frames) else f"backend {record.backend}"
    kernel = crash.faulting
    faulting = Kernel(kernel.kernel, kernel.file, kernel.line) if kernel and kernel.kernel else None
    culprit = _blame_audited(record.hazards, fault, faulting)
    if faulting and fault.name in _OWN_FAULT:
        culprit = Culprit(**vars(faulting), basis=_OWN_FAULT[fault.name])
    place = normalise_kernel(faulting.kernel) if faulting else ""
    return Signature(
        fault=fault,
        place=place or _place(own, record, fault, who),
        stage=record.stage,
        faulting=faulting,
        culprit=culprit,
        victim=_victim(own, frames, crash, who),
    )


def _blame_audited(hazards: Sequence[Hazard], fault: Fault, faulting: Kernel | None) -> Culprit | None:
    """The kernel that the audit of the cell's graphs found with a stale address: the caught one if it is among them."""
    is_possible = fault.name in _WRONG_RESULTS or CLASSES[fault.name].is_asynchronous
    hazards = [hazard for hazard in hazards if hazard.is_certain]
    if not hazards or not is_possible or fault.name == "hardware error":
        return None
    caught = normalise_kernel(faulting.kernel) if faulting else ""
    chosen = next((hazard for hazard in hazards if normalise_kernel(hazard.kernel) == caught), hazards[0])
    basis = f"audit: its {chosen.parameter} points to {chosen.state.meaning}"
    return Culprit(chosen.kernel, chosen.file, chosen.line, basis)


def _stack(crash: Crash) -> list[Frame]:
    """The Python stack it died in, innermost first: as recorded, else as it was printed; a command's is its own."""
    recorded = [] if is_command(crash) else crash.frames or crash.host_frames
    return recorded or parse_stack(crash.stderr_tail) or _parse_traceback(crash.stderr_tail)


def _parse_traceback(text: str) -> list[Frame]:
    """The frames of the first traceback that a process printed: those that follow tell of what it led to."""
    found: list[Frame] = []
    for line in text.partition("Traceback (most recent call last):")[2].splitlines():
        if line.startswith("Traceback "):
            break
        if match := _TRACEBACK.match(line):
            found.append(Frame(match[1], int(match[2]), match[3]))
    return found[::-1]


def _own_frames(frames: Sequence[Frame]) -> list[Frame]:
    """The cell's own, without those that only report what happened before."""
    own = [frame for frame in frames if is_in_app(frame.file)]
    telling = [
        frame
        for frame in own
        if normalise_function(frame.function) not in REPORTING and not any(part in frame.file for part in PASSING)
    ]
    return telling or own


def _is_reference(frames: Sequence[Frame]) -> bool:
    """Whether what the cell is compared with failed, which is not its backend's fault, and every backend's to bear."""
    file, function = REFERENCE
    return any(frame.function == function and frame.file.endswith(file) for frame in frames)


def _place(own: Sequence[Frame], record: CellRecord, fault: Fault, who: str) -> str:
    """`topk.py:radix < moe.py:run`, `backend triton`; behind a colon what was said, where that tells faults apart."""
    names: list[str] = []
    for frame in own:
        name = f"{normalise_file(frame.file)}:{normalise_function(frame.function)}"
        if name not in names:  # a recursion is one place, however deep
            names.append(name)
    names = names[:TOP_FRAMES]
    where = " < ".join(names)
    if all(name.rpartition(":")[2] in ANONYMOUS for name in names):
        where = f"{where} of {who}" if names else who
    is_said = not names or (fault.name in _SAYING and not is_command(record.crash or Crash()))
    message = _message(record) if is_said else ""
    return f"{where}: {message}" if message else where


def _message(record: CellRecord) -> str:
    """What tells two faults of one backend apart if neither left a stack: the beginning of what it said."""
    if record.outcome in (Outcome.MISMATCH, Outcome.OOM, Outcome.TIMEOUT, Outcome.CRASH):
        return ""
    crash = record.crash or Crash()
    # a command's message begins with the command, which holds the cell's values
    said = crash.stderr_tail.strip().splitlines()[-1:] if is_command(crash) else crash.message.strip().splitlines()[:1]
    return normalise_text(said[0] if said else crash.message or record.reason)[:LONGEST_MESSAGE]


def _victim(own: Sequence[Frame], frames: Sequence[Frame], crash: Crash, who: str) -> str:
    frame = next(iter(own), None) or first_in_app(frames)
    called = _CALLED.search(crash.message) or _CALLED.search(crash.stderr_tail)
    if frame is None:
        return called[1] if called else ""
    function = normalise_function(frame.function)
    where = f"{normalise_file(frame.file)}:{frame.line} in {function}"
    where += "" if who.startswith("backend ") else f" of {who}"
    return f"{called[1]} ({where})" if called else where
