"""Tables that come with statsmodels, which is optional; without torch, so that it checks fast."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def check_installed(dataset: str, data_dir: str | None) -> None:
    """Refuse a table of statsmodels where that is not installed.

    Raises:
        ValueError: it is not.
    """
    if find_spec("statsmodels") is None:
        raise ValueError(f"dataset {dataset} needs statsmodels: pip install statsmodels")


def read(name: str) -> pd.DataFrame:
    """The table ``statsmodels.datasets.NAME``, as it is published there.

    Raises:
        ValueError: statsmodels is not installed.
    """
    check_installed(name, None)
    return import_module(f"statsmodels.datasets.{name}").load_pandas().data
