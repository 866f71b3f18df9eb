"""A background thread writes behind a run what may be slow, one task after the other."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from queue import SimpleQueue
from typing import Any


class BackgroundThread(Executor):
    """One thread that the end of the process does not wait for, as it does for those of other executors: a database
    may hold it up for half a minute, a server for ever."""

    def __init__(self) -> None:
        self._tasks: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self.thread = threading.Thread(target=self._work, daemon=True)
        self.thread.start()

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self._tasks.put((future, partial(function, *args, **kwargs)))
        return future

    def shutdown(self, wait: bool = False, *, cancel_futures: bool = False) -> None:
        """End the thread after the tasks that it has; do not wait for that."""
        self._tasks.put(None)

    def _work(self) -> None:
        while task := self._tasks.get():
            future, function = task
            try:
                future.set_result(function())
            except Exception as error:
                future.set_exception(error)
