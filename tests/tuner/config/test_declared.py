"""What a comparison declares of its looks: steps where none are, and plans that cannot be."""

from __future__ import annotations

from typing import Any

import pytest

from tuner.config.declared import ReportConfig, check_looks, equal_steps


def test_looks_where_none_are_declared() -> None:
    assert equal_steps(20) == [5, 10, 15, 20]
    assert equal_steps(10) == [3, 5, 8, 10]
    assert equal_steps(5) == [3, 4, 5]
    assert equal_steps(3) == [3]


@pytest.mark.parametrize(
    ("report", "cap", "unit", "message"),
    [
        ({"looks": [3, 6]}, 6, "study", "report.looks: there are looks only with report.until=decided"),
        ({"until": "decided"}, 2, "study", "nothing is decided by 2 studies; --studies must be at least 3"),
        ({"until": "decided"}, 2, "seed", "nothing is decided by 2 seeds; --seeds, or --studies, must be at least 3"),
        ({"until": "decided", "looks": []}, 6, "seed", "must be increasing numbers of seeds, from 3, got []"),
        ({"until": "decided", "looks": [3, 3, 6]}, 6, "study", "must be increasing numbers of studies"),
        ({"until": "decided", "looks": [2, 6]}, 6, "study", "must be increasing numbers of studies, from 3"),
        ({"until": "decided", "looks": [3, 5]}, 6, "study", "the last must be at 6, all studies that may be, got 5"),
        ({"until": "decided", "looks": [3, 7], "spending": "e_process"}, 6, "study", "the last must be at 6"),
    ],
)
def test_plans_that_cannot_be(report: dict[str, Any], cap: int, unit: str, message: str) -> None:
    with pytest.raises(ValueError, match="report") as raised:
        check_looks(ReportConfig(**report), cap, unit, ["adam", "sgd"])
    assert message in str(raised.value)


def test_plans_that_can_be() -> None:
    check_looks(ReportConfig(until="decided", looks=[3, 6]), 6, "study", ["adam", "sgd"])
    check_looks(ReportConfig(until="decided", looks=[3, 5], spending="e_process"), 6, "study", ["adam", "sgd"])
    with pytest.raises(ValueError, match="adam alone has nothing to be compared with"):
        check_looks(ReportConfig(until="decided"), 6, "study", ["adam"])
