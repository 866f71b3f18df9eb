"""What one run leaves behind in its worker: the next ones are to the bit what they are in a new process."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.spoilers import PATCHED, RESTORED, act
from tests.support.thinned import thinned
from tests.tuner.workers.test_workbench import done, jobs, request, rest, started, step
from tuner.config.layers import resolve
from tuner.config.schema import Config
from tuner.jobs import Job, Outcome
from tuner.planning.messages import Report
from tuner.training import isolation, watched_code
from tuner.workers.trainable import Worker

HONEST = ["adam", "rmsprop", "ssvp"]
ADAM = "torch.optim.adam.Adam.step"


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def repaired(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the tests patch for good ends with the test."""
    torch.optim.Adam([torch.zeros(1)])  # PyTorch wraps its step
    for owner, name, _ in PATCHED.values():
        monkeypatch.setattr(owner, name, getattr(owner, name))


def config(folder: Path, what: str, *settings: str, cls: str = "tests.support.spoilers.Spoiler", **args: Any) -> Config:
    (folder / "optimizers").mkdir(exist_ok=True)
    text = f"class: {cls}\nargs: {args | {'what': what}}\nspace: {{lr: {{low: 1e-4, high: 1.0, log: true}}}}\n"
    (folder / "optimizers" / "spoiler.yaml").write_text(text)
    flags = {"task.name": "tabular_mlp", "search.optimizers": ["spoiler", *HONEST], "resources.gpus_per_trial": 0.0}
    return resolve(flags, ["train.epochs=12", "train.evaluations=3", "retrain.epochs=4", *settings], folder)


def asked(optimizer: str, number: int = 1) -> list[Job]:
    more = {"rho": 0.02} if optimizer == "ssvp" else {}
    return jobs(optimizer, *({"lr": 0.01 * (n + 1)} | more for n in range(number)))


def then(worker: Worker, wanted: list[Job]) -> list[Outcome]:
    worker.reset_config(request(wanted))
    return done(rest(worker))


def told(outcomes: list[Outcome]) -> list[dict[str, Any]]:
    """All but the machine's numbers."""
    return [
        {
            **asdict(outcome),
            "clocks": {},
            "evaluations": [asdict(look) | {"seconds": 0.0} for look in outcome.evaluations],
        }
        for outcome in outcomes
    ]


def honest(worker: Worker) -> list[Any]:
    """One of each, and two as a stack, with what is global."""
    found = [told(then(worker, asked(name))) for name in HONEST] + [told(then(worker, asked("adam", 2)))]
    assert all(outcome["state"] == "complete" for outcomes in found for outcome in outcomes)
    return [found, state()]


def state() -> list[Any]:
    """All global settings and random streams."""
    streams = [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]
    return [*(setting.get() for setting in isolation.SETTINGS), streams]


# What can be put back.


@pytest.mark.parametrize("what", RESTORED)
def test_each_change_is_one_and_is_put_back(what: str) -> None:
    before, lasting = state(), list[str]()
    with isolation.restored(lasting):
        act(what)
        assert state() != before
    assert state() == before and lasting == []


@pytest.mark.parametrize("what", thinned(RESTORED, 3))
def test_settings_and_streams_are_as_before_after_a_run_that_changed_them(tmp_path: Path, what: str) -> None:
    worker = started(config(tmp_path, what), asked("adam"))
    rest(worker)
    expected = honest(worker)
    then(worker, asked("spoiler"))
    assert not worker.workbenches[""].unusable
    assert honest(worker) == expected


@pytest.mark.parametrize("what", ["default dtype", "default device", "grad mode"])
def test_so_they_are_after_one_that_failed(tmp_path: Path, what: str) -> None:
    worker = started(config(tmp_path, what, raises=True), asked("adam"))
    rest(worker)
    expected = honest(worker)
    failed, other = then(worker, asked("spoiler", 2))
    assert failed.error == other.error == "RuntimeError: and leaves"
    assert honest(worker) == expected


@pytest.mark.parametrize("what", ["default dtype", "threads", "stdout"])
def test_so_they_are_after_one_that_a_scheduler_stopped(tmp_path: Path, what: str) -> None:
    settled = config(tmp_path, what, "search.scheduler=asha")
    expected = honest(started(settled, asked("adam"), every_evaluation=True))
    worker = started(settled, asked("spoiler"), every_evaluation=True)
    assert step(worker).if_stopped
    assert honest(worker) == expected


def test_members_of_a_cohort_do_not_see_what_the_one_before_did(tmp_path: Path) -> None:
    settled = config(tmp_path, "default dtype")
    alone = [told(done(rest(started(settled, [job])))) for job in asked("spoiler", 3)]
    assert [told([outcome]) for outcome in done(rest(started(settled, asked("spoiler", 3))))] == alone


def test_a_stack_leaves_nothing_behind_either(tmp_path: Path) -> None:
    settled = config(tmp_path, "grad mode", cls="tests.support.spoilers.spoiling_adam")
    worker = started(settled, asked("adam"))
    rest(worker)
    expected = honest(worker)
    then(worker, asked("spoiler", 2))
    assert honest(worker) == expected


def test_what_the_import_of_a_class_does_is_undone_for_all_its_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "imported.py").write_text(
        "import torch\ntorch.set_default_dtype(torch.float64)\n"
        "def make(params, lr, what):\n    return torch.optim.SGD(params, lr=torch.zeros(()).itemsize * lr)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    worker = started(config(tmp_path, "", cls="imported.make"), asked("spoiler"))
    first = told(done(rest(worker)))
    assert told(then(worker, asked("spoiler"))) == first
    assert torch.get_default_dtype() == torch.float32


# What cannot.


@pytest.mark.usefixtures("repaired")
@pytest.mark.parametrize("what", PATCHED)
def test_a_worker_whose_code_was_changed_says_what_and_does_no_other_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    worker = started(config(tmp_path, what), asked("adam"))
    (report,) = rest(worker)
    assert report.worker_unusable == ""
    worker.reset_config(request(asked("spoiler")))
    report = rest(worker)[-1]
    assert report.done
    why = f"spoiler: a run of it changed {what}, which cannot be undone; the worker was replaced, "
    assert report.worker_unusable.startswith(why)
    worker.reset_config(request(asked("rmsprop", 2)))
    assert step(worker) == Report(worker_unusable=report.worker_unusable, retires=True)
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    worker.step()
    assert ended == [1]


@pytest.mark.usefixtures("repaired")
def test_of_a_cohort_that_changed_it_nothing_counts_and_each_is_done_for_itself(tmp_path: Path) -> None:
    report = step(started(config(tmp_path, ADAM), asked("spoiler", 3)))
    assert report.retires and report.singly and not report.outcomes
    assert report.worker_unusable.startswith(f"spoiler: a run of it changed {ADAM}, which cannot be undone")


@pytest.mark.usefixtures("repaired")
def test_a_stack_that_changed_it_and_failed_is_as_if_its_worker_was_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leave(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(os, "_exit", leave)
    name = "torch.Tensor.backward"
    settled = config(tmp_path, name, cls="tests.support.spoilers.spoiling_adam")
    monkeypatch.setattr("tuner.training.stack.Stack.step", lambda self, batch: 1 / 0)
    with pytest.raises(SystemExit):
        rest(started(settled, asked("spoiler", 2)))


@pytest.mark.usefixtures("repaired")
def test_changes_made_in_place_or_hidden_as_pytorchs_own_are_seen_and_pytorchs_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Own(torch.optim.SGD):
        pass

    code = watched_code.Code(Own)
    Own([torch.zeros(1)])  # wraps its step
    torch.optim.AdamW([torch.zeros(1)])
    torch.compile(torch.nn.Linear(2, 2), backend="eager")(torch.ones(2))
    assert code.changed() == []
    forward = torch.nn.Linear.forward
    monkeypatch.setattr(forward, "__code__", (lambda self, input: input).__code__)
    assert code.changed() == ["torch.nn.modules.linear.Linear.forward"]
    assert code.changed() == []
    monkeypatch.setattr(torch.optim.NAdam, "step", torch.no_grad()(torch.optim.NAdam.step))
    monkeypatch.setattr(torch.nn.Tanh, "extra", 1, raising=False)  # no function
    monkeypatch.delattr(torch.nn.functional, "relu")
    assert code.changed() == ["torch.nn.functional.relu", "torch.optim.nadam.NAdam.step"]
    act("torch.optim.adam.Adam.step")
    assert watched_code.listed(code.changed()) == ADAM
    assert watched_code.listed(list("abcde")) == "a, b, c and 2 more"


def test_what_has_no_way_back_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    mode = torch.inference_mode()
    lasting: list[str] = []
    with isolation.restored(lasting):
        mode.__enter__()
    assert lasting == ["inference mode"]
    mode.__exit__(None, None, None)
