"""A worker imports PyTorch before Ray gives it a GPU: which there are must not have been asked by then."""

from __future__ import annotations

import os
import subprocess
import sys

IMPORTED = """
import torch
asked = []
count = torch._C._cuda_getDeviceCount
torch._C._cuda_getDeviceCount = lambda: asked.append("") or count()
import tuner.workers.warm
assert not asked and not torch.cuda.is_initialized()
assert torch.cuda.is_available() and asked
"""


def test_a_warm_worker_has_not_asked_for_gpus() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORTED], env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
