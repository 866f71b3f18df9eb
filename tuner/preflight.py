"""Look at what needs torch before Ray starts: can the task and each optimizer be made, can the data be loaded, and how
long will it take?

It runs as a process of its own, `python -m tuner.preflight < config.yaml`, beside the driver's own start, so that the
driver does not import torch. It prints one JSON document: ``error``, or what it ``found``.
"""

from __future__ import annotations

import json
import subprocess
import sys
import traceback
from dataclasses import asdict, dataclass
from typing import Any

from tuner import objects
from tuner.config import from_yaml
from tuner.errors import UserError
from tuner.estimate import Timings
from tuner.schema import Config, OptimizerConfig


@dataclass(frozen=True)
class Found:
    """What the check found.

    Attributes:
        timings: of a few steps.
        data: what env.json says of the data.
        device: what training runs will be on.
    """

    timings: Timings
    data: dict[str, Any]
    device: str


class Preflight:
    """The check under way. A context manager: the process does not outlive the block."""

    def __init__(self, config: Config, *, verbose: bool = False) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tuner.preflight"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if verbose else subprocess.DEVNULL,
            text=True,
        )
        assert self.process.stdin is not None
        self.process.stdin.write(config.to_yaml())
        self.process.stdin.close()

    def __enter__(self) -> Preflight:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.wait()

    def wait(self) -> Found | None:
        """What was found; ``None`` for a cluster, whose nodes are other machines.

        Raises:
            UserError: what is wrong.
        """
        assert self.process.stdout is not None
        with self.process.stdout as stdout:
            said = stdout.read()
        code = self.process.wait()
        if code != 0 or not said:
            raise UserError(f"the check of the task ended with code {code}; -v shows why")
        return read(json.loads(said))


def main() -> None:
    config = from_yaml(sys.stdin.read())
    document = sys.stdout
    sys.stdout = sys.stderr  # libraries print
    json.dump(look(config, here=config.resources.address is None), document)


def look(config: Config, *, here: bool) -> dict[str, Any]:
    """The check: ``{"found": ...}``, or ``{"error": ...}``.

    Args:
        here: whether training runs will be on this machine, so that the data must lie here and steps can be timed.
    """
    try:
        found = check(config, here=here)
        return {"found": None if found is None else asdict(found)}
    except UserError as error:
        return {"error": str(error)}
    except Exception as error:
        traceback.print_exc()
        return {"error": f"task {config.task.name}: {type(error).__name__}: {error} (-v shows where)"}


def read(said: dict[str, Any]) -> Found | None:
    """What ``look`` says.

    Raises:
        UserError: what is wrong.
    """
    if "error" in said:
        raise UserError(said["error"])
    found = said["found"]
    return found and Found(Timings.from_json(found["timings"]), found["data"], found["device"])


def check(config: Config, *, here: bool) -> Found | None:
    """
    Raises:
        UserError: what is wrong.
    """
    if config.resources.address is None:
        check_device(config)
    task = objects.make_task(config)
    for name, spec in config.optimizers.items():
        try_optimizer(name, spec)
    if not here:
        return None
    from tuner.timing import measure

    objects.set_up(task, config)
    return Found(measure(config, task), task.data_summary, task.device.type)


def check_device(config: Config) -> None:
    """
    Raises:
        UserError: GPUs are asked for here, and this PyTorch cannot use them.
    """
    import torch

    if config.resources.gpus_per_trial and not torch.cuda.is_available():
        raise UserError("resources.gpus_per_trial: this PyTorch cannot use the GPU; use --gpus-per-trial 0")


def try_optimizer(name: str, spec: OptimizerConfig) -> None:
    """Make the optimizer once, for a small matrix, at a point of its search space.

    Raises:
        UserError: its class does not exist or refuses its arguments.
    """
    import torch

    make = objects.optimizer_maker(name, spec)
    try:
        make([torch.nn.Parameter(torch.zeros(2, 2))], spec.first_point())
    except (TypeError, ValueError) as error:
        cls = objects.find(spec.class_)
        raise UserError(f"optimizer {name}: {error}{objects.nearest_argument(error, cls)}") from None
    except Exception as error:
        traceback.print_exc()
        raise UserError(f"optimizer {name}: {type(error).__name__}: {error} (-v shows where)") from None


if __name__ == "__main__":
    main()
