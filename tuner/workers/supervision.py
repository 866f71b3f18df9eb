"""A supervisor has the jobs of plans done on Ray, and ends the work in order when it is interrupted, halted or loses
Ray."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from tuner.events import Ended, EndState, Listener, NotRecorded, Progressed, TrainingBegan, TrainingEnded
from tuner.machine.invocation import command_line
from tuner.machine.signals import interruption
from tuner.planning.dispatch import Dispatcher, Halted, on_disk
from tuner.planning.guardian import guarded
from tuner.planning.heartbeat import Heartbeat
from tuner.planning.plan import PATIENCE_S, Plan
from tuner.planning.plans import Plans
from tuner.workers import session, tune

HALTED_PATIENCE_S = 5.0
"""So long study.db is waited for where the run directory cannot be written."""


class Supervisor:
    """Does plans' jobs on Ray, and leaves the runs' files as a reader expects them, however that ends.

    Args:
        plans: with settled resources.
        path: what the command writes: a run, or the folder of a suite's runs.
        scratch: a folder for Tune's own files.
        tell: is told of progress.
        address: of the Ray that was joined; ``None`` where it was started here.
    """

    def __init__(
        self, plans: Sequence[Plan], path: Path, scratch: Path, tell: Listener, address: str | None = None
    ) -> None:
        self.plans = Plans(plans, path, self._on_end)
        self.scratch = scratch
        self.tell = tell
        self.address = address
        self.heartbeats = {plan.key: Heartbeat(plan) for plan in plans}

    def run(self) -> Ended:
        """How the work ended. Where Ray is lost, this process is ended, after all is written and told."""
        path = self.plans.path
        guard = guarded([plan.run.path for plan in self.plans.all], command_line("tuner.search", "--resume", path))
        with guard, self._training(), Dispatcher(self.plans, self._on_event).signals() as dispatcher:
            ended = self._work(dispatcher)
            if ended.state != "ended" and session.why_lost(self.address):
                self._leave(ended)
            return self._close(ended)

    def _work(self, dispatcher: Dispatcher) -> Ended:
        try:
            with session.watched(self.address, interruption.came, self._on_stuck):
                tune.run(dispatcher, self.scratch, here=self.address is None)
        except Halted as halted:
            return self._ended("halted", str(halted))
        except KeyboardInterrupt:
            return self._ended("interrupted")
        except Exception:
            if reason := session.why_lost(self.address):
                self._leave(self._ended("lost", reason))
            self._close(self._ended("ended"))
            raise
        return self._ended("ended")

    @contextmanager
    def _training(self) -> Iterator[None]:
        self.tell(TrainingBegan(self.plans.all[0].config.task.metric, self.plans.progress, self.plans.path))
        try:
            yield
        finally:
            self.tell(TrainingEnded())

    def _on_event(self) -> None:
        self.tell(Progressed())
        for plan in self.plans.open:
            self.heartbeats[plan.key].update()

    def _on_end(self, plan: Plan) -> None:
        """A plan has nothing left to do; others may."""
        self._close_plan(plan)
        self.heartbeats[plan.key].end("ended")

    def _on_stuck(self, reason: str) -> None:
        self._leave(self._ended("interrupted") if interruption.came() else self._ended("lost", reason))

    def _leave(self, ended: Ended) -> NoReturn:
        """End this process without Ray, which would wait in vain for what is lost."""
        with on_disk():
            with suppress(Exception):
                self.tell(TrainingEnded())
            with suppress(Exception):
                self._close(ended)
            ended = self._ended(ended.state, ended.reason)
            self.tell(ended)
            sys.stdout.flush()
            session.abandon()
            os._exit(ended.exit_code)

    def _close(self, ended: Ended) -> Ended:
        """Close the plans that are open still; where files cannot be written, the work has been halted, too."""
        gc.disable()  # a finalizer of Tune's speaks to Ray, which may be lost, in whatever thread it is called
        still_open, self.plans.open = self.plans.open, []
        try:
            for plan in still_open:
                ended = self._closed(plan, ended)
        finally:
            gc.enable()
            for plan in still_open:
                self.heartbeats[plan.key].end(ended.state)
        return ended

    def _closed(self, plan: Plan, ended: Ended) -> Ended:
        halted = ended.state == "halted"
        try:
            with on_disk():
                self._close_plan(plan, HALTED_PATIENCE_S if halted else PATIENCE_S)
        except Halted as error:
            return ended if halted else self._ended("halted", str(error))
        except Exception:
            if not halted:
                raise
        return ended

    def _close_plan(self, plan: Plan, patience_s: float = PATIENCE_S) -> None:
        for text in plan.close(patience_s):
            self.tell(NotRecorded(text))

    def _ended(self, state: EndState, reason: str = "") -> Ended:
        progress = self.plans.progress()
        finished, total = sum(p.done for p in progress), sum(p.total for p in progress)
        return Ended(state, reason, self.plans.path, finished, total, any(p.done > p.failed for p in progress))
