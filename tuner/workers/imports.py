"""What training takes is imported before there is a trial to charge the seconds to."""

from __future__ import annotations

from tuner.machine.garbage import uncollected

with uncollected():
    import torch

    from tuner.training import build, checkpoint, flops, isolation, stack, watched_code  # noqa: F401
    from tuner.workers import gpu  # noqa: F401

    torch.optim.SGD([torch.zeros(1)], lr=0.0).step()  # the first optimizer of a process imports PyTorch's compiler
