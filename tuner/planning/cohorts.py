"""Cohorts have sizes: the fastest that was measured, within what may be asked of a study at once. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from tuner.config.schema import LEARNING, Config

STARTUP = 5
"""The fewest trials that a study draws at random before it learns."""
PENDING_DIVISOR = 4
"""By default at most a learning study's budget over this is asked of it before results come back."""
SMALLEST_STACK = 8
LADDER_FACTOR = 4
"""Sizes that are timed are the smallest stack, and each this many times the one before."""
MAX_TIME_SHARE = 0.9
"""A stack must take at most this share of the time of one run at a time."""

AS_FAST = 1.2
"""Sizes that take at most so many times the least are as fast, and the largest of them is taken."""

MemberSeconds = Mapping[str, Mapping[int, float]]
"""Optimizer -> size of a stack -> seconds of a step over that size; size 1 is one run at a time."""


class CohortSizes:
    """The sizes of a run's cohorts, for each optimizer.

    Args:
        config: with settled resources.
        measured: what sizes were tried and how long they took; nothing where nothing could be measured.
        seeds: retraining runs of an optimizer.

    Attributes:
        search, retrain: optimizer -> how many jobs are handed out as one cohort, which is of all its studies.
    """

    def __init__(self, config: Config, measured: MemberSeconds, seeds: int) -> None:
        self.config = config
        self._measured = measured
        self.search = {name: self._of_studies(name, studies_at_once(config)) for name in config.optimizers}
        self.retrain = {name: self._size(name, seeds) for name in config.optimizers}

    def _of_studies(self, optimizer: str, studies: int) -> int:
        """Of the search, while so many studies have trials left."""
        budget = studies * self.config.trials(optimizer)
        auto = self.config.resources.cohort == "auto"
        return self._size(optimizer, min(budget, at_once(self.config, studies)) if auto else budget)

    def startup(self, optimizer: str) -> int:
        """Trials that each study of the optimizer draws at random: as many as are asked before the first result."""
        studies = studies_at_once(self.config)
        together = self.search[optimizer] * workers(self.config)
        if self.config.resources.cohort == "auto":
            together = min(together, max(self.search[optimizer], in_flight(self.config, studies)))
        at_first = min(-(-together // studies), max(1, self.config.search.trials // 3))
        return max(STARTUP, at_first)

    def to_ask(self, optimizer: str, asked: Sequence[int], running: int = 0, *, alone: bool = False) -> int:
        """How many trials to ask for next.

        Args:
            asked: of each of the optimizer's studies that have trials left, how many were asked for.
            running: of these studies, how many of those have not ended.
            alone: whether only this optimizer has trials left; its last ones are then shared out among all workers.
        """
        size = self._of_studies(optimizer, len(asked))
        if self.config.resources.cohort != "auto":
            return size
        at_random = sum(max(0, self.startup(optimizer) - n) for n in asked)
        startup = -(-at_random // workers(self.config))
        if startup > size:
            return self._size(optimizer, startup)  # none of them could learn from another
        most = in_flight(self.config, len(asked))
        size = min(size, most - running if running < most else max(1, most // workers(self.config)))
        remaining = sum(self.config.trials(optimizer) - n for n in asked)
        if alone and remaining <= size:
            return min(size, max(SMALLEST_STACK, -(-remaining // self.config.resources.settled.max_concurrent)))
        if alone and remaining < size + SMALLEST_STACK:
            return min(size, -(-remaining // 2))  # else a crumb would be left
        return size

    def sentences(self) -> list[str]:
        """What a person should know of them, a line or none."""
        together = []
        for name in self.config.optimizers:
            trials, seeds = self._largest(name), self.retrain[name]
            if max(trials, seeds) > 1:
                together.append(f"{name} {_counted(trials, 'trial')}, {_counted(seeds, 'seed')}")
        return [f"cohorts, each trained as one stacked model, of up to: {'; '.join(together)}"] if together else []

    def _largest(self, optimizer: str) -> int:
        """Of the search: the first ones, of trials drawn at random, may be larger than those that learn."""
        studies = studies_at_once(self.config)
        at_first = self.to_ask(optimizer, [0] * studies)
        return min(studies * self.config.trials(optimizer), max(self.search[optimizer], at_first))

    def to_dict(self) -> dict[str, Any]:
        """For env.json."""
        seconds = {name: {str(size): s for size, s in of.items()} for name, of in self._measured.items()}
        return {"search": self.search, "retrain": self.retrain, "member_step_s": seconds}

    def _size(self, optimizer: str, limit: int) -> int:
        asked, measured = self.config.resources.cohort, self._measured.get(optimizer)
        if asked != "auto":
            stackable = measured is None or len(measured) > 1
            return min(asked, limit) if stackable else 1
        if self.config.search.scheduler == "asha" or not measured:
            return 1
        fits = {size: seconds for size, seconds in measured.items() if size <= limit}
        fastest = min(fits.values(), default=math.inf)
        best = max((size for size, seconds in fits.items() if seconds <= AS_FAST * fastest), default=1)
        return best if best > 1 and fits[best] <= MAX_TIME_SHARE * measured[1] else 1


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def workers(config: Config) -> int:
    """How many can work on one optimizer's studies at once."""
    return math.ceil(config.resources.settled.max_concurrent / len(config.optimizers))


def studies_at_once(config: Config) -> int:
    """How many of an optimizer's studies may be under way together: all, or those between two looks."""
    if not config.looks or config.unit == "seed":
        return config.search.studies
    return max(later - here for here, later in pairwise([0, *config.looks]))


def in_flight(config: Config, studies: int) -> int:
    """The most trials of so many studies of an optimizer that have not ended: a quarter of each's budget, or all of it
    where nothing is learned from what has ended."""
    learning = config.search.sampler in LEARNING
    return max(1, studies * (config.search.trials // (PENDING_DIVISOR if learning else 1)))


def at_once(config: Config, studies: int) -> int:
    """The largest sensible cohort of so many studies: what may be in flight, shared out among all workers on them, of
    whom the last may have less."""
    most, of_them = in_flight(config, studies), workers(config)
    larger = -(-most // of_them)
    return larger if larger * (of_them - 1) < most else max(1, most // of_them)


def to_measure(config: Config, seeds: int) -> list[int]:
    """The sizes worth timing, in increasing order, beside 1.

    Args:
        seeds: retraining runs of an optimizer.
    """
    asked = config.resources.cohort
    if asked != "auto":
        return [min(asked, max(studies_at_once(config) * config.search.trials, seeds))] if asked > 1 else []
    if config.search.scheduler == "asha":
        return []
    studies = studies_at_once(config)
    largest = at_once(config, studies)
    at_first = -(-max(STARTUP * studies, largest * workers(config)) // workers(config))
    limits = {largest, at_first, seeds}
    ladder = {SMALLEST_STACK * LADDER_FACTOR**power for power in range(8)}
    return sorted(size for size in limits | ladder if 1 < size <= max(limits))
