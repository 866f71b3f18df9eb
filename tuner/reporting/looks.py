"""Looks at a comparison that goes on until it is decided are put into words and a table.

No torch, no ray.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from tuner.analysis.rules import TESTS, Test
from tuner.analysis.units import PLURALS
from tuner.comparison.contrast import Contrast
from tuner.comparison.looks import Looking
from tuner.comparison.task_results import TaskResults
from tuner.text import number

SEQUENTIAL: dict[Test, str] = {
    "t": "group-sequential t-test", "wilcoxon": "sequential signed-rank test", "sign_flip": "sequential sign-flip test",
}  # fmt: skip
OPEN_ENDED: dict[Test, str] = {
    "t": "e-process of the t-test", "wilcoxon": "e-process of signs", "sign_flip": "e-process of signs",
}  # fmt: skip
SPENDING = {
    "kim_demets": "Kim and DeMets' function", "obrien_fleming": "Lan and DeMets' function of the O'Brien-Fleming type",
    "pocock": "Lan and DeMets' function of the Pocock type", "e_process": "an e-process",
}  # fmt: skip
HEAD = ["optimizer", "look", "after", "pairs", "t", "boundary", "decision"]


def test_name(contrast: Contrast) -> str:
    """The test that decides."""
    if contrast.course is None:
        return TESTS[contrast.test]
    return (OPEN_ENDED if contrast.course.open_ended else SEQUENTIAL)[contrast.test]


def equivalence_test_name(contrast: Contrast) -> str:
    """The test that shows equivalence."""
    if contrast.course is None:
        return "two one-sided t-tests"
    return f"two one-sided {'e-processes of the t-test' if contrast.course.open_ended else 'group-sequential t-tests'}"


def when_decided(task: TaskResults, contrast: Contrast) -> str:
    """At which look, and after how much of what could have been; empty where there are no looks."""
    looking = task.looking
    if looking is None or task.comparison.undeclared or not looking.taken:
        return ""
    units = PLURALS[looking.unit]
    after = looking.stopped.get(contrast.optimizer)
    if after is not None:
        return f"; decided at look {_number(looking, after)}, after {after} of {looking.looks[-1]} {units}"
    last = looking.taken[-1]["units"]
    if last == looking.looks[-1]:
        return f"; not decided by the last of {_counted(looking)}, after all {last} {units}"
    return f"; not decided yet: {last} of {looking.looks[-1]} {units}, look {_number(looking, last)}"


def _number(looking: Looking, units: int) -> str:
    return f"{looking.looks.index(units) + 1} of {len(looking.looks)}" if units in looking.looks else f"at {units}"


def _counted(looking: Looking) -> str:
    return "1 look" if len(looking.looks) == 1 else f"{len(looking.looks)} looks"


def plan(looking: Looking) -> str:
    """What was declared, and what stopping saved."""
    after = ", ".join(map(str, looking.looks))
    spending = SPENDING[looking.spending]
    held = "by" if looking.spending == "e_process" else "the level spent by"
    units = PLURALS[looking.unit]
    text = f"The comparison goes on until it is decided, with looks after {after} {units}, {held} {spending}."
    counts = {"trials": (looking.saved_trials, looking.most_trials),
              "retraining runs": (looking.saved_runs, looking.most_runs)}  # fmt: skip
    saved = [f"{count:,} of {most:,} {what}" for what, (count, most) in counts.items() if count]
    return text + (f" Of what the last look would have taken, {' and '.join(saved)} were not needed." if saved else "")


def rows(task: TaskResults) -> list[dict[str, Any]]:
    """Each look at each contrast: the statistic, its boundary at the level at which it was decided, the decision; none
    of a comparison that was not declared, as looks decided on another."""
    looking, found = task.looking, []
    decisions = {(look["units"], name): word for look in (looking.taken if looking else ())
                 for name, word in look["decided"].items()}  # fmt: skip
    for contrast in task.primary_contrasts if looking else ():
        if contrast.course is None:
            continue
        shown = contrast.course.steps(contrast.level)
        for index, look in enumerate(shown, start=1):
            decided = decisions.get((look.units, contrast.optimizer), "goes on")
            decision = "-" if task.comparison.undeclared else decided
            found.append({"optimizer": contrast.optimizer, "look": index, **asdict(look), "decision": decision})
    return found


def table(task: TaskResults) -> dict[str, Any] | None:
    """For the page."""
    if task.looking is None:
        return None
    units = PLURALS[task.looking.unit]
    cells = [
        [row["optimizer"], str(row["look"]), f"{row['units']} {units}", str(row["n"]), _shown(row["t"]),
         _shown(row["boundary"]), row["decision"]]
        for row in rows(task)
    ]  # fmt: skip
    return {"text": plan(task.looking), "head": HEAD, "rows": cells}


def _shown(value: float) -> str:
    return "-" if math.isnan(value) else "none" if math.isinf(value) else number(value, 3)


def document(task: TaskResults) -> dict[str, Any] | None:
    """For JSON."""
    return {**asdict(task.looking), "contrasts": rows(task)} if task.looking else None
