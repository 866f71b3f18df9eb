"""One training run, on a task of 40 rows whose evaluations, losses and modes are noted."""

import itertools
import math
import time

import numpy as np
import pytest
import torch
from torch import nn

from optimizers import DiagHessian, Sophia
from optimizers.curvature.estimators import Hutchinson
from tasks.base import Data, Task
from tuner.machine import memory
from tuner.training.records import Budget
from tuner.training.single import train

WORST = {"loss": 50.0, "error": 7.0}


class Noting(Task):
    """Regression with dropout: 40 training rows, 8 a batch, 5 steps an epoch."""

    def __init__(self, bend=lambda loss, step: loss):
        super().__init__(metric="val_loss", mode="min", batch_size=8)
        self.worst = dict(WORST)
        self.bend = bend
        self.evaluated = []
        self.modes = []
        self.setup(None, torch.device("cpu"))

    def load(self, data_dir):
        rng = np.random.default_rng(0)
        shapes = {"train": 40, "val": 10, "test": 10}
        draw = {split: rng.standard_normal((rows, 4)).astype(np.float32) for split, rows in shapes.items()}
        return Data("noting", {split: (x, x[:, :2] * x[:, 2:]) for split, x in draw.items()})

    def network(self):
        return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Dropout(0.2), nn.Linear(6, 2))

    def criterion(self, outputs, targets):
        return nn.functional.mse_loss(outputs, targets)

    def metrics(self, outputs, targets):
        return {**super().metrics(outputs, targets), "error": (outputs - targets).abs().mean().item()}

    def loss(self, model, batch):
        self.modes.append(model.training)
        loss, outputs = super().loss(model, batch)
        return self.bend(loss, len(self.modes) - 1), outputs

    def evaluate(self, model, split):
        self.evaluated.append(split)
        return super().evaluate(model, split)


def adam(params, hp):
    return torch.optim.Adam(params, **hp)


def sgd(params, hp):
    return torch.optim.SGD(params, **hp)


def diag_hessian(params, hp):
    return DiagHessian(params, **hp)


CHOICES = {
    "adam": (adam, {"lr": 1e-2}),
    "sgd": (sgd, {"lr": 1e-1, "momentum": 0.9}),
    "diag_hessian": (diag_hessian, {"lr": 1e-4, "diff": 0.5, "square": 2.0, "update_period": 2}),
}
each_optimizer = pytest.mark.parametrize(("make", "hp"), CHOICES.values(), ids=CHOICES)


def run(task, make=adam, hp=None, seed=3, **budget):
    """The result and the curve."""
    curve = []
    result = train(task, make, {"lr": 1e-2} if hp is None else hp, seed, Budget(**budget), curve.append)
    return result, curve


@each_optimizer
def test_same_seed_gives_the_same_curve_to_the_bit(make, hp):
    (_, first), (_, again), (_, other) = (run(Noting(), make, hp, seed, epochs=3) for seed in (3, 3, 4))
    assert [look.metrics for look in first] == [look.metrics for look in again]
    assert [look.step for look in first] == [look.step for look in again]
    assert all(a.metrics != b.metrics for a, b in zip(first, other, strict=True))


@each_optimizer
def test_training_lowers_the_loss(make, hp):
    result, curve = run(Noting(), make, hp, epochs=20)
    assert result.status == "complete" and result.metrics == curve[-1].metrics
    assert curve[-1].metrics["train_loss"] < 0.9 * curve[0].metrics["train_loss"]


def test_adam_equals_a_hand_written_loop_to_the_bit():
    task = Noting()
    result, curve = run(task, adam, {"lr": 1e-2}, seed=5, epochs=4, evaluations=1, test=True)
    torch.manual_seed(5)
    model = task.build(5)
    start = task.evaluate(model, "val")
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for epoch in range(4):
        for inputs, targets in task.batches(5, epoch):
            optimizer.zero_grad()
            nn.functional.mse_loss(model(inputs), targets).backward()
            optimizer.step()
    assert curve[0].metrics["val_loss"] == start["loss"]
    for split in ("train", "val", "test"):
        for name, value in task.evaluate(model, split).items():
            assert result.metrics[f"{split}_{name}"] == value


def test_two_optimizers_start_from_the_same_weights():
    starts = []

    def noting(make):
        def noted(params, hp):
            params = list(params)
            starts.append(torch.cat([p.detach().flatten() for p in params]).clone())
            return make(params, hp)

        return noted

    curves = [run(Noting(), noting(make), hp, epochs=1)[1] for make, hp in CHOICES.values()]
    assert all(torch.equal(starts[0], start) for start in starts) and len(starts) == len(CHOICES)
    assert all(curve[0].metrics == curves[0][0].metrics for curve in curves)
    assert curves[0][-1].metrics != curves[1][-1].metrics


@pytest.mark.parametrize(
    ("epochs", "evaluations", "steps"),
    [
        (4, 4, [0, 5, 10, 15, 20]),
        (4, 1, [0, 20]),
        (2, 10, list(range(11))),
        (1, 10, list(range(6))),
        (3, 4, [0, 4, 8, 12, 15]),
    ],
)
def test_evaluations_are_equally_spaced_with_the_first_and_the_last_step(epochs, evaluations, steps):
    result, curve = run(Noting(), epochs=epochs, evaluations=evaluations)
    assert [look.step for look in curve] == steps
    assert [look.epoch for look in curve] == pytest.approx([step / 5 for step in steps])
    assert result.clocks.steps == steps[-1]


def test_a_budget_looks_ten_times_unless_told_otherwise():
    assert len(run(Noting(), epochs=4)[1]) == 11


def test_test_split_is_not_read_unless_asked():
    task = Noting()
    result, curve = run(task, epochs=4, evaluations=3)
    assert task.evaluated == ["train", "val"] * 4
    assert set(result.metrics) == {"train_loss", "train_error", "val_loss", "val_error"} == set(curve[0].metrics)


@pytest.mark.parametrize("evaluations", [1, 3, 30])  # there are 20 steps
def test_test_split_is_read_once_at_the_end_where_asked(evaluations):
    task = Noting()
    result, curve = run(task, epochs=4, evaluations=evaluations, test=True)
    assert task.evaluated == ["train", "val"] * len(curve) + ["test"]
    assert [any("test" in name for name in look.metrics) for look in curve] == [False] * (len(curve) - 1) + [True]
    assert {"test_loss", "test_error"} < set(result.metrics)


def exploding(loss, step):
    return loss * 1e9 if step >= 7 else loss


def not_a_number(loss, step):
    return loss * math.nan if step >= 7 else loss


def infinite(loss, step):
    return loss / 0.0 if step >= 7 else loss


@pytest.mark.parametrize("bend", [exploding, not_a_number, infinite])
@pytest.mark.parametrize("test", [False, True])
@each_optimizer
def test_a_loss_that_is_not_finite_or_beyond_the_bound_ends_the_run_with_the_worst_values(make, hp, bend, test):
    task = Noting(bend)
    result, curve = run(task, make, hp, epochs=1000, evaluations=10, test=test)
    splits = ("train", "val", "test") if test else ("train", "val")
    assert result.status == "diverged"
    assert result.metrics == {f"{split}_{name}": value for split in splits for name, value in WORST.items()}
    assert result.clocks.steps <= 30 and "test" not in task.evaluated
    assert [look.step for look in curve] == [0]


def test_a_diverging_lr_ends_early_without_an_exception():
    result, curve = run(Noting(), sgd, {"lr": 1e6}, epochs=1000)
    assert result.status == "diverged" and result.metrics["val_loss"] == WORST["loss"]
    assert result.clocks.steps <= 30 and all(math.isfinite(v) for look in curve for v in look.metrics.values())


def test_one_loss_beyond_the_bound_between_looks_is_enough():
    result, _ = run(Noting(lambda loss, step: loss + 51 * (step == 3)), epochs=4, evaluations=2)
    assert result.status == "diverged"


def test_a_loss_just_within_the_bound_is_not_divergence():
    result, _ = run(Noting(lambda loss, step: loss * 0 + 49.9), epochs=4)
    assert result.status == "complete"


@pytest.mark.parametrize("bad", [{"loss": 50.1}, {"loss": math.nan}, {"loss": math.inf}, {"error": math.nan}])
def test_a_bad_evaluation_after_good_steps_is_divergence_too(bad):
    task = Noting()
    good = task.evaluate
    task.evaluate = lambda model, split: {**good(model, split), **(bad if len(task.evaluated) > 4 else {})}
    result, curve = run(task, epochs=4, evaluations=4)
    assert (result.status, result.clocks.steps) == ("diverged", 10)
    assert [look.step for look in curve] == [0, 5]


@pytest.mark.parametrize(
    ("make", "hp", "expected"),
    [
        (adam, {"lr": 1e-3}, [0, 10, 20]),
        (diag_hessian, {"estimator": "none"}, [0, 10, 20]),
        (diag_hessian, {}, [0, 30, 60]),
        (diag_hessian, {"update_period": 3}, [0, 10 + 2 * 4, 20 + 2 * 7]),
        (diag_hessian, {"estimator": Hutchinson(samples=2), "update_period": 20}, [0, 14, 24]),
    ],
)
def test_nominal_gradient_equivalents_are_two_more_for_each_hessian_vector_product(make, hp, expected):
    result, curve = run(Noting(), make, hp, epochs=4, evaluations=2)
    assert [look.grad_equivalents for look in curve] == expected
    assert result.clocks.grad_equivalents == result.clocks.nominal_grad_equivalents == expected[-1]


def test_seconds_leave_evaluations_out():
    task, slept = Noting(), itertools.count()
    quick = task.evaluate

    def slow(model, split):
        next(slept)
        time.sleep(0.02)
        return quick(model, split)

    task.evaluate = slow
    started = time.perf_counter()
    result, curve = run(task, epochs=1, evaluations=4)
    elapsed = time.perf_counter() - started
    assert 0 < result.clocks.seconds <= elapsed - 0.02 * next(slept)
    assert [look.seconds for look in curve] == sorted(look.seconds for look in curve)


def test_seconds_have_the_training_in():
    def slow(loss, step):
        time.sleep(0.01)
        return loss

    result, curve = run(Noting(slow), epochs=2, evaluations=2)
    assert curve[0].seconds == 0
    assert curve[1].seconds >= 0.05 and result.clocks.seconds >= 0.1


def test_seconds_leave_out_what_is_done_with_an_evaluation():
    started = time.perf_counter()
    result = train(Noting(), adam, {}, 0, Budget(epochs=1, evaluations=4), lambda _: time.sleep(0.02))
    assert result.clocks.seconds <= time.perf_counter() - started - 5 * 0.02


@pytest.mark.skipif(not memory.CLEAR_REFS.exists(), reason="the peak of one run is only known on Linux")
def test_peak_memory_is_that_of_the_run_alone():
    def big(loss, step):
        return loss + 0 * torch.ones(2**25).sum()  # 128 MB

    before, during, after = (
        run(Noting(bend), epochs=1, evaluations=1)[0].clocks.peak_mem_mb
        for bend in (lambda loss, step: loss, big, lambda loss, step: loss)
    )
    assert during > 90 + before and during > 90 + after and before > 0


@each_optimizer
def test_one_forward_pass_a_step_in_training_mode(make, hp):
    task = Noting()
    run(task, make, hp, epochs=2)
    assert task.modes == [True] * 10


def test_what_a_curvature_optimizer_says_of_itself_is_read_at_evaluations_after_the_first_step():
    def sophia(params, hp):
        return Sophia(params, lr=1e-2, rho=1e-9, update_period=2)

    _, curve = run(Noting(), sophia, {}, epochs=2, evaluations=2)
    assert [look.diagnostics for look in curve] == [{}, {"clipped_fraction": 1.0}, {"clipped_fraction": 1.0}]
    _, curve = run(Noting(), adam, epochs=2, evaluations=2)
    assert [look.diagnostics for look in curve] == [{}, {}, {}]


class TwoPlaces(torch.optim.SGD):
    """Trains one unit away from the weights that it wants to be evaluated."""

    def __init__(self, params, lr):
        super().__init__(params, lr)
        self.log = []
        self.training = False

    def train(self):
        self.log.append("train")
        self._move(1.0 if not self.training else 0.0)
        self.training = True

    def eval(self):
        self.log.append("eval")
        self._move(-1.0 if self.training else 0.0)
        self.training = False

    @torch.no_grad()
    def _move(self, by):
        for group in self.param_groups:
            for param in group["params"]:
                param += by


def test_an_optimizer_with_modes_is_evaluated_in_eval_and_trained_in_train():
    made = []

    def make(params, hp):
        made.append(TwoPlaces(params, lr=0.0))
        return made[-1]

    task = Noting()
    _, curve = run(task, make, {}, epochs=2, evaluations=2)
    assert made[0].log == ["train", "eval"] * 2  # and neither before the first step
    plain = task.evaluate(task.build(3), "val")  # a learning rate of zero leaves the initial weights
    assert [look.metrics["val_loss"] for look in curve] == pytest.approx([plain["loss"]] * 3, rel=1e-4)


def test_schedule_free_is_evaluated_at_its_average():
    pytorch_optimizer = pytest.importorskip("pytorch_optimizer")

    def make(params, hp):
        return pytorch_optimizer.ScheduleFreeAdamW(params, **hp)

    result, curve = run(Noting(), make, {"lr": 3e-2}, epochs=20)
    assert result.status == "complete"
    assert curve[-1].metrics["train_loss"] < 0.9 * curve[0].metrics["train_loss"]
