"""What the preflight found is remembered for a day, by all that it depends on: configuration, data, code, machine.

Only what is known to be the same is taken for it: a class of a user's own, whose module may import anything, is checked
each time. What was wrong is not remembered. ``TUNER_REMEMBER=0`` in the environment remembers nothing.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

from tasks.user_folders import cache_directory
from tuner.config.modules import INSTALLED
from tuner.config.schema import Config
from tuner.machine import code, environment
from tuner.machine.resources import this_machine
from tuner.store.files import write_whole
from tuner.workers.preflight import PreflightResult, read_answer

SWITCH = "TUNER_REMEMBER"
LONGEST_S = 86_400.0
"""Times that were measured while the machine was busy are believed no longer."""
MOST_FILES = 10_000
OF_NO_CONSEQUENCE = {"name", "out", "tracker", "report", "faults", "preset"}
"""Of a configuration: for the preflight."""
VARIABLES = ("CUDA", "KMP", "MKL", "NVIDIA", "OMP", "OPENBLAS", "PYTHON", "PYTORCH", "TORCH")
"""How variables of the environment begin that may change what is found."""


@dataclass(frozen=True)
class Remembered:
    """What was found before.

    Attributes:
        age_s: seconds since it was found.
    """

    result: PreflightResult
    age_s: float


def find(key: str | None) -> Remembered | None:
    """What was found under this key not too long ago."""
    if key is None:
        return None
    try:
        kept = json.loads(_path(key).read_text(encoding="utf-8"))
        age_s, result = time.time() - kept["when"], read_answer(kept)
    except Exception:  # damage shows as any of a dozen kinds, and is nobody's concern: the preflight is made
        return None
    return Remembered(result, age_s) if result and 0 <= age_s <= LONGEST_S else None


def keep(key: str | None, result: PreflightResult) -> None:
    """Remember this, where that can be written, and forget what is too old."""
    if key is None:
        return
    path = _path(key)
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        for other in path.parent.iterdir():
            if time.time() - other.stat().st_mtime > LONGEST_S:
                other.unlink()
        write_whole(path, json.dumps({"when": time.time(), "found": asdict(result)}))


def key_of(config: Config, objects: bytes = b"") -> str | None:
    """A digest of all that the preflight depends on; ``None`` where something of it is not known, or is elsewhere."""
    if os.environ.get(SWITCH) == "0" or objects or config.resources.address is not None:
        return None
    made_by = code.identity(config)
    if not all(part == "tuner" or "package" in known for part, known in made_by.items()):
        return None
    try:
        files = list(_files([config.task.data_dir, config.task.dataset, *_texts(config.task.args)]))
        folders = {str(folder): folder.stat().st_mtime_ns for folder in INSTALLED if folder.exists()}
    except OSError:
        return None
    if len(files) > MOST_FILES:
        return None
    about = environment.describe(this_machine())
    depends_on = {
        "config": config.model_dump(mode="json", by_alias=True, exclude=OF_NO_CONSEQUENCE),
        "files": files,
        "code": {part: known.get("sha256") or known for part, known in made_by.items()},
        "installed": folders,
        "versions": about["versions"],
        "machine": [platform.node(), about["hardware"]],
        "environment": {name: value for name, value in os.environ.items() if name.startswith(VARIABLES)},
    }
    return sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()


def _path(key: str) -> Path:
    return cache_directory() / "preflight" / f"{key}.json"


def _texts(value: Any) -> list[str]:
    """All that is text in nested arguments."""
    if isinstance(value, str):
        return [value]
    nested = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [text for each in nested for text in _texts(each)]


def _files(names: Iterable[str | None]) -> Iterable[tuple[str, int, int]]:
    """Path, size and time of the last change of each file that is named, or lies in a folder that is; somewhat more
    than are allowed, at most."""
    for path in (Path(name) for name in names if name and os.path.exists(name)):
        inside = path.rglob("*") if path.is_dir() else [path]
        for file in islice(inside, MOST_FILES + 1):
            about = file.stat()
            yield str(file), about.st_size, about.st_mtime_ns
