"""Errors of a GPU are told apart by what PyTorch and CUDA's libraries say of them."""

from __future__ import annotations

import pytest
import torch

from tuner.workers import device_errors
from tuner.workers.device_errors import brief, has_lost_device, is_out_of_memory
from tuner.workers.workbench import failure

ADVICE = "\nCUDA kernel errors might be asynchronously reported at some other API call.\n"
MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    MemoryError(),
    MemoryError("Unable to allocate 7.28 TiB for an array"),
    torch.AcceleratorError(f"CUDA error: out of memory{ADVICE}"),
    RuntimeError("CUDA driver error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`"),
    RuntimeError("cuFFT error: CUFFT_ALLOC_FAILED"),
    RuntimeError("Triton Error [CUDA]: out of memory"),
    RuntimeError("FIND was unable to find an engine to execute this computation"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory: you tried ..."),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8000000000000 bytes."),
    OSError(12, "Cannot allocate memory"),
]  # fmt: skip
LOST = [
    torch.AcceleratorError(f"CUDA error: an illegal memory access was encountered{ADVICE}"),
    torch.AcceleratorError(f"CUDA error: device-side assert triggered{ADVICE}"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(handle, opa, opb, m, n, k)`"),
    RuntimeError("cusolver error: CUSOLVER_STATUS_EXECUTION_FAILED, when calling `cusolverDnSsyevd(handle, jobz)`"),
    RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"),
]
NEITHER = [
    ValueError("Invalid learning rate: -1.0"),
    RuntimeError("mat1 and mat2 shapes cannot be multiplied (3x4 and 5x6)"),
    RuntimeError("Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!"),
    NotImplementedError("Batching rule not implemented for aten::_cudnn_rnn"),
]


@pytest.mark.parametrize("error", MEMORY, ids=str)
def test_want_of_memory_is_known_in_all_its_words_and_leaves_the_device(error: Exception) -> None:
    assert is_out_of_memory(error) and not has_lost_device(error)
    assert failure(error, []).out_of_memory


@pytest.mark.parametrize("error", LOST, ids=str)
def test_after_other_errors_of_cuda_and_its_libraries_the_device_is_lost(error: Exception) -> None:
    assert has_lost_device(error) and not is_out_of_memory(error)
    assert not failure(error, []).out_of_memory


@pytest.mark.parametrize("error", NEITHER, ids=str)
def test_other_errors_are_neither(error: Exception) -> None:
    assert not has_lost_device(error) and not is_out_of_memory(error)


def test_what_cuda_has_said_goes_without_advice() -> None:
    assert brief(LOST[0]) == "AcceleratorError: CUDA error: an illegal memory access was encountered"
    assert brief(NEITHER[0]) == "ValueError: Invalid learning rate: -1.0"


def raised(error: Exception, first: Exception, *, explicitly: bool) -> Exception:
    """An error that came up as another was handled, or was raised from it."""
    try:
        try:
            raise first
        except Exception as cause:
            if explicitly:
                raise error from cause
            raise error  # noqa: B904
    except Exception as last:
        return last


@pytest.mark.parametrize("explicitly", [False, True])
def test_an_error_that_came_of_a_lost_device_is_one(explicitly: bool) -> None:
    assert has_lost_device(raised(ValueError("step failed"), LOST[0], explicitly=explicitly))


def test_only_an_error_that_was_raised_from_want_of_memory_is_one() -> None:
    assert is_out_of_memory(raised(ValueError("step failed"), MEMORY[0], explicitly=True))
    assert not is_out_of_memory(raised(ValueError("Invalid batch size"), MEMORY[0], explicitly=False))


@pytest.mark.parametrize(("answer", "lost"), [(LOST[0], True), (MEMORY[0], False), (None, False)])
def test_the_device_is_asked_whatever_the_error_says(
    monkeypatch: pytest.MonkeyPatch, answer: Exception | None, lost: bool
) -> None:
    def synchronize() -> None:
        if answer is not None:
            raise answer

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    assert has_lost_device(ValueError("step failed")) == lost
    assert device_errors.has_lost_device(MEMORY[0]) == lost
