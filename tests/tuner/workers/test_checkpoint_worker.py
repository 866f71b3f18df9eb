"""A worker that goes on where another one was lost, and one whose jobs take too long or too much."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import tuner.training.loop
import tuner.workers.trainable
from tests.support.thinned import thinned
from tests.tuner.training.test_checkpoint import Harmful
from tuner.config.layers import resolve
from tuner.config.schema import Config
from tuner.jobs import Job, Outcome, checkpoint_name
from tuner.planning.messages import Report, Request
from tuner.training import checkpoint, stack
from tuner.training.single import Trainer
from tuner.workers.trainable import Worker
from tuner.workers.workbench import failure


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint can be had after every second step."""
    monkeypatch.setattr(tuner.training.loop, "LOSSES_PER_CHECK", 2)


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """A worker keeps its process within a trial's CPUs."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def config(*settings: str, dataset: str = "iris") -> Config:
    flags = {"task.name": "tabular_mlp", "task.dataset": dataset, "search.optimizers": ["adam", "ssvp", "rmsprop"],
             "resources.gpus_per_trial": 0.0}  # fmt: skip
    train = [
        "train.epochs=12",
        "train.evaluations=3",
        "faults.checkpoint_s=1e-9",
        "optimizers.ssvp.args.update_period=3",
    ]
    return resolve(flags, [*train, *settings])


def jobs(optimizer: str = "adam", number: int = 1, seed: int = 4) -> list[Job]:
    fixed = {"rho": 0.02} if optimizer == "ssvp" else {}
    return [Job("retrain", optimizer, n, seed + n, {"lr": 0.01 * (n + 1)} | fixed) for n in range(number)]


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """The object store is left out."""
    monkeypatch.setattr(tuner.workers.trainable, "ray", SimpleNamespace(get=lambda content: content))


@dataclass
class Worked:
    """What a worker did of some jobs: the steps that it took, checkpoints in their order."""

    outcomes: dict[int, Outcome]
    checkpoints: list[tuple[list[int], bytes]]
    steps: int


def worked(
    asked: list[Job], checkpoints: dict[str, Any] | None = None, settled: Config | None = None, cut: int | None = None
) -> Worked:
    """A new worker's work, all of it or up to a number of checkpoints."""
    worker: Worker = object.__new__(Worker)
    worker.setup(Request(asked, checkpoints=checkpoints or {}).to_dict(), {"": (settled or config()).to_yaml()})
    found = Worked({}, [], 0)
    with pytest.MonkeyPatch.context() as patch:
        for kind in (Trainer, stack.Stack):
            patch.setattr(kind, "step", counted(kind.step, found))
        done = False
        while not done and len(found.checkpoints) != cut:
            report = Report.taken_from(worker.step())
            found.outcomes |= report.outcomes
            found.checkpoints += [report.checkpoint] if report.checkpoint else []
            done = report.done
    return found


def counted(step: Callable[[Any, Any], Any], found: Worked) -> Callable[[Any, Any], Any]:
    def counting(self: Any, batch: Any) -> Any:
        found.steps += 1
        return step(self, batch)

    return counting


def told(work: Worked) -> list[Any]:
    """All but the machine's numbers."""
    of_machine = {"seconds": 0.0, "peak_mem_mb": 0.0}
    return [
        {**asdict(outcome), "clocks": outcome.clocks | of_machine,
         "evaluations": [asdict(look) | {"seconds": 0.0} for look in outcome.evaluations]}
        for _, outcome in sorted(work.outcomes.items())
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("optimizer", "number"), thinned([("adam", 1), ("ssvp", 1), ("rmsprop", 1), ("ssvp", 3), ("adam", 3)], 3)
)
def test_a_job_that_goes_on_tells_of_the_whole_curve_and_of_the_same_end(
    no_ray: None, optimizer: str, number: int
) -> None:
    asked = jobs(optimizer, number)
    expected = worked(asked, settled=config("faults.checkpoint_s=1e9"))
    assert expected.checkpoints == [] and expected.steps == 12
    assert [look.step for look in expected.outcomes[0].evaluations] == [0, 4, 8, 12]
    for cut, left in ((1, 10), (2, 8), (3, 6), (6, 0)):
        places, content = worked(asked, cut=cut).checkpoints[-1]
        assert places == list(range(number))
        found = worked(asked, {checkpoint_name(asked): content})
        assert found.steps == left
        assert told(found) == told(expected)


def test_a_job_cut_off_at_every_checkpoint_comes_to_the_same_end(no_ray: None) -> None:
    asked, steps = jobs("ssvp"), 0
    kept: dict[str, Any] = {}
    for _ in range(6):
        work = worked(asked, kept, cut=1)
        steps += work.steps
        kept = {checkpoint_name(asked): work.checkpoints[0][1]}
    work = worked(asked, kept)
    assert steps + work.steps == 12
    assert told(work) == told(worked(asked))


def test_jobs_that_cannot_be_stacked_leave_checkpoints_of_their_own(
    no_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stack, "each_key", lambda *_: None)
    asked = jobs("rmsprop", 2)
    work = worked(asked)
    assert [places for places, _ in work.checkpoints] == [[0]] * 6 + [[1]] * 6
    _, content = work.checkpoints[8]
    found = worked(asked, {checkpoint_name([asked[1]]): content})
    assert found.steps == 12 + 6 and told(found) == told(work)


def changed(content: bytes, **changes: Any) -> bytes:
    data = checkpoint.pack(checkpoint.unpack(content) | changes)
    assert data is not None
    return data


def without(content: bytes, key: str) -> bytes:
    kept = checkpoint.unpack(content)
    del kept[key]
    data = checkpoint.pack(kept)
    assert data is not None
    return data


def unlike(content: bytes) -> dict[str, bytes]:
    """Contents that this job cannot go on from, made from one with which it could."""
    (job,) = jobs()
    of_state = checkpoint.unpack(content)["state"]
    saved = lambda what: checkpoint.pack(what) or b""  # noqa: E731
    return {
        "another seed": changed(content, jobs=[job.to_dict() | {"seed": 5}]),
        "other hyperparameters": changed(content, jobs=[job.to_dict() | {"hp": {"lr": 0.02}}]),
        "another network": worked([job], settled=config(dataset="wine"), cut=2).checkpoints[-1][1],
        "a state with less": changed(content, state={k: v for k, v in of_state.items() if k != "random"}),
        "no state": changed(content, state=None),
        "cut off": content[: len(content) // 2],
        "empty": b"",
        "harmful": pickle.dumps(Harmful(Path("never"))),
        "text": b"not a checkpoint",
        "a mapping without jobs": saved({"a": 1}),
    }


@pytest.mark.parametrize(
    "what",
    ["another seed", "other hyperparameters", "another network", "a state with less", "cut off", "empty", "harmful",
     "text", "a mapping without jobs"],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_what_is_no_checkpoint_of_the_job_makes_it_begin_anew(no_ray: None, what: str) -> None:
    expected = worked(jobs())
    found = worked(jobs(), {checkpoint_name(jobs()): unlike(expected.checkpoints[2][1])[what]})
    assert found.steps == 12
    assert told(found) == told(expected)


@pytest.mark.parametrize(
    "content", [[1, 2], {"jobs": [jobs()[0].to_dict()]}, {"jobs": [jobs()[0].to_dict()], "curves": [[]]}]
)
def test_a_checkpoint_of_another_make_makes_the_job_begin_anew(no_ray: None, content: Any) -> None:
    found = worked(jobs(), {checkpoint_name(jobs()): checkpoint.pack(content)})
    assert told(found) == told(worked(jobs()))


# Limits.


def test_being_out_of_memory_is_told_by_the_errors_type() -> None:
    def real(make: Callable[[], object]) -> Exception:
        with pytest.raises(Exception) as caught:  # noqa: PT011 (which type it is, is the question)
            make()
        return caught.value

    yes = [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), MemoryError(), MemoryError("a\nb")]
    yes += [real(lambda: torch.empty(10**16)), real(lambda: bytearray(10**16)), real(lambda: np.empty(10**16))]
    no = [RuntimeError("CUDA error: an illegal memory access was encountered"), ValueError("memory_format")]
    assert "can't allocate memory" in str(yes[3]) and type(yes[4]) is MemoryError
    assert [failure(error, []).out_of_memory for error in [*yes, *no]] == [True] * 6 + [False] * 2


HANGS = """
import os, re, sys, time
from types import SimpleNamespace
import torch
import tuner.workers.trainable
from tasks.tabular_mlp import TabularMLP
from tests.tuner.workers.test_checkpoint_worker import config, jobs
from tuner.planning.messages import Request
from tuner.workers.trainable import Worker
from tuner.workers.workbench import Workbench

tuner.workers.trainable.ray = SimpleNamespace(get=lambda content: content)
loss, steps = TabularMLP.loss, [0]

def hang_in_sleep():
    time.sleep(60)

def hang_with_the_lock():
    re.match(r"(a+)+b", "a" * 60)

def slowly():
    time.sleep(0.3)

def once():
    if steps[0] == 1:
        time.sleep(1.0)

def case(does, number=1, limit=2.5, idle=0.0):
    def lost(self, model, batch):
        steps[0] = steps[0] % 12 + 1
        does()
        return loss(self, model, batch)

    TabularMLP.loss = lost
    worker = object.__new__(Worker)
    request = Request(jobs("rmsprop", number)).to_dict()
    worker.setup(request, {"": config(f"faults.trial_limit_s={limit}").to_yaml()})
    while not worker.step()["done"]:
        pass
    time.sleep(idle)
    os._exit(7)

cases = {
    "sleeps": lambda: case(hang_in_sleep),
    "holds the lock": lambda: case(hang_with_the_lock),
    "slow between checkpoints": lambda: case(slowly),
    "three in time": lambda: case(once, number=3),
    "idle after it": lambda: case(lambda: None, idle=3.0),
}
torch.set_num_threads(1)
torch.optim.RMSprop([torch.ones(1, requires_grad=True)]).step()
Workbench(config())  # imports more
children = {}
for name, run in cases.items():
    children[name] = os.fork()
    if not children[name]:
        try:
            run()
        finally:
            os._exit(9)
for name, child in children.items():
    print(name, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), sep=": ")
"""


def test_a_job_that_takes_too_long_ends_its_process_whatever_it_hangs_in() -> None:
    """But not one of a cohort whose jobs each take less, nor a worker that waits for the next."""
    done = subprocess.run([sys.executable, "-c", HANGS], capture_output=True, text=True, timeout=100, check=True)
    assert done.stdout.splitlines() == [
        "sleeps: 1", "holds the lock: 1", "slow between checkpoints: 1", "three in time: 7", "idle after it: 7"
    ]  # fmt: skip
    for place in ("hang_in_sleep", "hang_with_the_lock", "slowly"):
        assert f"in {place}" in done.stderr  # where it hung
