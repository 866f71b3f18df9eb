"""Tune runs a plan's jobs on warm workers. The one module beside ``session`` that talks to Ray's driver side."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

# isort: off
from tuner.workers import session  # noqa: F401  (sets what Ray reads from the environment when it is imported)

import ray
from ray import tune
from ray.tune.execution.tune_controller import TuneController
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
# isort: on

from tuner.config.layers import from_yaml
from tuner.config.schema import Config
from tuner.planning.dispatch import Dispatcher, Interrupted, on_disk
from tuner.planning.messages import EVALUATIONS, Report, Request
from tuner.workers.preflight import PreflightResult
from tuner.workers.trainable import Worker

HEAVY = (
    "config",
    "_Trial__unresolved_config",
    "evaluated_params",
    "run_metadata",
    "storage",
    "placement_group_factory",
)
"""Parts of a trial of Tune that nobody asks for once it has ended; all such trials share those of the first."""


def preflight_in_cluster(config: Config, objects: bytes) -> PreflightResult | None:
    """What ``preflight`` finds in a process of the cluster that has a trial's resources; ``None`` if it is lost.

    Args:
        objects: what the run carries by value: see ``tuner.config.carried``.

    Raises:
        UserError: the data cannot be used there.
    """
    from tuner.workers import preflight

    def run_checks(config_yaml: str, objects: bytes) -> dict[str, Any]:
        return preflight.run_checks(from_yaml(config_yaml), objects, here=True)

    settled = config.resources.settled
    resources = {"num_cpus": settled.cpus_per_trial, "num_gpus": settled.gpus_per_trial}
    try:
        answer = ray.get(ray.remote(**resources, max_calls=1)(run_checks).remote(config.to_yaml(), objects))
    except ray.exceptions.RayError:
        return None
    return preflight.read_answer(answer)


def run(dispatcher: Dispatcher, scratch: Path, *, here: bool) -> None:
    """Do all of the plans' jobs. Ray must be up, and the configurations' resources settled and the same.

    Args:
        here: whether this process has started Ray, whose processes then have its environment.

    Raises:
        Interrupted: by SIGINT or SIGTERM; nothing was being written at that moment.
    """
    plans = dispatcher.plans.all
    configs = {plan.key: plan.config for plan in plans}
    resources = plans[0].config.resources.settled
    asha = any(config.search.scheduler == "asha" for config in configs.values())
    trainable = tune.with_resources(
        tune.with_parameters(
            Worker,
            run_configs={key: config.to_yaml() for key, config in configs.items()},
            objects=plans[0].run.objects(),
        ),
        {"cpu": resources.cpus_per_trial, "gpu": resources.gpus_per_trial},
    )
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=JobSearcher(dispatcher),
            scheduler=SearchASHA(configs) if asha else FIFOScheduler(),
            num_samples=-1,
            max_concurrent_trials=resources.max_concurrent,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="jobs", storage_path=str(scratch), verbose=0, callbacks=[JobCallback(dispatcher)]
        ),
    )
    with mock.patch("ray.tune.tune.TuneController", Patient), own_processes() if here else contextlib.nullcontext():
        tuner.fit()


def own_processes() -> contextlib.AbstractContextManager[Any]:
    """Tune asks for no environment of its workers' own, for which Ray would set aside the processes that it has started
    and warmed, and start others, each by way of another that imports Ray as well."""
    settings: dict[str, Any] = {"DEFAULT_ENV_VARS": {}, "ENV_VARS_TO_PROPAGATE": frozenset()}
    return mock.patch.multiple("ray.tune.execution.class_cache", create=True, **settings)


class Patient(TuneController):
    """Lets a worker come up that a cohort waits for.

    Tune gives that cohort to the first worker that is free, and stops the one on its way. Where training runs are
    shorter than a worker's start it would never have a second worker.
    """

    @property
    def _max_pending_trials(self) -> int:
        """How many may wait: besides those that Tune itself allows, those that have a worker on its way."""
        return self._most_pending + sum(map(self._is_starting, self._pending_trials))

    @_max_pending_trials.setter
    def _max_pending_trials(self, most: int) -> None:
        self._most_pending = most

    def _maybe_reuse_cached_actor(self, trial: Any) -> bool:
        if not self._is_starting(trial):
            return bool(super()._maybe_reuse_cached_actor(trial))
        for other in list(self._resources_to_pending_trials[trial.placement_group_factory]):
            if other in self._trial_to_actor and not self._is_starting(other):  # it waits for resources
                super()._maybe_reuse_cached_actor(other)
                break
        return False

    def _is_starting(self, trial: Any) -> bool:
        """Whether its worker has its resources, and is coming up."""
        actor = self._trial_to_actor.get(trial)
        if actor is None or actor in self._started_actors or trial in self._resetting_trials:
            return False
        return bool(self._actor_manager.is_actor_started(actor))


class JobSearcher(Searcher):
    """Tune's view of the plan: a stream of configurations, each of them a cohort of jobs."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        super().__init__(metric="value", mode="min")
        self.dispatcher = dispatcher

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        with on_disk():
            assignment = self.dispatcher.assign(trial_id)
            if assignment is None:
                return Searcher.FINISHED if self.dispatcher.idle else None
            jobs = list(assignment.jobs.values())
            checkpoints = assignment.plan.checkpoints(jobs)
        references = checkpoints and {name: ray.put(content) for name, content in checkpoints.items()}
        return Request(jobs, assignment.alone, references, assignment.plan.key).to_dict()

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """``JobCallback`` has the whole of it."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: a run is resumed from its own records."""

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("a run is resumed from its own records")


class JobCallback(tune.Callback):
    """Takes the outcomes out of a trial's results, so that Tune keeps none of them."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self.dispatcher = dispatcher
        self.first: dict[str, Any] = {}

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if self.dispatcher.interrupted:
            raise Interrupted
        with on_disk():
            self.dispatcher.plans.tick()
            self.dispatcher.on_event()

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        report = Report.taken_from(result)
        with on_disk():
            self.dispatcher.receive(trial.trial_id, report)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._forget(trials, trial, "the worker ended early")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Only the loss of a worker ends a trial with an error: see ``Worker.step``."""
        path = Path(trial.error_file or "")
        self._forget(trials, trial, path.read_text(encoding="utf-8", errors="replace") if path.is_file() else "")

    def _forget(self, trials: list[Any], trial: Any, error: str) -> None:
        """Tune keeps every trial, 60 kB with its numbers' history, and goes through all of them in every step."""
        with on_disk():
            self.dispatcher.close(trial.trial_id, error)
        if not self.first:
            self.first = {name: vars(trial)[name] for name in HEAVY if name in vars(trial)}
            trial.config.update(replace(Request.from_dict(trial.config), checkpoints={}).to_dict())
            with contextlib.suppress(AttributeError):
                trial.run_metadata.metric_analysis, trial.run_metadata.metric_n_steps = {}, {}
        trials[:] = [other for other in trials if other is not trial]
        vars(trial).update(self.first)  # Tune's own sets keep the rest


class SearchASHA(FIFOScheduler):
    """Successive halving among the trials of one study; studies do not compete, retraining is never stopped."""

    REDUCTION_FACTOR = 3

    def __init__(self, configs: Mapping[str, Config]) -> None:
        super().__init__()
        self.never = FIFOScheduler()
        self.schedulers = {
            (run, name, study): AsyncHyperBandScheduler(
                time_attr=EVALUATIONS,
                metric="value",
                mode=config.task.mode,
                max_t=config.train.evaluations,
                grace_period=1,
                reduction_factor=self.REDUCTION_FACTOR,
            )
            for run, config in configs.items()
            if config.search.scheduler == "asha"
            for name in config.optimizers
            for study in config.studies
        }

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        return True

    def _of(self, trial: Any) -> TrialScheduler:
        request = Request.from_dict(trial.config)
        job = request.jobs[0]
        of_study = self.schedulers.get((request.run, job.optimizer, job.study), self.never)
        return of_study if job.phase == "search" else self.never

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        self._of(trial).on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if result.get(EVALUATIONS) is None:  # a checkpoint
            return self.CONTINUE
        return self._of(trial).on_trial_result(tune_controller, trial, result)
