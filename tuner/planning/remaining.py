"""What a run lacks is what a command that goes on has to do."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from tuner.config.schema import Config
from tuner.store.columns import STUDY
from tuner.store.extent import Extent
from tuner.store.run import Run
from tuner.store.seed_rows import current_rows, missing_runs
from tuner.store.winners import winners


@dataclass(frozen=True)
class Work:
    """What a command has to do.

    Attributes:
        search: whether trials may be among it, or only retraining.
        trials, seeds: how many are left, per optimizer on average.
    """

    search: bool
    trials: float
    seeds: float


def remaining_work(config: Config, run: Run, search: bool) -> tuple[Work, list[int]]:
    """What a run lacks, and the seeds that are among it."""
    names, trials, whole = config.optimizers, 0, Extent.of(config, run.path)
    if search:
        recorded = Counter((row["optimizer"], int(row[STUDY])) for row in run.trial_rows())
        for name in names:
            lacking = (config.trials(name) - recorded[name, study] for study in range(whole.studies(name)))
            trials += sum(max(0, lack) for lack in lacking)
    best = run.best_optimizers()
    of_study = winners(best)
    to_be_searched: dict[str, Any] = {"hp": {} if search else None}
    missing = [
        each
        for each in missing_runs(whole, current_rows(run.valid_seed_rows(), best))
        if of_study.get((each.optimizer, each.study), to_be_searched)["hp"] is not None
    ]
    work = Work(search, trials / len(names), len(missing) / len(names))
    return work, list(dict.fromkeys(each.declared_seed for each in missing))
