"""Folders are the registry: a YAML file in configs/tasks or configs/optimizers, or in the user's folder, is enough."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

SHIPPED = Path(__file__).resolve().parent.parent / "configs"


def roots(configs: Path | None = None) -> list[Path]:
    """The shipped folder and, where there is one, the user's own of ``--configs``, which has the last word."""
    return [SHIPPED] if configs is None else [SHIPPED, configs]


def available(kind: Literal["tasks", "optimizers"], configs: Path | None = None) -> list[str]:
    """The names that there are."""
    return sorted({path.stem for root in roots(configs) for path in (root / kind).glob("*.yaml") if path.is_file()})
