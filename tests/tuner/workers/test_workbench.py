"""The trainable without Ray: which outcomes come together, and that a fault in one job is nobody else's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch

from optimizers.stacking.replay import ChangedError
from tuner.config.changes import revise
from tuner.config.layers import resolve
from tuner.config.schema import Config
from tuner.jobs import Job, Outcome, Phase
from tuner.planning.messages import Report, Request
from tuner.training import build, stack
from tuner.training.records import Budget
from tuner.training.single import train
from tuner.workers.trainable import Worker

SEED = 1000
EPOCHS, EVALUATIONS = 12, 3
RATES = [1e-3, 3e-3, 1e-2]


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """A worker keeps its process within a trial's CPUs."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def config(*settings: str, optimizers: Sequence[str] = ("adam", "rmsprop", "ssvp")) -> Config:
    flags = {"task.name": "tabular_mlp", "search.optimizers": list(optimizers), "resources.gpus_per_trial": 0.0}
    return resolve(flags, [f"train.epochs={EPOCHS}", f"train.evaluations={EVALUATIONS}", "retrain.epochs=4", *settings])


def jobs(optimizer: str, *hps: dict[str, Any], phase: Phase = "search", seeds: Sequence[int] = ()) -> list[Job]:
    seeds = seeds or [SEED] * len(hps)
    return [Job(phase, optimizer, number, seed, hp) for number, (hp, seed) in enumerate(zip(hps, seeds, strict=True))]


def request(asked: list[Job]) -> dict[str, Any]:
    """What Tune hands to a worker."""
    return Request(asked).to_dict()


def started(settled: Config, first: list[Job], *, every_evaluation: bool = False) -> Worker:
    worker: Worker = object.__new__(Worker)
    if every_evaluation:
        settled = revise(settled, {"search.scheduler": "asha"})
    worker.setup(request(first), {"": settled.to_yaml()})
    return worker


def step(worker: Worker) -> Report:
    """What it reports next."""
    return Report.taken_from(worker.step())


def rest(worker: Worker) -> list[Report]:
    """All that it reports of its cohort."""
    reports = [step(worker)]
    while not reports[-1].done:
        reports.append(step(worker))
    return reports


def done(reports: list[Report]) -> list[Outcome]:
    """The outcomes by place, each of which must come once."""
    found: dict[int, Outcome] = {}
    for report in reports:
        assert not found.keys() & report.outcomes.keys()
        found |= report.outcomes
    assert sorted(found) == list(range(len(found)))
    return [found[place] for place in range(len(found))]


def alone(settled: Config, job: Job) -> tuple[dict[str, float], list[dict[str, float]]]:
    """Metrics at the end and at each evaluation, by ``tuner.training.single``."""
    task = build.make_task(settled)
    build.set_up(task, settled)
    make = build.optimizer_maker(job.optimizer, settled.optimizers[job.optimizer])
    curve: list[dict[str, float]] = []
    epochs = settled.retrain_epochs if job.phase == "retrain" else settled.train.epochs
    budget = Budget(epochs, settled.train.evaluations, test=job.phase == "retrain")
    result = train(task, make, job.hp, job.seed, budget, lambda found: curve.append(found.metrics))
    assert result.status == "complete"
    return result.metrics, curve


def assert_as_alone(settled: Config, job: Job, outcome: Outcome) -> None:
    metrics, curve = alone(settled, job)
    assert outcome.state == "complete" and outcome.error == outcome.traceback == ""
    assert outcome.metrics == pytest.approx(metrics, rel=1e-4)
    assert [found.metrics for found in outcome.evaluations] == [pytest.approx(of, rel=1e-4) for of in curve]


# A stack.


@pytest.mark.parametrize("optimizer", ["adam", "ssvp"])
def test_outcomes_of_a_cohort_come_together_and_are_those_of_each_job_alone(optimizer: str) -> None:
    settled = config()
    asked = jobs(optimizer, *({"lr": lr} | ({"rho": 0.02} if optimizer == "ssvp" else {}) for lr in RATES))
    (report,) = rest(started(settled, asked))
    outcomes = done([report])
    assert report.value == outcomes[0].metrics["val_loss"] and report.if_stopped == {}
    for job, outcome in zip(asked, outcomes, strict=True):
        assert_as_alone(settled, job, outcome)
        assert outcome.cohort == 3
        assert outcome.clocks["steps"] == EPOCHS and outcome.clocks["seconds"] > 0
        assert [e.step for e in outcome.evaluations] == [0, 4, 8, 12]
    assert len({outcome.metrics["val_loss"] for outcome in outcomes}) == 3
    shares = [outcome.clocks["seconds"] for outcome in outcomes]
    assert shares == pytest.approx([shares[0]] * 3)  # of the stack's time


def test_seeds_of_a_retraining_are_a_cohort_and_read_the_test_split() -> None:
    settled = config()
    asked = jobs("adam", *[{"lr": 1e-2}] * 3, phase="retrain", seeds=[4, 0, 9])
    outcomes = done(rest(started(settled, asked)))
    for job, outcome in zip(asked, outcomes, strict=True):
        assert_as_alone(settled, job, outcome)
        assert outcome.cohort == 3 and outcome.clocks["steps"] == 4 and "test_loss" in outcome.metrics
    assert len({outcome.metrics["test_loss"] for outcome in outcomes}) == 3


def test_a_diverged_member_is_worst_and_the_others_go_on() -> None:
    settled = config("optimizers.sgd.space.lr.high=1e9", optimizers=["sgd"])
    asked = jobs("sgd", {"lr": 1e-2}, {"lr": 1e9}, {"lr": 1e-1})
    first, second, third = done(rest(started(settled, asked)))
    assert_as_alone(settled, asked[0], first)
    assert_as_alone(settled, asked[2], third)
    assert second.state == "diverged" and second.cohort == 3
    assert second.metrics["val_loss"] > max(first.metrics["val_loss"], third.metrics["val_loss"])
    assert len(second.evaluations) < len(first.evaluations) and second.evaluations[0].step == 0


def test_one_cohort_follows_the_other_on_the_same_bench() -> None:
    settled = config()
    worker = started(settled, jobs("adam", *({"lr": lr} for lr in RATES)))
    first = done(rest(worker))
    bench = worker.workbenches[""]
    for asked in (jobs("adam", {"lr": 1e-3}), jobs("ssvp", *[{"lr": 1e-2, "rho": 0.1}] * 2)):
        assert worker.reset_config(request(asked))
        outcomes = done(rest(worker))
        assert [outcome.cohort for outcome in outcomes] == [len(asked)] * len(asked)
        assert_as_alone(settled, asked[0], outcomes[0])
    assert worker.workbenches[""] is bench and len(first) == 3


# What cannot be stacked.


def apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Optimizers without a pure rule cannot be stacked."""
    monkeypatch.setattr(stack, "each_key", lambda *_: None)


def test_an_optimizer_that_cannot_be_stacked_reports_job_after_job(monkeypatch: pytest.MonkeyPatch) -> None:
    apart(monkeypatch)
    settled = config()
    asked = jobs("rmsprop", *({"lr": lr} for lr in RATES))
    reports = rest(started(settled, asked))
    assert [list(report.outcomes) for report in reports] == [[0], [1], [2]]
    assert [report.done for report in reports] == [False, False, True]
    for job, outcome in zip(asked, done(reports), strict=True):
        assert_as_alone(settled, job, outcome)
        assert outcome.cohort == 1


@pytest.mark.parametrize("setting", ["train.compile=true", "train.channels_last=true"])
def test_an_engine_that_stacks_cannot_have_runs_job_after_job(setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda model, **_: model)
    outcomes = done(rest(started(config(setting), jobs("adam", {"lr": 1e-3}, {"lr": 1e-2}))))
    assert [(outcome.state, outcome.cohort) for outcome in outcomes] == [("complete", 1)] * 2


def broken(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Stacks break at a step."""
    step = stack.Stack.step

    def failing(self: Any, batch: Any) -> Any:
        if self.steps >= after:
            raise torch.OutOfMemoryError("out of memory")
        return step(self, batch)

    monkeypatch.setattr(stack.Stack, "step", failing)


@pytest.mark.parametrize("after", [0, 1, 8])
def test_a_stack_that_breaks_is_trained_one_at_a_time_from_the_beginning(
    monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    broken(monkeypatch, after)
    settled, asked = config(), jobs("adam", *({"lr": lr} for lr in RATES))
    reports = rest(started(settled, asked))
    assert [list(report.outcomes) for report in reports] == [[0], [1], [2]]
    for job, outcome in zip(asked, done(reports), strict=True):
        assert [e.step for e in outcome.evaluations] == [0, 4, 8, 12]
        assert_as_alone(settled, job, outcome)
        assert outcome.cohort == 1


# Faults.


@pytest.mark.parametrize("refused", [0, 1, 2])
def test_a_job_whose_hyperparameters_are_refused_fails_alone(refused: int) -> None:
    settled, rates = config(), list(RATES)
    rates[refused] = -1.0
    asked = jobs("adam", *({"lr": lr} for lr in rates))
    outcomes = done(rest(started(settled, asked)))
    assert outcomes[refused].state == "failed" and outcomes[refused].metrics == {}
    assert outcomes[refused].error == "ValueError: Invalid learning rate: -1.0"
    assert "Traceback" in outcomes[refused].traceback and "\n" not in outcomes[refused].error
    for place in {0, 1, 2} - {refused}:
        assert_as_alone(settled, asked[place], outcomes[place])


def test_a_job_that_fails_on_its_way_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    apart(monkeypatch)
    settled, asked = config(), jobs("rmsprop", *({"lr": lr} for lr in RATES))
    step, steps = torch.optim.RMSprop.step, Counter[float]()

    def failing(self: Any, closure: Any = None) -> Any:
        rate = self.param_groups[0]["lr"]
        steps[rate] += 1
        if rate == RATES[1] and steps[rate] > 5:
            raise RuntimeError("two\nlines")
        return step(self, closure)

    monkeypatch.setattr(torch.optim.RMSprop, "step", failing)
    first, second, third = done(rest(started(settled, asked)))
    assert (first.state, second.state, third.state) == ("complete", "failed", "complete")
    assert second.error == "RuntimeError: two lines"
    assert [e.step for e in second.evaluations] == [0, 4]  # what it had come to


@pytest.mark.parametrize("number", [1, 3])
def test_a_metric_that_does_not_exist_is_said_with_the_nearest(number: int) -> None:
    settled = config("task.metric=val_los")
    for outcome in done(rest(started(settled, jobs("adam", *[{"lr": 1e-3}] * number)))):
        assert outcome.state == "failed"
        assert "task.metric: the task has no metric 'val_los'; did you mean 'val_loss'?" in outcome.error


def test_a_worker_that_cannot_load_its_data_fails_all_its_jobs_and_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any) -> None:
        raise ValueError("no data here")

    monkeypatch.setattr(build, "set_up", missing)
    worker = started(config(), jobs("adam", *[{"lr": 1e-3}] * 3))
    for _ in range(2):
        (report,) = rest(worker)
        assert [(o.state, o.error) for o in done([report])] == [("failed", "ValueError: no data here")] * 3
        assert report.value is None and report.task is None
        worker.reset_config(request(jobs("adam", *[{"lr": 1e-3}] * 3)))


# What a scheduler sees.


def test_each_evaluation_of_a_single_job_is_reported_to_a_scheduler() -> None:
    settled = config("search.scheduler=asha")
    (asked,) = jobs("adam", {"lr": 1e-2})
    reports = rest(started(settled, [asked], every_evaluation=True))
    assert [report.done for report in reports] == [False, False, True]
    assert [report.outcomes for report in reports[:2]] == [{}, {}]
    for number, report in enumerate(reports[:2], 1):
        stopped = report.if_stopped[0]
        assert (stopped.state, stopped.clocks["steps"], len(stopped.evaluations)) == ("stopped", 4 * number, number + 1)
        assert report.value == stopped.metrics["val_loss"] == stopped.evaluations[-1].metrics["val_loss"]
        assert stopped.clocks["seconds"] > 0
    (outcome,) = done(reports)
    assert_as_alone(settled, asked, outcome)
    assert reports[-1].value == outcome.metrics["val_loss"]


@pytest.mark.parametrize("number", [1, 3])
def test_elsewhere_only_the_end_is_reported(number: int) -> None:
    reports = rest(started(config(), jobs("adam", *[{"lr": 1e-2}] * number)))
    assert len(reports) == 1 and reports[0].if_stopped == {}


def test_a_job_stopped_on_its_way_leaves_the_worker_fit_for_the_next() -> None:
    settled = config("search.scheduler=asha")
    first, second = jobs("adam", {"lr": 1e-2}, {"lr": 1e-3})
    worker = started(settled, [first], every_evaluation=True)
    assert not step(worker).done
    worker.reset_config(request([second]))
    assert_as_alone(settled, second, done(rest(worker))[0])


def test_data_and_network_are_told_of() -> None:
    (report,) = rest(started(config(), jobs("adam", {"lr": 1e-3})))
    assert report.task is not None
    assert report.task.data["rows"] == {"train": 90, "val": 30, "test": 30}
    assert report.task.parameters == 4 * 15 + 15 + 15 * 10 + 10 + 10 * 3 + 3


# Several runs.


def test_a_request_comes_to_the_worker_as_it_was_made() -> None:
    made = Request(jobs("adam", {"lr": 0.1}, {"lr": 0.2}), alone=True, checkpoints={"adam-0": b"state"}, run="wine")
    assert Request.from_dict(made.to_dict()) == made
    assert Request.from_dict(Request(jobs("adam", {"lr": 0.1}), checkpoints=None).to_dict()).checkpoints is None


def test_a_worker_keeps_a_bench_for_each_run_and_turns_from_one_to_the_other() -> None:
    """Iris has 3 classes and 4 features, wine 13 features."""
    runs = {"iris": config(), "wine": config("task.dataset=wine")}
    (job,) = jobs("adam", {"lr": 1e-2})
    worker: Worker = object.__new__(Worker)
    first = Request([job], run="iris").to_dict()
    worker.setup(first, {name: of_run.to_yaml() for name, of_run in runs.items()})
    rows, benches = [], []
    for name in ("iris", "wine", "iris"):
        worker.reset_config(Request([job], run=name).to_dict())
        reports = rest(worker)
        assert_as_alone(runs[name], job, done(reports)[0])
        assert reports[-1].task is not None
        rows.append(reports[-1].task.data["name"])
        benches.append(worker.workbenches[name])
    assert rows[0] == rows[2] != rows[1]
    assert benches[0] is benches[2] and list(worker.workbenches) == ["iris", "wine"]


def test_what_is_wrong_with_one_run_fails_its_jobs_alone() -> None:
    broken = revise(config(), {"task.class": "tasks.tabular_mlp.NoSuchTask"})
    (job,) = jobs("adam", {"lr": 1e-2})
    worker: Worker = object.__new__(Worker)
    texts = {"broken": broken.to_yaml(), "iris": config().to_yaml()}
    worker.setup(Request([job], run="broken").to_dict(), texts)
    (failed,) = done(rest(worker))
    assert failed.state == "failed" and "NoSuchTask" in failed.error
    worker.reset_config(Request([job], run="iris").to_dict())
    assert_as_alone(config(), job, done(rest(worker))[0])


def test_a_run_that_no_longer_does_what_was_captured_of_it_is_done_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, original, begun = jobs("adam", {"lr": RATES[0]}), stack.training, []

    def training(*arguments: Any) -> Any:
        begun.append(arguments)
        run = original(*arguments)
        if len(begun) == 1:
            yield next(run)
            raise ChangedError("it depends on the epoch")
        return (yield from run)

    expected = done(rest(started(config(), asked)))[0]
    monkeypatch.setattr(stack, "training", training)
    outcome = done(rest(started(config(), asked)))[0]
    assert len(begun) == 2
    assert outcome.state == "complete"
    assert [e.metrics for e in outcome.evaluations] == [e.metrics for e in expected.evaluations]
