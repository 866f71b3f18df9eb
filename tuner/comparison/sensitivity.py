"""How the optimizers of a comparison depend on their tuning, of the trials of its searches. No torch, no ray."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pandas as pd

from tuner.analysis import across_tasks, curves, rulesets, sensitivity, surrogate
from tuner.analysis.surrogate import Surrogate
from tuner.comparison.comparison import Comparison
from tuner.config.space import Dimension
from tuner.store.tables import HP

DRAWS = ("random", "qmc")
"""Samplers whose trials cover the space, whatever became of those before."""
CLOCK: curves.Clock = "grad_equivalents"
"""Of times to the target: trials of other cohorts have other seconds."""
Obstacle = Literal["", "one task", "sampler", "spaces", "nothing searched", "outside", "few trials", "fit"]


@dataclass(frozen=True)
class Shared:
    """What one configuration for all tasks comes to.

    Attributes:
        common: different configurations that all tasks have tried in some study.
        how: whether scores are of these, or of a model of each task.
        obstacle: why there are none; empty where there are.
        sensitivity: see ``analysis.sensitivity.sensitivity``.
        score: of the best shared one, the mean over tasks that each did not choose it.
        dimensionality: of how many hyperparameters must be tuned, and which; of the model.
        models: by task.
    """

    common: int = 0
    how: Literal["", "measured", "modelled"] = ""
    obstacle: Obstacle = ""
    sensitivity: float = math.nan
    score: float = math.nan
    dimensionality: tuple[int, tuple[str, ...]] | None = None
    models: dict[str, Surrogate] = field(default_factory=dict)


@dataclass(frozen=True)
class Sensitivity:
    """Of all optimizers.

    Attributes:
        comparisons: one of each task.
        targets: of each task, what counts as solved.
    """

    comparisons: Sequence[Comparison]
    targets: Sequence[float | None]

    @property
    def optimizers(self) -> list[str]:
        return list(dict.fromkeys(name for comparison in self.comparisons for name in comparison.optimizers))

    @property
    def shown(self) -> bool:
        """Whether there is something to say: several tasks, or trials that cover the range."""
        return len(self.comparisons) > 1 or any(drawn(comparison) for comparison in self.comparisons)

    @cached_property
    def trials(self) -> pd.DataFrame:
        """Those of all tasks that count, lower values are better, with score, and time to the target."""
        tables = []
        for comparison, target in zip(self.comparisons, self.targets, strict=True):
            table = comparison.trials.assign(task=comparison.task, value=_sign(comparison) * comparison.trials["value"])
            times = reached(comparison, target).set_index(["optimizer", "study", "trial"])["time"].astype(float)
            tables.append(table.join(times, on=["optimizer", "study", "trial"]))
        return sensitivity.normalised(pd.concat(tables, ignore_index=True), self.untrained)

    @cached_property
    def untrained(self) -> dict[str, float]:
        """By task, the median value before the first step, lower is better."""
        return {comparison.task: untrained(comparison) for comparison in self.comparisons}

    def over_lr(self, comparison: Comparison, optimizer: str) -> pd.DataFrame | None:
        """See ``analysis.sensitivity.over_lr``; none of an optimizer whose learning rate is not searched in a range on
        this task."""
        dimension = comparison.spaces.get(optimizer, {}).get("lr")
        own = self._of(optimizer, comparison.task)
        if dimension is None or dimension.low is None or dimension.high is None or f"{HP}lr" not in own:
            return None
        if not dimension.log:
            return None
        return sensitivity.over_lr(own, dimension.low, dimension.high)

    def near_best(self, optimizer: str) -> dict[str, tuple[float, float]]:
        """By task, of those whose trials cover the range: the share of the range of learning rates that is near the
        best, and its length in decades."""
        found = {}
        for comparison in filter(drawn, self.comparisons):
            curve = self.over_lr(comparison, optimizer)
            if curve is not None:
                share = sensitivity.share_near_best(curve, self.untrained[comparison.task])
                decades = math.log10(curve["high"].iloc[-1] / curve["low"].iloc[0])
                found[comparison.task] = share, share * decades
        return found

    def tuned(self, optimizer: str) -> pd.Series:
        """By task, the score of each study's best trial, the median over studies."""
        return rulesets.median_over_studies(by_trial(self._of(optimizer), "score"), rulesets.tuned_per_task)

    def defaults(self, optimizer: str) -> pd.Series:
        """By task, the score of its first published default, the median over studies; NaN where it was not tried."""
        tried = by_trial(self._tried_defaults(optimizer), "score")
        return rulesets.median_over_studies(tried, rulesets.tuned_per_task).reindex(self._tasks(optimizer))

    @cached_property
    def shared(self) -> dict[str, Shared]:
        """By optimizer."""
        return {name: self._shared(name) for name in self.optimizers}

    def _shared(self, optimizer: str) -> Shared:
        tasks, trials = self._tasks(optimizer), self._of(optimizer)
        spaces = [comparison.spaces[optimizer] for comparison in self.comparisons if comparison.task in tasks]
        if obstacle := _incomparable(tasks, spaces):
            return Shared(obstacle=obstacle)
        common = self._common(optimizer, "score")
        tried = len(common.droplevel("study").index.unique())
        covered = all(drawn(comparison) for comparison in self.comparisons if comparison.task in tasks)
        found = _modelled(trials, spaces[0], len(tasks)) if covered else Shared(obstacle="sampler")
        found = replace(found, common=tried)
        return found if tried < sensitivity.FEWEST_SHARED else _measured(found, common)

    def _common(self, optimizer: str, column: str) -> pd.DataFrame:
        """The scores, or times, of the configurations that all tasks tried."""
        space = next(comparison.spaces[optimizer] for comparison in self.comparisons if optimizer in comparison.spaces)
        trials = self._of(optimizer).assign(score=self._of(optimizer)[column])
        return sensitivity.in_common(trials, list(space), self._tasks(optimizer))

    @cached_property
    def times(self) -> dict[str, pd.DataFrame]:
        """By ruleset, the time to the target in gradient-equivalents, the median over studies, of the tasks that have
        one: index task, columns optimizer. NaN where nothing is known, infinite where it was not reached."""
        tables: dict[str, dict[str, pd.Series]] = {"tuned": {}, "defaults": {}, "best_shared": {}}
        for name in self.optimizers:
            for ruleset, trials in (("tuned", self._of(name)), ("defaults", self._tried_defaults(name))):
                both = by_trial(trials, "time"), by_trial(trials, "score")
                tables[ruleset][name] = rulesets.median_times(*both, rulesets.tuned_per_task)
            if self.shared[name].how == "measured":
                both = self._common(name, "time"), self._common(name, "score")
                tables["best_shared"][name] = rulesets.median_times(*both, rulesets.best_shared)
        pairs = zip(self.comparisons, self.targets, strict=True)
        rows, names = [task.task for task, target in pairs if target is not None], self.optimizers
        return {rules: pd.DataFrame(found).reindex(index=rows, columns=names) for rules, found in tables.items()}

    def algoperf(self, ruleset: str) -> pd.Series:
        """The score of the times under a ruleset: see ``across_tasks.algoperf_score``; NaN where no time is known."""
        times = self.times[ruleset]
        return across_tasks.algoperf_score(times).where(times.notna().any())

    def _tasks(self, optimizer: str) -> list[str]:
        return [comparison.task for comparison in self.comparisons if optimizer in comparison.optimizers]

    def _of(self, optimizer: str, task: str | None = None) -> pd.DataFrame:
        trials = self.trials[self.trials["optimizer"] == optimizer]
        return trials if task is None else trials[trials["task"] == task]

    def _tried_defaults(self, optimizer: str) -> pd.DataFrame:
        """Of each task and study the trial of the first published default, if that leaves nothing open."""
        parts = []
        for comparison in self.comparisons:
            own, point = self._of(optimizer, comparison.task), default_point(comparison, optimizer)
            if point is not None and all(HP + hp in own for hp in point):
                same = np.all([_equal(own[HP + hp], value) for hp, value in point.items()], axis=0)
                parts.append(own[same].drop_duplicates("study"))
        return pd.concat(parts) if parts else self._of(optimizer).iloc[:0]


def by_trial(trials: pd.DataFrame, column: str) -> pd.DataFrame:
    """Index study and trial, columns task."""
    return trials.groupby(["study", "trial", "task"])[column].first().unstack("task")


def reached(comparison: Comparison, target: float | None) -> pd.DataFrame:
    """Columns optimizer, study, trial, time: to the target, by ``CLOCK``; none without a target."""
    if target is None:
        return pd.DataFrame(columns=["optimizer", "study", "trial", "time"])
    task = comparison.config.task
    return curves.trial_times(comparison.curves, task.metric, target, task.mode, CLOCK)


def drawn(comparison: Comparison) -> bool:
    """Whether all of its trials were drawn whatever became of others."""
    return all(source.config.search.sampler in DRAWS for source in comparison.sources)


def untrained(comparison: Comparison) -> float:
    """The median value of the task's own metric before the first step; lower is better, NaN where none is known."""
    table = comparison.curves
    split, _, metric = comparison.config.task.metric.partition("_")
    first = (table["step"] == 0) & (table["split"] == split) & (table["metric"] == metric)
    values = _sign(comparison) * table.loc[first, "value"].astype(float)
    return float(values[np.isfinite(values)].median())


def default_point(comparison: Comparison, optimizer: str) -> dict[str, Any] | None:
    """The first published default; none where it leaves a hyperparameter open, or lies outside of the space."""
    if optimizer not in comparison.optimizers:
        return None
    source = comparison.source(optimizer)
    own = next(own for own, shown in source.names.items() if shown == optimizer)
    spec = source.config.optimizers[own]
    point = next(iter(spec.enqueued()), {})
    return point if point and set(point) == set(spec.space) else None


def _incomparable(tasks: Sequence[str], spaces: Sequence[Mapping[str, Dimension]]) -> Obstacle:
    """Why no configuration can be one for all tasks; empty where one can."""
    if len(tasks) < 2:
        return "one task"
    if any(space != spaces[0] for space in spaces):
        return "spaces"
    return "" if spaces[0] else "nothing searched"


def _modelled(trials: pd.DataFrame, space: Mapping[str, Dimension], tasks: int) -> Shared:
    """What a model of each task says of all configurations that any task tried."""
    known = trials[trials["score"].notna()]
    if any(HP + name not in known for name in space):
        return Shared(obstacle="few trials")
    try:
        places, columns = surrogate.places(known, space)
    except ValueError:
        return Shared(obstacle="outside")
    models = {}
    for task in dict.fromkeys(known["task"]):
        own = (known["task"] == task).to_numpy()
        with suppress(ValueError):  # too few
            models[str(task)] = surrogate.fit(places[own], known.loc[own, "score"].to_numpy(float))
    if len(models) < tasks:
        return Shared(obstacle="few trials", models=models)
    if not all(model.fits for model in models.values()):
        return Shared(obstacle="fit", models=models)
    points = np.unique(places, axis=0)
    predict = {task: model.predict for task, model in models.items()}
    needed = surrogate.effective_dimensionality(predict, points, columns)
    scores = surrogate.modelled(models, points)
    best = float(rulesets.best_shared(scores)["score"].mean())
    gain = sensitivity.sensitivity(scores)
    return Shared(how="modelled", sensitivity=gain, score=best, dimensionality=needed, models=models)


def _measured(found: Shared, common: pd.DataFrame) -> Shared:
    """What was tried everywhere in place of what a model says, study by study."""
    studies = [own.droplevel("study") for _, own in common.groupby(level="study")]
    gain = float(np.median([sensitivity.sensitivity(own) for own in studies]))
    best = float(rulesets.median_over_studies(common, rulesets.best_shared).mean())
    return replace(found, how="measured", obstacle="", sensitivity=gain, score=best)


def _equal(column: pd.Series, value: Any) -> np.ndarray:
    if isinstance(value, bool | str | list):
        return (column.astype(str) == str(value)).to_numpy()
    return np.isclose(pd.to_numeric(column, errors="coerce").to_numpy(float), float(value), rtol=1e-9, atol=0)


def _sign(comparison: Comparison) -> float:
    return 1.0 if comparison.config.task.mode == "min" else -1.0
