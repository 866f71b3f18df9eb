"""The Ray Tune trainable: keeps task data and classes warm between training runs. Imports torch when it first works."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from ray import tune

from tuner import objects
from tuner.errors import UserError, nearest
from tuner.jobs import Job, Outcome
from tuner.schema import Config

if TYPE_CHECKING:
    from tuner.train import Budget, Evaluation, MakeOptimizer, Result


class Worker(tune.Trainable):
    """Trains one cohort of jobs after the other. What goes wrong in a job is its outcome, not the worker's end.

    A result holds ``outcomes``, of the jobs that ended since the one before, by their places; ``value``, the task's
    metric, for a scheduler to compare, and ``if_stopped``, the outcomes if it stopped the run now; and ``about``, what
    env.json says of data and network.
    """

    def setup(self, config: dict[str, Any], run_config: str = "", every_evaluation: bool = False) -> None:
        """
        Args:
            config: the first cohort, ``jobs``.
            run_config: the run's config.yaml.
            every_evaluation: report each evaluation of a single job, for a scheduler to decide on; else only the end.
        """
        from tuner.config import from_yaml

        self.run_config = from_yaml(run_config)
        self.every_evaluation = every_evaluation
        self.workbench: Workbench | None = None
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.jobs = [Job(**job) for job in new_config["jobs"]]
        self.left = list(range(len(self.jobs)))
        self.reports: Iterator[Report] | None = None
        return True

    def step(self) -> dict[str, Any]:
        try:
            if self.workbench is None:
                self.workbench = Workbench(self.run_config)
            if self.reports is None:
                self.reports = self.workbench.reports(self.jobs, every_evaluation=self.every_evaluation)
            report = next(self.reports)
        except Exception as error:
            report = Report({place: failure(error, []) for place in self.left})
        self.left = [place for place in self.left if place not in report.outcomes]
        values = [o.metrics.get(self.run_config.task.metric) for o in (report.outcomes or report.if_stopped).values()]
        return {
            "outcomes": report.outcomes,
            "if_stopped": report.if_stopped,
            "value": values[0],
            "about": self.workbench.about if self.workbench else None,
            "done": not self.left,
        }

    # Tune calls these when it pauses a trial; a run's state is not worth a checkpoint at this size.

    def save_checkpoint(self, checkpoint_dir: str) -> None: ...

    def load_checkpoint(self, checkpoint: Any) -> None: ...


@dataclass(frozen=True)
class Report:
    """Outcomes by the jobs' places: those that ended, and what that of a single one would be if it was stopped now."""

    outcomes: dict[int, Outcome] = field(default_factory=dict)
    if_stopped: dict[int, Outcome] = field(default_factory=dict)


class Workbench:
    """What outlives a job: the task with its data on the device, the optimizers' classes."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.task = objects.make_task(config)
        objects.set_up(self.task, config)
        self.engine = objects.make_engine(config)
        parameters = sum(param.numel() for param in self.task.build(0).parameters())
        self.about = {"data": self.task.data_summary, "parameters": parameters}

    def reports(self, jobs: Sequence[Job], *, every_evaluation: bool) -> Iterator[Report]:
        """Train jobs of one optimizer, what can be stacked in lockstep.

        Args:
            every_evaluation: report those of a single job, but for the first and the last.
        """
        from tuner import cohort

        if len(jobs) == 1:
            yield from self._single(jobs[0], every_evaluation=every_evaluation)
            return
        members = [cohort.Member(job.hp, job.seed) for job in jobs]
        for places in cohort.stacks(self.task, self._optimizer(jobs[0]), members, self.engine):
            chosen = [jobs[place] for place in places]
            try:
                stack = self._stack(chosen) if len(chosen) > 1 else None
            except Exception:
                stack = None
                cohort.release_memory(self.task.device)
            if stack is not None:
                yield Report(dict(zip(places, stack, strict=True)))
                continue
            for place, job in zip(places, chosen, strict=True):
                for report in self._single(job, every_evaluation=False):
                    yield Report({place: report.outcomes[0]})

    def _stack(self, jobs: Sequence[Job]) -> list[Outcome]:
        from tuner import cohort
        from tuner.train import drained

        members = [cohort.Member(job.hp, job.seed) for job in jobs]
        run = cohort.training(self.task, self._optimizer(jobs[0]), members, self._budget(jobs[0]), self.engine)
        curves: list[list[dict[str, Any]]] = [[] for _ in jobs]

        def note(evaluations: dict[int, Evaluation]) -> None:
            for member, evaluation in evaluations.items():
                curves[member].append(self._checked(evaluation))

        return [outcome(result, curve) for result, curve in zip(drained(run, note), curves, strict=True)]

    def _single(self, job: Job, *, every_evaluation: bool) -> Iterator[Report]:
        from tuner.train import training

        curve: list[dict[str, Any]] = []
        try:
            budget = self._budget(job)
            run = training(self.task, self._optimizer(job), job.hp, job.seed, budget, self.engine)
            while True:
                try:
                    evaluation = next(run)
                except StopIteration as stop:
                    yield Report({0: outcome(stop.value, curve)})
                    return
                curve.append(self._checked(evaluation))
                if every_evaluation and 0 < evaluation.epoch < budget.epochs:
                    clocks = {"steps": evaluation.step, "seconds": evaluation.seconds}
                    yield Report(if_stopped={0: Outcome("stopped", evaluation.metrics, clocks, list(curve))})
        except Exception as error:
            yield Report({0: failure(error, curve)})

    def _checked(self, evaluation: Evaluation) -> dict[str, Any]:
        """The evaluation as it travels.

        Raises:
            UserError: the task does not know the metric that the search ranks by.
        """
        metric = self.config.task.metric
        if metric not in evaluation.metrics:
            raise UserError(f"task.metric: the task has no metric {metric!r}{nearest(metric, evaluation.metrics)}")
        return asdict(evaluation)

    def _optimizer(self, job: Job) -> MakeOptimizer:
        return objects.optimizer_maker(job.optimizer, self.config.optimizers[job.optimizer])

    def _budget(self, job: Job) -> Budget:
        """Only a retraining run reads the test split."""
        from tuner.train import Budget

        retrain = job.phase == "retrain"
        epochs = self.config.retrain_epochs if retrain else self.config.train.epochs
        return Budget(epochs, self.config.train.evaluations, test=retrain)


def outcome(result: Result, curve: list[dict[str, Any]]) -> Outcome:
    return Outcome(result.status, result.metrics, asdict(result.clocks), curve, cohort=result.cohort)


def failure(error: Exception, curve: list[dict[str, Any]]) -> Outcome:
    """The outcome of a job in which this went wrong, to be called where it is handled."""
    message = " ".join(f"{type(error).__name__}: {error}".split())
    return Outcome("failed", evaluations=curve, error=message, traceback=traceback.format_exc())
