"""JSON files of a run: written whole, with the version of their format, and read as what they must look like."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tuner.errors import UserError
from tuner.store.files import write_whole
from tuner.store.json_shapes import Content, first_error
from tuner.store.tables import shortened

SCHEMA_VERSION = 1


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a mapping, and the version beside its keys.

    Raises:
        ValueError: a number is not finite.
    """
    text = json.dumps({"schema_version": SCHEMA_VERSION, **content}, indent=2, allow_nan=False)
    write_whole(path, text + "\n")


def read_json(path: Path, shape: type[Content] | None = None) -> dict[str, Any]:
    """The mapping, the version included.

    Args:
        shape: what it must look like.

    Raises:
        UserError: there is no such file, or it is damaged, of another version or of another shape.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; the run has not come that far") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: must be a mapping of keys to values")
    if content.get("schema_version") != SCHEMA_VERSION:
        raise UserError(f"{path}: schema_version {content.get('schema_version')!r}, expected {SCHEMA_VERSION}")
    if shape and (wrong := first_error(shape, content)):
        where = ".".join(map(str, wrong["loc"]))
        got = "" if wrong["type"] == "missing" else f", got {shortened(wrong['input'])}"
        raise UserError(f"{path}: {where}: {wrong['msg']}{got}")
    return content
