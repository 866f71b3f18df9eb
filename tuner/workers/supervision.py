"""A supervisor has a plan's jobs done on Ray, and ends the work in order when it is interrupted, halted or loses
Ray."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from tuner.config.schema import Config
from tuner.events import Ended, EndState, Listener, NotRecorded, Progressed, TrainingBegan, TrainingEnded
from tuner.machine.invocation import command_line
from tuner.machine.signals import interruption
from tuner.planning.dispatch import Dispatcher, Halted, on_disk
from tuner.planning.guardian import guarded
from tuner.planning.heartbeat import Heartbeat
from tuner.planning.plan import Plan
from tuner.workers import session, tune

HALTED_PATIENCE_S = 5.0
"""So long study.db is waited for where the run directory cannot be written."""


class Supervisor:
    """Does the plan's jobs on Ray, and leaves the run's files as a reader expects them, however that ends.

    Args:
        scratch: a folder for Tune's own files.
        tell: is told of progress.
        address: of the Ray that was joined; ``None`` where it was started here.
    """

    def __init__(self, plan: Plan, config: Config, scratch: Path, tell: Listener, address: str | None = None) -> None:
        self.plan = plan
        self.config = config
        self.scratch = scratch
        self.tell = tell
        self.address = address
        self.heartbeat = Heartbeat(plan)

    def run(self) -> Ended:
        """How the work ended. Where Ray is lost, this process is ended, after all is written and told."""
        guard = guarded(self.plan.run.path, command_line("tuner.search", "--resume", self.plan.run.path))
        with guard, self._training(), Dispatcher(self.plan, self._on_event).signals() as dispatcher:
            ended = self._work(dispatcher)
            if ended.state != "ended" and session.why_lost(self.address):
                self._leave(ended)
            ended = self._close(ended)
            self.heartbeat.end(ended.state)
        return ended

    def _work(self, dispatcher: Dispatcher) -> Ended:
        try:
            with session.watched(self.address, interruption.came, self._on_stuck):
                tune.run(dispatcher, self.config, self.scratch)
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
        self.tell(TrainingBegan(self.config.task.metric, self.plan.progress, self.plan.run.path))
        try:
            yield
        finally:
            self.tell(TrainingEnded())

    def _on_event(self) -> None:
        self.tell(Progressed())
        self.heartbeat.update()

    def _on_stuck(self, reason: str) -> None:
        self._leave(self._ended("interrupted") if interruption.came() else self._ended("lost", reason))

    def _leave(self, ended: Ended) -> NoReturn:
        """End this process without Ray, which would wait in vain for what is lost."""
        with on_disk():
            with suppress(Exception):
                self.tell(TrainingEnded())
            with suppress(Exception):
                self._close(ended)
            self.heartbeat.end(ended.state)
            ended = self._ended(ended.state, ended.reason)
            self.tell(ended)
            sys.stdout.flush()
            session.abandon()
            os._exit(ended.exit_code)

    def _close(self, ended: Ended) -> Ended:
        """Close the plan; where its files cannot be written, the work has been halted, too."""
        gc.disable()  # a finalizer of Tune's speaks to Ray, which may be lost, in whatever thread it is called
        halted = ended.state == "halted"
        try:
            with on_disk():
                for text in self.plan.close(HALTED_PATIENCE_S) if halted else self.plan.close():
                    self.tell(NotRecorded(text))
        except Halted as error:
            return ended if halted else self._ended("halted", str(error))
        except Exception:
            if not halted:
                raise
        finally:
            gc.enable()
        return ended

    def _ended(self, state: EndState, reason: str = "") -> Ended:
        progress = self.plan.progress()
        finished, total = sum(p.done for p in progress), sum(p.total for p in progress)
        return Ended(state, reason, self.plan.run.path, finished, total, any(p.done > p.failed for p in progress))
