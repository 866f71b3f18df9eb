"""What a comparison declares before there is anything to compare is the section ``report`` of a configuration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, PlainValidator

from tuner.config.checks import Section, metric_of, share_or_size

FEWEST_UNITS = 3
"""Studies, or seeds, before the first look: fewer are not tested."""
USUAL_LOOKS = 4
E_PROCESS = "e_process"


class ReportConfig(Section):
    """How the run's optimizers will be compared, said before there is anything to compare.

    Attributes:
        baseline: what the others are compared with; adam where it is among them, unless said otherwise.
        metric: that decides; the task's own on the test split, where there is one, unless said otherwise.
        test: the primary test.
        alpha: its level, over the contrasts of the task; intervals are of 1 - alpha.
        margin: differences that do not matter, by a metric's name without its split: numbers in the metric's unit, or
            shares of the baseline's value, "1%".
        until: "decided" has an optimizer stop at the look that decides its contrast. What ``search.studies`` asks for
            (or, with one study, ``retrain.seeds``) is then the most that there may be.
        looks: studies, or seeds, at each look; the last is the most. Equal steps, unless said otherwise.
        spending: how much of alpha a look may use up: see ``analysis.spending``. "e_process" may be looked at, and
            extended, at any time.
        rho: of the spending function "kim_demets": the larger, the more is kept for later looks.
    """

    baseline: str | None = None
    metric: Annotated[str, AfterValidator(metric_of("train", "val", "test"))] | None = None
    test: Literal["t", "wilcoxon", "sign_flip"] = "t"
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.05
    margin: dict[str, Annotated[float | str, PlainValidator(share_or_size)]] = {}
    until: Literal["decided"] | None = None
    looks: list[Annotated[int, Field(ge=1, lt=2**63, strict=True)]] | None = None
    spending: Literal["kim_demets", "obrien_fleming", "pocock", "e_process"] = "kim_demets"
    rho: Annotated[float, Field(gt=0, le=10)] = 2.0


def equal_steps(cap: int, looks: int = USUAL_LOOKS) -> list[int]:
    """Units at each look where none are declared: equal steps to the cap, the first of at least ``FEWEST_UNITS``."""
    steps = {max(FEWEST_UNITS, math.ceil(cap * k / looks)) for k in range(1, looks + 1)}
    return sorted(step for step in steps if step <= cap)


def check_looks(report: ReportConfig, cap: int, unit: str, optimizers: Sequence[str]) -> None:
    """
    Args:
        cap: studies, or seeds, as ``unit`` says.

    Raises:
        ValueError: the looks that are declared cannot be taken.
    """
    looks = report.looks
    if report.until is None:
        if looks is not None:
            raise ValueError("report.looks: there are looks only with report.until=decided (--until decided)")
        return
    flag = "--studies" if unit == "study" else "--seeds, or --studies,"
    units = "studies" if unit == "study" else "seeds"
    if len(optimizers) < 2:
        raise ValueError(f"report.until: {optimizers[0]} alone has nothing to be compared with")
    if cap < FEWEST_UNITS:
        raise ValueError(f"report.until: nothing is decided by {cap} {units}; {flag} must be at least {FEWEST_UNITS}")
    if looks is None:
        return
    if not looks or any(here >= later for here, later in pairwise(looks)) or looks[0] < FEWEST_UNITS:
        raise ValueError(f"report.looks: must be increasing numbers of {units}, from {FEWEST_UNITS}, got {looks}")
    if looks[-1] != cap and not (report.spending == E_PROCESS and looks[-1] < cap):
        raise ValueError(f"report.looks: the last must be at {cap}, all {units} that may be, got {looks[-1]}")
