"""Runs, read to be compared: those of one task, under the same conditions, are one comparison. No torch, no ray."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from tuner.errors import UserError, nearest
from tuner.schema import Config, Dimension
from tuner.search_audit import boundary, parsed
from tuner.stats import Mode, Rules
from tuner.store import Run
from tuner.summary import metrics
from tuner.tables import HP

BASELINES = ("adam", "adamw", "sgdm", "sgd")
"""What is the baseline unless one is declared: the first of these that there is, else the first optimizer."""
HIGHER_IS_BETTER = {
    "acc",
    "accuracy",
    "f1",
    "auc",
    "auroc",
    "ap",
    "map",
    "precision",
    "recall",
    "r2",
    "iou",
    "miou",
    "dice",
    "bleu",
    "rouge",
    "psnr",
    "ssim",
    "correlation",
}
LOWER_IS_BETTER = {"loss", "error", "err", "ppl", "perplexity", "rmse", "mse", "mae", "nll", "bpc", "wer", "cer", "fid"}
"""Parts of metrics' names, beside the task's own."""
KNOWN_STATUS = ("complete", "diverged", "failed")


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
        seeds, trials, curves: the runs' tables with these names; see ``tuner.store``.
        best: what best.json says, by optimizer.
        spaces: the searched hyperparameters, by optimizer.
        notes: what had to be done to the tables, for a person.
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
        if found := self.best.get(optimizer, {}).get("hp"):
            return found
        own, space = self.seeds[self.seeds["optimizer"] == optimizer], self.spaces[optimizer]
        cells = {name: own[HP + name].dropna() for name in space if HP + name in own}
        with suppress(ValueError):  # the search cannot have come to them
            return {name: parsed(space[name], column.iloc[0]) for name, column in cells.items() if len(column)}
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
        base, own = metric.partition("_")[2], self.config.task.metric.partition("_")[2]
        if base == own:
            return self.config.task.mode
        return "max" if HIGHER_IS_BETTER & set(base.split("_")) else "min"

    def rules(self, metric: str) -> Rules:
        """What was declared."""
        said = self.config.report
        return Rules(said.test, said.alpha, said.margin.get(metric.partition("_")[2]))

    @property
    def timed(self) -> bool:
        """Whether seconds of all runs are comparable: they had their device to themselves, and the same one."""
        return not self.shared and len({machine(source) for source in self.sources}) == 1

    @property
    def shared(self) -> bool:
        """Whether runs had company on their device, so that their seconds are not comparable."""
        resources = [source.config.resources for source in self.sources]
        fractions = any(0 < (r.gpus_per_trial or 0) < 1 or r.cpus_per_trial < 1 for r in resources)
        return fractions or ("cohort" in self.seeds and bool((self.seeds["cohort"] > 1).any()))

    def values(self, metric: str) -> pd.DataFrame:
        """A row per retrained run: optimizer, seed, status, value (NaN of a failed run)."""
        if metric not in self.seeds:
            return pd.DataFrame({"optimizer": [], "seed": [], "status": [], "value": []})
        table = self.seeds[["optimizer", "seed", "status", metric]].rename(columns={metric: "value"})
        order = {name: place for place, name in enumerate(self.optimizers)}
        return table.sort_values(["optimizer", "seed"], key=lambda c: c.map(order) if c.name == "optimizer" else c)


def read(runs: Sequence[Run], baseline: str | None = None, metric: str | None = None) -> list[Comparison]:
    """One comparison per task, in the order of the runs.

    Args:
        baseline, metric: in place of those that the runs declare.

    Raises:
        UserError: a run cannot be read; no task has this baseline, or this metric.
    """
    paths = [run.path.resolve() for run in runs]
    for run, path in zip(runs, paths, strict=True):
        if paths.count(path) > 1:
            raise UserError(f"{run.path}: is named twice")
    groups: dict[tuple[Any, ...], list[Source]] = {}
    for run in runs:
        source = _source(run)
        groups.setdefault(_conditions(source), []).append(source)
    compared = [
        _comparison(sources, label, baseline, metric)
        for sources, label in zip(groups.values(), _labels(list(groups.values())), strict=True)
    ]
    known = list(dict.fromkeys(name for each in compared for name in each.optimizers))
    if baseline is not None and baseline not in known:
        raise UserError(f"--baseline: unknown optimizer {baseline!r}{nearest(baseline, known)}")
    columns = list(dict.fromkeys(name for each in compared for name in each.seeds if _is_metric(name)))
    if metric is not None and metric not in columns:
        raise UserError(f"--metric: unknown metric {metric!r}{nearest(metric, columns)}")
    return compared


def machine(source: Source) -> str:
    """What tells one from another."""
    hardware = source.env.get("hardware") or {}
    return repr((hardware.get("cpu"), hardware.get("gpus"), source.env.get("device")))


def _is_metric(column: Hashable) -> bool:
    return str(column).startswith(("train_", "val_", "test_"))


def _source(run: Run) -> Source:
    env = run.env() if run.has_env() else {}
    config = run.config()
    return Source(run, config, env, {name: name for name in config.optimizers})


def _conditions(source: Source) -> tuple[Any, ...]:
    """What must be alike for results to be comparable."""
    task, train = source.config.task, source.config.train
    data = source.env.get("data") or {}
    what = (task.name, task.class_, repr(task.args), task.dataset, task.metric, task.mode, data.get("sha256"))
    return (*what, repr(train), source.config.retrain_epochs)


def _labels(groups: list[list[Source]]) -> list[str]:
    """The task's name; where others have it too, with the first run's, or, where others have that too, its path."""
    tasks = [sources[0].config.task.name for sources in groups]
    paths = [sources[0].run.path for sources in groups]
    named = [f"{task} ({path.resolve().name})" for task, path in zip(tasks, paths, strict=True)]
    return [
        task if tasks.count(task) == 1 else name if named.count(name) == 1 else f"{task} ({path})"
        for task, name, path in zip(tasks, named, paths, strict=True)
    ]


def _comparison(sources: list[Source], label: str, baseline: str | None, metric: str | None) -> Comparison:
    sources = _distinct(sources)
    optimizers = [name for source in sources for name in source.names.values()]
    chosen_baseline = _baseline(baseline, sources, optimizers)
    seeds = _stacked([_renamed(source.run.seeds(), source) for source in sources])
    chosen_metric = metric if metric is not None and metric in seeds else _deciding(sources[0].config, seeds)
    made = Comparison(
        task=label,
        sources=sources,
        optimizers=optimizers,
        baseline=chosen_baseline,
        metric=chosen_metric,
        seeds=seeds,
        trials=_stacked([_renamed(source.run.trials(), source) for source in sources]),
        curves=_stacked([_renamed(source.run.curves(), source) for source in sources]),
        best={
            source.names[name]: entry
            for source in sources
            for name, entry in source.run.best_optimizers().items()
            if name in source.names
        },
        spaces={
            new: source.config.optimizers[name].space for source in sources for name, new in source.names.items()
        },
        notes=_choices(sources[0].config, optimizers, (baseline, metric), (chosen_baseline, chosen_metric)),
    )  # fmt: skip
    return _mended(made)


def _choices(
    config: Config, optimizers: list[str], asked: tuple[str | None, str | None], taken: tuple[str, str]
) -> list[str]:
    """Where baseline and metric are not those that were asked for, or not those that were declared."""
    said = config.report
    declared = (said.baseline or _first(BASELINES, optimizers), said.metric or taken[1])
    found = []
    for what, name, wanted, chosen in zip(("baseline", "metric"), asked, declared, taken, strict=True):
        if name is not None and name == chosen and name != wanted:
            found.append(f"{chosen} was chosen as the {what} afterwards; what is said is exploratory.")
        elif chosen not in (name, wanted) or (name is not None and name != chosen):
            found.append(f"{name or wanted} is to be the {what}, but is not there; it is {chosen}.")
    if not _known_direction(config, taken[1]):
        found.append(f"{taken[1]} is taken to be better when lower: its name says nothing else.")
    return found


def _known_direction(config: Config, metric: str) -> bool:
    base = metric.partition("_")[2]
    known = HIGHER_IS_BETTER | LOWER_IS_BETTER
    return base == config.task.metric.partition("_")[2] or bool(known & set(base.split("_")))


def _first(names: Iterable[str], there: Sequence[str]) -> str:
    return next((name for name in names if name in there), there[0])


def _distinct(sources: list[Source]) -> list[Source]:
    """With names under which each optimizer of each run is one of its own."""
    taken: set[str] = set()
    found = []
    for source in sources:
        names = {}
        for name in source.names:
            names[name] = name if name not in taken else f"{name}@{source.run.path.resolve().name}"
            if names[name] in taken:
                names[name] = f"{name}@{source.run.path}"
            taken.add(names[name])
        found.append(replace(source, names=names))
    return found


def _renamed(table: pd.DataFrame, source: Source) -> pd.DataFrame:
    """Rows of the run's optimizers, under the comparison's names."""
    of_task = (table["task"] == source.config.task.name) if "task" in table else True
    own = table[table["optimizer"].isin(list(source.names)) & of_task].copy()
    own["optimizer"] = own["optimizer"].map(source.names).astype("str")
    return own


def _stacked(tables: list[pd.DataFrame]) -> pd.DataFrame:
    filled = [table for table in tables if len(table)]
    return pd.concat(filled, ignore_index=True) if filled else tables[0]


def _baseline(asked: str | None, sources: list[Source], optimizers: list[str]) -> str:
    declared = next((s.config.report.baseline for s in sources if s.config.report.baseline is not None), None)
    return _first([name for name in (asked, declared, *BASELINES) if name is not None], optimizers)


def _deciding(config: Config, seeds: pd.DataFrame) -> str:
    """The declared metric, else the task's own on the test split: on validation hyperparameters were chosen."""
    split, _, base = config.task.metric.partition("_")
    candidates = [config.report.metric, f"test_{base}" if split == "val" else None, config.task.metric]
    there = [name for name in candidates if name is not None and name in seeds and seeds[name].notna().any()]
    return there[0] if there else config.task.metric


def _strangers(made: Comparison) -> list[str]:
    """Of rows of tasks and optimizers that a run's configuration does not know."""
    found = []
    for source in made.sources:
        rows = source.run.seeds()
        others = [name for name in dict.fromkeys(rows["optimizer"]) if name not in source.names]
        others += [name for name in dict.fromkeys(rows["task"]) if name != source.config.task.name]
        if others:
            found.append(f"seeds.csv has rows of {', '.join(others)}, of which config.yaml does not know; left out.")
    return found


def _mended(made: Comparison) -> Comparison:
    """Without numbers that cannot be compared, each noted: infinite ones, and diverged runs that have no value."""
    notes = [*made.notes, *_strangers(made)]
    seeds = made.seeds.drop_duplicates(["optimizer", "seed"], keep="last", ignore_index=True)
    if len(seeds) < len(made.seeds):
        notes.append("seeds.csv: a run that is there twice counts once, as it was last.")
    unknown = sorted(set(seeds["status"].dropna()) - set(KNOWN_STATUS))
    if unknown:
        notes.append(f"seeds.csv: status {', '.join(unknown)} is not known; these runs count as complete.")
    for name in [str(column) for column in seeds if _is_metric(column)]:
        column = pd.to_numeric(seeds[name], errors="coerce").replace([np.inf, -np.inf], np.nan)
        column = column.mask(seeds["status"] == "failed")
        lost = column.isna() & ((seeds["status"] == "diverged") | (seeds[name].notna() & seeds["status"].ne("failed")))
        if lost.any() and column.notna().any():
            worst = column.max() if made.mode(name) == "min" else column.min()
            runs = "1 run has" if lost.sum() == 1 else f"{int(lost.sum())} runs have"
            counts = "counts" if lost.sum() == 1 else "count"
            notes.append(f"{name}: {runs} no finite value and {counts} as {worst:.4g}, the worst of all others.")
            column = column.mask(lost, worst)
        seeds[name] = column.astype(float)
    return replace(made, seeds=seeds, notes=notes)
