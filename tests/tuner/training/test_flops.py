"""Gradient-equivalents by counted FLOPs, against multiplications and additions counted by hand."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from optimizers import DiagHessian, SubsampledNewton
from tests.support.members import Attention, Small, convolutional, of
from tuner.config.layers import resolve
from tuner.config.schema import Config
from tuner.jobs import Job, Outcome
from tuner.planning.estimate import Timings
from tuner.planning.messages import Request
from tuner.training import build
from tuner.training.flops import curvature_scale
from tuner.workers import rehearsal
from tuner.workers.workbench import Workbench

SIZES = {"mnist1d": (40, 100, 10), "small": (6, 9, 3)}
ESTIMATORS = ["hutchinson", "three probes", "hvp", "gnb", "ggn_mc", "ggn_exact", "exact"]


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """A worker keeps its process within a trial's CPUs."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def config(*settings: str) -> Config:
    flags = {"task.name": "mnist1d", "search.optimizers": ["diag_hessian", "adam"], "resources.gpus_per_trial": 0.0}
    return resolve(flags, ["train.epochs=1", "train.evaluations=1", "retrain.epochs=1", *settings])


@pytest.fixture(scope="module")
def mnist1d() -> Any:
    task = build.make_task(config())
    task.setup(None, torch.device("cpu"))
    return task


def by_hand(estimator: str, inputs: int, hidden: int, outputs: int) -> float:
    """Of a perceptron with one hidden layer: multiply-adds of an estimate, per row, in those of a gradient.

    A gradient is two products forward and three back, since the inputs have none. A Hessian-vector product goes back
    through all five: twice through two of the three backward ones, for their two factors, and once through the first
    layer's, whose inputs are constants; then through the forward ones as the gradient did.
    """
    first, second = inputs * hidden, hidden * outputs
    hvp = first + 4 * second + first + 2 * second
    row_of_first, row_of_bias, row_of_second = 2 * first + 2 * second, 2 * second, 2 * second
    work = {
        "hutchinson": hvp,
        "three probes": 3 * hvp,
        "hvp": hvp,
        "gnb": first + 2 * second,
        "ggn_mc": first + 2 * second,
        "ggn_exact": outputs * second + first + second,
        "exact": first * row_of_first + hidden * row_of_bias + second * row_of_second,
    }
    return work[estimator] / (2 * first + 3 * second)


def nominal(estimator: str, inputs: int, hidden: int, outputs: int) -> float:
    numbers = (inputs + 1) * hidden + (hidden + 1) * outputs
    return {"hutchinson": 2, "three probes": 6, "hvp": 2, "gnb": 2 / 3, "ggn_mc": 2 / 3, "ggn_exact": outputs * 2 / 3,
            "exact": 2 * numbers}[estimator]  # fmt: skip


def diag(estimator: str, **fixed: Any) -> Any:
    named = {"name": "hutchinson", "samples": 3} if estimator == "three probes" else estimator
    return of(DiagHessian, estimator=named, **fixed)


def scale(task: Any, make: Any, hp: dict[str, Any] | None = None) -> float:
    found, uncounted = curvature_scale(task, make, hp or {})
    assert uncounted == ""
    return found


def test_on_mnist1d_a_hessian_vector_product_is_1_27_gradients_and_ggn_exact_1_36() -> None:
    assert by_hand("hutchinson", *SIZES["mnist1d"]) == pytest.approx(14 / 11) == pytest.approx(1.27, abs=5e-3)
    assert by_hand("ggn_exact", *SIZES["mnist1d"]) == pytest.approx(15 / 11) == pytest.approx(1.36, abs=5e-3)
    assert nominal("hutchinson", *SIZES["mnist1d"]) == 2
    assert nominal("ggn_exact", *SIZES["mnist1d"]) == pytest.approx(6.67, abs=5e-3)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_counted_costs_are_those_by_hand(mnist1d: Any, estimator: str) -> None:
    task, sizes = (Small(), SIZES["small"]) if estimator == "exact" else (mnist1d, SIZES["mnist1d"])
    counted = nominal(estimator, *sizes) * scale(task, diag(estimator, update_period=7))
    assert counted == pytest.approx(by_hand(estimator, *sizes), rel=1e-12)


@pytest.mark.parametrize("rate", [0.002, 0.5, 1.0])
def test_of_blocks_that_are_drawn_all_are_counted(rate: float) -> None:
    make = of(SubsampledNewton, sampling_rate=rate)
    assert scale(Small(), make) == pytest.approx(scale(Small(), diag("exact")), rel=1e-12)


@pytest.mark.parametrize("estimator", ["secant", "none"])
def test_what_costs_nothing_needs_no_count(estimator: str) -> None:
    assert scale(Small(), diag(estimator)) == scale(Small(), of(torch.optim.Adam), {"lr": 0.1}) == 1.0


@pytest.mark.parametrize("network", [convolutional, Attention])
def test_a_hessian_vector_product_of_deeper_networks_is_at_most_twice_a_gradient(network: Any) -> None:
    """Attention's gradient is counted too, though its kernels on a CPU are not: else this were beyond 2."""
    assert 0.5 < scale(Small(network), diag("hutchinson")) <= 1.0


def test_a_compiled_rule_is_counted_too() -> None:
    assert scale(Small(), diag("hvp", compile=True)) == scale(Small(), diag("hvp"))


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.factors = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.factors * x[:, :3]


def test_where_no_operation_is_counted_nominal_costs_stand() -> None:
    assert curvature_scale(Small(Scaled), diag("hutchinson"), {}) == (
        1.0,
        "PyTorch counts no FLOPs of its network's operations",
    )


def test_a_failure_is_said_and_nominal_costs_stand() -> None:
    assert curvature_scale(Small(), of(DiagHessian), {"lr": -1.0})[0] == 1.0
    assert "lr" in curvature_scale(Small(), of(DiagHessian), {"lr": -1.0})[1]


def test_the_preflight_says_that_costs_are_nominal() -> None:
    timings = Timings({"diag_hessian": 0.001}, 0.0, 4, {}, {})
    assert rehearsal.rehearse_all(config(), Small(), timings)[0] == []
    assert rehearsal.rehearse_all(config(), Small(Scaled), timings)[0] == [
        "diag_hessian: gradient-equivalents are by its nominal costs, not counted "
        "(PyTorch counts no FLOPs of its network's operations)"
    ]


class Counting(Small):
    calls = 0

    def loss(self, model: nn.Module, batch: Any) -> Any:
        self.calls += 1
        random.random(), np.random.rand(), torch.rand(1)
        return super().loss(model, batch)


def test_the_count_leaves_task_and_random_streams_as_they_were() -> None:
    task, before = Counting(), (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    scale(task, diag("hutchinson"))
    assert task.calls == 0
    assert before == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())


# What a worker writes down.

HP = {"lr": 1e-4, "diff": 0.5, "square": 2.0}


def outcomes(bench: Workbench, asked: list[Job]) -> list[Outcome]:
    found: dict[int, Outcome] = {}
    for report in bench.reports(Request(asked, checkpoints=None), every_evaluation=False):
        found |= report.outcomes
    return [found[place] for place in range(len(asked))]


def clocks(outcome: Outcome) -> tuple[float, ...]:
    assert outcome.state == "complete", outcome
    look = outcome.evaluations[-1]
    assert look.grad_equivalents == outcome.clocks["grad_equivalents"]
    return tuple(outcome.clocks[name] for name in ("steps", "grad_equivalents", "nominal_grad_equivalents"))


def test_a_run_is_charged_what_was_counted_alone_and_in_a_stack_and_the_nominal_cost_stands_beside() -> None:
    bench = Workbench(config("optimizers.diag_hessian.args.update_period=4"))
    jobs = [Job("retrain", "diag_hessian", n, 7 + n, HP | {"lr": 1e-4 * (n + 1)}) for n in range(3)]
    stacked = outcomes(bench, jobs)
    assert [outcome.cohort for outcome in stacked] == [3, 3, 3]
    (alone,) = outcomes(bench, jobs[:1])
    assert alone.cohort == 1
    expected = pytest.approx((100, 100 + 25 * 14 / 11, 150), rel=1e-12)
    for outcome in (*stacked, alone):
        assert clocks(outcome) == expected
    assert len(bench.scales) == 1


def test_of_a_first_order_optimizer_both_are_its_gradients() -> None:
    (outcome,) = outcomes(Workbench(config()), [Job("retrain", "adam", 0, 7, {"lr": 1e-3})])
    assert clocks(outcome) == (100, 100, 100)


def test_each_choice_of_an_estimator_is_counted_whatever_the_real_numbers() -> None:
    settings = ["optimizers.diag_hessian.space.estimator={choices: [hutchinson, ggn_exact]}"]
    bench = Workbench(config(*settings))
    jobs = [Job("search", "diag_hessian", n, 7, HP | {"lr": 1e-4 / (n + 1), "estimator": estimator})
            for n, estimator in enumerate(["ggn_exact", "hutchinson", "ggn_exact"])]  # fmt: skip
    charged = [clocks(outcomes(bench, [job])[0])[1] for job in jobs]
    assert charged == pytest.approx([100 + 100 * 15 / 11, 100 + 100 * 14 / 11, 100 + 100 * 15 / 11], rel=1e-12)
    assert len(bench.scales) == 2
