"""A snapshot as bytes and back, without pickle's risks: plain values and tensors only."""

from __future__ import annotations

import io
import pickle
from typing import Any

import torch


def pack(content: dict[str, Any]) -> bytes | None:
    """The content as bytes; ``None`` where it holds more than ``unpack`` reads, an optimizer's own classes, say."""
    file = io.BytesIO()
    try:
        torch.save(content, file)
        data = file.getvalue()
        unpack(data)
    except (pickle.PickleError, TypeError, AttributeError, RuntimeError):
        return None
    return data


def unpack(data: bytes) -> dict[str, Any]:
    """What was packed, on the CPU.

    Raises:
        pickle.UnpicklingError: it holds more than plain values and tensors.
        RuntimeError: it is damaged.
    """
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
