"""The Tune trainable does one cohort of jobs after the other on a workbench, which it keeps warm.

It runs in a process that Ray starts; what goes wrong in a job is its outcome, not the worker's end. Imports torch when
it first works.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import Any

import ray
from ray import tune

from tuner.jobs import Job
from tuner.workers.workbench import Report, Workbench, failure


class Worker(tune.Trainable):
    """Trains one cohort of jobs after the other. What goes wrong in a job is its outcome, not the worker's end.

    A result holds ``outcomes``, of the jobs that ended since the one before, by their places; ``value``, the task's
    metric, for a scheduler to compare, and ``if_stopped``, the outcomes if it stopped the run now; ``about``, what
    env.json says of data and network; ``worker_unusable``, why this process may do no other job; and whether it
    ``retires``:
    another worker then does what is left.
    """

    def setup(self, config: dict[str, Any], run_config: str = "", every_evaluation: bool = False) -> None:
        """
        Args:
            config: the first cohort, ``jobs``; whether it is ``alone`` on the machine; by their names, references of
                ``checkpoints`` to go on from, or ``None`` where none are to be made.
            run_config: the run's config.yaml.
            every_evaluation: report each evaluation of a single job, for a scheduler to decide on; else only the end.
        """
        from tuner.config.layers import from_yaml

        self.run_config = from_yaml(run_config)
        self.every_evaluation = every_evaluation
        self.workbench: Workbench | None = None
        self.reports: Generator[Report] | None = None
        self.retired = False
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        if self.reports is not None:  # of a run that a scheduler stopped
            self.reports.close()
        self.jobs = [Job(**job) for job in new_config["jobs"]]
        self.alone = new_config["alone"]
        kept = new_config["checkpoints"]
        self.checkpoints = kept and {name: ray.get(content) for name, content in kept.items()}
        self.left = list(range(len(self.jobs)))
        self.reports = None
        return True

    def step(self) -> dict[str, Any]:
        if self.workbench and self.workbench.unusable:
            return self._retire(self.workbench.unusable)
        try:
            if self.workbench is None:
                self.workbench = Workbench(self.run_config)
            if self.reports is None:
                self.reports = self.workbench.reports(
                    self.jobs, every_evaluation=self.every_evaluation, alone=self.alone, checkpoints=self.checkpoints
                )
                if self.run_config.faults.trial_limit_s is not None:  # the driver must know when the limit began
                    return {"begins": True, "value": None, "done": False}
            report = next(self.reports)
        except Exception as error:
            report = Report({place: failure(error, []) for place in self.left})
        self.left = [place for place in self.left if place not in report.outcomes]
        ended = list((report.outcomes or report.if_stopped).values())
        return {
            "outcomes": report.outcomes,
            "if_stopped": report.if_stopped,
            "checkpoint": report.checkpoint,
            "value": ended[0].metrics.get(self.run_config.task.metric) if ended else None,
            "looks": len(ended[0].evaluations) - 1 if ended else None,  # the first is before training
            "about": self.workbench.about if self.workbench else None,
            "worker_unusable": self.workbench.unusable if self.workbench else "",
            "done": not self.left,
        }

    def _retire(self, reason: str) -> dict[str, Any]:
        """Hand back what is left; then end this process, since Tune would use it again."""
        if self.retired:
            os._exit(1)
        self.retired = True
        return {"worker_unusable": reason, "retires": True, "value": None, "done": False}

    # Tune calls these when it pauses a trial, which none of our schedulers does: checkpoints are the driver's to keep.

    def save_checkpoint(self, checkpoint_dir: str) -> None: ...

    def load_checkpoint(self, checkpoint: Any) -> None: ...
