"""A comparison holds the optimizers of one task, under the same conditions. No torch, no ray."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pandas as pd

from tuner.analysis.rules import Rules
from tuner.analysis.searches import boundary
from tuner.analysis.stats import Mode
from tuner.comparison.metrics import metrics, mode
from tuner.config.schema import Config
from tuner.config.space import Dimension
from tuner.store.run import Run
from tuner.store.tables import HP


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

    def at_boundary(self, optimizer: str) -> list[str]:
        """Which of them lie in the outer 5 % of their range."""
        table = boundary(self.hp(optimizer), self.spaces[optimizer])
        return [str(name) for name in table.loc[table["at_boundary"], "hyperparameter"]]

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

    @property
    def cohorts(self) -> dict[str, int]:
        """How many runs of each optimizer trained together at most; 1 where nothing else is known."""
        return {name: largest_cohort(self.seeds[self.seeds["optimizer"] == name]) for name in self.optimizers}

    @property
    def timed(self) -> bool:
        """Whether seconds of all runs are comparable: they had their device to themselves, and the same one."""
        return not self.shared and len({machine(source) for source in self.sources}) == 1

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
        """A row per retrained run: optimizer, seed, status, value (NaN of a failed run, infinite of a diverged one)."""
        if metric not in self.seeds:
            return pd.DataFrame({"optimizer": [], "seed": [], "status": [], "value": []})
        table = self.seeds[["optimizer", "seed", "status", metric]].rename(columns={metric: "value"})
        order = {name: index for index, name in enumerate(self.optimizers)}
        return table.sort_values(["optimizer", "seed"], key=lambda c: c.map(order) if c.name == "optimizer" else c)


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
