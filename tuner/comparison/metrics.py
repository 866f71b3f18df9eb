"""Names of metrics say which of a run's are shown, and which way each of them is better. No torch, no ray."""

from __future__ import annotations

import numpy as np
import pandas as pd

from tuner.analysis.stats import Array, Mode
from tuner.config.schema import Config

HIGHER_IS_BETTER = {"acc", "accuracy", "f1", "auc", "auroc", "ap", "map", "precision", "recall", "r2", "iou", "miou",
                    "dice", "bleu", "rouge", "psnr", "ssim", "correlation"}  # fmt: skip
LOWER_IS_BETTER = {"loss", "error", "err", "ppl", "perplexity", "rmse", "mse", "mae", "nll", "bpc", "wer", "cer", "fid"}
"""Parts of metrics' names, beside the task's own."""


def metrics(config: Config, seeds: pd.DataFrame) -> list[str]:
    """The columns of seeds.csv worth a place in a table: the metric and its like on validation and test, accuracy."""
    base = _base(config.task.metric)
    wanted = [config.task.metric, f"val_{base}", f"test_{base}", "test_acc"]
    return [name for name in dict.fromkeys(wanted) if name in seeds.columns]


def mode(config: Config, metric: str) -> Mode:
    """Whether less of a metric is better, or more: as the task says of its own, else as the name does, else less."""
    if _base(metric) == _base(config.task.metric):
        return config.task.mode
    return "max" if HIGHER_IS_BETTER & _words(metric) else "min"


def known_mode(config: Config, metric: str) -> bool:
    """Whether the task or the metric's name says so."""
    known = HIGHER_IS_BETTER | LOWER_IS_BETTER
    return _base(metric) == _base(config.task.metric) or bool(known & _words(metric))


def numbers(table: pd.DataFrame, column: str) -> Array:
    """A column; NaN where it is not there."""
    if column not in table:
        return np.full(len(table) or 1, np.nan)
    return pd.to_numeric(table[column], errors="coerce").to_numpy(float)


def _base(metric: str) -> str:
    """Without the split."""
    return metric.partition("_")[2]


def _words(metric: str) -> set[str]:
    return set(_base(metric).split("_"))
