"""Rows of seeds.csv count while they are of the present winner; others are missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tuner.config.schema import Config
from tuner.store.tables import Row, hp_columns


def current_rows(rows: Iterable[Row], best: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """The rows of seeds.csv, as text, that were trained with the hyperparameters that best.json has now."""
    hp = {name: hp_columns(entry["hp"] or {}) for name, entry in best.items()}
    return [row for row in rows if all(row.get(k) == str(v) for k, v in hp.get(row["optimizer"], {}).items())]


def missing_seeds(config: Config, rows: Iterable[Row]) -> list[tuple[str, int]]:
    """Optimizer and seed of each retraining run that has no row in seeds.csv; optimizers take turns, seed by seed."""
    done = {(row["optimizer"], int(row["seed"])) for row in rows}
    return [(name, seed) for seed in config.retrain.seeds for name in config.optimizers if (name, seed) not in done]
