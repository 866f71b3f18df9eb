"""Estimators along a training: at some of its evaluations all are compared on the network as it is then."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from optimizers.curvature.gauss_newton import GGNMC
from tasks.base import Batch, Task
from tuner.errors import UserError
from tuner.hessian.compared import Comparison, Look, Row, cosine, error
from tuner.hessian.hessian import ROWS_SEED, Hessian, in_double, undisturbed
from tuner.training.engine import Engine
from tuner.training.records import Budget, Finding
from tuner.training.single import Hyperparameters, MakeOptimizer, train
from tuner.training.weights import unpack

HESSIAN, GAUSS_NEWTON = "Hessian", "Gauss-Newton"
BUDGETS = (1.0, 2.5, 8.0)
"""Gradients beyond the step's own."""
ROUNDS = 9
EXACT_UP_TO, ENTRIES = 2000, 256
"""Parameters up to which all entries of the diagonal are known; of more so many, drawn at random."""
MOST_COLUMNS = 512
"""Outputs of a sample up to which the Gauss-Newton diagonal is computed; of more it is the mean of draws."""
MEAN_OF = 200
SAMPLED: dict[str, Mapping[str, Any]] = {
    "hutchinson": {"name": "hutchinson"},
    "gnb": {"name": "gnb"},
    "ggn_mc": {"name": "ggn_mc"},
    "ggn_mc, residual carried": {"name": "ggn_mc", "residual": "carried"},
    "hessian_mc": {"name": "hessian_mc"},
}
DETERMINISTIC: dict[str, Mapping[str, Any]] = {
    "hesscale": {"name": "hesscale"},
    "ggn_exact": {"name": "ggn_exact"},
    "ggn_exact, residual carried": {"name": "ggn_exact", "residual": "carried"},
}


@dataclass(frozen=True)
class Seen:
    """A network at one moment.

    Attributes:
        when: in words.
        parameters: how many there are.
        entries: of the diagonal, how many are compared.
        gradient_ms: what a gradient takes.
        missed: the norm of what the Gauss-Newton diagonal lacks, over that of the Hessian's; ``None`` where there is
            none of this loss.
        cosine: between both.
        estimated: whether the Gauss-Newton diagonal is the mean of draws.
        rows: of the estimators.
        why: what could not be done.
    """

    when: str
    parameters: int
    entries: int
    gradient_ms: float
    missed: float | None
    cosine: float | None
    estimated: bool
    rows: list[Row]
    why: str = ""


def see(task: Task, model: nn.Module, when: str, *, seed: int = 0, rounds: int = ROUNDS) -> Seen:
    """All estimators on the first training batch of a fixed seed, in evaluation mode; the network is left as it was.

    Raises:
        RuntimeError: the loss cannot be differentiated twice.
        ValueError: no parameter requires a gradient.
    """
    with undisturbed(model, task.device, seed):
        batch = next(iter(task.batches(ROWS_SEED, 0)))
        names = [name for name, param in model.named_parameters() if param.requires_grad]
        double, single = in_double(task, model, names, [batch]), Hessian(task, model, names, [batch], None)
        chosen, exact = _exact(double, seed)
        targets = {HESSIAN: exact}
        sampled, deterministic, why, estimated = dict(SAMPLED), dict(DETERMINISTIC), "", False
        try:
            of_ggn, estimated = _gauss_newton(task, double)
            targets[GAUSS_NEWTON] = of_ggn if chosen is None else of_ggn[chosen]
        except ValueError as error_of_loss:
            sampled, deterministic, why = {"hutchinson": SAMPLED["hutchinson"]}, {}, str(error_of_loss)
        if estimated:
            deterministic = {"hesscale": DETERMINISTIC["hesscale"]}
        params: Any = single.params
        comparison = Comparison(params, _closure(task, single), targets, sampled, deterministic, rounds, chosen)
        rows = comparison.rows(BUDGETS)
    known = GAUSS_NEWTON in targets
    return Seen(
        when, double.shape[0], len(exact), median(comparison.costs.gradient_ms),
        error(targets[GAUSS_NEWTON], exact) if known else None, cosine(targets[GAUSS_NEWTON], exact) if known else None,
        estimated, rows, why,
    )  # fmt: skip


def see_along(
    task: Task,
    make_optimizer: MakeOptimizer,
    hp: Hyperparameters,
    engine: Engine,
    epochs: int,
    looks: int,
    tell: Callable[[Seen], object],
    seed: int = 0,
) -> str:
    """Train, and look at the network after the first step, at the end, and equally often between.

    Args:
        looks: how often, at least 2.
        tell: is told each.

    Returns:
        How the training ended.
    """
    count = 0

    def analyze(task: Task, model: nn.Module, _: Any) -> tuple[list[Finding], str]:
        nonlocal count
        epoch = epochs * count / (looks - 1)
        after = f"{epoch:g} epoch" if epoch == 1 else f"{epoch:g} epochs"
        tell(see(task, model, f"after {after if count else 'the first step'}", seed=seed))
        count += 1
        return [], ""

    budget = Budget(epochs, looks - 1, analyze_every=1, analyze=analyze)
    result = train(task, make_optimizer, hp, seed, budget, engine=engine)
    return result.why or result.status


def load_weights(model: nn.Module, path: Path) -> None:
    """Of a file that a run has kept (safetensors), or that ``torch.save`` wrote of a ``state_dict``.

    Raises:
        UserError: the file holds no weights, or those of another network.
    """
    try:
        if path.suffix == ".safetensors":
            state: Any = unpack(path.read_bytes())
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
        for key in ("model", "state_dict"):
            state = state[key] if isinstance(state, dict) and isinstance(state.get(key), dict) else state
        model.load_state_dict(state)
    except SafetensorError as error:
        raise UserError(f"--checkpoint {path}: cannot be read as safetensors: {error}") from None
    except (RuntimeError, TypeError, AttributeError):  # with a line for each name and shape
        raise UserError(f"--checkpoint {path}: is not of the network that the task builds") from None
    except Exception as error:  # unpickling raises what it likes
        raise UserError(f"--checkpoint {path}: cannot be read as weights: {str(error).splitlines()[0]}") from None


def _exact(hessian: Hessian, seed: int) -> tuple[Tensor | None, Tensor]:
    """The entries that are compared, ``None`` for all, and the Hessian's diagonal there."""
    parameters = hessian.shape[0]
    if parameters <= EXACT_UP_TO:
        return None, hessian.matrix().diagonal().double()
    drawn = torch.randperm(parameters, generator=torch.Generator().manual_seed(seed))[:ENTRIES].sort().values
    chosen = drawn.to(hessian.device)
    found = []
    for entry in chosen.tolist():
        unit = torch.zeros(parameters, dtype=hessian.dtype, device=hessian.device)
        unit[entry] = 1.0
        found.append((hessian @ unit)[entry])
    return chosen, torch.stack(found).double()


def _gauss_newton(task: Task, hessian: Hessian) -> tuple[Tensor, bool]:
    """The Gauss-Newton matrix's diagonal, and whether it is an estimate.

    Raises:
        ValueError: there is none of this loss.
    """
    closure, params = _closure(task, hessian), hessian.params
    with torch.no_grad():
        outputs = closure()[1]
    columns = outputs[0].numel() if outputs.dim() else 0
    given: Any = {"name": "ggn_exact"} if columns <= MOST_COLUMNS else GGNMC(samples=MEAN_OF)
    return Look(params, closure, given).diagonal(), columns > MOST_COLUMNS


def _closure(task: Task, hessian: Hessian) -> Callable[[], tuple[Tensor, Tensor]]:
    batch: Batch = hessian.batches[0]
    return lambda: task.loss(hessian.model, batch)
