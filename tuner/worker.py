"""The Ray Tune trainable: keeps task data and classes warm between training runs. Imports torch when it first works."""

from __future__ import annotations

import traceback
from collections.abc import Generator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ray import tune

from tuner import objects
from tuner.errors import UserError, nearest
from tuner.jobs import Job, Outcome
from tuner.schema import Config

if TYPE_CHECKING:
    from tuner.train import Budget, Evaluation, Result


class Worker(tune.Trainable):
    """Runs one job after the other. What goes wrong in a job is its outcome, not the worker's end.

    A result holds ``value``, the task's metric, for a scheduler to compare; ``outcome``, final or, before the end, what
    it would be if the scheduler stopped the run now; and ``about``, what env.json says of data and network.
    """

    def setup(self, config: dict[str, Any], run_config: str = "", every_evaluation: bool = False) -> None:
        """
        Args:
            config: the first job.
            run_config: the run's config.yaml.
            every_evaluation: report each evaluation, for a scheduler to decide on; else only the end.
        """
        from tuner.config import from_yaml

        self.run_config = from_yaml(run_config)
        self.every_evaluation = every_evaluation
        self.workbench: Workbench | None = None
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.job = Job(**new_config)
        self.training: Generator[Evaluation, None, Result] | None = None
        self.evaluations: list[dict[str, Any]] = []
        return True

    def step(self) -> dict[str, Any]:
        try:
            return self._advance()
        except Exception as error:
            message = " ".join(f"{type(error).__name__}: {error}".split())
            outcome = Outcome("failed", evaluations=self.evaluations, error=message, traceback=traceback.format_exc())
            return self._report(outcome, done=True)

    def _advance(self) -> dict[str, Any]:
        if self.workbench is None:
            self.workbench = Workbench(self.run_config)
        if self.training is None:
            self.training = self.workbench.start(self.job)
            self.evaluations.append(asdict(next(self.training)))
            self._check_metric(self.evaluations[0]["metrics"])
        while True:
            try:
                evaluation = asdict(next(self.training))
            except StopIteration as stop:
                result: Result = stop.value
                outcome = Outcome(result.status, result.metrics, asdict(result.clocks), self.evaluations)
                return self._report(outcome, done=True)
            self.evaluations.append(evaluation)
            if self.every_evaluation and evaluation["epoch"] < self.workbench.budget(self.job).epochs:
                clocks = {"steps": evaluation["step"], "seconds": evaluation["seconds"]}
                outcome = Outcome("stopped", evaluation["metrics"], clocks, list(self.evaluations))
                return self._report(outcome, done=False)

    def _check_metric(self, metrics: dict[str, float]) -> None:
        metric = self.run_config.task.metric
        if metric not in metrics:
            raise UserError(f"task.metric: the task has no metric {metric!r}{nearest(metric, metrics)}")

    def _report(self, outcome: Outcome, *, done: bool) -> dict[str, Any]:
        value = outcome.metrics.get(self.run_config.task.metric)
        about = self.workbench.about if self.workbench else None
        return {"value": value, "outcome": outcome, "about": about, "done": done}

    # Tune calls these when it pauses a trial; a run's state is not worth a checkpoint at this size.

    def save_checkpoint(self, checkpoint_dir: str) -> None: ...

    def load_checkpoint(self, checkpoint: Any) -> None: ...


class Workbench:
    """What outlives a job: the task with its data on the device, the optimizers' classes."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.task = objects.make_task(config)
        objects.set_up(self.task, config)
        parameters = sum(param.numel() for param in self.task.build(0).parameters())
        self.about = {"data": self.task.data_summary, "parameters": parameters}

    def start(self, job: Job) -> Generator[Evaluation, None, Result]:
        """The job's training, about to begin."""
        from tuner.train import training

        make_optimizer = objects.optimizer_maker(job.optimizer, self.config.optimizers[job.optimizer])
        engine = objects.make_engine(self.config)
        return training(self.task, make_optimizer, job.hp, job.seed, self.budget(job), engine)

    def budget(self, job: Job) -> Budget:
        """Only a retraining run reads the test split."""
        from tuner.train import Budget

        retrain = job.phase == "retrain"
        epochs = self.config.retrain_epochs if retrain else self.config.train.epochs
        return Budget(epochs, self.config.train.evaluations, test=retrain)
