"""Between a plan and the workers: who is at which jobs, and what is done again."""

from __future__ import annotations

import contextlib
import math
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tuner.jobs import Job, Outcome, checkpoint_name

if TYPE_CHECKING:
    from tuner.planning.plan import Plan

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
class Order:
    """What a trial of Tune does.

    Attributes:
        jobs: those that have not ended, by their places.
        since: when the worker began what it is at; infinite before it did.
        alone: whether nothing else runs meanwhile.
    """

    jobs: dict[int, Job]
    since: float
    alone: bool


class Desk:
    """Between the plan, which knows jobs, and Tune, which knows trial ids. What failed for want of a worker or of
    memory is done again.

    Args:
        on_event: called often, for the progress to be shown.
    """

    def __init__(self, plan: Plan, on_event: Callable[[], None]) -> None:
        self.plan = plan
        self.faults = plan.config.faults
        self.on_event = on_event
        self.orders: dict[str, Order] = {}
        self.again: list[tuple[list[Job], bool]] = []
        self.losses: Counter[str] = Counter()
        self.interrupted = False

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles itself for a restore of its own; a run is resumed from our records

    def take(self, trial_id: str) -> Order | None:
        """What to do next; ``None`` where there is nothing now."""
        if any(order.alone for order in self.orders.values()):
            return None
        if self.again:
            alone = self.again[0][1]
            if alone and self.orders:
                return None
            jobs = self.again.pop(0)[0]
        else:
            jobs, alone = self.plan.next_jobs(), False
        if not jobs:
            return None
        self.orders[trial_id] = Order(dict(enumerate(jobs)), math.inf, alone)
        return self.orders[trial_id]

    @property
    def idle(self) -> bool:
        """Whether nothing is left to be done, after ``take`` had nothing."""
        return not self.orders and not self.again

    def begin(self, trial_id: str) -> None:
        """The worker has loaded what it needs; the time limit counts from now."""
        self.orders[trial_id].since = time.monotonic()

    def hand_in(self, trial_id: str, outcomes: Mapping[int, Outcome]) -> None:
        """What became of some of a trial's jobs."""
        order = self.orders[trial_id]
        done = []
        for place, outcome in outcomes.items():
            job = order.jobs.pop(place)
            if outcome.out_of_memory and not order.alone:
                self.again.append(([job], True))
                continue
            if outcome.out_of_memory:
                outcome = replace(outcome, error=f"out of memory, with nothing beside it: {outcome.error}")
            done.append((job, outcome))
        order.since = time.monotonic()
        if not order.jobs:
            del self.orders[trial_id]
        if done:
            self.plan.record(done)

    def keep(self, trial_id: str, places: Sequence[int], checkpoint: bytes) -> None:
        """The state of some of a trial's jobs, from which they can go on."""
        jobs = self.orders[trial_id].jobs
        self.plan.run.write_checkpoint(checkpoint_name([jobs[place] for place in places]), checkpoint)

    def hand_back(self, trial_id: str) -> None:
        """The worker retires before it has done what is left, which another one does: nothing was lost."""
        order = self.orders.pop(trial_id)
        self.again.append((list(order.jobs.values()), order.alone))

    def close(self, trial_id: str, error: str) -> None:
        """The trial has ended: what it has not handed in was lost with its worker."""
        order = self.orders.pop(trial_id, None)
        if order is None:
            return
        lost = list(order.jobs.values())
        self.losses.update(map(str, lost))
        for job in lost:
            failure = None if len(lost) > 1 else self._failure(job, order, error)
            if failure is None:
                self.again.append(([job], len(lost) == 1 and MEMORY_KILL.search(error) is not None))
            else:
                self.plan.record([(job, failure)])

    def _failure(self, job: Job, order: Order, error: str) -> Outcome | None:
        """Of a single job whose worker was lost; ``None`` where it is to be done again."""
        limit, losses = self.faults.trial_limit_s, self.losses[str(job)]
        if limit is not None and time.monotonic() - order.since >= limit:
            return Outcome("failed", error=f"took longer than faults.trial_limit_s, {limit:g} s")
        if MEMORY_KILL.search(error):
            beside = "out of memory, with nothing beside it"
            return Outcome("failed", error=beside, out_of_memory=True) if order.alone else None
        if losses <= self.faults.retries:
            return None
        why = WHY_LOST.findall(error)
        reason = " ".join(why[-1].split()).rstrip(".") if why else "it is not known why"
        times = "" if losses == 1 else f" {losses} times"
        return Outcome("failed", error=f"the worker was lost{times}: {reason}", traceback=error)

    @contextlib.contextmanager
    def signals(self) -> Iterator[Desk]:
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
