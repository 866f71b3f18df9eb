"""Values of a program, numbers of numpy say, become what a YAML file can hold."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from tuner.errors import UserError


def plain_value(value: Any, where: str) -> Any:
    """The same as text, a number, true, false, null, a list or a mapping.

    Args:
        where: the key that has it.

    Raises:
        UserError: it is nothing of these.
    """
    if value is None or isinstance(value, str) or type(value) in (bool, int, float):
        return value
    if isinstance(value, Mapping):
        return {key: plain_value(part, f"{where}.{key}") for key, part in value.items()}
    if isinstance(value, list | tuple | range):
        return [plain_value(part, where) for part in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if not isinstance(value, type) and hasattr(value, "tolist"):  # of numpy or torch
        return value.tolist()
    raise UserError(
        f"{where}: must be text, a number, true, false, null, a list or a mapping, got {type(value).__name__} "
        f"{repr(value)[:80]}"
    )
