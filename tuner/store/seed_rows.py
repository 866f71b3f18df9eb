"""Rows of seeds.csv count while they are of the present winners; others are missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from tuner.config.schema import SEEDS_APART
from tuner.store.columns import STUDY
from tuner.store.extent import Extent
from tuner.store.tables import Row, hp_columns
from tuner.store.winners import winners


class Retraining(NamedTuple):
    """A retraining run that is to be done, or that there is."""

    optimizer: str
    study: int
    seed: int

    @classmethod
    def of(cls, row: Row) -> Retraining:
        """That of a row of seeds.csv."""
        return cls(row["optimizer"], int(row[STUDY]), int(row["seed"]))

    @property
    def declared_seed(self) -> int:
        """What ``retrain.seeds`` has for it: the seed of study 0."""
        return self.seed - SEEDS_APART * self.study


def current_rows(rows: Iterable[Row], best: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """The rows of seeds.csv, as text, that were trained with the hyperparameters that best.json has now.

    Args:
        best: its entries, by optimizer.
    """
    hp = {key: hp_columns(entry["hp"] or {}) for key, entry in winners(best).items()}
    return [
        row
        for row in rows
        if all(row.get(k) == str(v) for k, v in hp.get((row["optimizer"], int(row[STUDY])), {}).items())
    ]


def missing_runs(extent: Extent, rows: Iterable[Row]) -> list[Retraining]:
    """Each retraining run that has no row in seeds.csv; optimizers take turns, seed by seed."""
    done, config = set(map(Retraining.of, rows)), extent.config
    wanted = (
        Retraining(name, study, seed)
        for study in config.studies
        for seed in config.evaluation_seeds(study)
        for name in config.optimizers
    )
    return [run for run in wanted if run not in done and extent.includes(run.optimizer, run.study, run.declared_seed)]
