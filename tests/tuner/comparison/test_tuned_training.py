"""What of training was searched: alike for all, or not."""

from __future__ import annotations

from typing import Any

import pytest

from tuner.comparison.tuned_training import tuned_alike, tuned_training
from tuner.config.space import Dimension

LR = Dimension(low=1e-5, high=0.1, log=True)
SCHEDULE = {"train.schedule": Dimension(choices=["constant", "wsd"])}
OTHER = {"train.schedule": Dimension(choices=["constant", "cosine"])}


@pytest.mark.parametrize(
    ("training", "expected"),
    [
        ([], True),
        ([{}, {}], True),
        ([SCHEDULE, SCHEDULE], True),
        ([SCHEDULE, {}], False),
        ([{}, SCHEDULE], False),
        ([SCHEDULE, SCHEDULE, OTHER], False),
    ],
)
def test_whether_all_tune_training_alike(training: list[dict[str, Any]], expected: bool) -> None:
    spaces = {str(number): {"lr": LR} | of_training for number, of_training in enumerate(training)}
    assert tuned_alike(spaces) == expected


def test_what_of_training_each_search_set() -> None:
    assert tuned_training({"a": {"lr": LR} | SCHEDULE, "b": {"lr": LR}}) == {"a": ["train.schedule"], "b": []}
