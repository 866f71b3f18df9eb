"""The engine's options, on a regression of 40 rows and on small images, against PyTorch's own and loops by hand."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pkgutil import resolve_name
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optimizers import Sophia
from optimizers.curvature.estimators import Hutchinson
from tests.support.regression import Made, Noting, adam, diag_hessian, run, sgd
from tuner.config.layers import resolve
from tuner.config.schema import TrainConfig
from tuner.training.engine import Engine
from tuner.training.float32 import float32_settings, put_float32_settings
from tuner.training.records import Budget
from tuner.training.single import train, training

# The gradient's norm.


@pytest.mark.parametrize("bound", [1e-3, 0.3, 1e6])
@pytest.mark.parametrize("make", [sgd, adam])
def test_clipping_is_that_of_a_hand_written_loop_to_the_bit(make: Any, bound: float) -> None:
    task = Noting()
    run(make, Engine(clip_grad_norm=bound), task)
    clipped = 0
    torch.manual_seed(3)
    model = Noting().build(3)
    optimizer = make(model.parameters(), {})
    for epoch in range(3):
        for inputs, targets in task.batches(3, epoch):
            optimizer.zero_grad()
            nn.functional.mse_loss(model(inputs), targets).backward()
            clipped += nn.utils.clip_grad_norm_(model.parameters(), bound).item() > bound
            optimizer.step()
    assert all(map(torch.equal, task.model.parameters(), model.parameters()))
    assert (clipped > 0) == (bound < 1)


def test_a_curvature_optimizers_gradient_is_clipped_and_its_curvature_is_not() -> None:
    tasks = {bound: Noting() for bound in (None, 1e-4, 1e6)}
    made: dict[float | None, Any] = {}
    for bound, task in tasks.items():

        def make(params: Any, hp: dict[str, Any], bound: float | None = bound) -> Made:
            made[bound] = diag_hessian(params, {"estimator": "exact", "update_period": 1})
            return made[bound]

        run(make, Engine(clip_grad_norm=bound), task, epochs=1, evaluations=1)
    for p, q in zip(tasks[None].model.parameters(), tasks[1e6].model.parameters(), strict=True):
        assert torch.equal(p, q)
    norm = torch.cat([p.grad.flatten() for p in tasks[1e-4].model.parameters()]).norm()
    assert norm == pytest.approx(1e-4, rel=0.02)  # torch adds 1e-6 to the norm that it divides by
    steps = {bound: optimizer.state[next(tasks[bound].model.parameters())] for bound, optimizer in made.items()}
    torch.testing.assert_close(steps[1e-4]["hessian"], steps[None]["hessian"], rtol=0.05, atol=0.05)
    assert steps[1e-4]["hessian"].abs().max() > 0.01


# Precision.


def types(make: Any, precision: Any, hp: Any = None) -> tuple[list[torch.dtype], list[torch.dtype], Any]:
    """Of the outputs in training and in evaluation; the curve."""
    task = Noting(image=True)
    _, curve = run(make, Engine(precision=precision), task, hp, epochs=2)
    trained = [dtype for training, dtype, _ in task.seen if training]
    assert all(p.dtype is p.grad.dtype is torch.float32 for p in task.model.parameters())
    return trained, [dtype for training, dtype, _ in task.seen if not training], curve


def test_bf16_runs_plain_steps_in_bfloat16_and_refreshes_in_float32() -> None:
    half, full = torch.bfloat16, torch.float32
    assert types(adam, "bf16")[0] == [half] * 10
    for estimator in ("hutchinson", "gnb", "ggn_mc"):
        hp = {"estimator": estimator, "update_period": 3}
        assert types(diag_hessian, "bf16", hp)[0] == [full, half, half] * 3 + [full]
    assert types(diag_hessian, "bf16", {"estimator": "secant", "update_period": 1})[0] == [half] * 10
    assert types(diag_hessian, "fp32")[0] == types(diag_hessian, "tf32")[0] == [full] * 10


@pytest.mark.parametrize("make", [adam, diag_hessian])
def test_bf16_is_near_float32_but_not_equal_and_its_metrics_are_float32(make: Any) -> None:
    _, evaluated, half = types(make, "bf16")
    *_, full = types(make, "fp32")
    assert set(evaluated) == {torch.bfloat16}
    for a, b in zip(half, full, strict=True):
        assert a == pytest.approx(b, rel=0.03) and a != b
    scored: list[torch.dtype] = []
    task = Noting(image=True)
    task.metrics = lambda outputs, targets: (scored.append((outputs @ outputs.T).dtype), {"loss": 0.0})[1]  # type: ignore
    run(make, Engine(precision="bf16"), task, epochs=1)
    assert set(scored) == {torch.float32}


# Memory format.


@pytest.mark.parametrize("make", [adam, diag_hessian])
def test_channels_last_is_of_weights_and_images_and_changes_rounding_alone(make: Any) -> None:
    task = Noting(image=True)
    _, curve = run(make, Engine(channels_last=True), task)
    assert task.model[0].weight.is_contiguous(memory_format=torch.channels_last)  # type: ignore[index, union-attr]
    assert all(last for training, _, last in task.seen if training)
    plain_task = Noting(image=True)
    _, plain = run(make, Engine(), plain_task)
    assert not any(last for training, _, last in plain_task.seen if training)
    for a, b in zip(curve, plain, strict=True):
        assert a == pytest.approx(b, rel=1e-4)


def test_channels_last_leaves_rows_that_are_no_images_alone() -> None:
    assert run(adam, Engine(channels_last=True))[1] == run(adam, Engine())[1]


# Compilation.


class Asked(nn.Module):
    """A linear map that notes whether it is run by the compiler."""

    ran_eagerly: list[bool] = []  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))

    def forward(self, x: Tensor) -> Tensor:
        if not torch.compiler.is_compiling():
            Asked.ran_eagerly.append(self.training)
        return self.layers(x)


def test_compiled_training_is_that_of_the_model_and_refreshes_and_evaluations_are_not_compiled() -> None:
    engine = Engine(compile=True)
    for make, eager_steps in ((adam, 0), (diag_hessian, 4)):  # of ten, every third is a refresh
        hp = {"update_period": 3, "estimator": "gnb"} if make is diag_hessian else {}
        Asked.ran_eagerly.clear()
        plain = Noting(network=Asked)
        _, expected = run(make, Engine(), plain, hp, epochs=2)
        assert Asked.ran_eagerly.count(True) == 10
        Asked.ran_eagerly.clear()
        task = Noting(network=Asked)
        _, curve = run(make, engine, task, hp, epochs=2)
        assert Asked.ran_eagerly.count(True) == eager_steps and Asked.ran_eagerly.count(False) == 2 * len(curve)
        for a, b in zip(curve, expected, strict=True):
            assert a == pytest.approx(b, rel=1e-4)
        assert list(task.model.state_dict()) == list(plain.model.state_dict())


# PyTorch's own switches.


def switches() -> tuple[Any, ...]:
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    return matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic, torch.are_deterministic_algorithms_enabled()


def fills() -> bool:
    """Whether each new tensor is filled with NaN, by a kernel of its own on a GPU."""
    return torch.are_deterministic_algorithms_enabled() and torch.utils.deterministic.fill_uninitialized_memory


ENGINES = {
    Engine(): (False, False, False, False),
    Engine(precision="tf32"): (True, True, False, False),
    Engine(precision="bf16"): (True, True, False, False),  # what is in float32 there: refreshes
    Engine(deterministic=True): (False, False, True, True),
}


@pytest.fixture(params=[(True, False, False, False), (False, True, True, True)], ids=["fast", "deterministic"])
def before(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[bool, ...]]:
    monkeypatch.setitem(os.environ, "CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    kept = switches()
    assign(request.param)
    yield request.param
    assign(kept)


def assign(values: tuple[Any, ...]) -> None:
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic = values[:3]
    torch.use_deterministic_algorithms(values[3])


@pytest.mark.parametrize(("engine", "during"), ENGINES.items())
def test_switches_are_set_for_a_run_and_put_back(before: Any, engine: Engine, during: Any) -> None:
    seen: list[tuple[Any, ...]] = []
    assert train(Noting(), adam, {}, 0, Budget(1, 1), lambda _: seen.append(switches()), engine).status == "complete"
    assert seen == [during] * 2 and switches() == before


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_only_with_fp32_is_a_refresh_in_full_precision(before: Any, precision: Any) -> None:
    seen: list[tuple[bool, list[bool]]] = []

    class Seeing(Hutchinson):
        def __call__(self, refresh: Any) -> Any:
            matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
            seen.append((matmul.allow_tf32, [of.fp32_precision == "tf32" for of in (matmul, cudnn.conv, cudnn.rnn)]))
            return super().__call__(refresh)

    run(lambda params, hp: Sophia(params, lr=1e-3, estimator=Seeing()), Engine(precision=precision))
    tf32 = precision != "fp32"
    assert seen and all(older == tf32 and newer == [tf32] * 3 for older, newer in seen)


def test_a_deterministic_run_fills_no_new_tensors(before: Any) -> None:
    assert torch.utils.deterministic.fill_uninitialized_memory
    with Engine(deterministic=True).settings():
        assert torch.are_deterministic_algorithms_enabled() and not fills()
    assert torch.utils.deterministic.fill_uninitialized_memory


@pytest.mark.parametrize("owner", ["", "cuda.matmul", "cudnn", "cudnn.conv", "cudnn.rnn"])
@pytest.mark.parametrize("asked", ["ieee", "tf32"])
def test_precision_may_have_been_set_by_the_newer_interface(owner: str, asked: str) -> None:
    """Reading ``allow_tf32`` raises then, as ``torch.backends.cudnn.flags`` does."""
    kept = float32_settings()
    try:
        resolve_name(f"torch.backends.{owner}".rstrip(".")).fp32_precision = asked
        before = float32_settings().newer
        for engine in (Engine(), Engine(precision="tf32")):
            with engine.settings():
                assert switches()[:2] == (engine.precision == "tf32",) * 2
                with torch.backends.cudnn.flags(enabled=False):
                    pass
            assert float32_settings().newer == before
    finally:
        put_float32_settings(kept)


@pytest.mark.parametrize("engine", [Engine(precision="tf32"), Engine(deterministic=True)])
def test_switches_are_put_back_where_a_run_ends_early(before: Any, engine: Engine) -> None:
    started = training(Noting(), adam, {}, 0, Budget(2, 4), engine)
    next(started)
    assert switches() == ENGINES[engine] != before
    started.close()
    assert switches() == before

    def failing(params: Any, hp: dict[str, Any]) -> Made:
        raise RuntimeError("no such optimizer")

    with pytest.raises(RuntimeError, match="no such optimizer"):
        run(failing, engine)
    assert switches() == before
    task = Noting()
    task.worst = {"loss": 1e-9}
    assert run(adam, engine, task)[0].status == "diverged"
    assert switches() == before


def test_a_deterministic_run_on_a_cpu_is_the_same_run() -> None:
    assert run(diag_hessian, Engine(deterministic=True))[1] == run(diag_hessian, Engine())[1]


# What a configuration says.


def test_defaults_are_the_same_in_the_yaml_in_the_schema_and_here() -> None:
    shipped = resolve({"task.name": "mnist1d"}).train
    for name, field in Engine.model_fields.items():
        assert getattr(shipped, name) == field.default == TrainConfig.model_fields[name].default
    others = {"epochs", "batch_size", "evaluations"}
    assert set(TrainConfig.model_fields) == set(Engine.model_fields) | others


def test_a_task_may_be_trained_again_after_every_option() -> None:
    task = Noting(image=True)
    first = run(adam, Engine(), task)[1]
    for engine in (
        Engine(precision="bf16"),
        Engine(clip_grad_norm=1e-9),
        Engine(schedule="cosine"),
        Engine(channels_last=True),
    ):
        assert (run(adam, engine, task)[1] != first) or engine.channels_last
        assert run(adam, Engine(), task)[1] == first
