"""Estimators that go layer by layer see a whole stack at once; each member's run equals the same run alone."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optimizers.curvature import gauss_newton, layer_records
from optimizers.curvature.layer_records import Outer
from optimizers.curvature.per_sample import LOOK_PASSES, PerSample
from optimizers.stacking.optimizer import StackedOptimizer
from optimizers.stacking.replay import ChangedError
from tests.support.members import (
    CONSTANT,
    DIAG_HPS,
    NETWORKS,
    TWELVE_STEPS,
    Small,
    alone,
    assert_as_alone,
    assert_equal,
    diag,
    perceptron,
)
from tests.support.thinned import thinned
from tuner.training.stack import Member, Stack

RTOL = 1e-12
LABELS = {"name": "ggn_mc", "draws": "labels", "samples": 2}
ESTIMATORS: dict[str, Any] = {
    "signs": "ggn_mc",
    "labels": LABELS,
    "exact": "ggn_exact",
    "whole": "hessian_mc",
    "whole by labels": {"name": "hessian_mc", "draws": "labels", "samples": 2},
    "hesscale": "hesscale",
    "carried": {"name": "ggn_mc", "residual": "carried"},
}


class Words(nn.Module):
    """The six numbers as words, with positions in the first dimension where they are not in the second."""

    def __init__(self, positions_first: bool = False) -> None:
        super().__init__()
        self.positions_first = positions_first
        self.words, self.norm, self.out = nn.Embedding(3, 4), nn.LayerNorm(4), nn.Linear(4, 3)
        self.middle = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        words = (x > 0).long() + (x > 1).long()
        vectors = self.words(words.T if self.positions_first else words)
        return self.out(self.norm(self.middle(vectors)).tanh().mean(0 if self.positions_first else 1))


class Sorted(nn.Module):
    """What goes where is for the batch to say."""

    sorting = True

    def __init__(self) -> None:
        super().__init__()
        self.into, self.norm, self.out = nn.Linear(6, 5, bias=False), nn.BatchNorm1d(5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.norm(self.into(x))
        return self.out(inner.sort(1).values if self.sorting else inner)


def grouped() -> nn.Module:
    """Convolutions in groups, whose activation changes their output in place."""
    return nn.Sequential(
        nn.Unflatten(1, (2, 1, 3)),
        nn.Conv2d(2, 4, (1, 3), groups=2, padding="same"),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 4, (1, 2), stride=(1, 2), groups=4),
        nn.Flatten(),
        nn.Linear(4, 3),
    )


class Smooth(nn.Module):
    """Products, quotients and norms of activations of convolutions, none piecewise linear."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.gate = nn.Conv2d(1, 4, (1, 2)), nn.Conv2d(1, 4, (1, 2))
        self.norm, self.groups, self.out = nn.LayerNorm(4), nn.GroupNorm(2, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        images = x.unflatten(1, (1, 2, 3))
        inner = nn.functional.gelu(self.into(images)) * self.gate(images).sigmoid()
        inner = self.groups(inner).mean((2, 3))
        return self.out(self.norm(inner) / (1 + inner.square().mean(1, keepdim=True)).sqrt())


KNOWN = NETWORKS | {
    "smooth": Smooth,
    "words": Words,
    "positions_first": lambda: Words(positions_first=True),
    "grouped": grouped,
}


def members(seeds: tuple[int, ...] = (3, 4, 3)) -> list[Member]:
    return [Member(hp, seed) for hp, seed in zip(DIAG_HPS, seeds, strict=True)]


@pytest.fixture
def seen_apart(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The steps at which members were seen one by one."""
    steps: list[int] = []
    each = StackedOptimizer._refresh_each
    monkeypatch.setattr(
        StackedOptimizer, "_refresh_each", lambda stack, *args: (steps.append(stack.steps), each(stack, *args))[1]
    )
    return steps


def assert_all_as_alone(network: Any, estimator: Any, seeds: tuple[int, ...] = (3, 4, 3)) -> None:
    make, _ = diag(estimator, 2)
    task = Small(network)
    for member, run in zip(members(seeds), assert_as_alone(task, make, members(seeds), TWELVE_STEPS), strict=True):
        assert_equal(run, alone(task, make, member, TWELVE_STEPS), RTOL)


@pytest.mark.parametrize(
    ("network", "estimator"), thinned([(name, each) for name in KNOWN for each in ESTIMATORS], 2), ids=str
)
@pytest.mark.filterwarnings("ignore:.*(knows no layer|does not know)")  # weights that are tied
@pytest.mark.filterwarnings("error:There is a performance drop")
def test_a_stack_is_seen_at_once_as_each_member_alone(network: str, estimator: str, seen_apart: list[int]) -> None:
    seeds = (3, 3, 3) if "labels" in estimator else (3, 4, 3)  # of one seed they share batches
    assert_all_as_alone(KNOWN[network], ESTIMATORS[estimator], seeds)
    assert not seen_apart


@pytest.mark.filterwarnings("ignore:.*knows no layer")
def test_members_whose_rows_are_routed_are_seen_apart_and_their_buffers_change_once(seen_apart: list[int]) -> None:
    assert_all_as_alone(Sorted, "ggn_mc")
    assert seen_apart == [0, 2, 4, 6, 8, 10]


def test_a_stack_whose_rows_come_to_be_routed_fails_to_begin_again_one_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Sorted, "sorting", False)
    stack = Stack(Small(Sorted), diag("ggn_mc", 1)[0], members(), CONSTANT, 1)
    batches = stack.batches(1)
    stack.step(next(batches))
    monkeypatch.setattr(Sorted, "sorting", True)
    with pytest.raises(ChangedError, match="no longer can"):
        stack.step(next(batches))


def test_a_dead_first_member_says_nothing_of_the_others() -> None:
    """Its rows are all zero, so that their order is looked for in the next."""

    class Dying(Small):
        def network(self) -> nn.Module:
            network: nn.Module = super().network()
            if torch.initial_seed() == 3:
                network[2].bias.data.fill_(-1e3)
            return network

    make, _ = diag("ggn_mc", 2)
    task = Dying(lambda: nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 5), nn.ReLU(), nn.Linear(5, 3)))
    assert [float(task.build(seed)[2].bias.detach().max()) == -1e3 for seed in (3, 4)] == [True, False]
    for member, run in zip(members(), assert_as_alone(task, make, members(), TWELVE_STEPS), strict=True):
        assert_equal(run, alone(task, make, member, TWELVE_STEPS), RTOL)


def test_a_layer_that_is_not_known_is_told_of_once_with_a_members_shape() -> None:
    class Scaled(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.Linear(6, 3))
            self.scale = nn.Parameter(torch.ones(3))

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * self.scale

    make, _ = diag("ggn_mc", 1)
    stack = Stack(Small(Scaled), make, members(), CONSTANT, 1)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for batch in stack.batches(1):
            stack.step(batch)
    assert [str(each.message).split(",")[0:2] for each in told] == [
        ["GGNMC knows no layer for 1 parameters", " of shapes (3"]
    ]


def first_step(network: Any, estimator: str, count: int) -> None:
    stack = Stack(Small(network), diag(estimator, 2)[0], members()[:count], CONSTANT, 1)
    stack.step(next(iter(stack.batches(1))))


@pytest.mark.parametrize(("count", "passes"), [(1, [3]), (3, [1, 1, 1])])
def test_vectors_that_go_back_together_are_bounded_over_all_members(
    count: int, passes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors: list[int] = []
    backward = PerSample._backward
    monkeypatch.setattr(
        PerSample,
        "_backward",
        lambda self, inputs, given: (vectors.append(len(next(iter(given.values())))), backward(self, inputs, given))[1],
    )
    monkeypatch.setattr(gauss_newton, "COLUMN_ENTRIES", 3 * 16 * (9 + 3))  # of three columns of one member
    first_step(perceptron, "ggn_exact", count)
    assert vectors[LOOK_PASSES:] == passes


@pytest.mark.parametrize(("count", "chunks"), [(1, 1), (3, 4)])
def test_samples_whose_gradients_exist_together_are_bounded_over_all_members(
    count: int, chunks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 16 samples, five at a time by three members."""
    found: list[int] = []
    chunked = Outer._chunks
    monkeypatch.setattr(
        Outer, "_chunks", lambda use, grads: (found.append(len(chunked(use, grads))), chunked(use, grads))[1]
    )
    monkeypatch.setattr(layer_records, "SAMPLE_ENTRIES", 16 * 16)  # of one member's first weight
    network = nn.Sequential(nn.Unflatten(1, (3, 2)), nn.Linear(2, 8), nn.Tanh(), nn.Flatten(), nn.Linear(24, 3))
    first_step(lambda: network, "ggn_mc", count)
    assert found[-1] == chunks
