"""The shell completes names that the registry knows, and the keys of ``--set``: see argcomplete's documentation."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any, get_args

from tuner.config.registry import Registry
from tuner.errors import UserError

Completer = Callable[..., Iterable[str]]


def answer(make_parser: Callable[[], argparse.ArgumentParser]) -> None:
    """Where the shell asks how a line goes on, say so and end; in a line on the terminal, why that cannot be said."""
    if "_ARGCOMPLETE" not in os.environ:
        return
    import argcomplete

    try:
        argcomplete.autocomplete(make_parser())
    except (UserError, OSError) as error:
        argcomplete.warn(f"error: {error}")
        sys.exit(1)


def complete(action: argparse.Action, completer: Completer) -> None:
    """Let the values of a flag be completed.

    Args:
        completer: called with the beginning of a word, as ``prefix``, and the flags before it, as ``parsed_args``.
    """
    action.completer = completer  # type: ignore[attr-defined]


def tasks(parsed_args: argparse.Namespace, **_: Any) -> list[str]:
    return _registry(parsed_args).names("tasks")


def suites(parsed_args: argparse.Namespace, **_: Any) -> list[str]:
    return _registry(parsed_args).names("suites")


def optimizers(parsed_args: argparse.Namespace, **_: Any) -> list[str]:
    return _registry(parsed_args).names("optimizers")


def names(parsed_args: argparse.Namespace, **_: Any) -> list[str]:
    """All that ``tuner list`` takes."""
    from tuner.console.catalogue import KINDS

    return [*KINDS, *tasks(parsed_args), *optimizers(parsed_args), *suites(parsed_args)]


def of_run(parsed_args: argparse.Namespace, **_: Any) -> list[str]:
    """The optimizers of the run that was named."""
    from tuner.store.run import Run

    return list(Run.open(parsed_args.runs[0]).config().optimizers) if parsed_args.runs else []


def presets(parsed_args: argparse.Namespace, **_: Any) -> list[str]:
    """Of the task that was named."""
    from tuner.config.layers import presets_of

    return [] if parsed_args.task is None else presets_of(parsed_args.task, _registry(parsed_args))


def settings(parsed_args: argparse.Namespace, **_: Any) -> list[str]:
    """``key=`` of all that can be set, with the hyperparameters of the optimizers that were named."""
    from tuner.config.layers import declared
    from tuner.config.sources import leaves

    content = declared(parsed_args.task, parsed_args.optimizers or [], _registry(parsed_args))
    return [f"{'.'.join(path)}=" for path, _ in leaves(content)]


def choices(section: str, key: str) -> Completer:
    """The values of a key of the configuration, which is one of a few."""

    def values(**_: Any) -> tuple[str, ...]:
        from tuner.config.schema import Config

        model: Any = Config.model_fields[section].annotation if section else Config
        annotation = model.model_fields[key].annotation
        texts = get_args(annotation)
        return tuple(value for part in texts for value in (get_args(part) or [part]) if isinstance(value, str))

    return values


def _registry(parsed_args: argparse.Namespace) -> Registry:
    return Registry(getattr(parsed_args, "configs", None))
