"""What an exception says: messages as they were seen on an H200, on a device that answers or doesn't any more."""

from __future__ import annotations

import resource
from dataclasses import dataclass
from typing import Any

import psutil
import pytest
import torch

from gpubench.errors import ArgumentError, CommandFailed
from gpubench.records import CellRecord, Outcome, Pass, Stage
from gpubench.worker.churn import NAN_BYTE
from gpubench.worker.cuda_errors import CUDA_ERRORS, find_cuda_error
from gpubench.worker.device import Device, open_device
from gpubench.worker.failure import Failure, describe_failure, is_context_lost, is_out_of_memory

HINTS = """
CUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be incorrect.
For debugging consider passing CUDA_LAUNCH_BLOCKING=1
Compile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.
"""
ILLEGAL = f"CUDA error: an illegal memory access was encountered{HINTS}"
OOM = (
    "CUDA out of memory. Tried to allocate 16.00 GiB. GPU 0 has a total capacity of 139.80 GiB of which 11.19 GiB is "
    "free. Including non-PyTorch memory, this process has 128.60 GiB memory in use. Of the allocated memory 128.00 GiB "
    "is allocated by PyTorch, and 2.00 MiB is reserved by PyTorch but unallocated."
)


@dataclass(frozen=True)
class FakeGpu(Device):
    """A GPU as far as failures go: what it answers when it is asked, and the memory it has."""

    damage: str = ""

    def find_damage(self) -> str:
        return self.damage

    def memory(self, *, is_alive: bool = True) -> dict[str, float]:
        return {"device_free": 12e9, "device_total": 150e9, "reserved": 130e9, "allocated": 128e9}


def gpu(damage: str = "") -> Device:
    return FakeGpu("cuda:0 FAKE", 1 << 37, 1 << 25, (9, 0), damage=damage)


def fail(error: BaseException, device: Device | None = None) -> Failure:
    try:
        raise error
    except BaseException as caught:
        return describe_failure(caught, device or gpu())


@pytest.mark.parametrize("known", [error for error in CUDA_ERRORS if error.kills_context], ids=lambda e: e.name)
@pytest.mark.parametrize("spelling", ["name", "driver_name", "text"])
def test_an_error_that_kills_the_context_is_a_crash_however_it_is_spelt(known: Any, spelling: str) -> None:
    failure = fail(RuntimeError(f"CUDA error: {getattr(known, spelling)}{HINTS}"))

    assert failure.outcome is Outcome.CRASH
    assert failure.crash is not None
    assert failure.crash.cuda_error == known.name
    assert failure.reason.startswith(f"{known.name}: {known.text}; surfaced (test_failure.py:")


@pytest.mark.parametrize("known", [error for error in CUDA_ERRORS if not error.kills_context], ids=lambda e: e.name)
def test_an_error_that_the_context_survives_is_the_cells_alone(known: Any) -> None:
    failure = fail(RuntimeError(f"CUDA error: {known.text}\nSearch for `{known.name}' in the documentation{HINTS}"))

    assert failure.outcome is (Outcome.OOM if "Memory" in known.name else Outcome.ERROR)
    assert failure.crash is not None
    assert failure.crash.cuda_error == known.name


def test_every_cuda_error_is_found_by_its_own_text_and_no_others() -> None:
    for error in CUDA_ERRORS:
        assert find_cuda_error(f"CUDA error: {error.text}") is error
        assert find_cuda_error(f"Triton Error [CUDA]: {error.text}") is error


@pytest.mark.parametrize("text", ["unknown error", "misaligned address", "a cudaErrorOfMyOwn", "out of memory"])
def test_words_of_the_cells_own_are_not_taken_for_cudas(text: str) -> None:
    assert find_cuda_error(text) is None


def test_a_librarys_error_on_a_dead_context_is_the_crash_that_the_device_tells_of() -> None:
    failure = fail(
        RuntimeError("CUDA error: CUBLAS_STATUS_INTERNAL_ERROR when calling `cublasCreate(handle)`"), gpu(ILLEGAL)
    )

    assert failure.outcome is Outcome.CRASH
    assert failure.crash is not None
    assert failure.crash.cuda_error == "cudaErrorIllegalAddress"
    assert "cublasCreate" in failure.crash.message, "the victim stays in the evidence"


def test_a_librarys_error_on_a_sound_context_is_the_cells_alone() -> None:
    failure = fail(RuntimeError("CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling `cublasGemmEx`"))

    assert failure.outcome is Outcome.ERROR
    assert failure.crash is not None
    assert failure.crash.cuda_error == "CUBLAS_STATUS_NOT_SUPPORTED"


def test_a_plain_exception_with_a_dead_context_behind_it_is_a_crash() -> None:
    failure = fail(ValueError("the answer is no number"), gpu(ILLEGAL))

    assert failure.outcome is Outcome.CRASH


def test_a_capture_left_open_ends_the_worker() -> None:
    failure = fail(ValueError("in the middle of a capture"), gpu("a stream capture was left open"))

    assert failure.outcome is Outcome.CRASH
    assert failure.reason.startswith(
        "ValueError: in the middle of a capture; then the device said: a stream capture was left open; surfaced"
    )


def test_a_failed_capture_is_described_by_what_broke_it() -> None:
    try:
        try:
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")
        except RuntimeError:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")  # noqa: B904
    except RuntimeError as error:
        failure = describe_failure(error, gpu())

    assert failure.outcome is Outcome.ERROR
    assert "operation not permitted when stream is capturing" in failure.reason
    assert failure.crash is not None
    assert failure.crash.cuda_error == "cudaErrorStreamCaptureUnsupported"


def test_of_a_process_that_may_not_have_all_memory_what_it_may_is_told() -> None:
    unlimited = open_device(needs_cuda=False).memory()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    room = psutil.Process().memory_info().vms + (64 << 20)
    resource.setrlimit(resource.RLIMIT_AS, (room, hard))
    try:
        told = open_device(needs_cuda=False).memory()
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert told["device_total"] == min(room, unlimited["device_total"])
    assert 0 <= told["device_free"] <= 64 << 20


def test_a_device_out_of_memory_says_what_was_asked_and_what_there_was() -> None:
    failure = fail(torch.OutOfMemoryError(OOM))

    assert failure.outcome is Outcome.OOM
    assert failure.crash is not None
    assert failure.crash.exception == "torch.OutOfMemoryError"
    assert failure.crash.memory == {
        "asked": 16 * 2**30,
        "device_free": 12e9,
        "device_total": 150e9,
        "reserved": 130e9,
        "allocated": 128e9,
    }
    assert failure.reason.startswith("out of memory: asked for 16.00 GiB with 11.18 GiB free of 139.70 GiB (test_fail")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 2.00 GiB for an array"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 2147483648 bytes."),
    ],
    ids=["python", "torch"],
)
def test_a_host_out_of_memory_beside_a_gpu_tells_the_hosts(error: Exception) -> None:
    failure = fail(error)

    assert failure.outcome is Outcome.OOM
    assert failure.crash is not None
    memory, total = failure.crash.memory, psutil.virtual_memory().total
    assert (memory["host_total"], memory["device_total"]) == (total, 150e9)
    shown = f"the host is out of memory: asked for 2.00 GiB with {memory['host_free'] / 2**30:,.2f} GiB free of "
    assert failure.reason.startswith(f"{shown}{total / 2**30:,.2f} GiB (test_failure.py:")


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("Tried to allocate 512.00 MiB.", 512 * 2**20),
        ("Tried to allocate 1.5 KiB.", 1536),
        ("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1234 bytes. Error code 12", 1234),
        ("Unable to allocate 7.28 TiB for an array", 7.28 * 2**40),
        ("no size at all", None),
    ],
)
def test_the_size_asked_is_read_in_whatever_unit_it_comes(text: str, asked: float | None) -> None:
    failure = fail(MemoryError(text))

    assert failure.crash is not None
    assert failure.crash.memory.get("asked") == asked


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "Triton Error [CUDA]: out of memory",
        "CUDA error: out of memory",
    ],
)
def test_libraries_run_out_of_memory_in_their_own_words(text: str) -> None:
    assert is_out_of_memory(RuntimeError(text))
    assert fail(RuntimeError(text)).outcome is Outcome.OOM


def test_a_triton_compilation_error_names_the_kernel_and_the_fault() -> None:
    from triton.compiler.errors import CompilationError

    cause = AttributeError("module 'triton.language' has no attribute 'undefined_function'")
    source = "def bad_compile(x, B: tl.constexpr):\n    o = tl.arange(0, B)\n    tl.undefined_function(o)"
    try:
        try:
            raise cause
        except AttributeError as error:
            raise CompilationError(source, None, repr(error)) from error
    except CompilationError as error:
        failure = describe_failure(error, gpu())

    assert failure.outcome is Outcome.ERROR
    assert failure.reason.startswith(f"Triton could not compile bad_compile: AttributeError: {cause} (test_failure.py:")


def test_a_kernel_too_big_for_the_gpu_is_told_with_the_limit() -> None:
    from triton.runtime.errors import OutOfResources

    failure = fail(OutOfResources(300_000, 232_448, "shared memory"))

    assert failure.outcome is Outcome.ERROR
    assert failure.reason.startswith("Triton kernel too big for this GPU: out of resource: shared memory")
    assert "232448" in failure.reason


def test_gpubenchs_own_errors_speak_for_themselves() -> None:
    assert fail(ArgumentError("dim: 7 is odd; choose an even one")).reason == "dim: 7 is odd; choose an even one"


@pytest.mark.parametrize(
    "text",
    [
        "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!",
        "Pointer argument (at 0) cannot be accessed from Triton (cpu tensor?)",
    ],
)
def test_a_tensor_left_on_the_host_is_told_with_the_usual_cause(text: str) -> None:
    assert "what a step allocates needs its own device=…" in fail(RuntimeError(text)).reason


def test_a_missing_module_is_an_error_with_its_name() -> None:
    with pytest.raises(ModuleNotFoundError) as caught:
        import no_such_module_at_all  # noqa: F401

    failure = describe_failure(caught.value, gpu())

    assert failure.outcome is Outcome.ERROR
    assert failure.reason.startswith("ModuleNotFoundError: No module named 'no_such_module_at_all' (test_failure.py:")


def test_sys_exit_is_told_with_its_argument() -> None:
    assert fail(SystemExit(3)).reason.startswith("called sys.exit(3)")
    assert fail(SystemExit()).reason.startswith("called sys.exit()")
    assert fail(SystemExit("no licence")).reason.startswith("called sys.exit('no licence')")


def test_the_cells_own_frames_come_before_those_of_libraries() -> None:
    try:
        torch.nn.Linear(3, 3)(torch.ones(2))
    except RuntimeError as error:
        failure = describe_failure(error, open_device())

    assert failure.crash is not None
    names = [frame.file.rsplit("/", 1)[-1] for frame in failure.crash.frames]
    assert names[0] == "test_failure.py"
    assert "module.py" in names[1:]


def test_a_message_that_no_file_could_hold_is_cleaned() -> None:
    class Odd(Exception):
        def __str__(self) -> str:
            raise ZeroDivisionError

    assert fail(ValueError("a\udcffb\nand more")).reason.startswith("ValueError: a?b")
    assert fail(Odd()).reason.startswith("Odd: (its __str__ raised ZeroDivisionError)")
    long = fail(ValueError("x" * 100_000))
    assert len(long.reason) <= 400
    assert long.crash is not None
    assert len(long.crash.message) < 30_000


@pytest.mark.parametrize("outcome", list(Outcome))
def test_only_a_crash_means_that_the_context_is_lost(outcome: Outcome) -> None:
    record = CellRecord("c", 0, "k", "w", "b", {}, {}, 0, Pass.TIMING, 0, outcome, Stage.MEASURE)

    assert is_context_lost(record) == (outcome is Outcome.CRASH)


def test_a_command_that_a_signal_ended_has_crashed_and_the_worker_has_not() -> None:
    failure = fail(CommandFailed("bench: killed by SIGSEGV: oh no", -11, "SIGSEGV", "starting\noh no\udcff\n"))

    assert failure.outcome is Outcome.CRASH
    assert failure.reason == "bench: killed by SIGSEGV: oh no"
    assert failure.crash is not None
    assert (failure.crash.signal, failure.crash.exit_status) == ("SIGSEGV", -11)
    assert failure.crash.stderr_tail == "starting\noh no?\n"
    assert not is_context_lost(failure)


def test_a_command_that_lost_its_own_cuda_context_leaves_the_workers_alone() -> None:
    last_words = "RuntimeError: CUDA error: an illegal memory access was encountered"

    alive = fail(CommandFailed(f"bench: exit status 1: {last_words}", 1, "", last_words), gpu())
    dead = fail(CommandFailed("bench: killed by SIGABRT: oh no", -6, "SIGABRT", "oh no"), gpu(last_words))

    assert (alive.outcome, is_context_lost(alive)) == (Outcome.ERROR, False)
    assert alive.crash is not None
    assert alive.crash.cuda_error == "cudaErrorIllegalAddress"
    assert (dead.outcome, is_context_lost(dead)) == (Outcome.CRASH, True)


def test_a_command_that_fails_by_itself_is_an_error_with_its_status_and_last_words() -> None:
    failure = fail(CommandFailed("bench: exit status 3: no model", 3, "", "no model\n"))

    assert failure.outcome is Outcome.ERROR
    assert failure.crash is not None
    assert (failure.crash.signal, failure.crash.exit_status) == ("", 3)
    assert failure.crash.stderr_tail == "no model\n"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e5m2])
def test_the_byte_that_free_memory_is_filled_with_is_nan_in_every_float(dtype: torch.dtype) -> None:
    assert torch.full((8,), NAN_BYTE, dtype=torch.uint8).view(dtype).double().isnan().all()
