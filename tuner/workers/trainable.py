"""The Tune trainable does one cohort of jobs after the other on a workbench, which it keeps warm.

It runs in a process that Ray starts; what goes wrong in a job is its outcome, not the worker's end. Imports torch when
it first works.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from dataclasses import replace
from typing import Any

import ray
from ray import tune

from tuner.planning.messages import Report, Request
from tuner.workers.workbench import Workbench, failure


class Worker(tune.Trainable):
    """Trains one cohort of jobs after the other; a trial's configuration is a ``Request``, each result a ``Report``."""

    def setup(
        self, config: dict[str, Any], run_config: str = "", every_evaluation: bool = False, objects: bytes = b""
    ) -> None:
        """
        Args:
            config: the first request; its checkpoints are references into Ray's object store.
            run_config: the run's config.yaml.
            every_evaluation: report each evaluation of a single job, for a scheduler to decide on; else only the end.
            objects: what the run carries by value: see ``tuner.config.carried``.
        """
        from tuner.config.layers import from_yaml

        self.run_config = from_yaml(run_config)
        self.objects = objects
        self.every_evaluation = every_evaluation
        self.workbench: Workbench | None = None
        self.reports: Generator[Report] | None = None
        self.retired = False
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        if self.reports is not None:  # of a run that a scheduler stopped
            self.reports.close()
        request = Request.from_dict(new_config)
        stored = request.checkpoints
        self.request = replace(request, checkpoints=stored and {name: ray.get(ref) for name, ref in stored.items()})
        self.remaining = list(range(len(request.jobs)))
        self.reports = None
        return True

    def step(self) -> dict[str, Any]:
        return self._next_report().to_dict()

    def _next_report(self) -> Report:
        if self.workbench and self.workbench.unusable:
            return self._retire(self.workbench.unusable)
        try:
            if self.workbench is None:
                self.workbench = Workbench(self.run_config, self.objects)
            if self.reports is None:
                self.reports = self.workbench.reports(self.request, every_evaluation=self.every_evaluation)
                if self.run_config.faults.trial_limit_s is not None:  # the driver must know when the limit began
                    return Report(begins=True)
            report = next(self.reports)
        except Exception as error:
            report = Report({index: failure(error, []) for index in self.remaining})
        self.remaining = [index for index in self.remaining if index not in report.outcomes]
        return replace(
            report,
            value=report.latest.metrics.get(self.run_config.task.metric) if report.latest else None,
            task=self.workbench.summary if self.workbench else None,
            worker_unusable=self.workbench.unusable if self.workbench else "",
            done=not self.remaining,
        )

    def _retire(self, reason: str) -> Report:
        """Return the jobs that are left; then end this process, since Tune would use it again."""
        if self.retired:
            os._exit(1)
        self.retired = True
        return Report(worker_unusable=reason, retires=True)

    # Tune calls these when it pauses a trial, which none of our schedulers does: checkpoints are the driver's to keep.

    def save_checkpoint(self, checkpoint_dir: str) -> None: ...

    def load_checkpoint(self, checkpoint: Any) -> None: ...
