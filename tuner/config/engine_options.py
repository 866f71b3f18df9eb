"""The engine's options are what the ``train`` section says of how a model is run; a search may set some of them."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainValidator

from tuner.config.checks import Section

SHARE = re.compile(r"(\d+\.?\d*|\.\d+) ?%")


def _epochs_or_share(value: Any) -> float | str:
    """A number of epochs, or as text a share of the run: ``5%``."""
    share = SHARE.fullmatch(value) if isinstance(value, str) else None
    if share and float(share[1]) <= 100:
        return f"{share[1]}%" if float(share[1]) else 0.0
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**63:
        raise ValueError(f"must be a number of epochs of at least 0, or a share of the run, say 5%, got {value!r}")
    return float(value)


def _off(value: Any) -> Any:
    """YAML takes the word for ``false``."""
    return "off" if value is False else value


class EngineOptions(Section):
    """How a model is run and its gradient treated, the same for every optimizer unless a search sets it: see
    ``training.engine``. Defaults are for the config.yaml of a run that was made before there were these.

    Attributes:
        schedule: of the learning rate after the warm-up.
        final_lr: where a schedule other than constant ends, as a fraction of the learning rate.
        warmup_epochs: epochs, or a fraction of one, of linear increase from 0; or a share of the run, "5%".
        clip_grad_norm: bound on the norm of the gradient over all parameters.
        ema: decay of an average of the weights that evaluations see: see ``training.averaging``.
        precision: "fp32"; "tf32", matrix products and convolutions on a GPU in TF32; "bf16", autocast to bfloat16 but
            for steps that estimate curvature from the forward pass.
        channels_last: memory format of the weights of convolutions and of images.
        compile: ``torch.compile`` the model for training steps; those that estimate curvature, and evaluations, run
            its uncompiled twin, which has the same parameters.
        capture: on a GPU, "auto": a step's launches become one, by a CUDA graph, where the network allows it; "off".
        deterministic: deterministic algorithms only; an operation without one ends the run with an error.
    """

    schedule: Literal["constant", "cosine", "linear", "wsd"] = "constant"
    final_lr: Annotated[float, Field(ge=0, le=1)] = 0.1
    warmup_epochs: Annotated[float | str, PlainValidator(_epochs_or_share)] = 0.0
    clip_grad_norm: Annotated[float, Field(gt=0)] | None = None
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    channels_last: bool = False
    compile: bool = False
    capture: Annotated[Literal["auto", "off"], BeforeValidator(_off)] = "auto"
    deterministic: bool = False


WITHOUT_EFFECT = ("capture",)
"""The options that change no result, but how soon it is there."""
TRAINING = "train."
SEARCHABLE = ("schedule", "warmup_epochs", "final_lr", "clip_grad_norm")
"""The options that a search may set: as hyperparameters they are called ``train.schedule`` and so on."""
