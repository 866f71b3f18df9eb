"""Carbon dioxide at Mauna Loa: a GRU forecasts the next weeks of a series, from statsmodels' copy of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor, nn

from tasks.base import Data, Task
from tasks.recurrent import GRU

PAST, AHEAD, HIDDEN = 26, 13, 16
ENDS = {"train": 0.7, "val": 0.85, "test": 1.0}
"""Where each split's weeks to forecast end, as a share of the series."""
MISSING = "the data needs statsmodels: pip install statsmodels"


class CO2(Task):
    """A GRU of 16 units that reads 26 weeks of CO2 and forecasts the 13 weeks after them (1,133 parameters).

    A linear map takes the last state to all 13 forecasts. Of weekly means at Mauna Loa (Keeling and Whorf, 2004;
    statsmodels' data set co2: 2,284 weeks, March 1958 to December 2001) the 59 gaps are interpolated linearly. Inputs
    and targets are differences from the last week that is known, in units of the deviation of all training targets:
    to forecast 0 is persistence. The loss is the mean squared error.

    Windows begin at each week. In time order those whose 13 weeks lie in the first 70 % train, in the next 15 %
    validate and in the last 15 % test; a later split's inputs may reach back into an earlier one's weeks, as they
    would when forecasting. Metrics: loss, rmse (parts per million by volume).
    """

    def load(self, data_dir: Path | None) -> Data:
        splits = windows(read_series())
        self.scale = float(splits["train"][1].std())
        scaled = {
            split: tuple((part / self.scale).astype(np.float32) for part in parts) for split, parts in splits.items()
        }
        persistence = float((scaled["train"][1] ** 2).mean())
        self.worst = {"loss": 10 * persistence, "rmse": (10 * persistence) ** 0.5 * self.scale}
        data = {split: (inputs[..., None], targets) for split, (inputs, targets) in scaled.items()}
        return Data("weekly CO2 at Mauna Loa", data, "statsmodels")

    def network(self) -> nn.Module:
        return Forecaster()

    def criterion(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.mse_loss(outputs, targets)

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        loss = self.criterion(outputs, targets).double()
        return {"loss": loss, "rmse": loss.sqrt() * self.scale}


class Forecaster(nn.Module):
    """A linear map of a GRU's last state: (rows, weeks, 1) to (rows, 13)."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.head = GRU(1, HIDDEN), nn.Linear(HIDDEN, AHEAD)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.gru(inputs)[:, -1])


def check_dataset(dataset: str, data_dir: str | None) -> None:
    """
    Raises:
        ValueError: statsmodels is not installed.
    """
    from importlib.util import find_spec

    if find_spec("statsmodels") is None:
        raise ValueError(MISSING)


def read_series() -> np.ndarray:
    """Weekly means in parts per million by volume, (2284,) float64, gaps interpolated linearly.

    Raises:
        ValueError: statsmodels is not installed.
    """
    try:
        from statsmodels.datasets import co2
    except ImportError:
        raise ValueError(MISSING) from None
    return co2.load_pandas().data["co2"].interpolate().to_numpy(np.float64)


def windows(series: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """For each split the differences from the last known week, of the 26 weeks to it and of the 13 after it.

    Args:
        series: (weeks,).

    Returns:
        Per split inputs (windows, 26) and targets (windows, 13).
    """
    parts = np.lib.stride_tricks.sliding_window_view(series, PAST + AHEAD)
    last = parts[:, PAST - 1 : PAST]
    inputs, targets = parts[:, :PAST] - last, parts[:, PAST:] - last
    splits, begin = {}, 0
    for split, share in ENDS.items():
        end = round(share * len(series))
        first = max(0, begin - PAST)  # its first week to forecast is ``begin``, or the first after 26
        splits[split] = inputs[first : end - PAST - AHEAD + 1], targets[first : end - PAST - AHEAD + 1]
        begin = end
    return splits
