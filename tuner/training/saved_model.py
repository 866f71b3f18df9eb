"""A saved model is a retrained network, built anew with the weights that the run has kept of it."""

from __future__ import annotations

import torch
from safetensors import SafetensorError
from torch import nn

from tuner.config.carried import receive
from tuner.config.schema import Config
from tuner.errors import UserError, nearest
from tuner.machine.invocation import command_line
from tuner.store.run import Run
from tuner.training import build
from tuner.training.weights import unpack


def load_model(run: Run, optimizer: str, seed: int) -> nn.Module:
    """The network of a complete retraining run as it was last evaluated, in eval mode, on the CPU, in full precision.

    Buffers that the network declares not persistent are those of a new network.

    Raises:
        UserError: the run has none, or has not kept it; or the task is not what it was.
    """
    config = run.config()
    content = _kept(run, config, optimizer, seed)
    receive(config, run.objects())
    task = build.make_task(config)
    build.load_data(task, config, torch.device("cpu"))  # a network may be as large as its data says
    model = task.build(seed)
    try:
        model.load_state_dict(unpack(content))
    except SafetensorError as error:
        raise UserError(f"{run.weights.file(optimizer, seed)}: cannot be read as safetensors: {error}") from None
    except RuntimeError:  # with a line for each name and shape
        raise UserError(
            f"{run.weights.file(optimizer, seed)}: is of another network than {config.task.class_} builds now"
        ) from None
    return model.eval()


def _kept(run: Run, config: Config, optimizer: str, seed: int) -> bytes:
    """The weights of a retraining run.

    Raises:
        UserError: there are none.
    """
    if optimizer not in config.optimizers:
        raise UserError(f"{run.path}: has no optimizer {optimizer!r}{nearest(optimizer, config.optimizers)}")
    rows = {int(row["seed"]): row for row in run.seed_rows() if row["optimizer"] == optimizer}
    if not rows:
        raise UserError(f"{run.path}: {optimizer} has not been retrained")
    if seed not in rows:
        valid = ", ".join(map(str, rows))
        raise UserError(f"{run.path}: {optimizer} was not retrained on seed {seed!r} (valid: {valid})")
    row = rows[seed]
    if row["status"] != "complete":
        why = f" ({row['error']})" if "error" in row else ""
        raise UserError(f"{run.path}: {optimizer} seed {seed} {row['status']}{why}; only complete runs have weights")
    content = run.weights.read(optimizer, seed)
    if content is None:
        more = command_line("tuner.retrain", run.path, "--seeds", "N", "--keep-weights")
        raise UserError(
            f"{run.path}: {optimizer} seed {seed} was retrained without --keep-weights; {more} keeps the weights of "
            "new seeds only"
        )
    return content
