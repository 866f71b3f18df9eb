"""Winners: what best.json says of each study of an optimizer, and of the one whose winner is the best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

Entry = Mapping[str, Any]
"""Of one study, or of an optimizer: see ``store.json_shapes.BestEntry``."""


def by_study(entry: Entry) -> dict[int, Entry]:
    """What best.json's entry of an optimizer says of its studies; of a run made before there were any, of the one."""
    return {each["study"]: each for each in entry.get("studies", ())} or {entry.get("study", 0): entry}


def winners(optimizers: Mapping[str, Entry]) -> dict[tuple[str, int], Entry]:
    """The same of all optimizers, by optimizer and study."""
    return {(name, study): each for name, entry in optimizers.items() for study, each in by_study(entry).items()}


def valid(entry: Entry) -> int:
    """How many of an optimizer's studies have a winner."""
    return sum(each["hp"] is not None for each in by_study(entry).values())


def entry_of(studies: Sequence[Entry], mode: Literal["min", "max"]) -> dict[str, Any]:
    """An optimizer's entry: its best study's winner, of equals the first; counts of all trials; and all studies.

    Args:
        studies: the entries of those that have begun, at least one.
    """
    won = [each for each in studies if each["hp"] is not None]
    best = (min if mode == "min" else max)(won, key=lambda each: each["value"]) if won else studies[0]
    counts = {key: sum(each[key] for each in studies) for key in ("n_trials", "n_diverged", "n_failed")}
    return {key: value for key, value in best.items() if key != "seed"} | counts | {"studies": list(studies)}
