"""A plan's jobs on warm Ray Tune workers. The only module that talks to Ray's driver side."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tuner.config import from_yaml
from tuner.errors import UserError
from tuner.estimate import Timings
from tuner.jobs import Job, Outcome
from tuner.plan import Plan
from tuner.resources import Machine
from tuner.schema import Config

OBJECT_STORE_BYTES = 256 * 2**20
RAY_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # our store is the record
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # we have our own
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a failed job has no value
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
}
os.environ.update({key: value for key, value in RAY_ENVIRONMENT.items() if key not in os.environ})

import ray  # noqa: E402  (reads the environment when it is imported)
from ray import tune  # noqa: E402
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler  # noqa: E402
from ray.tune.search import Searcher  # noqa: E402

from tuner.worker import Worker  # noqa: E402


class Interrupted(KeyboardInterrupt):
    """The person, or the system, asked the run to end. (Tune tidies up for seconds after any ``Exception``.)"""


@contextlib.contextmanager
def cluster(address: str | None, machine: Machine, verbose: bool) -> Iterator[tuple[Machine, Path]]:
    """Ray, started here or joined; yields what it has, and a folder for Tune's own files that goes after Ray went.

    Raises:
        UserError: there is no cluster at the address.
    """
    level = logging.INFO if verbose else logging.CRITICAL
    local = {} if address else {
        "num_cpus": machine.cpus, "num_gpus": machine.gpus, "include_dashboard": False,
        "object_store_memory": OBJECT_STORE_BYTES,
    }  # fmt: skip
    try:
        if address:
            _knock(address)
        ray.init(address=address or "local", log_to_driver=verbose, logging_level=level, **local)
    except (OSError, ValueError) as error:
        if address is None:
            raise
        raise UserError(f"--address {address}: no Ray cluster answers there ({' '.join(str(error).split())})") from None
    for name in ("ray", "ray.tune"):
        logging.getLogger(name).setLevel(level)
    with tempfile.TemporaryDirectory(prefix="tune-", ignore_cleanup_errors=True) as scratch:
        try:
            total = ray.cluster_resources()
            with _hushed(verbose):
                yield Machine(int(total.get("CPU", 0)), int(total.get("GPU", 0))), Path(scratch)
        finally:
            ray.shutdown()


@contextlib.contextmanager
def _hushed(verbose: bool) -> Iterator[None]:
    """Ray prints what happens to its processes on stdout, which is for results."""
    with contextlib.ExitStack() as stack:
        to = sys.stderr if verbose else stack.enter_context(Path(os.devnull).open("w"))
        stack.enter_context(contextlib.redirect_stdout(to))
        yield


def _knock(address: str) -> None:
    """Raise ``OSError`` where nothing listens: Ray itself would try for minutes."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), timeout=5).close()


def timings_there(config: Config) -> Timings | None:
    """What ``tuner.preflight`` finds in a process of the cluster that has a trial's resources; ``None`` if it is lost.

    Raises:
        UserError: the data cannot be used there.
    """
    from tuner import preflight

    def look(text: str) -> dict[str, Any]:
        return preflight.look(from_yaml(text), here=True)

    resources = {"num_cpus": config.resources.cpus_per_trial, "num_gpus": config.resources.gpus_per_trial or 0}
    try:
        found = ray.get(ray.remote(**resources, max_calls=1)(look).remote(config.to_yaml()))
    except ray.exceptions.RayError:
        return None
    return preflight.timings(found)


class Desk:
    """Between the plan, which knows jobs, and Tune, which knows trial ids.

    Args:
        on_event: called often, for the progress to be shown.
    """

    def __init__(self, plan: Plan, on_event: Callable[[], None]) -> None:
        self.plan = plan
        self.on_event = on_event
        self.jobs: dict[str, dict[int, Job]] = {}
        self.again: list[Job] = []
        self.interrupted = False

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles itself for a restore of its own; a run is resumed from our records

    def take(self, trial_id: str) -> list[Job]:
        jobs = [self.again.pop(0)] if self.again else self.plan.next_jobs()
        if jobs:
            self.jobs[trial_id] = dict(enumerate(jobs))
        return jobs

    def hand_in(self, trial_id: str, outcomes: Mapping[int, Outcome]) -> None:
        """What became of some of a trial's jobs."""
        jobs = self.jobs[trial_id]
        done = [(jobs.pop(place), outcome) for place, outcome in outcomes.items()]
        if not jobs:
            del self.jobs[trial_id]
        self.plan.record(done)

    def close(self, trial_id: str, error: str) -> None:
        """The trial has ended: what it has not handed in failed; jobs of a cohort are done again, one at a time."""
        lost = list(self.jobs.pop(trial_id, {}).values())
        if len(lost) > 1:
            self.again += lost
        elif lost:
            self.plan.record([(job, Outcome("failed", error=error)) for job in lost])

    @contextlib.contextmanager
    def signals(self) -> Iterator[Desk]:
        """SIGINT and SIGTERM set ``interrupted``, which ends the run between two events; a second one at once."""

        def note(number: int, frame: Any) -> None:
            if self.interrupted:
                raise KeyboardInterrupt
            self.interrupted = True

        previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def run(desk: Desk, config: Config, scratch: Path) -> None:
    """Do all of the plan's jobs. Ray must be up and the configuration's resources settled.

    Raises:
        Interrupted: by SIGINT or SIGTERM; nothing was being written at that moment.
    """
    resources = config.resources
    asha = config.search.scheduler == "asha"
    trainable = tune.with_resources(
        tune.with_parameters(Worker, run_config=config.to_yaml(), every_evaluation=asha),
        {"cpu": resources.cpus_per_trial, "gpu": resources.gpus_per_trial or 0},
    )
    tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=JobSearcher(desk),
            scheduler=SearchASHA(config) if asha else FIFOScheduler(),
            num_samples=-1,
            max_concurrent_trials=resources.max_concurrent,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(name="jobs", storage_path=str(scratch), verbose=0, callbacks=[JobCallback(desk)]),
    ).fit()


class JobSearcher(Searcher):
    """Tune's view of the plan: a stream of configurations, each of them a cohort of jobs."""

    def __init__(self, desk: Desk) -> None:
        super().__init__(metric="value", mode="min")
        self.desk = desk

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        jobs = self.desk.take(trial_id)
        if jobs:
            return {"jobs": [job.to_dict() for job in jobs]}
        return None if self.desk.jobs else Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Only the loss of a worker ends a trial with an error: see ``Worker.step``."""
        self.desk.close(trial_id, "the worker was lost")

    def save(self, checkpoint_path: str) -> None:
        """Nothing: a run is resumed from its own records."""

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("a run is resumed from its own records")


class JobCallback(tune.Callback):
    """Takes the outcomes out of a trial's results, so that Tune keeps none of them."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if self.desk.interrupted:
            raise Interrupted
        self.desk.plan.tick()
        self.desk.on_event()

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        outcomes, if_stopped = result.pop("outcomes", {}), result.pop("if_stopped", {})
        if about := result.pop("about", None):
            self.desk.plan.note_task(about)
        if outcomes := outcomes or (if_stopped if result.get("done") else {}):
            self.desk.hand_in(trial.trial_id, outcomes)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Tune keeps a history of every number of every trial, which nobody reads: 40 kB a trial."""
        with contextlib.suppress(AttributeError):
            trial.run_metadata.metric_analysis, trial.run_metadata.metric_n_steps = {}, {}


class SearchASHA(FIFOScheduler):
    """Successive halving among the trials of one study; studies do not compete, retraining is never stopped."""

    REDUCTION_FACTOR = 3

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.never = FIFOScheduler()
        self.schedulers = {
            name: AsyncHyperBandScheduler(
                time_attr="training_iteration",
                metric="value",
                mode=config.task.mode,
                max_t=config.train.evaluations,
                grace_period=1,
                reduction_factor=self.REDUCTION_FACTOR,
            )
            for name in config.optimizers
        }

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        return True

    def _of(self, trial: Any) -> TrialScheduler:
        job = Job(**trial.config["jobs"][0])
        return self.schedulers[job.optimizer] if job.phase == "search" else self.never

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        self._of(trial).on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        return self._of(trial).on_trial_result(tune_controller, trial, result)
