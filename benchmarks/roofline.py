"""How long a GPU computes at a step, at best: each operation at the chip's peak, or as fast as its memory is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

NAME = "H100 SXM"
BYTES_PER_S = 3.35e12
FLOPS_PER_S = {"fp32": 67e12, "tf32": 495e12, "bf16": 989e12}
LAUNCH_S = 5e-6
SLACK = 2.0
"""Convolutions reach half to two thirds of this roofline."""
TRAINING_IMAGES = 45_000
NOTES = """\
Of a step: its launches at {us:.0f} us each, and the GPU's time at the roofline, which is each operation's bytes at
{terabytes:.2f} TB/s or its products at the peak of tf32, whichever is longer, times {slack:g}, since convolutions reach
half to two thirds of it. The longer of both counts. Evaluations are not included. Nothing of this was measured on a
GPU."""


class Roofline(TorchDispatchMode):
    """Adds up the seconds of all operations while it is entered.

    Args:
        precision: of products.
    """

    def __init__(self, precision: str) -> None:
        super().__init__()
        self.seconds = 0.0
        self._peak = FLOPS_PER_S[precision]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        given, made = _tensors((args, kwargs)), _tensors(output)
        own = {_storage(tensor) for tensor in given}
        if func._schema.is_mutable or any(_storage(tensor) not in own for tensor in made):  # else it is a view
            moved = sum(tensor.nbytes for tensor in (*given, *made))
            count = flop_registry.get(func.overloadpacket)
            flops = count(*args, **(kwargs or {}), out_val=output) if count else 0
            self.seconds += max(moved / BYTES_PER_S, flops / self._peak)
        return output


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


@dataclass(frozen=True)
class Whole:
    """Runs of a task that a GPU does one after the other.

    Attributes:
        most_s: wanted at most.
    """

    task: str
    runs: int
    epochs: int
    batch: int
    most_s: float

    @property
    def steps(self) -> int:
        return self.runs * self.epochs * -(-TRAINING_IMAGES // self.batch)


WHOLES = (Whole("cifar_cnn", 40, 50, 64, 15 * 60), Whole("resnet18", 1, 128, 256, 500))
OPTIMIZERS: Sequence[tuple[str, Mapping[str, Any]]] = (
    ("adam", {}),
    *(("sophia", {"estimator": estimator, "update_period": 10}) for estimator in ("gnb", "hutchinson")),
    *(("diag_hessian", {"estimator": estimator, "update_period": 10}) for estimator in ("gnb", "hutchinson")),
)


def at_best(task: str, optimizer: str, arguments: Mapping[str, Any], precision: str) -> float:
    """Seconds of an average step at the roofline."""
    from tests.null_gpu.runs import run_of
    from tuner.training.engine import Engine

    engine = Engine(precision=precision, capture="off")  # type: ignore[arg-type]
    with engine.settings():
        run = run_of(task, optimizer, arguments, engine)
        period = int(getattr(run.optimizer, "update_period", 1))
        batches = run.batches(100)
        for _ in range(2 * period):
            run.step(next(batches))
        seconds = []
        for _ in range(min(2, period)):
            with Roofline(precision) as roofline:
                run.step(next(batches))
            seconds.append(roofline.seconds)
    return (seconds[0] + (period - 1) * seconds[-1]) / period


def section(launches: Mapping[tuple[str, str, str], tuple[float, float]], precisions: Mapping[str, str]) -> list[str]:
    """A table of whole trainings.

    Args:
        launches: task, optimizer, estimator -> of an average step, as they are and captured.
    """
    lines = [
        f"## Whole trainings on one {NAME}, by arithmetic",
        "",
        *NOTES.format(us=LAUNCH_S * 1e6, terabytes=BYTES_PER_S / 1e12, slack=SLACK).splitlines(),
        "",
        "| training | optimizer | estimator | captured | GPU, ms/step | steps | seconds | uncaptured, s | wanted, s |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for whole in WHOLES:
        for optimizer, arguments in OPTIMIZERS:
            estimator = str(arguments.get("estimator", "-"))
            eager, captured = launches[whole.task, optimizer, estimator]
            gpu = SLACK * at_best(whole.task, optimizer, arguments, precisions[whole.task])
            seconds = [whole.steps * max(gpu, LAUNCH_S * count) for count in (captured, eager)]
            title = f"{whole.runs} x {whole.task}, {whole.epochs} epochs"
            cells = [title, optimizer, estimator, f"{captured:.1f}", f"{1e3 * gpu:.3f}", f"{whole.steps:,}"]
            cells += [f"{s:,.0f}" for s in seconds] + [f"{whole.most_s:,.0f}"]
            lines.append("| " + " | ".join(cells) + " |")
    return lines
