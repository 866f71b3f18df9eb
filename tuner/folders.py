"""Folders are the registry: a YAML file in configs/tasks or configs/optimizers, or in the user's folder, is enough."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from tuner.errors import UserError

SHIPPED = Path(__file__).resolve().parent.parent / "configs"
SUFFIXES = (".yaml", ".yml")


def roots(configs: Path | None = None) -> list[Path]:
    """The shipped folder and, where there is one, the user's own of ``--configs``, which has the last word."""
    return [SHIPPED] if configs is None else [SHIPPED, configs]


def available(kind: Literal["tasks", "optimizers"], configs: Path | None = None) -> list[str]:
    """The names that there are."""
    files = [path for root in roots(configs) for path in (root / kind).glob("*.y*ml") if path.is_file()]
    return sorted({path.stem for path in files if path.suffix in SUFFIXES})


def yaml_file(folder: Path, name: str) -> Path | None:
    """The file of this name, ``.yaml`` or ``.yml``, if there is one.

    Raises:
        UserError: there are both.
    """
    paths = [folder / f"{name}{suffix}" for suffix in SUFFIXES]
    there = [path for path in paths if os.path.isfile(path)]  # unlike Path's, false for a name that no file can have
    if len(there) > 1:
        raise UserError(f"{there[0]}: {there[1].name} lies beside it; which of the two is meant? Rename the other")
    return there[0] if there else None
