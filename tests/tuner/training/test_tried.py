"""Whether an optimizer stacks, and why not, is found by trying."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from optimizers import DiagHessian
from tests.support.members import CONSTANT, Small, of
from tuner.training.engine import Engine
from tuner.training.tried import Tried, tried


class Waiting(torch.optim.SGD):
    """Asks for a gradient at other weights."""

    def step(self, closure: Any = None) -> Any:
        super().step()
        return closure()


@pytest.mark.parametrize(
    ("make", "engine", "alone"),
    [
        (of(torch.optim.RMSprop), CONSTANT, ""),
        (of(torch.optim.Adam), CONSTANT, ""),
        (of(Waiting), CONSTANT, "it asks for gradients at other weights than those of the step"),
        (of(torch.optim.LBFGS), CONSTANT, "it asks for gradients at other weights than those of the step"),
        (
            of(torch.optim.SGD),
            Engine(channels_last=True),
            "train.compile and train.channels_last are for",
        ),
        (of(DiagHessian, maximize=True), CONSTANT, "it steps other tensors than the network's parameters"),
    ],
)
def test_it_is_said_why_not(make: Any, engine: Engine, alone: str) -> None:
    found = tried(Small(), make, {"lr": 0.01}, engine)
    assert found.alone.startswith(alone) and bool(found.alone) == bool(alone)


def test_what_rounding_errors_decide_is_a_note_in_single_precision() -> None:
    soap = pytest.importorskip("pytorch_optimizer").SOAP
    assert tried(Small(dtype=torch.float32), of(soap), {"lr": 0.01}, CONSTANT) == Tried(
        "", "rounding errors decide its steps: in a stack runs are those alone in distribution only"
    )
    assert "rounding errors" in tried(Small(), of(soap), {"lr": 0.01}, CONSTANT).alone
