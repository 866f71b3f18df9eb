"""The background thread: one task after the other, faults to whom they concern, and an end that nobody waits for."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from tuner.store.background import BackgroundThread


def test_tasks_are_done_in_their_order_by_one_thread_which_then_ends() -> None:
    background, seen = BackgroundThread(), list[tuple[int, int]]()
    futures = [background.submit(lambda n=n: seen.append((n, threading.get_ident()))) for n in range(50)]
    background.shutdown()
    background.thread.join(10)
    assert not background.thread.is_alive() and all(future.done() for future in futures)
    assert [n for n, _ in seen] == list(range(50)) and {ident for _, ident in seen} == {background.thread.ident}


def test_a_fault_is_the_tasks_own() -> None:
    background = BackgroundThread()
    fault, sound = background.submit(divmod, 1, 0), background.submit(divmod, 7, 2)
    assert isinstance(fault.exception(10), ZeroDivisionError) and sound.result(10) == (3, 1)
    background.shutdown()


@pytest.mark.parametrize("stops", ["", "background.shutdown(); "])
def test_the_process_does_not_wait_for_it(stops: str) -> None:
    code = "import time; from tuner.store.background import BackgroundThread; background = BackgroundThread(); "
    code += f"background.submit(time.sleep, 60); {stops}print('ended')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=True)
    assert (done.stdout, done.stderr) == ("ended\n", "")
