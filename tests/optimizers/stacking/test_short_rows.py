"""A stack's log-softmax of short rows is PyTorch's, and a replay has the very bits of what was recorded."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from optimizers.stacking.recording import Program, Recorder
from optimizers.stacking.short_rows import FEWEST, SHORT, ShortRows

INF = math.inf


def log_softmax_and_gradient(rows: Tensor, grad: Tensor) -> list[Tensor]:
    with torch.enable_grad():
        rows = rows.detach().requires_grad_()
        found = torch.log_softmax(rows, -1)
        return [found.detach(), *torch.autograd.grad(found, rows, grad)]


def replayed(rows: Tensor, grad: Tensor) -> tuple[list[Tensor], str]:
    with Recorder([rows, grad]) as recorder, ShortRows():
        outputs = log_softmax_and_gradient(rows, grad)
    program = Program(recorder, outputs)
    found = list(program.replay(rows, grad))
    for own, output in zip(found, outputs, strict=True):
        assert own is not None
        torch.testing.assert_close(own, output, rtol=0, atol=0, equal_nan=True)  # a resumed run has the same bits
    return found, program.text  # type: ignore[return-value]


@pytest.mark.parametrize("shape", [(FEWEST, 2), (4, FEWEST, SHORT - 1), (3, 2, FEWEST, 10)])
def test_both_are_what_a_softmax_of_long_rows_comes_to(shape: tuple[int, ...]) -> None:
    """Entries of -inf at the end make rows long, and change nothing."""
    generator = torch.Generator().manual_seed(0)
    rows = 30 * torch.randn(shape, generator=generator, dtype=torch.float64)
    grad = torch.randn(shape, generator=generator, dtype=torch.float64)
    wide = torch.nn.functional.pad(rows, (0, SHORT), value=-INF)
    expected = log_softmax_and_gradient(wide, torch.nn.functional.pad(grad, (0, SHORT)))
    found, text = replayed(rows, grad)
    assert "_log_softmax" not in text
    for own, other in zip(found, expected, strict=True):
        torch.testing.assert_close(own, other[..., : shape[-1]], rtol=1e-13, atol=1e-13)


def test_numbers_at_the_ends_of_their_range_are_as_pytorch_has_them() -> None:
    rows = torch.zeros(FEWEST, 3)
    rows[:7] = torch.tensor(
        [[3e38, -3e38, 0], [INF, 0, 0], [-INF, 0, 1], [-INF, -INF, -INF], [math.nan, 0, 0], [88, 89, 90], [0, 0, 1e-45]]
    )
    found, text = replayed(rows, torch.ones_like(rows))
    assert "_log_softmax" not in text
    for own, expected in zip(found, log_softmax_and_gradient(rows, torch.ones_like(rows)), strict=True):
        torch.testing.assert_close(own, expected, equal_nan=True)


@pytest.mark.parametrize(
    ("shape", "dtype"), [((FEWEST - 1, 10), torch.float32), ((FEWEST, SHORT), torch.float32), ((FEWEST, 4), torch.half)]
)
def test_few_rows_long_ones_and_half_precision_are_left_to_pytorch(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    _, text = replayed(torch.ones(shape, dtype=dtype), torch.ones(shape, dtype=dtype))
    assert "_log_softmax" in text and "_log_softmax_backward_data" in text
