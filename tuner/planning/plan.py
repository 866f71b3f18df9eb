"""A plan hands out the jobs of its phases, and is the one place where outcomes are written down. No Ray."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import optuna

from tuner import text
from tuner.config.schema import Config
from tuner.jobs import Done, Job, Outcome, Phase, checkpoint_name
from tuner.planning.cohorts import CohortSizes
from tuner.planning.looking import Decide, Looking
from tuner.planning.phases import Retrain, Search
from tuner.planning.progress import Progress
from tuner.planning.study_db import PATIENCE_S
from tuner.store.columns import STUDY
from tuner.store.run import Run
from tuner.store.winners import winners
from tuner.trackers.tracker import Tracker


class Plan:
    """The phases of one command, and the one place where a job's outcome is written down.

    Args:
        unsaved: the optimizers whose runs cannot go on from checkpoints.
        tracker: is told of the training runs that have ended.
        looking: says which studies, or seeds, are open.

    Attributes:
        run_s: seconds that one training run of a phase is expected to take, where that is known.
    """

    def __init__(
        self,
        config: Config,
        run: Run,
        search: Search | None,
        retrain: Retrain,
        looking: Looking,
        unsaved: Collection[str] = (),
        tracker: Tracker | None = None,
    ) -> None:
        self.config = config
        self.run = run
        self.search = search
        self.retrain = retrain
        self.looking = looking
        self.unsaved = unsaved
        self.tracker = tracker
        self.run_s: Mapping[Phase, float] = {}
        self.task_noted = False
        self.failures: list[tuple[Job, str]] = []
        self.unanalyzed: list[tuple[Job, str]] = []
        self.replaced_workers: dict[str, None] = {}

    def next_jobs(self) -> list[Job]:
        """A cohort that can start now; empty where there is none, for now or, with nothing running, for good."""
        while not (jobs := self._open_jobs()) and not self.busy and self.looking.take():
            pass
        return jobs

    def _open_jobs(self) -> list[Job]:
        return (self.search.next_jobs() if self.search else []) or self.retrain.next_jobs()

    @property
    def busy(self) -> bool:
        """Whether a job is under way, which the next look has to wait for."""
        return bool(self.retrain.running) or (self.search is not None and self.search.running)

    def abandoned_searches(self) -> list[str]:
        """The optimizers whose searches were given up."""
        studies = self.search.studies.values() if self.search else ()
        return list(dict.fromkeys(study.optimizer for study in studies if study.abandoned))

    def record(self, done: Done) -> None:
        """Write down what became of jobs: their curves first, so that a recorded run always has them."""
        self.run.append_curves(row for job, outcome in done for row in self._curve_rows(job, outcome))
        self.run.append_curvature(row for job, outcome in done for row in self._curvature_rows(job, outcome))
        for job, outcome in done:
            if outcome.state == "failed":
                self.failures.append((job, outcome.error))
                self.run.write_log(str(job).replace(" ", "-"), outcome.traceback or outcome.error + "\n")
            self._note_unanalyzed(job, outcome)
        searched = [(job, outcome) for job, outcome in done if job.phase == "search"]
        retrained = [(job, outcome) for job, outcome in done if job.phase == "retrain"]
        if searched:
            assert self.search is not None
            self.search.record(searched)
        if retrained:
            self.retrain.record(retrained)
        if self.tracker:
            for job, outcome in done:
                self.tracker.record(job, replace(outcome, weights=None))  # which may have to wait
        self.run.checkpoints.drop(checkpoint_name([job]) for job, _ in done)

    def checkpoints(self, jobs: Sequence[Job]) -> dict[str, bytes] | None:
        """From where jobs that an earlier worker did not finish can go on, by the names of the states; ``None`` where
        none are to be made."""
        if jobs[0].optimizer in self.unsaved:
            return None
        return self.run.checkpoints.read(checkpoint_name([job]) for job in jobs)

    def tick(self) -> None:
        """To be called often."""
        if self.search:
            self.search.tick()

    def note_task(self, about: Mapping[str, Any]) -> None:
        """Put the data and the network's size, the same in every worker, into env.json; among the hardware, its GPU."""
        if self.task_noted:
            return
        env, gpu = self.run.env(), about.get("gpu")
        if gpu:  # a run that goes on keeps that of its beginning
            env |= {"hardware": {"gpus": [text.line(gpu)]} | env.get("hardware", {})}
        self.run.write_env(env | text.plain({name: value for name, value in about.items() if name != "gpu"}))
        self.task_noted = True

    def note_replaced_worker(self, reason: str) -> None:
        """A worker has been replaced; each reason is said once."""
        self.replaced_workers[reason] = None

    @property
    def key(self) -> str:
        """What tells it from others of the same command."""
        return self.run.path.name

    def progress(self) -> list[Progress]:
        all_of_it = [*(self.search.progress() if self.search else ()), *self.retrain.progress()]
        return [replace(p, run_s=self.run_s.get(p.phase, p.run_s)) for p in all_of_it]

    def close(self, patience_s: float = PATIENCE_S) -> list[str]:
        """Leave the run's files as a reader expects them, however the command ended; what could not be written."""
        try:
            return self.search.close(patience_s) if self.search else []
        finally:
            if self.tracker:
                self.tracker.close()
            self.run.finish_curves()

    def _curve_rows(self, job: Job, outcome: Outcome) -> Iterator[dict[str, Any]]:
        for evaluation in outcome.evaluations:
            diagnostics = {f"train_{name}": value for name, value in evaluation.diagnostics.items()}
            for name, value in (evaluation.metrics | diagnostics).items():
                split, metric = name.split("_", 1)
                yield {
                    "task": self.config.task.name,
                    "optimizer": job.optimizer,
                    STUDY: job.study,
                    "phase": job.phase,
                    "trial": job.trial,
                    "seed": job.seed,
                    "step": evaluation.step,
                    "epoch": evaluation.epoch,
                    "seconds": evaluation.seconds,
                    "grad_equivalents": evaluation.grad_equivalents,
                    "split": split,
                    "metric": metric,
                    "value": value,
                }

    def _curvature_rows(self, job: Job, outcome: Outcome) -> Iterator[dict[str, Any]]:
        for evaluation in outcome.evaluations:
            for quantity, index, value, x in evaluation.curvature:
                yield {
                    "task": self.config.task.name,
                    "optimizer": job.optimizer,
                    STUDY: job.study,
                    "seed": job.seed,
                    "step": evaluation.step,
                    "epoch": evaluation.epoch,
                    "quantity": quantity,
                    "index": index,
                    "value": value,
                    "x": x,
                }

    def _note_unanalyzed(self, job: Job, outcome: Outcome) -> None:
        """A line for each analysis of the curvature that failed, which is no fault of the run."""
        faults = [(each.step, each.unanalyzed) for each in outcome.evaluations if each.unanalyzed]
        if faults:
            lines = "".join(f"step {step}: curvature not analysed: {fault}\n" for step, fault in faults)
            self.run.write_log(f"{checkpoint_name([job])}-curvature", lines)
            self.unanalyzed.append((job, faults[0][1]))


def search_plan(
    config: Config,
    run: Run,
    sizes: CohortSizes,
    unsaved: Collection[str] = (),
    tracker: Tracker | None = None,
    decide: Decide | None = None,
) -> Plan:
    """Search every optimizer, then retrain it; what the run has already is not done again.

    Args:
        decide: what a look decides: see ``Looking``.
    """
    storage = lru_cache(lambda: optuna.storages.RDBStorage(run.study_url))
    looking = Looking(config, decide, run.path)
    search = Search(config, run, storage, sizes, looking)

    def best(optimizer: str, number: int) -> dict[str, Any] | None:
        study = search.studies[optimizer, number]
        return study.summary() if study.over else None

    retrain = Retrain(config, run, best, sizes, looking, run.valid_seed_rows())
    return Plan(config, run, search, retrain, looking, unsaved, tracker)


def retrain_plan(
    config: Config,
    run: Run,
    sizes: CohortSizes,
    unsaved: Collection[str] = (),
    tracker: Tracker | None = None,
    decide: Decide | None = None,
) -> Plan:
    """Retrain what the run's best.json has, where seeds.csv has no valid row yet."""
    best = winners(run.best()["optimizers"])
    looking = Looking(config, decide, run.path)
    nothing = {"hp": None}
    retrain = Retrain(
        config, run, lambda *key: best.get(key, nothing | {"study": key[1]}), sizes, looking, run.valid_seed_rows()
    )
    return Plan(config, run, None, retrain, looking, unsaved, tracker)
