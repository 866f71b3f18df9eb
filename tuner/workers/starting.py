"""A command's Ray is started early, beside the preflight; where none is to be started, it is joined when work begins.

No torch, no ray: imports Ray when it is to be started.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType, TracebackType
from typing import NoReturn

from tuner import events
from tuner.config.schema import Config
from tuner.errors import NOTHING
from tuner.events import Listener
from tuner.machine.garbage import uncollected
from tuner.machine.resources import Machine, this_machine
from tuner.workers.right_of_way import RightOfWay

LOOPBACK = ("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
"""Ray's setting to listen on this machine's own address only."""


class CommandRay:
    """The Ray of a command. A context manager: one that was started here does not outlive the block.

    Args:
        tell: is told how its start is going.
        inside: the address of the Ray to join where the configuration names none; ``None`` starts one.
        verbose: leave the logs of Ray and of its workers where a person sees them.
    """

    def __init__(self, tell: Listener, inside: str | None = None, *, verbose: bool = False) -> None:
        self.tell = tell
        self.inside = inside
        self.verbose = verbose
        self.there: tuple[list[Machine], Path] | None = None
        self.block = ExitStack()
        self.until_work = ExitStack()
        self.right: RightOfWay | None = None

    def __enter__(self) -> CommandRay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.until_work.close()
        self.there = None
        self.block.__exit__(kind, error, traceback)

    def address(self, config: Config) -> str | None:
        """Of the Ray to join; ``None`` where one is started."""
        return config.resources.address or self.inside

    def start(self, config: Config) -> None:
        """Start Ray, unless it was done or there is one to join, and import what else the driver needs of it.

        Args:
            config: with settled resources.

        Raises:
            UserError, MachineError, KeyboardInterrupt: as ``session.cluster`` does.
        """
        if self.address(config) is None and self.there is None:
            self._enter(config, beside_preflight=True)
        self._import_driver(config)

    @contextmanager
    def at_work(self, config: Config) -> Iterator[tuple[list[Machine], Path]]:
        """Ray's nodes, and a folder for Tune's files, for the block, which watches over Ray itself.

        Raises:
            UserError, MachineError, KeyboardInterrupt: as ``session.cluster`` does.
        """
        if self.there is None:
            self._remark("joining Ray ..." if self.address(config) else "starting Ray ...")
            self._enter(config)
            self._import_driver(config)
        self.until_work.close()
        assert self.there is not None
        with self:
            yield self.there

    def _enter(self, config: Config, *, beside_preflight: bool = False) -> None:
        session = _session(config)
        resources, here = config.resources.settled, this_machine()
        needed = math.ceil(resources.max_concurrent * resources.cpus_per_trial)
        machine = Machine(min(needed, here.cpus), here.gpus)
        if beside_preflight and machine.cpus == here.cpus:
            self.right = RightOfWay()
            self.until_work.callback(self.right.give_up)
        cluster = session.cluster(
            self.address(config), machine, resources.max_concurrent, self._remark, verbose=self.verbose
        )
        self.there = self.block.enter_context(cluster)
        if beside_preflight:
            self.until_work.enter_context(session.watched(None, lambda: False, self._lost))

    def _import_driver(self, config: Config) -> None:
        """What else of Ray and Optuna the driver needs, while others work."""
        _session(config)
        with uncollected():
            from tuner.planning import plan  # noqa: F401
            from tuner.workers import tune  # noqa: F401

    def _remark(self, text: str) -> None:
        self.tell(events.RayRemark(text))

    def _lost(self, reason: str) -> NoReturn:
        """End this process, whose calls into Ray would wait in vain; nothing has been written yet."""
        from tuner.workers import session

        self.tell(events.RayLost(f"error: Ray was lost: {reason}; training had not begun"))
        sys.stdout.flush()
        if self.right:
            self.right.give_up()
        session.abandon()
        os._exit(NOTHING)


def _session(config: Config) -> ModuleType:
    """The module that imports Ray."""
    if config.resources.address is None:
        os.environ.setdefault(*LOOPBACK)  # which Ray reads as it is imported
    with uncollected():
        from tuner.workers import session
    return session
