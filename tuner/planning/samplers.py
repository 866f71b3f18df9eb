"""Samplers draw the hyperparameters of a study's next trial, from task, search seed and the trial's number alone."""

from __future__ import annotations

import warnings
import zlib

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, GPSampler, QMCSampler, RandomSampler, TPESampler


def sampling_seed(task: str | None, search_seed: int) -> int:
    """By which a study draws: tasks do not share their luck, optimizers of a task do.

    Args:
        task: its name; ``None`` where all tasks are to draw the same.
    """
    own = [] if task is None else [zlib.crc32(task.encode())]
    return int(np.random.SeedSequence([*own, search_seed]).generate_state(1)[0])


def draw_seed(seed: int, asked: int) -> int:
    """Of what is drawn after so many trials."""
    return int(np.random.SeedSequence([seed, asked]).generate_state(1)[0])


class NumberedQMC(QMCSampler):
    """A point of the scrambled Sobol sequence by its number; the first trials, where nothing has ended, are random.

    Optuna's own counts in the study how many it drew, so that one that was cut off would begin anew.
    """

    def __init__(self, seed: int, asked: int) -> None:
        independent = RandomSampler(seed=draw_seed(seed, asked))
        super().__init__(seed=seed, scramble=True, independent_sampler=independent, warn_independent_sampling=False)
        self._asked = asked

    def _find_sample_id(self, study: optuna.Study, search_space: dict[str, BaseDistribution]) -> int:
        return self._asked


def make_sampler(name: str, seed: int, asked: int, startup: int) -> BaseSampler:
    """The sampler of that name for the next trial, one that is not drawn at random.

    Args:
        asked: trials that were asked for before.
        startup: trials to draw at random before those that learn.
    """
    drawn = draw_seed(seed, asked)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        match name:
            case "tpe":
                return TPESampler(seed=drawn, n_startup_trials=startup)
            case "gp":
                return GPSampler(seed=drawn, n_startup_trials=startup)
            case "qmc":
                return NumberedQMC(seed, asked)
    raise ValueError(f"unknown sampler {name!r}")
