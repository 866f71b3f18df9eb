"""Training curves over seeds become medians, bands and times to a target. No torch, no ray."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pandas as pd

from tuner.analysis.paired import Array
from tuner.analysis.stats import Mode

Clock = Literal["step", "grad_equivalents", "seconds"]

RUN = ["optimizer", "seed"]
RUNNING = ["seconds", "grad_equivalents"]
"""Clocks with a pace of their own in each run."""
COLUMNS = [*RUN, "step", "epoch", *RUNNING, "value"]


def filled(curves: pd.DataFrame, seeds: pd.DataFrame, metric: str) -> pd.DataFrame:
    """One metric along the retraining of one task's optimizers.

    The curve of a diverged run, which ends early, goes on: with the value that it has in ``seeds``, at the later steps
    at which others of its optimizer were evaluated (of any, where all of them diverged), by clocks that go on at the
    run's own pace.

    Args:
        curves: rows of ``curves.parquet``; those without seed or step are left out.
        seeds: rows of ``seeds.csv``; runs that are not in it, or failed, are left out.
        metric: with its split, ``val_loss`` say. Without a column in ``seeds`` no curve goes on.

    Returns:
        Columns optimizer, seed, step, epoch, seconds, grad_equivalents, value; sorted by optimizer, in the order of
        ``seeds``, then seed and step. What is not finite is NaN, and of a diverged run what ``seeds`` says.
    """
    split, _, name = metric.partition("_")
    chosen = (curves["phase"] == "retrain") & (curves["split"] == split) & (curves["metric"] == name)
    points = _plain(curves.loc[chosen, COLUMNS].dropna(subset=["seed", "step"]))
    points = points.drop_duplicates([*RUN, "step"], keep="last")
    runs = _runs(seeds, metric)
    points = points.merge(runs[[*RUN, "worst"]], on=RUN)
    points["value"] = points["value"].where(np.isfinite(points["value"]), points["worst"])
    points = points[COLUMNS].sort_values([*RUN, "step"], ignore_index=True)
    parts = [part for part in (points, _continued(points, runs)) if len(part)]
    together = pd.concat(parts, ignore_index=True) if parts else points
    return _in_order(together, [*RUN, "step"], list(dict.fromkeys(runs["optimizer"])))


def _plain(rows: pd.DataFrame) -> pd.DataFrame:
    types = {"optimizer": "str", "seed": "int64", "step": "int64"}
    return rows.astype(types | dict.fromkeys(["epoch", *RUNNING, "value"], "float64"))


def _runs(seeds: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The runs that count, their clocks at the end, and, of diverged ones, their value."""
    counted = seeds[seeds["status"] != "failed"].drop_duplicates(RUN, keep="last")
    value = counted[metric].astype(float) if metric in counted else pd.Series(np.nan, index=counted.index)
    runs = pd.DataFrame({"optimizer": counted["optimizer"].astype("str"), "seed": counted["seed"].astype("int64")})
    for clock in ["steps", *RUNNING]:
        runs[clock] = counted[clock].astype(float) if clock in counted else np.nan
    runs["diverged"] = counted["status"] == "diverged"
    runs["worst"] = value.where(runs["diverged"])
    return runs.reset_index(drop=True)


def _continued(points: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """The rows that diverged runs lack."""
    last = points[[*RUN, "step", *RUNNING]].drop_duplicates(RUN, keep="last")
    ended = runs[runs["worst"].notna()].merge(last, on=RUN, how="left", suffixes=("_end", ""))
    ended = ended.rename(columns={"step": "last"}).fillna({"last": -1.0})
    rows = ended.merge(_grid(points, runs), on="optimizer")
    rows = rows[rows["step"] > rows["last"]]
    since = rows["step"] - rows["last"].clip(lower=0)
    paces = _paces(runs)
    for clock in RUNNING:
        pace = (rows[f"{clock}_end"] / rows["steps"]).where(rows["steps"] > 0)
        rows[clock] = rows[clock].fillna(0.0) + since * pace.fillna(rows["optimizer"].map(paces[clock]))
    return _plain(rows.assign(value=rows["worst"])[COLUMNS])


def _grid(points: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Columns optimizer, step, epoch: where an optimizer was evaluated."""
    grid = points[["optimizer", "step", "epoch"]].drop_duplicates(["optimizer", "step"])
    whole = set(points.merge(runs.loc[~runs["diverged"], RUN], on=RUN)["optimizer"])
    lost = [name for name in dict.fromkeys(runs["optimizer"]) if name not in whole]
    everywhere = points[["step", "epoch"]].drop_duplicates("step")
    others = [everywhere.assign(optimizer=name) for name in lost]
    return pd.concat([grid[grid["optimizer"].isin(list(whole))], *others], ignore_index=True)


def _paces(runs: pd.DataFrame) -> pd.DataFrame:
    """Clocks per step, the median over an optimizer's runs: for a run that ended before its clocks began."""
    timed = runs[runs["steps"] > 0]
    return timed[RUNNING].div(timed["steps"], axis=0).groupby(timed["optimizer"]).median()


def whole_budgets(seeds: pd.DataFrame) -> pd.DataFrame:
    """The runs with the clocks of diverged ones as at the end of their budget, at their own pace or, where they ended
    before their clocks began, at their optimizer's: a run that was cut off has not cost less.

    Args:
        seeds: rows of ``seeds.csv`` of one task, whose runs all have the same number of steps. Where none that did not
            diverge says how many these are, nothing is changed.
    """
    if not {"steps", *RUNNING} <= set(seeds):
        return seeds
    clocks = seeds[["steps", *RUNNING]].apply(pd.to_numeric, errors="coerce").astype(float)
    whole = clocks["steps"].where(seeds["status"] == "complete").max()
    cut = (seeds["status"] == "diverged") & (clocks["steps"] < whole)
    paces = clocks[RUNNING].div(clocks["steps"].where(clocks["steps"] > 0), axis=0)
    usual = paces.groupby(seeds["optimizer"]).transform("median")
    ends = paces.fillna(usual).mul(whole).assign(steps=whole)
    return seeds.assign(**{clock: clocks[clock].mask(cut, ends[clock]) for clock in clocks})


def bands(curves: pd.DataFrame, clock: Clock) -> pd.DataFrame:
    """Median and quartiles over seeds at each step.

    Args:
        curves: ``filled``'s.

    Returns:
        Columns optimizer, step, x, median, low, high, n: x is the clock's median over the seeds, n how many seeds
        have a value. Steps at which none has are left out. Values of diverged runs are the last in order, and quartiles
        next to one of them are as infinite as it is.
    """
    known = curves.dropna(subset="value")
    by_step = known.groupby(["optimizer", "step"])
    quartiles = {name: _quantile(by_step["value"], q) for name, q in (("median", 0.5), ("low", 0.25), ("high", 0.75))}
    medians = pd.DataFrame(quartiles | {"n": by_step.size()}).reset_index()
    medians.insert(2, "x", medians["step"] if clock == "step" else by_step[clock].median().to_numpy())
    return _in_order(medians, ["optimizer", "step"], list(dict.fromkeys(curves["optimizer"])))


def _quantile(values: Any, q: float) -> pd.Series:
    """Linear between finite values; of groups."""
    lower, higher = (values.quantile(q, interpolation=side) for side in ("lower", "higher"))
    nearest = lower.where(np.isinf(lower), higher)
    return values.quantile(q).where(np.isfinite(lower) & np.isfinite(higher), nearest)


def time_to_target(curves: pd.DataFrame, target: float, mode: Mode, clock: Clock) -> pd.DataFrame:
    """When each run first was at least as good as the target.

    Args:
        curves: ``filled``'s.

    Returns:
        Columns optimizer, seed, time: the clock at the first such evaluation; infinite where there is none.
    """
    value = curves["value"]
    reached = curves[value <= target] if mode == "min" else curves[value >= target]
    first = reached.drop_duplicates(RUN)[[*RUN, clock]].rename(columns={clock: "time"})
    times = curves[RUN].drop_duplicates().merge(first, on=RUN, how="left")
    return times.assign(time=times["time"].astype(float).fillna(np.inf))


def trial_times(curves: pd.DataFrame, metric: str, target: float, mode: Mode, clock: Clock) -> pd.DataFrame:
    """When each trial of a search first was at least as good as the target.

    Args:
        curves: rows of ``curves.parquet``.
        metric: with its split.

    Returns:
        Columns optimizer, study, trial, time: infinite where there is no such evaluation.
    """
    split, _, name = metric.partition("_")
    chosen = (curves["phase"] == "search") & (curves["split"] == split) & (curves["metric"] == name)
    trial = ["optimizer", "study", "trial"]
    points = curves[chosen].sort_values("step", kind="stable")
    reached = points["value"] <= target if mode == "min" else points["value"] >= target
    first = points[reached].drop_duplicates(trial).rename(columns={clock: "time"})[[*trial, "time"]]
    times = points[trial].drop_duplicates().merge(first, on=trial, how="left")
    return times.assign(time=times["time"].astype(float).fillna(np.inf))


def at_cost_of(curves: pd.DataFrame, baseline: str, clock: Clock) -> pd.DataFrame:
    """What each run's curve, linear between evaluations, had come to when the baseline's run of its seed had ended.

    Args:
        curves: ``filled``'s.

    Returns:
        Columns optimizer, seed, value: of the baseline, and of a run that cost less, its last value; infinite after the
        last evaluation of a run that then diverged. Seeds that the baseline lacks are left out.
    """
    known = curves.dropna(subset=["value", clock])
    ends: dict[Any, float] = known[known["optimizer"] == baseline].groupby("seed")[clock].last().to_dict()
    rows = [
        {"optimizer": name, "seed": seed, "value": _at(run[clock].to_numpy(), run["value"].to_numpy(), ends[seed])}
        for (name, seed), run in known.groupby(RUN, sort=False)
        if seed in ends
    ]
    return pd.DataFrame(rows, columns=["optimizer", "seed", "value"])


def _at(x: Array, y: Array, at: float) -> float:
    known = np.isfinite(y)
    if not known.any() or (at > x[known][-1] and not known[-1]):
        return float(y[-1])
    return float(np.interp(at, x[known], y[known]))


def _in_order(rows: pd.DataFrame, by: list[str], names: list[str]) -> pd.DataFrame:
    """Sorted, with optimizers in the order of the names."""
    places = {name: index for index, name in enumerate(names)}
    return rows.sort_values(
        by, key=lambda column: column.map(places) if column.name == "optimizer" else column, ignore_index=True
    )
