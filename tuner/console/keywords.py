"""Keywords of a call in Python become the flags of a command."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tuner.config.plain_values import plain_value
from tuner.errors import UserError, nearest

NOT_KEYWORDS = ("help", "json", "quiet")


def keywords_to_flags(parser: argparse.ArgumentParser, keywords: Mapping[str, Any]) -> list[str]:
    """The words of the command line: ``gpus_per_trial=0.5`` is ``--gpus-per-trial 0.5``.

    Args:
        keywords: by the flag's name. ``True`` stands for a flag that takes no value, ``None`` and ``False`` for none.
            ``seeds`` may be a number or a list, ``set`` a mapping of dotted keys to values, or a list of ``key=value``.

    Raises:
        UserError: the command has no such flag, or the flag no such value.
    """
    actions = {action.dest: action for action in parser._actions if action.option_strings}
    known = [name for name in actions if name not in NOT_KEYWORDS]
    argv: list[str] = []
    for name, value in keywords.items():
        if name not in known:
            raise UserError(f"unknown argument {name!r}{nearest(name, known)}")
        if value is not None and value is not False:
            argv += _words(actions[name], value)
    return argv


def _words(action: argparse.Action, value: Any) -> Iterator[str]:
    flag = max(action.option_strings, key=len)
    if action.nargs == 0:
        if value is not True:
            raise UserError(f"{action.dest}: must be True or False, got {value!r}")
        yield flag
    elif action.nargs == "+":
        yield flag
        yield from _several(action.dest, value)
    else:
        yield f"{flag}={_one(action.dest, value)}"


def _several(name: str, value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, part in value.items():
            plain = plain_value(part, f"{name}: {key}")
            yield f"{key}={json.dumps(plain, ensure_ascii=False)}"  # a text in quotes, which stays one
    else:
        parts = plain_value(value, name)
        yield from map(str, parts if isinstance(parts, list) else [parts])


def _one(name: str, value: Any) -> str:
    if name == "seeds" and isinstance(value, Iterable) and not isinstance(value, str | Mapping):
        value = value if hasattr(value, "tolist") else list(value)
    plain = plain_value(value, name)
    if name == "analyze_curvature" and not isinstance(plain, str):
        return f"every={plain}"
    if name == "seeds" and isinstance(plain, list):
        listed = ",".join(map(str, plain))
        return listed if "," in listed else f"{listed},"  # a single seed, not a number of seeds
    if isinstance(plain, list | dict):
        raise UserError(f"{name}: must be one value, got {value!r}")
    return str(plain)
