"""CUDA's errors by name: as a message spells them, and which of them leave a context that can still be used.

A name is matched rather than a number, for numbers have moved over CUDA's versions. From the runtime API's reference,
`cudaError_t`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["CUDA_ERRORS", "CudaError", "find_cuda_error"]


@dataclass(frozen=True)
class CudaError:
    """One error of the runtime API."""

    name: str
    driver_name: str
    """As the driver API calls it."""
    text: str
    """What cudaGetErrorString says."""
    kills_context: bool


CUDA_ERRORS = (
    CudaError(
        "cudaErrorIllegalAddress", "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered", True
    ),
    CudaError("cudaErrorLaunchTimeout", "CUDA_ERROR_LAUNCH_TIMEOUT", "the launch timed out and was terminated", True),
    CudaError("cudaErrorAssert", "CUDA_ERROR_ASSERT", "device-side assert triggered", True),
    CudaError("cudaErrorHardwareStackError", "CUDA_ERROR_HARDWARE_STACK_ERROR", "hardware stack error", True),
    CudaError(
        "cudaErrorIllegalInstruction", "CUDA_ERROR_ILLEGAL_INSTRUCTION", "an illegal instruction was encountered", True
    ),
    CudaError("cudaErrorMisalignedAddress", "CUDA_ERROR_MISALIGNED_ADDRESS", "misaligned address", True),
    CudaError(
        "cudaErrorInvalidAddressSpace",
        "CUDA_ERROR_INVALID_ADDRESS_SPACE",
        "operation not supported on global/shared address space",
        True,
    ),
    CudaError("cudaErrorInvalidPc", "CUDA_ERROR_INVALID_PC", "invalid program counter", True),
    CudaError("cudaErrorLaunchFailure", "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure", True),
    CudaError("cudaErrorECCUncorrectable", "CUDA_ERROR_ECC_UNCORRECTABLE", "uncorrectable ECC error encountered", True),
    CudaError(
        "cudaErrorNvlinkUncorrectable",
        "CUDA_ERROR_NVLINK_UNCORRECTABLE",
        "uncorrectable NVLink error detected during the execution",
        True,
    ),
    CudaError("cudaErrorContained", "CUDA_ERROR_CONTAINED", "contained error", True),
    CudaError("cudaErrorUnknown", "CUDA_ERROR_UNKNOWN", "unknown error", True),
    CudaError("cudaErrorMemoryAllocation", "CUDA_ERROR_OUT_OF_MEMORY", "out of memory", False),
    CudaError("cudaErrorInvalidDeviceFunction", "CUDA_ERROR_NOT_FOUND", "invalid device function", False),
    CudaError(
        "cudaErrorNoKernelImageForDevice",
        "CUDA_ERROR_NO_BINARY_FOR_GPU",
        "no kernel image is available for execution on the device",
        False,
    ),
    CudaError(
        "cudaErrorLaunchOutOfResources",
        "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES",
        "too many resources requested for launch",
        False,
    ),
    CudaError("cudaErrorInvalidConfiguration", "", "invalid configuration argument", False),
    CudaError("cudaErrorInvalidValue", "CUDA_ERROR_INVALID_VALUE", "invalid argument", False),
    CudaError(
        "cudaErrorStreamCaptureUnsupported",
        "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED",
        "operation not permitted when stream is capturing",
        False,
    ),
    CudaError(
        "cudaErrorStreamCaptureInvalidated",
        "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED",
        "operation failed due to a previous error during capture",
        False,
    ),
    CudaError(
        "cudaErrorStreamCaptureMerge",
        "CUDA_ERROR_STREAM_CAPTURE_MERGE",
        "operation would result in a merge of separate capture sequences",
        False,
    ),
    CudaError(
        "cudaErrorStreamCaptureUnmatched",
        "CUDA_ERROR_STREAM_CAPTURE_UNMATCHED",
        "capture was not ended in the same stream as it began",
        False,
    ),
    CudaError(
        "cudaErrorStreamCaptureUnjoined",
        "CUDA_ERROR_STREAM_CAPTURE_UNJOINED",
        "capturing stream has unjoined work",
        False,
    ),
    CudaError(
        "cudaErrorStreamCaptureIsolation",
        "CUDA_ERROR_STREAM_CAPTURE_ISOLATION",
        "dependency created on uncaptured work in another stream",
        False,
    ),
    CudaError(
        "cudaErrorStreamCaptureImplicit",
        "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT",
        "operation would make the legacy stream depend on a capturing blocking stream",
        False,
    ),
    CudaError(
        "cudaErrorCapturedEvent",
        "CUDA_ERROR_CAPTURED_EVENT",
        "operation not permitted on an event last recorded in a capturing stream",
        False,
    ),
    CudaError(
        "cudaErrorStreamCaptureWrongThread",
        "CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD",
        "attempt to terminate a thread-local capture sequence from another thread",
        False,
    ),
    CudaError(
        "cudaErrorGraphExecUpdateFailure",
        "CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE",
        "the graph update was not performed because it included changes which violated constraints",
        False,
    ),
)

_BY_NAME = {name: error for error in CUDA_ERRORS for name in (error.name, error.driver_name) if name}
_NAME = re.compile(r"\b(?:cudaError[A-Z]\w+|CUDA_ERROR_[A-Z_]+)\b")
_FROM_CUDA = re.compile(r"CUDA error|Triton Error \[CUDA\]|cuda runtime|CUDA driver|cudaError", re.IGNORECASE)
"""Only then is a text like "unknown error" CUDA's own."""


def find_cuda_error(message: str) -> CudaError | None:
    """The error a message speaks of: by its name, else by its text where the message says that CUDA spoke."""
    for name in _NAME.findall(message):
        if name in _BY_NAME:
            return _BY_NAME[name]
    if not _FROM_CUDA.search(message):
        return None
    return next((error for error in CUDA_ERRORS if error.text in message), None)
