"""Code that a run is made by is told apart: this project's, PyTorch's, and that of each class which its settings name.

Found in files and in what is installed, without importing any of it. What can change numbers counts: the content of
this project's sources, and of a user's module or all of its package, comments included; versions of what is installed.
A module that is one file is looked at alone: what it imports from beside it belongs into a package with it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from typing import Any

from tuner.config.carried import is_carried
from tuner.config.modules import INSTALLED, OWN_PACKAGES, STANDARD, locate
from tuner.config.registry import ROOT
from tuner.config.schema import Config
from tuner.errors import UserError
from tuner.machine.environment import git
from tuner.text import line
from tuner.version import VERSION

Code = dict[str, dict[str, Any]]
"""What is known of each part: ``sha256`` of its sources, or ``version`` of its ``package``; empty where nothing is."""


def identity(config: Config, objects: bytes = b"") -> Code:
    """The code as it is now.

    Args:
        objects: what the run carries by value: see ``tuner.config.carried``.
    """
    sources = [path for name in OWN_PACKAGES for path in (ROOT / name).rglob("*.py")]
    project = {"version": VERSION, **git(), "sha256": _digest(ROOT, sources)}
    carried = {"file": "objects.pkl", "sha256": sha256(objects).hexdigest()}
    classes = {
        path: carried if is_carried(path) else _of_class(path, config.module_folders) for path in class_paths(config)
    }
    return {"tuner": project, "torch": {"package": "torch", "version": _version("torch")}} | {
        path: known for path, known in classes.items() if path.partition(".")[0] not in (*OWN_PACKAGES, "torch")
    }


def class_paths(config: Config) -> list[str]:
    """Of the task, then of the optimizers."""
    return list(dict.fromkeys([config.task.class_, *(spec.class_ for spec in config.optimizers.values())]))


def differences(
    before: Mapping[str, Mapping[str, Any]],
    now: Mapping[str, Mapping[str, Any]],
    when: tuple[str, str] = ("when the run was made", "now"),
) -> list[str]:
    """A line for each part that both know and that is not the same."""
    return [
        f"{part}: {_description(before[part])} {when[0]}, {_description(after)} {when[1]}"
        for part, after in now.items()
        if part in before and _counts(before[part]) != _counts(after)
    ]


def mark(code: Code) -> str:
    """What tells rows that were made by this code from others: twelve digits."""
    counted = {part: _counts(known) for part, known in code.items()}
    return sha256(json.dumps(counted, sort_keys=True).encode()).hexdigest()[:12]


def check_folders(config: Config) -> None:
    """
    Raises:
        UserError: folders of the run's modules are gone, and a class with them; or that of ``--configs`` has modules
            that others hide.
    """
    gone = [folder for folder in config.module_folders if not Path(folder).is_dir()]
    for path in class_paths(config):
        if is_carried(path):
            continue
        top = path.partition(".")[0]
        spec = locate(path.rpartition(".")[0], config.module_folders)
        if gone and spec is None:
            raise UserError(
                f"{path}: there is no module {top!r}; of the folders where the run found its modules, not there any "
                f"more: {', '.join(gone)}; put back the one that has it, or set PYTHONPATH to where it is now"
            )
        if config.configs is not None and spec and spec.origin:
            _check_not_hidden(path, top, Path(spec.origin), Path(config.configs))


def _check_not_hidden(path: str, top: str, origin: Path, folder: Path) -> None:
    """
    Raises:
        UserError: a module of the folder of ``--configs`` is hidden by another.
    """
    own = next((p for p in (folder / f"{top}.py", folder / top / "__init__.py") if p.is_file()), None)
    if own and not origin.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"{path}: {own} is hidden by {origin}, which has its name; rename yours")


def _of_class(path: str, folders: list[str]) -> dict[str, Any]:
    module = path.rpartition(".")[0]
    top, spec = module.partition(".")[0], locate(module, folders)
    if spec is None:
        return {}
    origin = Path(spec.origin).resolve() if spec.has_location and spec.origin else None
    if origin is None or (origin.is_relative_to(STANDARD) and not _installed(origin)):
        return {"package": "python", "version": sys.version.partition(" ")[0]} if spec.origin else {}
    if _installed(origin) and (package := _package(top)):
        return {"package": package, "version": _version(package)}
    whole = locate(top, folders)
    locations = [Path(location) for location in (whole and whole.submodule_search_locations) or ()]
    if not locations:
        return {"file": str(origin), "sha256": _digest(origin.parent, [origin])}
    root = next((each for each in locations if origin.is_relative_to(each.resolve())), locations[0]).resolve()
    return {"file": str(root), "sha256": _digest(root, root.rglob("*.py"))}


def _installed(origin: Path) -> bool:
    return any(origin.is_relative_to(folder) for folder in INSTALLED)


def _package(module: str) -> str | None:
    """What has installed a module of the first level: most often one of its name, which is quicker to look for."""
    return module if _version(module) else next(iter(packages_distributions().get(module, [])), None)


def _digest(root: Path, files: Iterable[Path]) -> str:
    """Of the files' names below the root and of their contents."""
    digest = sha256()
    for path in sorted(files):
        if path.is_file():
            content = sha256(path.read_bytes()).hexdigest()
            digest.update(f"{path.relative_to(root).as_posix()}\0{content}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _counts(part: Mapping[str, Any]) -> Any:
    """What of a part must be the same: where it lies, and what git says of it, is not among it."""
    return part.get("sha256") or [part.get("package"), part.get("version")]


def _description(part: Mapping[str, Any]) -> str:
    return line(", ".join(_facts(part))) or "not found"


def _facts(part: Mapping[str, Any]) -> Iterator[str]:
    if part.get("package") or part.get("version"):
        yield " ".join(str(part[key]) for key in ("package", "version") if part.get(key))
    if part.get("commit"):
        yield f"commit {str(part['commit'])[:12]}{' with changes' if part.get('dirty') else ''}"
    if part.get("sha256"):
        yield f"sha256 {str(part['sha256'])[:12]}..."
