"""What is recorded keeps no tensor, and does nothing twice."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import Tensor

from optimizers.stacking.recording import Program, Recorder


def recorded(function, *inputs: Tensor) -> tuple[Program, str]:  # type: ignore[no-untyped-def]
    """The program, and the operations that it does."""
    with Recorder(inputs) as recorder:
        outputs = function(*inputs)
    program = Program(recorder, outputs)
    return program, program.text


def test_intermediate_tensors_are_free_while_it_is_recorded() -> None:
    alive: list[weakref.ref[Tensor]] = []

    def function(x: Tensor) -> list[Tensor]:
        for _ in range(5):
            x = x * 2
            alive.append(weakref.ref(x))
        gc.collect()
        assert [each() is not None for each in alive] == [False] * 4 + [True]
        return [x]

    program, _ = recorded(function, torch.ones(3))
    assert program.replay(torch.full((3,), 2.0))[0].tolist() == [64.0] * 3  # type: ignore[union-attr]


def test_addresses_that_are_used_again_are_other_tensors() -> None:
    def function(x: Tensor) -> list[Tensor]:
        total = torch.zeros(1000)
        for i in range(50):
            total = total + (x + i).square()  # the sum before is free, and its place taken
        return [total]

    x = torch.arange(1000.0)
    program, _ = recorded(function, x)
    assert torch.equal(program.replay(x + 1)[0], function(x + 1)[0])  # type: ignore[arg-type]


def test_what_was_done_is_not_done_again() -> None:
    program, text = recorded(lambda x: [(x > 0).sum() + (x > 0).sum()], torch.ones(3))
    assert (text.count("aten.gt"), text.count("aten.sum")) == (1, 1)
    assert program.replay(torch.tensor([1.0, -1.0, 2.0]))[0].item() == 4  # type: ignore[union-attr]


def test_but_where_something_was_changed_between() -> None:
    def function(x: Tensor) -> list[Tensor]:
        y = x.clone()
        first = y + 1
        y.mul_(2)
        return [first * (y + 1)]

    program, _ = recorded(function, torch.ones(2))
    x = torch.tensor([3.0, 4.0])
    assert torch.equal(program.replay(x)[0], function(x)[0])  # type: ignore[arg-type]


@pytest.mark.parametrize("function", [lambda x: [x * 3, x * 3], lambda x: [torch.ops.aten.mul.Scalar(x, 1), x + 0]])
def test_tensors_that_are_returned_are_the_callers_alone(function) -> None:  # type: ignore[no-untyped-def]
    program, _ = recorded(function, torch.ones(2))
    x = torch.tensor([3.0, 4.0])
    first, second = program.replay(x)
    assert first is not None and second is not None
    expected = second.clone()
    first.zero_()
    assert torch.equal(second, expected)
    assert x.tolist() == [3.0, 4.0]


def test_a_product_with_one_is_left_out() -> None:
    function = lambda x: [torch.ops.aten.mul.Scalar(x + 2, 1).exp()]  # noqa: E731
    program, text = recorded(function, torch.ones(2))
    assert "aten.mul" not in text
    x = torch.tensor([3.0, 4.0])
    assert torch.equal(program.replay(x)[0], function(x)[0])  # type: ignore[arg-type]


def test_what_depends_on_no_input_is_done_once() -> None:
    def function(x: Tensor) -> list[Tensor]:
        return [x * torch.arange(3.0).exp().sum()]

    program, text = recorded(function, torch.ones(2))
    assert [name for name in ("arange", "exp", "sum") if name in text] == []
    assert torch.equal(program.replay(torch.ones(2))[0], function(torch.ones(2))[0])  # type: ignore[arg-type]


def test_but_what_is_changed_of_it_is_made_anew() -> None:
    def function(x: Tensor) -> list[Tensor]:
        total = torch.zeros(2)
        total += x
        return [total * 2]

    program, _ = recorded(function, torch.ones(2))
    for _ in range(2):
        assert program.replay(torch.ones(2))[0].tolist() == [2.0, 2.0]  # type: ignore[union-attr]
