"""A comparison holds the optimizers of one task, under the same conditions. No torch, no ray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from tuner.analysis.rules import Rules
from tuner.analysis.searches import boundary
from tuner.analysis.stats import Mode
from tuner.comparison.metrics import metrics, mode
from tuner.config.schema import Config
from tuner.config.space import Dimension
from tuner.store.columns import BORROWED
from tuner.store.extent import Extent
from tuner.store.run import Run
from tuner.store.tables import HP
from tuner.store.winners import by_study


@dataclass(frozen=True)
class Source:
    """A run that is part of a comparison.

    Attributes:
        names: the optimizers as the run calls them -> as the comparison does.
    """

    run: Run
    config: Config
    env: dict[str, Any]
    names: dict[str, str]

    @cached_property
    def extent(self) -> Extent:
        """What the run was to have of each optimizer, as it calls them."""
        return Extent.of(self.config, self.run.path)


@dataclass(frozen=True)
class Comparison:
    """The optimizers of one task.

    Attributes:
        task: its name; that of the run beside it where runs of one task are not comparable.
        optimizers: their names, in the runs' order; a second one of the same name is ``name@run``.
        metric: the one that decides, a column of ``seeds``.
        seeds, trials, curves: the runs' tables with these names; see ``store.run``. The metrics of diverged runs are
            infinite, and their clocks are those of their whole budget.
        best: what best.json says, by optimizer.
        spaces: the searched hyperparameters, by optimizer.
        notes: what had to be done to the tables, for a person.
        undeclared: "baseline" and "metric", where they are others than the runs declare.
    """

    task: str
    sources: list[Source]
    optimizers: list[str]
    baseline: str
    metric: str
    seeds: pd.DataFrame
    trials: pd.DataFrame
    curves: pd.DataFrame
    best: dict[str, dict[str, Any]]
    spaces: dict[str, dict[str, Dimension]]
    notes: list[str]
    undeclared: list[str]

    @property
    def config(self) -> Config:
        """That of the first run; in what makes runs comparable they are alike."""
        return self.sources[0].config

    @property
    def metrics(self) -> list[str]:
        """The one that decides, then the others that are worth a place."""
        return list(dict.fromkeys([self.metric, *metrics(self.config, self.seeds)]))

    def hp(self, optimizer: str) -> dict[str, Any]:
        """The tuned hyperparameters: best.json's, else those of the retraining; empty where neither has them."""
        if hp := self.best.get(optimizer, {}).get("hp"):
            return hp
        runs, space = self.seeds[self.seeds["optimizer"] == optimizer], self.spaces[optimizer]
        cells = {name: runs[HP + name].dropna() for name in space if HP + name in runs}
        with suppress(ValueError):  # the search cannot have come to them
            return {name: space[name].read(column.iloc[0]) for name, column in cells.items() if len(column)}
        return {}

    def winners(self, optimizer: str) -> list[dict[str, Any]]:
        """The hyperparameters of each study's winner."""
        of_studies = [study["hp"] for study in by_study(self.best.get(optimizer, {"hp": None})).values() if study["hp"]]
        return of_studies or list(filter(None, [self.hp(optimizer)]))

    def at_boundary(self, optimizer: str) -> list[str]:
        """Which of them lie in the outer 5 % of their range, of the winner of any study."""
        tables = [boundary(hp, self.spaces[optimizer]) for hp in self.winners(optimizer)]
        outer = {name for table in tables for name in table.loc[table["at_boundary"], "hyperparameter"]}
        return [name for name in self.spaces[optimizer] if name in outer]

    def source(self, optimizer: str) -> Source:
        """The run that it is of."""
        return next(source for source in self.sources if optimizer in source.names.values())

    def mode(self, metric: str) -> Mode:
        """Whether less of it is better, or more."""
        return mode(self.config, metric)

    def rules(self, metric: str) -> Rules:
        """What was declared."""
        declared = self.config.report
        return Rules(declared.test, declared.alpha, declared.margin.get(metric.partition("_")[2]))

    @cached_property
    def contained(self) -> dict[str, list[str]]:
        """The compared optimizers that each contains as a special case, directly or by way of another."""
        found = {}
        for source in self.sources:
            declared = {name: spec.contains for name, spec in source.config.optimizers.items()}
            for name, shown in source.names.items():
                inner = _reached(name, declared)
                found[shown] = [other for other in self.optimizers if other != shown and self._plain(other) in inner]
        return found

    def _plain(self, optimizer: str) -> str:
        """As its run calls it."""
        return next(own for own, shown in self.source(optimizer).names.items() if shown == optimizer)

    def studies(self, optimizer: str) -> int:
        """How many of its studies were retrained."""
        return int(self.seeds.loc[self.seeds["optimizer"] == optimizer, "study"].nunique())

    @cached_property
    def cohorts(self) -> dict[str, int]:
        """How many runs of each optimizer trained together at most; 1 where nothing else is known."""
        return {name: largest_cohort(self.seeds[self.seeds["optimizer"] == name]) for name in self.optimizers}

    @property
    def timed(self) -> bool:
        """Whether seconds of all runs are comparable: they had their device to themselves, and the same one; none is
        borrowed."""
        return not self.shared and not self.borrowed and len({machine(source) for source in self.sources}) == 1

    @cached_property
    def borrowed(self) -> dict[str, list[str]]:
        """From where retraining runs were borrowed, with the optimizers whose they are."""
        if BORROWED not in self.seeds:
            return {}
        rows = self.seeds[self.seeds[BORROWED].notna()]
        return {str(run): list(dict.fromkeys(of["optimizer"])) for run, of in rows.groupby(BORROWED, sort=False)}

    @property
    def shared(self) -> bool:
        """Whether runs had company on their device, so that their seconds are not comparable."""
        largest = max(self.cohorts.values(), default=1)
        return any(shared(source.config, largest) for source in self.sources)

    @property
    def stacked(self) -> bool:
        """Whether runs trained together: each has a share of a stack's time, which depends on the size of the stack."""
        return max(self.cohorts.values(), default=1) > 1

    def values(self, metric: str) -> pd.DataFrame:
        """A row per retrained run: optimizer, study, seed, status, value (NaN of a failed run, infinite of a diverged
        one)."""
        columns = ["optimizer", "study", "seed", "status"]
        if metric not in self.seeds:
            return pd.DataFrame({name: [] for name in [*columns, "value"]})
        table = self.seeds[[*columns, metric]].rename(columns={metric: "value"})
        order = {name: index for index, name in enumerate(self.optimizers)}
        return table.sort_values(["optimizer", "seed"], key=lambda c: c.map(order) if c.name == "optimizer" else c)


def _reached(name: str, declared: Mapping[str, Sequence[str]]) -> set[str]:
    """What an optimizer contains, and what that contains; of one that was not searched only that it is contained."""
    reached: set[str] = set()
    ahead = [name]
    while ahead:
        new = [inner for inner in declared.get(ahead.pop(), ()) if inner not in reached]
        reached.update(new)
        ahead += new
    return reached


def largest_cohort(rows: pd.DataFrame) -> int:
    """How many runs trained together at most; 1 in the tables of runs that were made before there were cohorts."""
    return int(rows["cohort"].max()) if "cohort" in rows and rows["cohort"].notna().any() else 1


def shared(config: Config, largest_cohort: int) -> bool:
    """Whether runs had company on their device: as members of a stack, or as owners of a fraction of it."""
    return largest_cohort > 1 or config.resources.settled.shared


def machine(source: Source) -> str:
    """What tells one from another."""
    hardware = source.env.get("hardware") or {}
    return repr((hardware.get("cpu"), hardware.get("gpus"), source.env.get("device")))
