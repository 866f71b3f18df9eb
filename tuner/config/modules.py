"""Modules that a run names are located without being imported, and reached from every process that needs them."""

from __future__ import annotations

import os
import site
import sys
import sysconfig
from collections.abc import Iterable
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

from tuner.config.registry import ROOT
from tuner.errors import UserError

INSTALLED = {
    Path(folder).resolve()
    for folder in (
        *(sysconfig.get_path(name) for name in ("purelib", "platlib")),
        *site.getsitepackages(),  # of the system's Python, too, where a virtual environment sees them
        *([site.getusersitepackages()] if site.ENABLE_USER_SITE else []),
    )
}
"""The folders that packages are installed into."""
STANDARD = Path(sysconfig.get_path("stdlib")).resolve()
OWN_PACKAGES = ("tuner", "optimizers", "tasks")


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


def reach(folders: Iterable[str]) -> None:
    """Let Python find modules in these folders, after all other places."""
    sys.path.extend(folder for folder in folders if folder not in sys.path)


def locate(module: str, folders: Iterable[str] = ()) -> ModuleSpec | None:
    """Where a module lies; ``None`` where that cannot be known without importing something.

    Args:
        folders: looked into after all other places.
    """
    spec: ModuleSpec | None = None
    within: list[str] | None = None
    names = module.split(".")
    for end in range(1, len(names) + 1):
        name = ".".join(names[:end])
        specs = (finder.find_spec(name, within) for finder in sys.meta_path)
        try:
            spec = next((candidate for candidate in specs if candidate is not None), None)
        except KeyError:  # a folder without __init__.py in another one: Python would ask the outer one, once imported
            within = [str(Path(folder) / names[end - 1]) for folder in within or ()]
            continue
        if end == 1 and (spec is None or spec.origin is None):
            spec = PathFinder.find_spec(name, list(folders)) or spec
        if spec is None:
            return None
        within = spec.submodule_search_locations
        if within is None and end < len(names):
            return None
    return spec
