"""The preflight checks what needs torch before Ray starts: can the task and each optimizer be made, can the data be
loaded, and how long will it take?

It runs as a process of its own beside the driver's own start, so that the driver does not import torch. It reads
config.yaml, and after a zero byte what that carries by value, from its standard input and answers with one line of
JSON, ``error`` or ``found``, into a pipe that is nobody else's: whatever is printed meanwhile, by Python, a library or
a child, is not among it.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
import traceback
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from tuner import text
from tuner.config import classes
from tuner.config.carried import receive
from tuner.config.layers import from_yaml
from tuner.config.schema import Config
from tuner.config.space import OptimizerConfig
from tuner.errors import UserError
from tuner.machine.signals import exit_cause
from tuner.machine.streams import STDERR
from tuner.planning.estimate import Timings
from tuner.workers.diagnosis import diagnose
from tuner.workers.raised_warnings import collect_warnings

OBJECTS_FOLLOW = b"\0\0"
"""On the standard input of the process, behind the configurations."""


@dataclass(frozen=True)
class PreflightResult:
    """What the preflight came to.

    Attributes:
        timings: of a few steps.
        data: what env.json says of the data.
        device: what training runs will be on.
        warnings: what the first steps and evaluation showed, and the warnings that were raised meanwhile, each a line.
        unsaved: optimizer -> why its runs cannot go on from snapshots.
    """

    timings: Timings
    data: dict[str, Any]
    device: str
    warnings: list[str] = field(default_factory=list)
    unsaved: dict[str, str] = field(default_factory=dict)


class Preflight:
    """The check of one configuration after the other, under way. A context manager: the process does not outlive the
    block.

    Args:
        objects: what the configurations carry by value: see ``tuner.config.carried``.

    Attributes:
        has_ended: whether it has, before it has checked all.
    """

    def __init__(self, *configs: Config, objects: bytes = b"", verbose: bool = False) -> None:
        self.has_ended = False
        reading, writing = os.pipe()
        self.answer = os.fdopen(reading, encoding="utf-8")
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tuner.workers.preflight", str(writing)],
                stdin=subprocess.PIPE,
                stdout=STDERR if verbose else subprocess.DEVNULL,
                stderr=STDERR if verbose else subprocess.DEVNULL,
                pass_fds=[writing],
            )
        finally:
            os.close(writing)
        assert self.process.stdin is not None
        with suppress(BrokenPipeError), self.process.stdin as stdin:  # of a process that ended at once: see ``wait``
            stdin.write(b"\0".join(config.to_yaml().encode() for config in configs) + OBJECTS_FOLLOW + objects)

    def __enter__(self) -> Preflight:
        return self

    def __exit__(self, *error: object) -> None:
        self.answer.close()
        self.process.kill()  # torch takes its time to leave
        self.process.wait()

    def wait(self) -> PreflightResult | None:
        """The result of the next configuration; ``None`` for a cluster, whose nodes are other machines.

        Raises:
            UserError: what is wrong.
        """
        line = self.answer.readline()
        if not line.endswith("\n"):
            self.has_ended = True
            raise UserError(f"the check of the task {_how_ended(self.process.wait())}; -v shows why")
        return read_answer(json.loads(line))

    def next_result(self) -> PreflightResult | UserError | None:
        """The same, or what is wrong."""
        try:
            return self.wait()
        except UserError as error:
            return error


def _how_ended(code: int) -> str:
    memory = ", perhaps for want of memory" if -code == signal.SIGKILL else ""
    return f"{'was ended by' if code < 0 else 'ended with'} {exit_cause(code)}{memory}"


def main(argv: list[str]) -> None:
    """Check the configurations on standard input, answer a line each into the pipe with this number."""
    pipe = int(argv[0])
    os.set_inheritable(pipe, False)
    from tuner.workers import imports  # noqa: F401  (in less time than where they are used)

    texts, _, objects = sys.stdin.buffer.read().partition(OBJECTS_FOLLOW)
    with os.fdopen(pipe, "w", encoding="utf-8") as answer:
        for text_of_one in texts.split(b"\0"):
            config = from_yaml(text_of_one.decode())
            answered = run_checks(config, objects, here=config.resources.address is None)
            answer.write(json.dumps(answered) + "\n")
            answer.flush()


def _end_with_reader(pipe: int) -> None:
    """End this process once nobody reads its answers any more, in whatever way that has come about."""
    reader = select.poll()
    reader.register(pipe, 0)  # for errors alone: its other end was closed
    reader.poll()
    os._exit(1)


def run_checks(config: Config, objects: bytes = b"", *, here: bool) -> dict[str, Any]:
    """The check: ``{"found": ...}``, or ``{"error": ...}``.

    Args:
        objects: what the configuration carries by value.
        here: whether training runs will be on this machine, so that the data must lie here and steps can be timed.
    """
    try:
        with collect_warnings() as warnings:
            receive(config, objects)
            result = check(config, here=here)
        return {"found": result and asdict(replace(result, warnings=result.warnings + warnings))}
    except UserError as error:
        return {"error": str(error)}
    except Exception as error:
        traceback.print_exc()
        return {"error": f"task {config.task.name}: {text.fault(error)} (-v shows where)"}


def read_answer(answered: dict[str, Any]) -> PreflightResult | None:
    """What ``run_checks`` answers.

    Raises:
        UserError: what is wrong.
    """
    if "error" in answered:
        raise UserError(answered["error"])
    fields = answered["found"]
    return fields and PreflightResult(**(fields | {"timings": Timings.from_json(fields["timings"])}))


def check(config: Config, *, here: bool) -> PreflightResult | None:
    """
    Raises:
        UserError: what is wrong.
    """
    if config.resources.address is None:
        check_device(config)
    from tuner.training import build
    from tuner.training.isolation import restored

    task = build.make_task(config)
    for name, spec in config.optimizers.items():
        with restored([]):
            try_optimizer(name, spec)
    if not here:
        return None
    from tuner.workers import rehearsal
    from tuner.workers.timing import measure

    build.set_up(task, config)
    who = f"task {config.task.name}"
    rehearsal.check_data(who, task)
    timings = measure(config, task)
    if not timings.step_s:
        name, error = next(iter(timings.untimed.items()))
        others = ", as those of all others" if len(timings.untimed) > 1 else ""
        raise UserError(f"optimizer {name}: its first steps failed{others} ({error})")
    warnings = rehearsal.evaluate_once(who, task, timings.evaluation_s)
    notes, unsaved = rehearsal.rehearse_all(config, task, timings)
    return PreflightResult(timings, text.plain(task.data_summary), task.device.type, warnings + notes, unsaved)


def check_device(config: Config) -> None:
    """
    Raises:
        UserError: GPUs are asked for here, and this PyTorch cannot use them.
    """
    import torch

    if config.resources.settled.gpus_per_trial and not torch.cuda.is_available():
        raise UserError("resources.gpus_per_trial: this PyTorch cannot use the GPU; use --gpus-per-trial 0")


def try_optimizer(name: str, spec: OptimizerConfig) -> None:
    """Make the optimizer once, for a small matrix, at a point of its search space.

    Raises:
        UserError: its class does not exist or refuses its arguments.
    """
    import torch

    from tuner.training import build

    make = build.optimizer_maker(name, spec)
    try:
        make([torch.nn.Parameter(torch.zeros(2, 2))], spec.first_point())
    except Exception as error:
        if wanted := diagnose(error, spec):
            raise UserError(f"optimizer {name}: {wanted}") from None
        if isinstance(error, TypeError | ValueError):
            argument = classes.nearest_argument(error, classes.find(spec.class_))
            raise UserError(f"optimizer {name}: {error}{argument}") from None
        traceback.print_exc()
        raise UserError(f"optimizer {name}: {text.fault(error)} (-v shows where)") from None


if __name__ == "__main__":
    # While it polls, the pipe stays open for its reader: only this process's end closes it.
    threading.Thread(target=_end_with_reader, args=[int(sys.argv[1])], name="end with the reader", daemon=True).start()
    main(sys.argv[1:])
