"""What is found before a run begins: of a task's data and metrics, of an optimizer's modes, methods and state."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from tasks.base import Data
from tests.support.regression import Noting
from tuner.config.layers import resolve
from tuner.errors import UserError
from tuner.training import build
from tuner.training.engine import Engine
from tuner.training.single import Trainer
from tuner.workers.rehearsal import check_data, check_weights, evaluate_once, rehearse, rehearse_all
from tuner.workers.timing import measure

WHO = "task noting"
LOST = torch.AcceleratorError("CUDA error: an illegal memory access was encountered")


class WithData(Noting):
    """A task whose arrays are changed by a function."""

    def __init__(self, change: Callable[[dict[str, Any]], object]) -> None:
        self.change = change
        super().__init__()

    def load(self, data_dir: Any) -> Data:
        data = super().load(data_dir)
        self.change(data.splits)  # type: ignore[arg-type]
        return data


def nan_inputs(splits: dict[str, Any]) -> None:
    splits["train"][0].flat[[1, 5, 17]] = np.nan


def infinite_target(splits: dict[str, Any]) -> None:
    splits["test"][1].flat[0] = np.inf


def no_validation(splits: dict[str, Any]) -> None:
    inputs, targets = splits["val"]
    splits["val"] = inputs[:0], targets[:0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (nan_inputs, "3 of 160 numbers in the inputs of its split train are not finite"),
        (infinite_target, "1 of 20 numbers in the targets of its split test are not finite"),
        (no_validation, "its split val has no rows"),
    ],
)
def test_data_that_makes_every_run_diverge_is_refused(change: Any, said: str) -> None:
    with pytest.raises(UserError, match=f"^{WHO}: {said}$"):
        check_data(WHO, WithData(change))


def test_data_of_whole_numbers_and_of_finite_ones_is_not() -> None:
    check_data(WHO, WithData(lambda splits: splits.update(train=(splits["train"][0].astype(np.int64),) * 2)))


# The first evaluation.


def test_a_task_that_works_has_nothing_said_of_it() -> None:
    assert evaluate_once(WHO, Noting(), 0.1) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"metric": "val_acc"}, "task.metric: the task has no metric 'val_acc'; did you mean 'val_loss'"),
        ({"worst": {"error": 1.0}}, f"{WHO}: `worst` says nothing of metric 'loss'"),
        ({"worst": None}, f"{WHO}: has no `worst`"),
        ({"worst": {"loss": 1e-6}}, f"{WHO}: train_loss is .*, beyond 1e-06, of an untrained network: each run would"),
        ({"metrics": lambda x, y: {"loss": math.nan}}, f"{WHO}: train_loss is nan, of an untrained network"),
        ({"metrics": lambda x, y: {"loss": 1.0, "acc": 0.5}}, f"{WHO}: `worst` says nothing of metric 'acc'"),
        ({"metrics": lambda x, y: {"loss": "low"}}, f"{WHO}: metric 'loss': must be a number, got a str"),
    ],
)
def test_what_would_fail_every_trial_is_refused(change: dict[str, Any], said: str) -> None:
    task = Noting()
    vars(task).update(change)
    with pytest.raises(UserError, match=said):
        evaluate_once(WHO, task, 0.1)


class Telling(torch.nn.Linear):
    def get_extra_state(self) -> dict[str, int]:
        return {"calls": 3}


@pytest.mark.parametrize(
    ("layer", "why"),
    [
        (Telling, r"TypeError: _extra_state is no tensor but a dict"),
        (functools.partial(torch.nn.Linear, dtype=torch.complex128), "KeyError: torch.complex128"),
    ],
)
def test_a_network_whose_weights_cannot_be_kept_is_refused(layer: Callable[..., Any], why: str) -> None:
    with pytest.raises(UserError, match=rf"^{WHO}: --keep-weights: its network's weights cannot be kept \({why}\)$"):
        check_weights(WHO, Noting(network=lambda: layer(4, 2)))
    check_weights(WHO, Noting())


def test_a_slow_evaluation_is_one_of_fewer_rows_and_what_they_lack_is_no_refusal() -> None:
    task: Any = Noting()
    rows: list[int] = []
    task.metrics = lambda outputs, targets: (
        rows.append(len(outputs)) or {"loss": 1.0 if len(outputs) > 10 else math.nan}
    )
    assert evaluate_once(WHO, task, 4.0) == [f"{WHO}: val_loss is nan, of an untrained network, in the first 20 rows"]
    assert rows == [20, 10] and len(task.splits["train"][0]) == 40


@pytest.mark.parametrize("name", ["transformer", "mnist1d", "quadratic_deep", "rahimi_recht", "tabular_mlp"])
def test_the_tasks_can_be_looked_at_in_fewer_rows(name: str) -> None:
    dataset = {"task.dataset": "stdlib"} if name == "transformer" else {}
    task = build.make_task(resolve({"task.name": name, "preset": "smoke"} | dataset))
    task.setup(None, torch.device("cpu"))
    model = task.build(0)
    short = task.shortened(task.batch_size)
    found = short.evaluate(model, "val")
    assert found.keys() == task.evaluate(model, "val").keys() and all(map(math.isfinite, found.values()))
    assert len(short.splits["val"][0]) == min(task.batch_size, len(task.splits["val"][0]))


# Optimizers.


def rehearsed(make: Callable[..., Any], **hp: Any) -> tuple[list[str], str]:
    return rehearse(Noting(), lambda params, hp: make(params, **hp), hp, Engine())


class OfAnother(torch.optim.Optimizer):
    """Steps by a base optimizer, whose state, a momentum, is not in its own: as SAM's is not at its authors'."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, {"lr": lr})
        self.base = torch.optim.SGD(self.param_groups, lr=lr, momentum=0.9)

    def step(self, closure: Any = None) -> Any:
        return self.base.step(closure)


class Unsaved(torch.optim.SGD):
    def state_dict(self) -> Any:
        raise NotImplementedError("no state to speak of")


class Unrestored(torch.optim.SGD):
    def load_state_dict(self, state: Any) -> None:
        raise KeyError("step")


class OwnClasses(torch.optim.SGD):
    def state_dict(self) -> Any:
        return super().state_dict() | {"own": Engine()}


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (torch.optim.Adam, ""),
        (OfAnother, "its state_dict does not hold all that its steps depend on"),
        (Unsaved, "its state cannot be saved (NotImplementedError: no state to speak of)"),
        (Unrestored, "its state cannot be restored (KeyError: 'step')"),
        (OwnClasses, "its state_dict holds more than numbers, text and tensors"),
    ],
)
def test_a_state_from_which_a_run_cannot_go_on_is_found(make: Any, why: str) -> None:
    assert rehearsed(make, lr=0.01) == ([], why)


def test_of_other_peoples_optimizers_too() -> None:
    library = pytest.importorskip("pytorch_optimizer")
    sam = functools.partial(library.SAM, base_optimizer=torch.optim.SGD, momentum=0.9)
    own = "its state_dict holds more than numbers"
    assert rehearsed(sam, lr=0.1) == ([], "")
    assert rehearsed(library.SCION, lr=0.01)[1].startswith(own)
    assert rehearsed(library.ScalableShampoo, lr=0.01)[1].startswith(own)
    for name in ("ScheduleFreeAdamW", "SPlus", "SOAP", "Lion", "Prodigy", "AdaBelief"):
        assert rehearsed(getattr(library, name), lr=0.01) == ([], ""), name


class SophiaG(torch.optim.SGD):
    """Like its authors': a training loop is to call ``update_hessian`` every k steps."""

    def update_hessian(self) -> None: ...


class UpdatesItself(SophiaG):
    def step(self, closure: Any = None) -> Any:
        self.update_hessian()
        return super().step(closure)


def test_a_method_for_the_training_loop_that_nothing_calls_is_named() -> None:
    said = "nothing here calls SophiaG.update_hessian(); if its documentation asks for it, this trains another method"
    assert rehearsed(SophiaG, lr=0.1) == ([said], "")
    assert rehearsed(UpdatesItself, lr=0.1) == ([], "")


class NoEval(torch.optim.SGD):
    def eval(self) -> None:
        raise KeyError("ema")


def test_all_optimizers_of_a_run_and_a_line_of_one_that_cannot_be_evaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    config = resolve({"task.name": "tabular_mlp", "search.optimizers": ["adam", "sgd", "ssvp"]})
    task = build.make_task(config)
    task.setup(None, torch.device("cpu"))
    timings = measure(config, task)
    assert rehearse_all(config, task, timings) == ([], {})
    monkeypatch.setattr(torch.optim, "SGD", NoEval)
    warnings, unsaved = rehearse_all(config, task, timings)
    assert warnings == ["sgd: its first evaluation failed (KeyError: 'ema')"] and unsaved == {}


@pytest.mark.parametrize("name", ["state", "restore", "step"])
def test_an_optimizer_after_which_a_gpu_does_nothing_more_ends_the_check(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    settled = resolve({"task.name": "tabular_mlp", "search.optimizers": ["adam", "sgd"], "resources.gpus_per_trial": 0})
    task = build.make_task(settled)
    build.set_up(task, settled)
    timings = measure(settled, task)

    def failing(*_: Any, **__: Any) -> None:
        raise LOST

    monkeypatch.setattr(Trainer, name, failing)
    with pytest.raises(UserError, match=r"^optimizer adam: the GPU failed it in its first steps"):
        rehearse_all(settled, task, timings)
