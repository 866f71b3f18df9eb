"""The registry of tasks, optimizers and suites is folders: a YAML file in one of them is enough.

Ours are in configs/, a user's in the folder of ``--configs``; an installed package declares its own by the entry points
``tuner.optimizers``, ``tuner.tasks`` and ``tuner.suites``: a package's dotted path, whose folder has the YAML files.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Literal

from tuner.errors import UserError

Kind = Literal["tasks", "optimizers", "suites", "targets"]
Given = Mapping[str, Mapping[str, dict[str, Any]]]
"""What a program gives in place of files: by kind, then by name, what the YAML file would hold."""
ROOT = Path(__file__).resolve().parents[2]
SHIPPED = next(folder for folder in (ROOT / "tuner" / "configs", ROOT / "configs") if folder.is_dir())
"""In the package where it is installed, beside it in a checkout."""
SUFFIXES = (".yaml", ".yml")
Lookup = Callable[[Kind | None, str], Path | dict[str, Any] | None]
"""The file or content of a name of this kind (``None``: of all kinds, "defaults"); ``None`` where there is none."""


@dataclass(frozen=True)
class Registry:
    """Where names are looked up.

    Attributes:
        configs: the user's own folder of ``--configs``, which has the last word but for what is given.
        given: see ``Given``.
    """

    configs: Path | None = None
    given: Given = field(default_factory=dict)

    @property
    def levels(self) -> list[Lookup]:
        """What knows names, least important first: each level may adjust what those before it define."""
        own: list[Lookup] = [] if self.configs is None else [partial(_in_folder, self.configs)]
        return [_installed, *own, self._given]

    def _given(self, kind: Kind | None, name: str) -> dict[str, Any] | None:
        return self.given.get(kind, {}).get(name) if kind else None

    def names(self, kind: Kind) -> list[str]:
        """Those that there are.

        Raises:
            UserError: a package declares a folder that is not there.
        """
        roots = [SHIPPED] if self.configs is None else [SHIPPED, self.configs]
        folders = [*(root / kind for root in roots), *plugins(kind).values()]
        files = [path for folder in folders for path in _yaml_files(folder)]
        return sorted({path.stem for path in files} | set(self.given.get(kind, {})))


def _in_folder(root: Path, kind: Kind | None, name: str) -> Path | None:
    return yaml_file(root / kind if kind else root, name)


def _installed(kind: Kind | None, name: str) -> Path | None:
    """
    Raises:
        UserError: ours and an installed package's, or those of two packages, have this name.
    """
    folders = {"this project": SHIPPED / kind, **plugins(kind)} if kind else {"this project": SHIPPED}
    paths = {owner: path for owner, folder in folders.items() if (path := yaml_file(folder, name))}
    if len(paths) > 1:
        raise UserError(f"{name}: is in {kind} of {' and of '.join(paths)}; which is meant? Rename or uninstall one")
    return next(iter(paths.values()), None)


def available(kind: Kind, configs: Path | None = None) -> list[str]:
    """The names that there are."""
    return Registry(configs).names(kind)


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


def plugins(kind: Kind) -> dict[str, Path]:
    """The folders that installed packages declare, by how an error names them.

    Raises:
        UserError: one of them is not there.
    """
    return {f"{name} ({value})": _folder(kind, name, value) for name, value in _declared(kind, tuple(sys.path))}


@cache
def _declared(kind: str, path: tuple[str, ...]) -> list[tuple[str, str]]:
    """The distributions that declare a folder, with its dotted path; looked for once on each path."""

    def owner(entry: EntryPoint) -> str:
        return entry.dist.name if entry.dist else entry.name

    return sorted({(owner(entry), entry.value) for entry in entry_points(group=f"tuner.{kind}")})


def _folder(kind: str, name: str, value: str) -> Path:
    """Without importing anything, which takes seconds where it imports torch."""
    top, _, rest = value.partition(".")
    spec = next((spec for finder in sys.meta_path if (spec := finder.find_spec(top, None))), None)
    for location in (spec and spec.submodule_search_locations) or ():
        folder = Path(location, *rest.split(".")) if rest else Path(location)
        if folder.is_dir():
            return folder
    raise UserError(f"entry point tuner.{kind} of {name}: {value} is no package with a folder; repair or uninstall it")


def _yaml_files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.glob("*.y*ml") if path.is_file() and path.suffix in SUFFIXES)
