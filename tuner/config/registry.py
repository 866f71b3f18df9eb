"""Folders are the registry: a YAML file in configs/tasks or configs/optimizers, or in the user's folder, is enough."""

from __future__ import annotations

import os
import sys
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Literal

from tuner.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "configs"
OWN_PACKAGES = ("tuner", "optimizers", "tasks")
SUFFIXES = (".yaml", ".yml")


def check_configs(folder: Path) -> None:
    """
    Raises:
        UserError: there is no such folder of a user's own, or it has a package that would be taken for one of ours.
    """
    if not os.path.isdir(folder):
        raise UserError(f"--configs {folder}: no such folder")
    for name in OWN_PACKAGES:
        for path in (folder / f"{name}.py", folder / name / "__init__.py"):
            if path.is_file():
                raise UserError(f"{path}: {name} is this project's own package; a module of yours needs another name")


def check_own_packages() -> None:
    """
    Raises:
        UserError: Python finds something else under the name of one of our packages, in the working directory say.
    """
    for name in OWN_PACKAGES:
        spec = PathFinder.find_spec(name)
        origin = Path(spec.origin) if spec and spec.origin else None
        if origin and origin.resolve().parent != ROOT / name:
            raise UserError(
                f"{origin}: hides {name}, which is this project's own package; rename yours, or start in another folder"
            )


def reach(configs: str | None) -> None:
    """Let Python find modules in the folder of ``--configs``, after all other places."""
    if configs is not None and configs not in sys.path:
        sys.path.append(configs)


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
