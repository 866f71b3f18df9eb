"""Optimizers and estimators of curvature describe themselves: what their classes say, and one object of each."""

from __future__ import annotations

import inspect
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from optimizers import CurvatureOptimizer
from optimizers.curvature.interface import Estimator
from optimizers.curvature.registry import ESTIMATORS
from tuner import text
from tuner.config.classes import find
from tuner.config.docstrings import first_paragraph
from tuner.config.space import OptimizerConfig
from tuner.errors import UserError
from tuner.training.build import optimizer_maker
from tuner.training.isolation import restored
from tuner.training.single import DEFAULTS
from tuner.training.stack import member_key


@dataclass(frozen=True)
class Curvature:
    """What an optimizer asks of a step to see curvature.

    Attributes:
        estimator: its name, or its class's where it is not in the registry.
        costs: of a refresh, in words, in gradients.
        period: steps from one refresh to the next.
        needs: of the closure and of autograd.
    """

    estimator: str
    costs: str
    period: int
    needs: list[str]


@dataclass(frozen=True)
class Described:
    """An optimizer by its class.

    Attributes:
        doc: the first paragraph of its docstring.
        stacks: whether runs of it can train as one stack.
        curvature: ``None`` for one that sees gradients alone.
    """

    doc: str | None
    stacks: bool
    curvature: Curvature | None


def describe(name: str, spec: OptimizerConfig) -> Described:
    """Import the class and make it once, for a small matrix, at a point of its search space.

    Raises:
        UserError: that cannot be done.
    """
    params = [nn.Parameter(torch.zeros(2, 2))]
    with restored([]), redirect_stdout(sys.stderr):
        try:
            made = optimizer_maker(name, spec)(params, spec.first_point())
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"optimizer {name}: {text.fault(error)}") from None
    curvature = _curvature(made) if isinstance(made, CurvatureOptimizer) else None
    named = find(spec.class_)
    doc = first_paragraph(inspect.getdoc(named if inspect.isclass(named) else type(made)))
    return Described(doc, member_key(made, params, DEFAULTS) is not None, curvature)


def _curvature(made: CurvatureOptimizer) -> Curvature:
    kind = type(made.estimator)
    name = next((name for name, known in ESTIMATORS.items() if known is kind), kind.__name__)
    return Curvature(name, made.estimator.costs, made.update_period, needs(kind))


def needs(kind: type[Estimator]) -> list[str]:
    """What an estimator wants of a step beyond its gradient."""
    wanted = {
        "the graph of the gradient (double backward)": kind.double_backward,
        "the graph of the forward pass": kind.differentiates and not kind.double_backward,
        "a closure that returns (loss, outputs)": kind.needs_outputs,
        "the gradient of the step before": kind.previous_gradients,
    }
    return [what for what, is_so in wanted.items() if is_so]


def describe_estimators() -> list[dict[str, Any]]:
    """Of each in the registry: name, class, what it estimates, what a call costs in gradients, what it needs."""
    return [
        {
            "name": name,
            "class": f"{kind.__module__}.{kind.__qualname__}",
            "estimates": first_paragraph(inspect.getdoc(kind)),
            "costs": kind.costs,
            "needs": needs(kind),
        }
        for name, kind in ESTIMATORS.items()
    ]
