"""The Tune trainable does one cohort of jobs after the other on workbenches, one for each run, which it keeps warm.

It runs in a process that Ray starts; what goes wrong in a job is its outcome, not the worker's end. Imports torch when
it first works.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping
from dataclasses import replace
from typing import Any

import ray
from ray import tune

from tuner.planning.messages import Report, Request
from tuner.workers.device_errors import brief, has_lost_device
from tuner.workers.workbench import Workbench, failure

NO_CONFIGS: Mapping[str, str] = {}


class Worker(tune.Trainable):
    """Trains one cohort of jobs after the other; a trial's configuration is a ``Request``, each result a ``Report``."""

    def setup(self, config: dict[str, Any], run_configs: Mapping[str, str] = NO_CONFIGS, objects: bytes = b"") -> None:
        """
        Args:
            config: the first request; its checkpoints are references into Ray's object store.
            run_configs: the config.yaml of each run.
            objects: what they carry by value: see ``tuner.config.carried``.
        """
        from tuner.config.layers import from_yaml

        self.configs = {run: from_yaml(text) for run, text in run_configs.items()}
        self.objects = objects
        self.workbenches: dict[str, Workbench] = {}
        self.reports: Generator[Report] | None = None
        self.device_failed = ""
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
        if self.unusable:
            return self._retire(self.unusable)
        run = self.request.run
        config = self.configs[run]
        try:
            if run not in self.workbenches:
                self.workbenches[run] = Workbench(config, self.objects)
            if self.reports is None:
                each = config.search.scheduler == "asha"  # which decides on a single job
                self.reports = self.workbenches[run].reports(self.request, every_evaluation=each)
                if config.faults.trial_limit_s is not None:  # the driver must know when the limit began
                    return Report(begins=True)
            report = next(self.reports)
        except Exception as error:
            report = self._fault(error)
            if report.retires:
                return report
        self.remaining = [index for index in self.remaining if index not in report.outcomes]
        bench = self.workbenches.get(run)
        return replace(
            report,
            value=report.latest.metrics.get(config.task.metric) if report.latest else None,
            task=bench.summary if bench else None,
            worker_unusable=self.unusable,
            done=not self.remaining,
        )

    def _fault(self, error: Exception) -> Report:
        """What is said of the jobs that are left where none of them could go on: they have failed, but for those of
        which only one may be at fault."""
        if not self.unusable and has_lost_device(error):
            self.device_failed = f"the GPU failed a worker, which was replaced ({brief(error)})"
        if self.unusable and len(self.remaining) > 1:
            return self._retire(self.unusable, singly=True)
        return Report({index: failure(error, []) for index in self.remaining})

    @property
    def unusable(self) -> str:
        """Why this process may do no other job; empty while it may."""
        reasons = [bench.unusable for bench in self.workbenches.values()]
        return next((reason for reason in [self.device_failed, *reasons] if reason), "")

    def _retire(self, reason: str, *, singly: bool = False) -> Report:
        """Return the jobs that are left; then end this process, since Tune would use it again.

        Args:
            singly: each is to be done for itself, since one of them may be at fault.
        """
        if self.retired:
            os._exit(1)
        self.retired = True
        return Report(worker_unusable=reason, retires=True, singly=singly)

    # Tune calls these when it pauses a trial, which none of our schedulers does: checkpoints are the driver's to keep.

    def save_checkpoint(self, checkpoint_dir: str) -> None: ...

    def load_checkpoint(self, checkpoint: Any) -> None: ...
