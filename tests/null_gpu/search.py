"""``python -m tests.null_gpu.search``: ``tuner.search`` on a machine that is taken for one with a GPU."""

from __future__ import annotations

import sys

from tuner.machine import resources
from tuner.machine.resources import Machine

resources.this_machine = lambda: Machine(cpus=2, gpus=1)

if __name__ == "__main__":
    from tuner.search import main

    sys.exit(main(sys.argv[1:]))
