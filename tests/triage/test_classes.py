"""What kind of fault it is, told from what programs and libraries really print."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from made_failures import failed

from gpubench.records import Crash, FaultingKernel, Frame, Outcome, Stage
from gpubench.run.coredump import parse_cuda_gdb
from gpubench.triage.classes import CLASSES, classify, classify_text
from gpubench.triage.signature import signature_of

DATA = Path(__file__).parent.parent / "data" / "crashes"
CORPUS = yaml.safe_load((DATA / "corpus.yaml").read_text())
SYNCHRONIZE = [Frame("/venv/lib/python3.12/site-packages/torch/cuda/__init__.py", 1162, "synchronize")]
COMPILER = [Frame("/venv/lib/python3.12/site-packages/triton/backends/nvidia/compiler.py", 378, "make_llir")]
USERS = [Frame("/home/user/mine.py", 12, "step")]


def name_of(entry: dict[str, str]) -> str:
    return f"{entry['class']}: {(entry['text'] or 'silence').splitlines()[0][:50]}"


@pytest.mark.parametrize("entry", CORPUS, ids=name_of)
def test_a_real_text_has_its_class(entry):
    assert classify_text(entry["text"], entry.get("exception", "")).name == entry["class"]


@pytest.mark.parametrize("entry", [e for e in CORPUS if "exception" not in e and e["class"] != "unknown"], ids=name_of)
def test_so_it_has_when_a_command_printed_it_before_it_failed(entry):
    crash = Crash(exception="gpubench.errors.CommandFailed", message="bench: exit status 1", stderr_tail=entry["text"])
    assert classify(failed(crash, Outcome.ERROR), []).name == entry["class"]


def test_every_class_has_a_meaning_and_the_corpus_knows_only_classes():
    assert all(found.meaning for found in CLASSES.values())
    assert {entry["class"] for entry in CORPUS} <= set(CLASSES)
    assert len(CORPUS) > 80


STATUSES = dict(line.split(" exit ") for line in (DATA / "exit_statuses.txt").read_text().splitlines())
SIGNALS = {"134": "SIGABRT", "139": "SIGSEGV"}
SPECIMENS = {
    "capture_sync": "capture error",
    "compile": "compile error",
    "index_assert": "device assert",
    "misaligned": "gpu exception",
    "oom": "device oom",
    "segv": "segfault",
    "wild_eager": "gpu exception",
    "wild_eager_no_core": "cublas error",
    "wild_graph": "gpu exception",
}


def specimen(name: str, **evidence: object) -> Crash:
    status = STATUSES.get(name, "1")
    text = (DATA / f"{name}.stderr").read_text()
    return Crash(exit_status=int(status), signal=SIGNALS.get(status, ""), stderr_tail=text, **evidence)


@pytest.mark.parametrize("name", SPECIMENS)
def test_a_specimen_from_an_h200_has_its_class(name):
    assert signature_of(failed(specimen(name))).class_ == SPECIMENS[name]


CORES = {
    "wild_eager": "illegal address in wild_store (faults.py:7)",
    "wild_graph": "illegal address in wild_store (faults.py:7)",
    "misaligned": "misaligned address in misaligned_load (faults.py:12)",
    "index_assert": "device assert in at::native::index_elementwise_kernel",
}


@pytest.mark.parametrize("name", CORES)
def test_a_specimen_with_its_core_names_the_kernel(name):
    core = parse_cuda_gdb((DATA / f"{name}.gdb").read_text())
    assert signature_of(failed(specimen(name, faulting=core))).title == CORES[name]


def test_the_same_wild_store_is_one_signature_in_a_graph_and_without():
    eager, graph = (
        signature_of(failed(specimen(name, faulting=parse_cuda_gdb((DATA / f"{name}.gdb").read_text()))))
        for name in ("wild_eager", "wild_graph")
    )
    assert eager.id == graph.id
    assert eager.victim != graph.victim


@pytest.mark.parametrize(
    ("exception", "class_"),
    [
        ("CUDA_EXCEPTION_14, Warp Illegal Address", "illegal address"),
        ("Warp Misaligned Address", "misaligned address"),
        ("Assertion failed", "device assert"),
        ("Warp Out-of-range Address", "out-of-range address"),
        ("Lane User Stack Overflow", "device stack overflow"),
        ("Warp Illegal Instruction", "illegal instruction"),
        ("Warp Invalid PC", "invalid program counter"),
        ("Warp Invalid Address Space", "invalid address space"),
        ("something new", "gpu exception"),
        ("", "gpu exception"),
    ],
)
def test_a_core_tells_more_than_the_process_that_was_aborted(exception, class_):
    crash = specimen("wild_eager", faulting=FaultingKernel("wild_store", exception=exception))
    assert classify(failed(crash), []).name == class_


@pytest.mark.parametrize(
    ("signal", "text", "class_"),
    [
        ("SIGKILL", "", "killed"),
        ("SIGKILL", "Traceback (most recent call last):\nValueError: caught and printed", "killed"),
        ("SIGSEGV", "", "segfault"),
        ("SIGBUS", "", "bus error"),
        ("SIGFPE", "", "arithmetic fault"),
        ("SIGILL", "", "host illegal instruction"),
        ("SIGABRT", "", "abort"),
        ("SIGABRT", "ValueError: caught and printed", "abort"),
        ("SIGABRT", "corrupted size vs. prev_size", "heap corruption"),
        ("SIGTERM", "", "signal"),
    ],
)
def test_a_signal_says_what_the_text_does_not(signal, text, class_):
    assert classify(failed(Crash(signal=signal, exit_status=-9, stderr_tail=text)), []).name == class_


@pytest.mark.parametrize(
    ("gpu", "frames", "class_"),
    [
        ("cuda:0 NVIDIA H200", SYNCHRONIZE, "device hang"),
        ("cuda:0 NVIDIA H200", USERS, "host hang"),
        ("cpu", SYNCHRONIZE, "host hang"),
        ("cuda:0 NVIDIA H200", COMPILER, "compile timeout"),
        ("cuda:0 NVIDIA H200", [], "timeout"),
    ],
)
def test_a_timeout_hangs_where_its_stack_says(gpu, frames, class_):
    record = failed(Crash(host_frames=frames), Outcome.TIMEOUT, gpu=gpu)
    assert signature_of(record).class_ == class_


def test_a_hang_whose_core_names_no_kernel_hangs_where_its_stack_says():
    crash = Crash(faulting=FaultingKernel(note="nothing ran"), host_frames=USERS)
    assert signature_of(failed(crash, Outcome.TIMEOUT)).class_ == "host hang"


def test_a_hang_with_a_kernel_in_its_core_hangs_there():
    crash = Crash(faulting=FaultingKernel("spin"), host_frames=USERS)
    assert signature_of(failed(crash, Outcome.TIMEOUT)).title == "device hang in spin"


@pytest.mark.parametrize(
    ("outcome", "reason", "class_"),
    [
        (Outcome.INVALID, "out holds NaN: 3 of 64 elements, the first at [3]", "nan"),
        (
            Outcome.INVALID,
            "unwritten output: 1 of 64 elements of out still hold what was put there",
            "unwritten output",
        ),
        (Outcome.INVALID, "out is all zeros, and torch's is not", "zero output"),
        (Outcome.INVALID, "metric rows_per_s of rmsnorm is infinite", "invalid figure"),
        (Outcome.MISMATCH, "not what torch computes: out[3]: got 1.25, want 1.5", "mismatch"),
        (Outcome.MISMATCH, "right once, wrong when run again after .reset, with free memory", "unrepeatable output"),
        (Outcome.OOM, "the host ran out of memory during measure", "host oom"),
        (Outcome.OOM, "out of memory: asked for 16.00 GiB", "device oom"),
    ],
)
def test_an_outcome_without_an_exception_has_a_class(outcome, reason, class_):
    crash = Crash(signal="SIGKILL") if reason.startswith("the host") else None
    assert classify(failed(crash, outcome, reason=reason), []).name == class_


def test_an_exception_in_the_set_up_is_told_from_one_in_the_step():
    crash = Crash(exception="ValueError", message="no such layout")
    assert classify(failed(crash, Outcome.ERROR, Stage.SETUP), []).name == "set-up exception"
    assert classify(failed(crash, Outcome.ERROR, Stage.MEASURE), []).name == "python exception"


@given(st.text() | st.binary().map(lambda data: data.decode(errors="replace")), st.sampled_from(list(Outcome)[2:]))
def test_any_text_has_some_class_and_signature(text, outcome):
    crash = Crash(
        stderr_tail=text, message=text, signal=text[:9], faulting=FaultingKernel(text, text, 7, exception=text)
    )
    for evidence in (
        crash,
        Crash(stderr_tail=text),
        Crash(exception=text, message=text, frames=[Frame(text, 1, text)]),
    ):
        signature = signature_of(failed(evidence, outcome, reason=text))
        assert signature.class_ in CLASSES
        assert re.fullmatch("[0-9a-f]{8}", signature.id)
        assert signature.title
