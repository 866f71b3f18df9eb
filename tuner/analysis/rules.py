"""The rules of a comparison are declared before it is made: test, level, margin. Imports nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Test = Literal["t", "wilcoxon", "sign_flip"]
Margin = float | str
"""A difference in the metric's unit, or, as text, a share of the baseline's value: ``1%``."""

TESTS: dict[str, str] = {"t": "paired t-test", "wilcoxon": "Wilcoxon signed-rank test", "sign_flip": "sign-flip test"}
FEWEST_PAIRS = 3
"""Below it nothing is tested: a difference of two seeds has one degree of freedom."""


@dataclass(frozen=True)
class Rules:
    """What a comparison declares before it is made.

    Attributes:
        test: the primary test, whose Holm-corrected p-value decides.
        alpha: the level of tests, of the family of a task's contrasts; intervals are of 1 - alpha.
        margin: differences within it do not matter; without it nothing is called equivalent.
    """

    test: Test = "t"
    alpha: float = 0.05
    margin: Margin | None = None
