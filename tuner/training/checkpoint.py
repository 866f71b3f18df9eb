"""A checkpoint is a snapshot as bytes, without pickle's risks: plain values and tensors only."""

from __future__ import annotations

import hashlib
import io
from typing import Any

import torch

DIGEST_BYTES = 32


class UnreadableError(Exception):
    """Bytes that are no checkpoint, or a damaged one."""


def pack(content: dict[str, Any]) -> bytes | None:
    """The content as bytes, after their sha256; ``None`` where it holds more than ``unpack`` reads, an optimizer's own
    classes, say."""
    file = io.BytesIO()
    try:
        torch.save(content, file)
        body = file.getvalue()
        data = hashlib.sha256(body).digest() + body
        unpack(data)
    except Exception:  # pickling raises what it likes
        return None
    return data


def unpack(data: bytes) -> dict[str, Any]:
    """What was packed, on the CPU.

    Raises:
        UnreadableError: it was not, or is damaged, or holds more than plain values and tensors.
    """
    digest, body = data[:DIGEST_BYTES], data[DIGEST_BYTES:]
    if hashlib.sha256(body).digest() != digest:
        raise UnreadableError("damaged, or no checkpoint")
    try:
        return torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    except Exception as error:
        raise UnreadableError(str(error)) from error
