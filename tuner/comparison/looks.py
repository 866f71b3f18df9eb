"""Looks at a comparison that goes on until it is decided: how far it has been looked at, and what was decided.

No torch, no ray.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tuner.analysis import stats
from tuner.analysis.sequential import Looked, Looks
from tuner.comparison.comparison import Comparison, Source
from tuner.comparison.load import read
from tuner.config.declared import E_PROCESS
from tuner.config.schema import Config
from tuner.store import extent
from tuner.store.extent import Extent
from tuner.store.run import Run


def looked(sources: Sequence[Source]) -> Looked | None:
    """How far the comparison of these runs has been looked at, by the first plan that one of them declares; ``None``
    where none does."""
    plan = next((source.config for source in sources if source.config.looks), None)
    if plan is None:
        return None
    done: dict[str, int] = {}
    for source in sources:
        log = extent.read(source.run.path) if source.config.looks else {}
        taken = [0, *(look["units"] for look in log.get("looks", ()))]
        by_looks = source.config.looks and source.config.report.spending != E_PROCESS
        units = taken[-1] if by_looks else source.config.units(plan.unit)
        done |= {shown: log.get("stopped", {}).get(own, units) for own, shown in source.names.items()}
    return _looked(plan, done)


def _looked(plan: Config, done: Mapping[str, int]) -> Looked:
    report = plan.report
    units = () if report.spending == E_PROCESS else tuple(plan.looks)
    order = tuple(plan.studies) if plan.unit == "study" else tuple(plan.retrain.seeds)
    return Looked(Looks(units, report.spending, report.rho), plan.unit, order, done)


def decided(run: Run, units: int) -> dict[str, str]:
    """The verdicts of contrasts that a look at the first so many units of each optimizer decides."""
    (comparison,) = read([run], curves=False)
    first = _looked(comparison.config, dict.fromkeys(comparison.optimizers, units))
    table = stats.contrasts(
        comparison.values(comparison.metric), comparison.baseline, comparison.mode(comparison.metric),
        comparison.rules(comparison.metric), first,
    )  # fmt: skip
    return {row["optimizer"]: row["verdict"] for row in table.to_dict("records") if row["verdict"] != "inconclusive"}


@dataclass(frozen=True)
class Looking:
    """What the looks at a run have come to.

    Attributes:
        looks: units of all that are planned.
        stopped: optimizer -> units after which its contrast was decided.
        saved_trials, saved_runs: what was not needed of what the last look would have taken, of all optimizers.
    """

    unit: stats.units.Unit
    spending: str
    looks: list[int]
    taken: list[dict[str, Any]]
    stopped: dict[str, int]
    most_trials: int
    saved_trials: int
    most_runs: int
    saved_runs: int

    @classmethod
    def of(cls, comparison: Comparison) -> Looking | None:
        """Of a comparison of one run; ``None`` of another, and where there are no looks."""
        (source, *others), config = comparison.sources, comparison.config
        if others or not config.looks:
            return None
        log, done = extent.read(source.run.path), Extent.of(config, source.run.path)
        trials, runs = done.saved
        return cls(
            config.unit, config.report.spending, config.looks, log.get("looks", []), log.get("stopped", {}),
            config.total_trials, trials, len(config.optimizers) * config.retraining_runs, runs,
        )  # fmt: skip
