"""Weights of a trained network become the bytes of a safetensors file here, and these become weights again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

ABOUT = "tuner"
"""The one entry of a file's metadata, JSON: the order of several would differ from file to file."""


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, but for buffers that are not persistent: copies on the CPU, each with memory of
    its own, also where two names are of one tensor.

    Raises:
        TypeError: the network's state holds more than tensors.
    """
    state = model.state_dict()
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} is no tensor but a {type(value).__name__}")
    return {
        name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, tensor in state.items()
    }


def pack(weights: Mapping[str, Tensor], about: Mapping[str, Any]) -> bytes:
    """As a safetensors file.

    Args:
        about: what they are, as JSON can say it.

    Raises:
        Exception: the format has no such numbers, complex ones of 128 bits, say.
    """
    return save(dict(weights), {ABOUT: json.dumps(about)})


def unpack(content: bytes) -> dict[str, Tensor]:
    """What was packed.

    Raises:
        SafetensorError: it is damaged, or something else.
    """
    return load(content)
