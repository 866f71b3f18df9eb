"""Inclusion is audited: an optimizer that contains another cannot be worse, so a verdict that it is blames its search.

No torch, no ray.
"""

from __future__ import annotations

from tuner.analysis import stats
from tuner.comparison.comparison import Comparison
from tuner.comparison.contrast import Contrast


def failed_search(comparison: Comparison, contrast: Contrast) -> str | None:
    """Whose search has failed by this contrast: the one that is worse though it contains the other."""
    word = contrast.verdict.partition(",")[0]
    if word == "worse" and contrast.baseline in comparison.contained[contrast.optimizer]:
        return contrast.optimizer
    if word == "better" and contrast.optimizer in comparison.contained[contrast.baseline]:
        return contrast.baseline
    return None


def failures(comparison: Comparison, contrasts: list[Contrast]) -> list[tuple[str, str]]:
    """Those who are worse than what they contain, and what: by the contrasts that decide, and, of two of which neither
    is the baseline, by one that is made for this, on its own."""
    found = []
    for contrast in contrasts:
        if failed := failed_search(comparison, contrast):
            found.append((failed, contrast.baseline if failed == contrast.optimizer else contrast.optimizer))
    metric, values = comparison.metric, comparison.values(comparison.metric)
    for name in comparison.optimizers:
        for inner in comparison.contained[name]:
            if comparison.baseline in (name, inner):
                continue
            both = values[values["optimizer"].isin([name, inner])]
            table = stats.contrasts(both, inner, comparison.mode(metric), comparison.rules(metric))
            if any(word.startswith("worse") for word in table["verdict"]):
                found.append((name, inner))
    return found
