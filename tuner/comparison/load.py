"""Runs are read to be compared: grouped by task and conditions, named, and mended. No torch, no ray."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from tuner.analysis.curves import whole_budgets
from tuner.comparison.comparison import Comparison, Source
from tuner.comparison.copies import without_copies
from tuner.comparison.metrics import known_mode
from tuner.config.engine_options import WITHOUT_EFFECT
from tuner.config.schema import BASELINES, Config
from tuner.errors import UserError, nearest
from tuner.machine.code import differences
from tuner.store.run import Run
from tuner.store.suites import is_suite
from tuner.text import line, number

KNOWN_STATUS = ("complete", "diverged", "failed")


def read(
    runs: Sequence[Run], baseline: str | None = None, metric: str | None = None, *, curves: bool = True
) -> list[Comparison]:
    """One comparison per task, in the order of the runs.

    Args:
        baseline, metric: in place of those that the runs declare.
        curves: whether they are needed.

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
        _comparison(sources, label, baseline, metric, curves)
        for sources, label in zip(groups.values(), _labels(list(groups.values())), strict=True)
    ]
    known = list(dict.fromkeys(name for each in compared for name in each.optimizers))
    if baseline is not None and baseline not in known:
        raise UserError(f"--baseline: unknown optimizer {baseline!r}{nearest(baseline, known)}")
    columns = list(dict.fromkeys(name for each in compared for name in each.seeds if _is_metric(name)))
    if metric is not None and metric not in columns:
        raise UserError(f"--metric: unknown metric {metric!r}{nearest(metric, columns)}")
    return compared


def _is_metric(column: Hashable) -> bool:
    return str(column).startswith(("train_", "val_", "test_"))


def _source(run: Run) -> Source:
    env = run.env() if run.has_env() else {}
    config = run.config()
    return Source(run, config, env, {name: name for name in config.optimizers})


def _conditions(source: Source) -> tuple[Any, ...]:
    """What must be alike for results to be comparable; what a suite calls differently is not meant to be."""
    task, train = source.config.task, source.config.train
    data = source.env.get("data") or {}
    what = (
        _called(source),
        task.name,
        task.class_,
        repr(task.args),
        task.dataset,
        task.metric,
        task.mode,
        data.get("sha256"),
    )
    settings = train.model_dump(exclude=set(WITHOUT_EFFECT))
    return (*what, repr(settings), source.config.retrain_epochs)


def _labels(groups: list[list[Source]]) -> list[str]:
    """The task's name, or what its suite calls it; where others have it too, with the first run's, or, where others
    have that too, its path."""
    tasks = [_called(sources[0]) for sources in groups]
    paths = [sources[0].run.path for sources in groups]
    named = [f"{task} ({path.resolve().name})" for task, path in zip(tasks, paths, strict=True)]
    return [
        task if tasks.count(task) == 1 else name if named.count(name) == 1 else f"{task} ({path})"
        for task, name, path in zip(tasks, named, paths, strict=True)
    ]


def _called(source: Source) -> str:
    path = source.run.path.resolve()
    return path.name if is_suite(path.parent) else source.config.task.name


def _comparison(
    sources: list[Source], label: str, baseline: str | None, metric: str | None, curves: bool
) -> Comparison:
    sources, copies = without_copies(sources)
    sources = _distinct(sources)
    optimizers = [name for source in sources for name in source.names.values()]
    seeds = _stacked([_renamed(source.run.seeds(), source) for source in sources])
    declared = _baseline(None, sources, optimizers), _deciding(sources[0].config, seeds)
    chosen_baseline = _baseline(baseline, sources, optimizers)
    chosen_metric = metric if metric is not None and metric in seeds else declared[1]
    comparison = Comparison(
        task=label,
        sources=sources,
        optimizers=optimizers,
        baseline=chosen_baseline,
        metric=chosen_metric,
        seeds=seeds,
        trials=_stacked([_renamed(source.run.trials(), source) for source in sources]),
        curves=_stacked([_renamed(source.run.curves(), source) for source in sources]) if curves else pd.DataFrame(),
        best={
            source.names[name]: entry
            for source in sources
            for name, entry in source.run.best_optimizers().items()
            if name in source.names
        },
        spaces={
            new: source.config.optimizers[name].space for source in sources for name, new in source.names.items()
        },
        notes=_choices(sources[0].config, declared, (baseline, metric), (chosen_baseline, chosen_metric)),
        undeclared=["baseline"] * (chosen_baseline != declared[0]) + ["metric"] * (chosen_metric != declared[1]),
    )  # fmt: skip
    notes = [*comparison.notes, *_codes(comparison), *_borrowed(comparison), *copies, *_targets(sources)]
    return _mended(replace(comparison, notes=notes))


def _targets(sources: Sequence[Source]) -> list[str]:
    """Where runs do not agree on what counts as solved."""
    targets = list(dict.fromkeys(source.config.task.target for source in sources))
    said = ", ".join("none" if target is None else number(target) for target in targets)
    return [f"the runs have different targets ({said}); times are to the first run's."] if len(targets) > 1 else []


def _borrowed(comparison: Comparison) -> list[str]:
    """Of rows that were not made by the run that has them."""
    return [
        f"{', '.join(names)}: borrowed from {line(run)}, where all conditions are the same; times are not compared."
        for run, names in comparison.borrowed.items()
    ]


def _codes(comparison: Comparison) -> list[str]:
    """Of runs, or rows of a run, that were made by different code."""
    notes = []
    for phase, table in (("trials", comparison.trials), ("retraining runs", comparison.seeds)):
        rows = table[table["code"].notna()] if "code" in table else table[:0]
        if len(rows):
            of = ", ".join(f"{name} {n}" for name, n in rows["optimizer"].value_counts(sort=False).items())
            notes.append(f"{phase} made by other code than their run was begun with: {of}; env.json has both.")
    first, *others = [source.env.get("code") or {} for source in comparison.sources]
    names = ("in one run", "in another")
    different = dict.fromkeys(part for other in others for part in differences(first, other, names))
    if different:
        notes.append(f"the runs were made by different code: {'; '.join(map(line, different))}.")
    elif others and not all([first, *others]):
        notes.append("by which code some of the runs were made is not known, so not whether it was the same.")
    return notes


def _choices(
    config: Config, declared: tuple[str, str], asked: tuple[str | None, str | None], taken: tuple[str, str]
) -> list[str]:
    """Where baseline and metric are not those that were asked for, or not those that were declared."""
    declared_in_config = (config.report.baseline, config.report.metric)
    notes = []
    for what, name, wanted, default, chosen in zip(
        ("baseline", "metric"), asked, declared_in_config, declared, taken, strict=True
    ):
        if chosen != default:
            notes.append(f"{chosen} was chosen as the {what} afterwards, not {default}; what is said is exploratory.")
        elif (missing := name or wanted or default) != chosen:
            notes.append(f"{missing} is to be the {what}, but is not there; it is {chosen}.")
    if not known_mode(config, taken[1]):
        notes.append(f"{taken[1]} is taken to be better when lower: its name says nothing else.")
    return notes


def _first(names: Iterable[str], known: Sequence[str]) -> str:
    return next((name for name in names if name in known), known[0])


def _distinct(sources: list[Source]) -> list[Source]:
    """With names under which each optimizer of each run is one of its own."""
    taken: set[str] = set()
    renamed = []
    for source in sources:
        names = {}
        for name in source.names:
            names[name] = name if name not in taken else f"{name}@{source.run.path.resolve().name}"
            if names[name] in taken:
                names[name] = f"{name}@{source.run.path}"
            taken.add(names[name])
        renamed.append(replace(source, names=names))
    return renamed


def _renamed(table: pd.DataFrame, source: Source) -> pd.DataFrame:
    """Rows of the run's optimizers, under the comparison's names."""
    of_task = (table["task"] == source.config.task.name) if "task" in table else True
    rows = table[table["optimizer"].isin(list(source.names)) & of_task].copy()
    rows["optimizer"] = rows["optimizer"].map(source.names).astype("str")
    return rows


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
    available = [name for name in candidates if name is not None and name in seeds and seeds[name].notna().any()]
    return available[0] if available else config.task.metric


def _strangers(comparison: Comparison) -> list[str]:
    """Of rows of tasks and optimizers that a run's configuration does not know."""
    notes = []
    for source in comparison.sources:
        rows = source.run.seeds()
        others = [name for name in dict.fromkeys(rows["optimizer"]) if name not in source.config.optimizers]
        others += [name for name in dict.fromkeys(rows["task"]) if name != source.config.task.name]
        if others:
            notes.append(
                f"seeds.csv has rows of {line(', '.join(others))}, of which config.yaml does not know; left out."
            )
    return notes


def _mended(comparison: Comparison) -> Comparison:
    """With infinite values, worse than any, for runs that diverged, and clocks as of their whole budget; without rows
    that cannot be compared. What had to be done is noted."""
    notes = [*comparison.notes, *_strangers(comparison)]
    seeds = comparison.seeds.drop_duplicates(["optimizer", "seed"], keep="last", ignore_index=True)
    if len(seeds) < len(comparison.seeds):
        notes.append("seeds.csv: a run that is there twice counts once, as it was last.")
    unknown = sorted(set(seeds["status"].dropna()) - set(KNOWN_STATUS))
    if unknown:
        notes.append(f"seeds.csv: status {', '.join(unknown)} is not known; these runs count as complete.")
    for name in [str(column) for column in seeds if _is_metric(column)]:
        column = pd.to_numeric(seeds[name], errors="coerce").replace([np.inf, -np.inf], np.nan)
        column = column.mask(seeds["status"] == "failed")
        diverged = seeds["status"] == "diverged"
        lost = column.isna() & seeds[name].notna() & seeds["status"].ne("failed") & ~diverged
        if lost.any():
            runs = "1 run has" if lost.sum() == 1 else f"{int(lost.sum())} runs have"
            notes.append(f"{name}: {runs} no finite value and {'counts' if lost.sum() == 1 else 'count'} as diverged.")
        worst = np.inf if comparison.mode(name) == "min" else -np.inf
        seeds[name] = column.mask(lost | diverged, worst).astype(float)
    return replace(comparison, seeds=whole_budgets(seeds), notes=notes)
