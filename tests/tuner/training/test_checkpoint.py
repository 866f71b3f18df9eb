"""A run that was cut off goes on from a snapshot to the numbers of one that was not, bit by bit."""

from __future__ import annotations

import hashlib
import itertools
import os
import pickle
import time
import warnings
from collections.abc import Callable, Generator
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import tuner.training.loop
from tests.support.members import Small, of
from tests.support.thinned import thinned
from tuner.config.layers import resolve
from tuner.config.registry import available
from tuner.machine import memory
from tuner.training import build, checkpoint
from tuner.training.engine import Engine
from tuner.training.records import Budget, Evaluation, NotRestoredError, Result, Saving, Snapshot
from tuner.training.single import Trainer, training

BUDGET = Budget(epochs=3, evaluations=5, test=True)  # looks after steps 3, 5, 8, 10 and 12; an epoch has 4
ENGINES = {
    "constant": Engine(),
    "changing": Engine(schedule="cosine", warmup_epochs=0.5, clip_grad_norm=0.5, ema=0.9),
}
NOT_PLAIN = {"shampoo"}  # its state holds classes of its own
Start = Callable[[Saving], Generator[Any, None, Any]]


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A snapshot can be had after every second step."""
    monkeypatch.setattr(tuner.training.loop, "LOSSES_PER_CHECK", 2)


def noisy() -> nn.Module:
    """Has all that a network can keep: weights, running averages, draws from the global generator."""
    return nn.Sequential(nn.Linear(6, 9, bias=False), nn.BatchNorm1d(9), nn.Tanh(), nn.Dropout(0.3), nn.Linear(9, 3))


def started(make: Any, hp: dict[str, Any], engine: Engine = ENGINES["constant"], network: Any = noisy) -> Start:
    """The run, as each of several processes would begin it."""
    return lambda saving: training(Small(network, torch.float32), make, hp, 3, BUDGET, engine, saving)


def told_by(run: Generator[Any, None, Any], curve: list[Any]) -> Any:
    """The next snapshot, or the result; evaluations go to the curve."""
    while True:
        try:
            told = next(run)
        except StopIteration as stop:
            return stop.value
        if isinstance(told, Snapshot):
            return told
        curve.append(told)


def undisturbed(start: Start) -> tuple[Any, list[Any]]:
    curve: list[Any] = []
    result = told_by(start(Saving()), curve)
    assert not isinstance(result, Snapshot)
    return result, curve


def interrupted(start: Start) -> tuple[Any, list[Any], int]:
    """Cut off at every snapshot, while others draw from the global generator; how many there were."""
    curve: list[Any] = []
    state = None
    for snapshots in itertools.count():
        torch.manual_seed(1000 + snapshots)
        run = start(Saving(state, 0.0))
        told = told_by(run, curve)
        if not isinstance(told, Snapshot):
            return told, curve, snapshots
        data = checkpoint.pack({"state": told.state, "curve": [1.5]})
        assert data is not None
        run.close()
        state = checkpoint.unpack(data)["state"]
    raise AssertionError


def numbers(result: Result) -> dict[str, Any]:
    """All but those of the machine."""
    return {**asdict(result), "clocks": (result.clocks.steps, result.clocks.grad_equivalents)}


def looks(curve: list[Evaluation]) -> list[dict[str, Any]]:
    return [asdict(replace(look, seconds=0.0)) for look in curve]


def assert_goes_on(start: Start) -> tuple[Result, int]:
    expected, expected_curve = undisturbed(start)
    result, curve, snapshots = interrupted(start)
    assert numbers(result) == numbers(expected)
    assert looks(curve) == looks(expected_curve)
    return result, snapshots


def shipped(name: str) -> tuple[Any, dict[str, Any]]:
    """An optimizer of the folder and the first point of its space."""
    spec = resolve({"task.name": "mnist1d", "search.optimizers": [name]}, []).optimizers[name]
    return build.optimizer_maker(name, spec), spec.first_point()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", thinned(sorted(set(available("optimizers")) - NOT_PLAIN), 3))
def test_every_optimizer_goes_on_to_the_same_numbers(name: str, engine: str) -> None:
    make, hp = shipped(name)
    result, snapshots = assert_goes_on(started(make, hp, ENGINES[engine]))
    assert (result.status, result.clocks.steps, snapshots) == ("complete", 12, 7)  # after 2 3 | 5 | 7 8 | 10 | 12 steps


@pytest.mark.parametrize("estimator", ["hutchinson", "gnb", "ggn_mc", "ggn_exact", "exact", "hvp", "secant", "none"])
@pytest.mark.parametrize("period", [1, 5])
def test_every_estimator_goes_on_to_the_same_numbers(estimator: str, period: int) -> None:
    make, hp = shipped("diag_hessian")
    fixed = {"estimator": estimator, "update_period": period}
    make = of(type(make([nn.Parameter(torch.ones(1))], hp)), **fixed)
    assert_goes_on(started(make, {"lr": 1e-3, "diff": 0.5, "square": 2.0, "eps": 0.1}))


def test_an_optimizer_that_takes_several_gradients_in_a_step_goes_on_to_the_same_numbers() -> None:
    assert_goes_on(started(of(torch.optim.LBFGS, max_iter=3), {"lr": 0.1}))


def test_dropout_counts_and_is_another_from_another_state() -> None:
    """The comparison above can fail: with the generator's state lost, the numbers are others."""
    start = started(*shipped("adam"))
    expected, _ = undisturbed(start)
    snapshot = told_by(start(Saving(None, 0.0)), [])
    others = {"cpu": torch.Generator().manual_seed(99).get_state()}
    result = told_by(start(Saving(snapshot.state | {"random": others})), [])
    assert result.metrics["val_loss"] != expected.metrics["val_loss"]


@pytest.mark.parametrize(("engine", "lr"), [("constant", 200.0), ("changing", 1000.0)])
def test_a_run_that_diverges_after_a_snapshot_diverges_at_the_same_step(engine: str, lr: float) -> None:
    start = started(of(torch.optim.SGD, momentum=1.5), {"lr": lr}, ENGINES[engine], lambda: nn.Linear(6, 3))
    result, snapshots = assert_goes_on(start)
    assert result.status == "diverged" and snapshots > 0 and result.clocks.steps < 12


def test_a_run_that_goes_on_after_its_snapshots_is_not_disturbed_by_them_and_any_will_do() -> None:
    start = started(*shipped("diag_hessian"))
    expected, _ = undisturbed(start)
    run, states = start(Saving(None, 0.0)), []
    while isinstance(told := told_by(run, []), Snapshot):
        states.append(checkpoint.pack(told.state))
    assert numbers(told) == numbers(expected) and len(states) == 7
    for state in states:
        assert state is not None
        result = told_by(start(Saving(checkpoint.unpack(state))), [])
        assert numbers(result) == numbers(expected)


def test_a_state_of_another_shape_is_refused() -> None:
    make, hp = shipped("sgd")
    start = started(make, hp, network=lambda: nn.Linear(6, 3))
    state = told_by(start(Saving(None, 0.0)), []).state
    assert told_by(start(Saving(state)), []).status == "complete"
    state["own"]["model"] = [tensor[:1] for tensor in state["own"]["model"]]  # which copying would spread out
    with pytest.raises(NotRestoredError):
        told_by(start(Saving(state)), [])


# The clocks.


def test_seconds_go_on_and_memory_is_the_peak_of_all_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks, peaks = itertools.count(), itertools.chain([400.0, 900.0, 300.0], itertools.repeat(100.0))
    monkeypatch.setattr(
        tuner.training.loop, "time", SimpleNamespace(perf_counter=ticks.__next__, monotonic=time.monotonic)
    )
    monkeypatch.setattr(memory, "peak_mb", lambda _: 100.0)
    start = started(*shipped("adam"))
    expected, expected_curve = undisturbed(start)
    monkeypatch.setattr(memory, "peak_mb", lambda _: next(peaks))
    result, curve, _ = interrupted(start)
    # A second for every two steps, or fewer before a look.
    assert [look.seconds for look in expected_curve] == [0, 2, 3, 5, 6, 7]
    assert [look.seconds for look in curve] == [0, 2, 3, 5, 6, 7] and result.clocks.seconds == 7
    assert (expected.clocks.peak_mem_mb, result.clocks.peak_mem_mb) == (100.0, 900.0)


def test_snapshots_are_as_far_apart_as_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(
        tuner.training.loop, "time", SimpleNamespace(perf_counter=lambda: 0.0, monotonic=lambda: now[0])
    )
    take_steps = Trainer.take_steps

    def slowly(self: Any, *args: Any) -> None:
        now[0] += 10.0
        take_steps(self, *args)

    monkeypatch.setattr(Trainer, "take_steps", slowly)
    start = started(*shipped("sgd"))
    for every_s, steps in ((None, []), (1000.0, []), (25.0, [5, 10]), (10.0, [2, 3, 5, 7, 8, 10, 12])):
        run, found = start(Saving(None, every_s)), []
        while isinstance(told := told_by(run, []), Snapshot):
            found.append(told.state["steps"])
        assert found == steps


# Bytes.


def test_a_state_with_classes_of_its_own_is_not_packed() -> None:
    make, hp = shipped("shampoo")
    snapshot = told_by(started(make, hp)(Saving(None, 0.0)), [])
    assert checkpoint.pack(snapshot.state) is None
    assert checkpoint.pack({"path": Path("x")}) is None and checkpoint.pack({"f": lambda: 0}) is None


def test_what_is_packed_comes_back() -> None:
    content = {"n": [1, 2.5, None, True, "x", (3, -0.0)], "t": torch.arange(4.0)[1:3], "i": torch.tensor(3)}
    data = checkpoint.pack(content)
    assert data is not None
    found = checkpoint.unpack(data)
    assert found["n"] == content["n"] and torch.equal(found["t"], torch.tensor([1.0, 2.0])) and found["i"] == 3


class Harmful:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    harmful = Harmful(tmp_path / "made")
    torch.save({"state": harmful}, tmp_path / "saved.pt")
    for body in ((tmp_path / "saved.pt").read_bytes(), pickle.dumps({"state": harmful}, protocol=2)):
        for data in (body, hashlib.sha256(body).digest() + body):
            with pytest.raises(checkpoint.UnreadableError):
                checkpoint.unpack(data)
    assert checkpoint.pack({"state": harmful}) is None
    assert not harmful.path.exists()
    pickle.loads(pickle.dumps(harmful))  # it would have
    assert harmful.path.exists()


@lru_cache
def packed() -> bytes:
    data = checkpoint.pack(told_by(started(*shipped("adam"))(Saving(None, 0.0)), []).state)
    assert data is not None
    return data


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.7, 0.99])
def test_what_was_cut_off_is_refused(share: float) -> None:
    with pytest.raises(checkpoint.UnreadableError):
        checkpoint.unpack(packed()[: int(share * len(packed()))])


def test_what_has_a_flipped_bit_is_refused() -> None:
    positions = np.random.default_rng(0).integers(len(packed()), size=100)
    for position in positions.tolist():
        damaged = bytearray(packed())
        damaged[position] ^= 4
        with warnings.catch_warnings(action="ignore"), pytest.raises(checkpoint.UnreadableError):
            checkpoint.unpack(bytes(damaged))
