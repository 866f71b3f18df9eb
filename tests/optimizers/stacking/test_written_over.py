"""Replays write over what nobody needs, and over nothing else."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from optimizers.stacking.first_order import adam
from optimizers.stacking.recording import Program, Recorder
from optimizers.stacking.rule import traced

Function = Callable[..., list[Tensor]]
OPERATIONS: list[Callable[[Tensor, Tensor], Tensor]] = [
    lambda a, b: a * b,
    lambda a, b: a + b * 0.5,
    lambda a, b: a.sub(b, alpha=2),
    lambda a, b: torch.lerp(a, b, 0.25),
    lambda a, b: torch.addcmul(a, b, b, value=0.1),
    lambda a, b: a.sin(),
    lambda a, b: a * 1.0,
    lambda a, b: a.detach(),
    lambda a, b: a.t(),
    lambda a, b: a[:2].repeat(2, 1)[:3],
    lambda a, b: a.unsqueeze(0)[0],
    lambda a, b: a + b[:1],
    lambda a, b: a.sum(0, keepdim=True).expand(3, 3),
    lambda a, b: torch.where(a > b, a, b),
    lambda a, b: a.clone().mul_(b),
    lambda a, b: torch.minimum(a, b).relu(),
]


def drawn(seed: int) -> tuple[Function, dict[int, int]]:
    """A function of three matrices, and which of them its outputs may replace."""
    rng = random.Random(seed)
    steps = [(rng.choice(OPERATIONS), rng.random(), rng.random()) for _ in range(rng.randint(2, 9))]
    outputs = [rng.random() for _ in range(rng.randint(1, 3))]

    def function(*inputs: Tensor) -> list[Tensor]:
        known = list(inputs)
        for operation, first, second in steps:
            # Late ones mostly, else nothing is ever used for the last time.
            known.append(operation(known[int(first**0.5 * len(known))], known[int(second * len(known))]))
        return [known[3 + int(place * (len(known) - 3))] for place in outputs]

    inputs = rng.sample(range(3), len(outputs))
    return function, {place: output for output, place in enumerate(inputs) if rng.random() < 0.7}


def matrices() -> list[Tensor]:
    return list(torch.randn(3, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64))


def recorded(function: Function, given: dict[int, int]) -> Program:
    inputs = [matrix.clone() for matrix in matrices()]
    with Recorder(inputs) as recorder:
        outputs = function(*inputs)
    return Program(recorder, outputs, given)


def test_any_function_comes_to_the_same_and_changes_only_what_it_may() -> None:
    written = over_inputs = 0
    for seed in range(600):
        function, given = drawn(seed)
        program = recorded(function, given)
        expected, inputs = function(*matrices()), [matrix.clone() for matrix in matrices()]
        found = program.replay(*inputs)
        for output, own in zip(expected, found, strict=True):
            assert own is not None
            torch.testing.assert_close(own, output, rtol=0, atol=0, msg=f"seed {seed}:\n{program.text}")
        for place, (matrix, now) in enumerate(zip(matrices(), inputs, strict=True)):
            replaced = place in given and found[given[place]] is now
            over_inputs += replaced and not torch.equal(matrix, now)
            assert replaced or torch.equal(matrix, now), f"seed {seed}:\n{program.text}"
        written += "_." in program.text
    assert written > 200 and over_inputs > 20  # it is not that nothing is ever written over


@pytest.mark.parametrize(
    ("function", "given"),
    [
        (lambda a, b: [b, a], {0: 0, 1: 1}),
        (lambda a, b: [b * 2, a * 2], {0: 0, 1: 1}),
        (lambda a, b: [a.t() * 2, a.sum(0)], {0: 0}),
        (lambda a, b: [a * 2, a[:1]], {0: 0}),
        (lambda a, b: [a * 2 + b, a.t()], {0: 0}),
    ],
)
def test_an_input_that_is_needed_or_replaced_by_another_stays(function: Function, given: dict[int, int]) -> None:
    program = recorded(lambda a, b, _: function(a, b), given)
    inputs = [matrix.clone() for matrix in matrices()]
    program.replay(*inputs)
    assert all(map(torch.equal, inputs, matrices()))


def test_adams_state_and_parameter_stay_where_they_are() -> None:
    """No more tensors are made than the denominator and the step's numbers."""
    hp = {"lr": 0.1, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.0, "decoupled_weight_decay": False}
    constants = (*hp.items(), ("amsgrad", False))
    state = {"step": torch.ones(3), "exp_avg": torch.ones(3, 5), "exp_avg_sq": torch.ones(3, 5)}
    layout = ((0, False, tuple(state)),)
    inputs = [torch.ones(3, 5), torch.full((3, 5), 0.5), *state.values()]
    rule, names = traced(adam, layout, (), constants, ("as in this test",))
    for _ in range(3):  # as it is, recorded, compared
        expected = rule(*[tensor.clone() for tensor in inputs])
    assert names == [tuple(state)]
    found = rule(*inputs)
    for own, output in zip(found, expected, strict=True):
        torch.testing.assert_close(own, output)
    assert [a is b for a, b in zip(found, [inputs[0], *inputs[2:]], strict=True)] == [True, True, True, True]
    assert torch.equal(inputs[1], torch.full((3, 5), 0.5))
