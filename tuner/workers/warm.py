"""A worker's process imports all that it takes as it starts, before it has anything to do: Ray imports this there."""

from __future__ import annotations

from tuner.machine.garbage import uncollected
from tuner.workers.right_of_way import give_way

give_way()
with uncollected():
    from tuner.config import layers  # noqa: F401
    from tuner.hessian import analysis  # noqa: F401
    from tuner.workers import imports, trainable  # noqa: F401
