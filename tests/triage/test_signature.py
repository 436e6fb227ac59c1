"""One fault, one signature: whatever its sizes, addresses, pids and line numbers; and another place, another one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_failures import failed

import gpubench
from gpubench.records import Crash, FaultingKernel, Frame, Outcome, Stage
from gpubench.triage.normalise import normalise_kernel, normalise_text
from gpubench.triage.signature import signature_of
from gpubench.triage.skip_lists import REFERENCE

TORCH = "/venv/lib/python3.12/site-packages/torch/_tensor.py"
WORKER = "/opt/gpubench/worker/measure.py"
ILLEGAL = "CUDA error: an illegal memory access was encountered"


def raised(*frames: tuple[str, str], message: str = ILLEGAL, line: int = 12) -> Crash:
    kind = "torch.AcceleratorError" if "CUDA" in message else "ValueError"
    return Crash(kind, message, [Frame(file, line, function) for file, function in frames])


def key(crash: Crash | None, **found: object) -> str:
    return signature_of(failed(crash, **found)).key


def test_a_signature_is_class_place_and_stage():
    assert key(raised(("/home/u/topk.py", "radix.<locals>.launch"))) == "illegal address | topk.py:launch | measure"


@given(
    address=st.integers(0, 2**48),
    line=st.integers(1, 9999),
    size=st.integers(1, 10**9),
    pid=st.integers(1, 2**22),
    folder=st.sampled_from(["/home/a", "/tmp/tmpab12cd", "/builds/77/x"]),
)
def test_sizes_addresses_pids_lines_and_folders_make_no_other_signature(address, line, size, pid, folder):
    def one(address, line, size, pid, folder):
        text = f"{ILLEGAL}: pid={pid} at 0x{address:012x} for [{size}, {size}] in cell_{pid % 99:03d}_C{size}"
        return raised((f"{folder}/topk.py", "launch"), message=text, line=line)

    assert key(one(address, line, size, pid, folder)) == key(one(1, 1, 1, 1, "/x"))


@given(data=st.data(), numbers=st.lists(st.integers(-(10**9), 10**9), min_size=1, max_size=3))
def test_one_line_that_raises_one_message_is_one_signature_whatever_its_figures(data, numbers):
    name = f"a7{data.draw(st.integers(0, 2**56 - 1)):014x}"
    dtype, scalar = data.draw(
        st.sampled_from([("float16", "Half"), ("bfloat16", "BFloat16"), ("float8_e4m3fn", "Byte")])
    )
    figures = data.draw(st.sampled_from([str(numbers), str(tuple(numbers)), str([n / 7 for n in numbers])]))
    shape = "x".join(str(abs(n)) for n in (*numbers, 4))
    said = (
        f"no room for {figures} in ({shape}) of torch.{dtype}, found {scalar}, at 0x{name}: {name} "
        f"{name[:8]}-{name[4:8]}-{name[8:12]}-{name[4:]}, took {numbers[0] / 3}ms"
    )
    again = (
        "no room for [1] in (2x3) of torch.float32, found Float, at 0x7f12: 00112233445566aa "
        "1234abcd-12ab-34cd-0123456789ab, took 1.5ms"
    )
    launch = ("/u/topk.py", "launch")
    assert key(raised(launch, message=said), outcome=Outcome.ERROR) == key(
        raised(launch, message=again), outcome=Outcome.ERROR
    )


def test_one_line_that_raises_two_things_is_two_signatures():
    def said(message: str) -> str:
        return key(raised(("/u/topk.py", "launch"), message=message), outcome=Outcome.ERROR)

    assert said("expected scalar type Half but found Float").endswith(
        "topk.py:launch: expected scalar type DTYPE but found DTYPE | measure"
    )
    assert said("mat1 and mat2 shapes cannot be multiplied") != said("inconsistent tensor size")
    assert said("maximum recursion depth exceeded in comparison") == said("maximum recursion depth exceeded")


def test_another_place_stage_or_class_is_another_signature():
    here = raised(("/u/topk.py", "radix"))
    keys = {
        key(here),
        key(raised(("/u/topk.py", "bitonic"))),
        key(raised(("/u/gemm.py", "radix"))),
        key(raised(("/u/topk.py", "radix"), message="no")),
        key(replace(here, message="CUDA error: misaligned address")),
        key(here, stage=Stage.CHECK),
        key(replace(here, faulting=FaultingKernel("radix_kernel", exception="Warp Illegal Address"))),
    }
    assert len(keys) == 7


def test_frames_of_libraries_of_the_worker_and_those_that_only_report_are_skipped():
    frames = [
        (TORCH, "item"),
        ("/u/helpers.py", "synchronize"),
        ("/opt/gpubench/graphs/whole.py", "replay"),
        ("/venv/lib/python3.12/site-packages/fla/ops/delta.py", "forward"),
        ("/usr/lib/python3.12/contextlib.py", "inner"),
        (WORKER, "time"),
        ("/u/topk.py", "radix"),
    ]
    assert key(raised(*frames)) == "illegal address | delta.py:forward < topk.py:radix | measure"


def test_where_all_frames_only_report_they_are_better_than_nothing():
    assert key(raised((TORCH, "cpu"), ("/u/topk.py", "cpu"))) == "illegal address | topk.py:cpu | measure"


def test_a_recursion_is_one_place():
    deep, flat = [("/u/t.py", "walk")] * 40, [("/u/t.py", "walk")] * 2
    assert key(raised(*deep, ("/u/t.py", "main"))) == key(raised(*flat, ("/u/t.py", "main")))


def test_two_backends_whose_steps_have_the_same_name_are_two_places():
    crash = raised(("/u/mine.py", "_.<locals>.step"))
    assert key(crash, backend="mine") != key(crash, backend="torch")
    helper = raised(("/u/mine.py", "launch_topk"))
    assert key(helper, backend="mine") == key(helper, backend="torch")


def test_what_fails_in_the_reference_is_not_its_backends_fault():
    file, function = REFERENCE
    assert f"def {function}(" in (Path(gpubench.__file__).parent.parent / file).read_text()
    own = raised(("/u/mine.py", "_.<locals>.step"), (f"/opt/{file}", "check_step"), message="no")
    theirs = raised(("/u/mine.py", "_.<locals>.step"), (f"/opt/{file}", function), message="no")
    cases = [(crash, backend) for crash in (own, theirs) for backend in ("mine", "torch")]
    keys = [key(crash, backend=backend, outcome=Outcome.ERROR) for crash, backend in cases]
    assert keys[0] != keys[1]
    assert keys[2] == keys[3] == "python exception ValueError | mine.py:step of the reference: no | measure"
    assert signature_of(failed(theirs)).title == "ValueError at mine.py:12 in step of the reference"
    assert signature_of(failed(own)).title == "ValueError at mine.py:12 in step"


def test_without_a_stack_the_backend_and_what_it_said_are_the_place():
    assert key(None, outcome=Outcome.MISMATCH, reason="out[3]: got 1") == "mismatch | backend triton | measure"
    nan = [key(None, outcome=Outcome.INVALID, reason=f"{name} holds NaN: 3 of 64 elements") for name in ("out", "lse")]
    assert nan[0] != nan[1]


def command(stderr: str, status: int = 1, value: str = "a") -> Crash:
    frames = [Frame("/opt/gpubench/workloads/command/process.py", 57, "run")]
    message = f"bench --mode {value}: exit status {status}: {stderr.strip().splitlines()[-1]}"
    return Crash("gpubench.errors.CommandFailed", message, frames, exit_status=status, stderr_tail=stderr)


def test_a_command_is_told_apart_by_what_it_printed():
    traceback = 'Traceback (most recent call last):\n  File "/u/serve.py", line 4, in load\n    x\nKeyError: 4\n'
    assert key(command(traceback), outcome=Outcome.ERROR) == "python exception KeyError | serve.py:load | measure"
    keys = {key(command(f"step {n}\nno such model: {n}", 3, str(n)), outcome=Outcome.ERROR) for n in range(3)}
    assert keys == {"exit status 3 | backend triton: no such model: N | measure"}
    assert key(command("bad flag", 3), outcome=Outcome.ERROR) not in keys


def test_the_faulting_kernel_goes_before_the_stack_and_the_victim_is_kept():
    kernel = FaultingKernel("wild_store", "/u/faults.py", 7, exception="Warp Illegal Address")
    crash = Crash(signal="SIGABRT", faulting=kernel, host_frames=[Frame("/u/moe.py", 40, "combine")])
    signature = signature_of(failed(crash))
    assert signature.key == "illegal address | wild_store | measure"
    assert signature.title == "illegal address in wild_store (faults.py:7)"
    assert signature.victim == "moe.py:40 in combine"
    other = replace(crash, host_frames=[Frame("/u/gemm.py", 1, "run")])
    assert signature_of(failed(other)).id == signature.id


def test_the_victim_of_a_library_call_is_named_with_it():
    crash = raised(
        ("/u/m.py", "f"), message="CUDA error: CUBLAS_STATUS_INTERNAL_ERROR when calling `cublasCreate(handle)`"
    )
    assert signature_of(failed(crash)).victim == "cublasCreate (m.py:12 in f)"


@pytest.mark.parametrize(
    ("exception", "is_named"),
    [
        ("Warp Illegal Address", False),
        ("Assertion failed", False),
        ("Warp Misaligned Address", True),
        ("Warp Out-of-range Address", True),
        ("Lane User Stack Overflow", True),
        ("", False),
    ],
)
def test_a_culprit_is_named_by_a_core_alone_only_if_nobody_else_can_have_done_it(exception, is_named):
    kernel = FaultingKernel("wild_store", "/u/faults.py", 7, exception=exception)
    culprit = signature_of(failed(Crash(faulting=kernel))).culprit
    assert (culprit is not None) is is_named
    assert culprit is None or (culprit.basis.startswith("core: ") and culprit.kernel == "wild_store")


def test_an_unreadable_core_leaves_the_stack_to_speak():
    crash = Crash(faulting=FaultingKernel(note="cuda-gdb is missing"), host_frames=[Frame("/u/t.py", 3, "radix")])
    assert key(crash) == "gpu exception | t.py:radix | measure"


def test_a_record_of_an_older_run_gives_its_stack_from_what_was_printed():
    died = "Fatal Python error: Segmentation fault\n\nCurrent thread 0x00007f53 (most recent call first):\n"
    died += '  File "/usr/lib/python3.12/ctypes/__init__.py", line 525 in string_at\n  File "/u/t.py", line 9 in peek\n'
    assert key(Crash(signal="SIGSEGV", stderr_tail=died)) == "segfault | t.py:peek | measure"
    said = 'Traceback (most recent call last):\n  File "/u/a.py", line 2, in main\n    f()\n'
    said += '  File "/u/b.py", line 7, in f\n'
    said += "    raise ValueError(1)\nValueError: 1\n"
    assert key(Crash(exit_status=1, stderr_tail=said)) == "python exception ValueError | b.py:f < a.py:main | measure"


@pytest.mark.parametrize(
    ("spelled", "name"),
    [
        ("wild_store", "wild_store"),
        ("void cutlass::Kernel2<cutlass_80_tensorop<1, (2 > 1)>>(T1::Params)", "cutlass::Kernel2"),
        ("void at::native::(anonymous namespace)::fill<int, 4>(int*, int)", "at::native::fill"),
        ("void a::b<a::c<(unsigned int)4>::operator()(int)::{lambda(int)#1}>(int)", "a::b"),
        ("sm90_xmma_gemm_bf16_tilesize64x128x64_stage4", "sm90_xmma_gemm_bf16_tilesizeNxN_stage4"),
        ("radix [clone .isra.0]", "radix"),
        ("", ""),
        ("<<<>>>", ""),
        ("void", "void"),
    ],
)
def test_a_kernel_is_called_by_its_name_alone(spelled, name):
    assert normalise_kernel(spelled) == name


def test_texts_lose_what_differs():
    said = "tried 1,024.5 MiB at 0x7f3acc for (4, 1024) of /home/u/x/mine.py in cell_013_C008 under tmpk3j2h1x9"
    assert normalise_text(said) == "tried N MiB at N for SIZE of mine.py in CELL under TMP"
