"""The dispatcher assigns a plan's jobs to workers, and decides which are done again. No Ray."""

from __future__ import annotations

import contextlib
import math
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from tuner.jobs import Job, Outcome, checkpoint_name
from tuner.planning.messages import Report

if TYPE_CHECKING:
    from tuner.planning.plan import Plan
    from tuner.planning.plans import Plans

MEMORY_KILL = re.compile(r"low on memory|memory usage threshold|OutOfMemoryError")
"""In what Ray says of a worker that it killed for want of memory."""
WHY_LOST = re.compile(
    r"^[\w.]*(?:Error|Exception|Exit)\b: .+|(?<=Worker exit detail: )[^.]+|The node .*? dead\b", re.MULTILINE
)
"""In what Ray says of a worker's end: what its code raised, or became of its process or its node."""


class Interrupted(KeyboardInterrupt):
    """The person, or the system, asked the run to end. (Tune tidies up for seconds after any ``Exception``.)"""


class Halted(KeyboardInterrupt):
    """The run directory cannot be written."""


@dataclass
class Assignment:
    """The jobs that a trial of Tune has been given.

    Attributes:
        plan: whose jobs they are.
        jobs: those that have not ended, by their index among all of them.
        since: when the worker began what it is at; infinite before it did.
        alone: whether nothing else runs meanwhile.
    """

    plan: Plan
    jobs: dict[int, Job]
    since: float
    alone: bool


class Dispatcher:
    """Stands between plans, which know jobs, and Tune, which knows trial ids. What failed for want of a worker or of
    memory is done again.

    Args:
        on_event: called often, for the progress to be shown.
    """

    def __init__(self, plans: Plans, on_event: Callable[[], None]) -> None:
        self.plans = plans
        self.on_event = on_event
        self.assignments: dict[str, Assignment] = {}
        self.requeued: list[tuple[Plan, list[Job], bool]] = []
        self.losses: Counter[tuple[str, str]] = Counter()
        self.interrupted = False

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles itself for a restore of its own; a run is resumed from our records

    def assign(self, trial_id: str) -> Assignment | None:
        """The next jobs, now this trial's; ``None`` where there are none now."""
        if any(assignment.alone for assignment in self.assignments.values()):
            return None
        if self.requeued:
            if self.requeued[0][2] and self.assignments:
                return None
            plan, jobs, alone = self.requeued.pop(0)
        else:
            found = self.plans.next_jobs()
            if found is None:
                return None
            (plan, jobs), alone = found, False
        self.assignments[trial_id] = Assignment(plan, dict(enumerate(jobs)), math.inf, alone)
        return self.assignments[trial_id]

    @property
    def idle(self) -> bool:
        """Whether nothing is left to be done, after ``assign`` had nothing."""
        return not self.assignments and not self.requeued

    def begin(self, trial_id: str) -> None:
        """Count the time limit from now: the worker has loaded what it needs."""
        self.assignments[trial_id].since = time.monotonic()

    def receive(self, trial_id: str, report: Report) -> None:
        """Write down and act on what a trial's worker reports."""
        if report.task:
            self.assignments[trial_id].plan.note_task(asdict(report.task))
        if report.worker_unusable:
            self.assignments[trial_id].plan.note_replaced_worker(report.worker_unusable)
        if report.retires:
            self.return_jobs(trial_id, singly=report.singly)
        if report.begins:
            self.begin(trial_id)
        if report.checkpoint:
            self.save_checkpoint(trial_id, *report.checkpoint)
        if report.ended:
            self.complete(trial_id, report.ended)

    def complete(self, trial_id: str, outcomes: Mapping[int, Outcome]) -> None:
        """Record the outcomes of some of a trial's jobs, by their index."""
        assignment = self.assignments[trial_id]
        done = []
        for index, outcome in outcomes.items():
            job = assignment.jobs.pop(index)
            if outcome.out_of_memory and not assignment.alone:
                self.requeued.append((assignment.plan, [job], True))
                continue
            if outcome.out_of_memory:
                outcome = replace(outcome, error=f"out of memory, with nothing beside it: {outcome.error}")
            done.append((job, outcome))
        assignment.since = time.monotonic()
        if not assignment.jobs:
            del self.assignments[trial_id]
        if done:
            assignment.plan.record(done)

    def save_checkpoint(self, trial_id: str, indices: Sequence[int], checkpoint: bytes) -> None:
        """Write down the state of some of a trial's jobs, from which they can go on."""
        plan, jobs = self.assignments[trial_id].plan, self.assignments[trial_id].jobs
        plan.run.checkpoints.write(checkpoint_name([jobs[index] for index in indices]), checkpoint)

    def return_jobs(self, trial_id: str, *, singly: bool = False) -> None:
        """Take back the jobs of a worker that retires before it has done them; others do them, together or each for
        itself."""
        assignment = self.assignments.pop(trial_id)
        jobs = list(assignment.jobs.values())
        for cohort in [[job] for job in jobs] if singly else [jobs]:
            self.requeued.append((assignment.plan, cohort, assignment.alone))

    def close(self, trial_id: str, error: str) -> None:
        """End a trial: jobs that it has not completed were lost with its worker."""
        assignment = self.assignments.pop(trial_id, None)
        if assignment is None:
            return
        plan, lost = assignment.plan, list(assignment.jobs.values())
        self.losses.update((plan.key, str(job)) for job in lost)
        for job in lost:
            failure = None if len(lost) > 1 else self._failure(job, assignment, error)
            if failure is None:
                self.requeued.append((plan, [job], len(lost) == 1 and MEMORY_KILL.search(error) is not None))
            else:
                plan.record([(job, failure)])

    def _failure(self, job: Job, assignment: Assignment, error: str) -> Outcome | None:
        """The outcome of a single job whose worker was lost; ``None`` where it is to be done again."""
        faults, losses = assignment.plan.config.faults, self.losses[assignment.plan.key, str(job)]
        limit = faults.trial_limit_s
        if limit is not None and time.monotonic() - assignment.since >= limit:
            return Outcome("failed", error=f"took longer than faults.trial_limit_s, {limit:g} s")
        if MEMORY_KILL.search(error):
            beside = "out of memory, with nothing beside it"
            return Outcome("failed", error=beside, out_of_memory=True) if assignment.alone else None
        if losses <= faults.retries:
            return None
        why = WHY_LOST.findall(error)
        reason = " ".join(why[-1].split()).rstrip(".") if why else "it is not known why"
        times = "" if losses == 1 else f" {losses} times"
        return Outcome("failed", error=f"the worker was lost{times}: {reason}", traceback=error)

    @contextlib.contextmanager
    def signals(self) -> Iterator[Dispatcher]:
        """SIGINT and SIGTERM set ``interrupted``, which ends the run between two events; a second one at once."""

        def note(number: int, frame: Any) -> None:
            if self.interrupted:
                raise KeyboardInterrupt
            self.interrupted = True

        previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


WRITING = threading.RLock()


@contextlib.contextmanager
def on_disk() -> Iterator[None]:
    """What cannot be written ends the run. (Tune tidies up for seconds after any ``Exception``.) One thread at a time.

    Raises:
        Halted: with the reason.
    """
    try:
        with WRITING:
            yield
    except OSError as error:
        raise Halted(f"{error.filename or 'the run directory'}: {error.strerror or error}") from error
