"""The plans of a command, one for each of its runs, as one stream of jobs. No Ray."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from tuner.jobs import Job
from tuner.planning.plan import Plan
from tuner.planning.progress import Progress


class Plans:
    """Gives out the jobs of several plans, in whose order they come to their ends.

    Jobs are of the first plan that has some now, so that the next one's fill the gaps where results are waited for, and
    no worker is idle at the end of a plan.

    Args:
        path: what the command writes: a run, or the folder of a suite's runs.
        on_end: is told of a plan that has nothing left to do.

    Attributes:
        open: those that may have something to do.
    """

    def __init__(self, plans: Sequence[Plan], path: Path, on_end: Callable[[Plan], None] = lambda plan: None) -> None:
        self.all = list(plans)
        self.open = list(plans)
        self.path = path
        self.on_end = on_end

    def next_jobs(self) -> tuple[Plan, list[Job]] | None:
        """A cohort that can start now, and whose it is; ``None`` where there is none, for now or, with nothing running,
        for good."""
        for plan in list(self.open):
            if jobs := plan.next_jobs():
                return plan, jobs
            if not plan.busy:
                self.on_end(plan)  # which a full disk may prevent: then it is open still
                self.open.remove(plan)
        return None

    def tick(self) -> None:
        """To be called often."""
        for plan in self.open:
            plan.tick()

    def progress(self) -> list[Progress]:
        """Of all plans; where there are several, with the name of each one's run."""
        several = len(self.all) > 1
        return [replace(p, run=plan.key * several) for plan in self.all for p in plan.progress()]
