"""Look at what needs torch before Ray starts: can the task and each optimizer be made?

It runs as a process of its own, `python -m tuner.preflight < config.yaml`, beside the driver's own start, so that the
driver does not import torch. Exit code 2 and one line where something is wrong.
"""

from __future__ import annotations

import subprocess
import sys

from tuner import objects
from tuner.config import from_yaml
from tuner.errors import UserError
from tuner.schema import Config, OptimizerConfig


class Preflight:
    """The check under way."""

    def __init__(self, config: Config) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tuner.preflight"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdin is not None
        self.process.stdin.write(config.to_yaml())
        self.process.stdin.close()

    def wait(self) -> None:
        """
        Raises:
            UserError: what is wrong.
        """
        assert self.process.stderr is not None
        with self.process.stderr as stderr:
            said = stderr.read().strip()
        if self.process.wait() != 0:
            raise UserError(said.splitlines()[-1] if said else f"the check ended with code {self.process.returncode}")


def main() -> int:
    config = from_yaml(sys.stdin.read())
    try:
        check_device(config)
        objects.make_task(config)
        for name, spec in config.optimizers.items():
            try_optimizer(name, spec)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def check_device(config: Config) -> None:
    """
    Raises:
        UserError: GPUs are asked for here, and this PyTorch cannot use them.
    """
    import torch

    if config.resources.gpus_per_trial and not config.resources.address and not torch.cuda.is_available():
        raise UserError("resources.gpus_per_trial: this PyTorch cannot use the GPU; use --gpus-per-trial 0")


def try_optimizer(name: str, spec: OptimizerConfig) -> None:
    """Make the optimizer once, for a small matrix, at a point of its search space.

    Raises:
        UserError: its class does not exist or refuses its arguments.
    """
    import torch

    point = {key: dim.choices[0] if dim.choices else dim.low for key, dim in spec.space.items()}
    for published in spec.enqueued()[:1]:
        point |= published
    make = objects.optimizer_maker(name, spec)
    try:
        make([torch.nn.Parameter(torch.zeros(2, 2))], point)
    except (TypeError, ValueError) as error:
        cls = objects.find(spec.class_)
        raise UserError(f"optimizer {name}: {error}{objects.nearest_argument(error, cls)}") from None


if __name__ == "__main__":
    sys.exit(main())
