"""Classes and objects that a program gives to a search, of a notebook's cell say, are carried to its workers by value.

A configuration names them as members of ``__main__``, the one module that no other process can import; their pickle
(``objects.pkl`` in the run directory) goes wherever the configuration goes.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tuner import text
from tuner.config.modules import locate, reach
from tuner.config.schema import Config
from tuner.errors import UserError

MODULE = "__main__"
_received: dict[str, Any] = {}


def is_carried(path: str) -> bool:
    """Whether a dotted path names something that travels by value."""
    return path.partition(".")[0] == MODULE


def pack(objects: Mapping[str, Any]) -> bytes:
    """By dotted path; empty where there are none.

    Raises:
        UserError: one of them cannot be pickled.
    """
    if not objects:
        return b""
    import cloudpickle

    with _by_value(objects):
        try:
            return cloudpickle.dumps(dict(objects))
        except Exception as error:  # of any kind: it is the objects' own methods that are called
            path, fault = next(_faults(objects), (", ".join(objects), text.fault(error)))
    raise UserError(
        f"{path.partition('.')[2]}: cannot be sent to other processes ({fault}); define it in a module of its own, or "
        "let it make what cannot be pickled when it is called"
    )


def _faults(objects: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Those that cannot be pickled, and why."""
    import cloudpickle

    for path, given in objects.items():
        try:
            cloudpickle.dumps(given)
        except Exception as error:
            yield path, text.fault(error)


@contextmanager
def _by_value(objects: Mapping[str, Any]) -> Iterator[None]:
    """Modules of these objects that no other process can import are carried with what they define."""
    import cloudpickle

    names = {getattr(given, "__module__", None) for given in objects.values()} - {MODULE}  # which is, anyway
    names -= cloudpickle.list_registry_pickle_by_value()
    modules = [sys.modules[name] for name in names if name in sys.modules and not is_importable(name)]
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in modules:
            cloudpickle.unregister_pickle_by_value(module)


def is_importable(module: str) -> bool:
    """Whether other processes would import this module, which is imported here, from the same place."""
    if module == MODULE:
        return False
    spec, here = locate(module), getattr(sys.modules[module], "__spec__", None)
    return spec is not None and here is not None and spec.origin == here.origin


def receive(config: Config, objects: bytes) -> None:
    """Let ``tuner.config.classes.find`` find what the configuration names, in this process.

    Raises:
        UserError: what they need is not here.
    """
    reach(config.module_folders)
    _received.clear()  # of another run
    if not objects:
        return
    try:
        _received.update(pickle.loads(objects))
    except Exception as error:  # of any kind: code of the program's own runs
        raise UserError(f"objects.pkl: what the program gave cannot be read here ({text.fault(error)})") from None


def received(path: str) -> Any:
    """
    Raises:
        UserError: there is none of this path.
    """
    if path not in _received:
        raise UserError(
            f"{path}: was defined in the program that searched, and is not in the run's objects.pkl; a module of its "
            "own can be named by a YAML file"
        )
    return _received[path]
