"""The extent of a run is what each optimizer is to have of it: all units, or those before its contrast was decided."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from tuner.config.schema import Config, Positive
from tuner.errors import UserError
from tuner.store.files import write_whole
from tuner.store.json_shapes import Content

FILE = "looks.json"


@dataclass(frozen=True)
class Extent:
    """What is to be done of a run; units are studies, or seeds.

    Attributes:
        stopped: optimizer -> units after which it went no further.
    """

    config: Config
    stopped: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, config: Config, path: Path) -> Extent:
        """That of the run in a directory, as its last command left it.

        Raises:
            UserError: its looks.json is damaged.
        """
        return cls(config, read(path).get("stopped", {})) if config.looks else cls(config)

    def units(self, optimizer: str) -> int:
        return min(self.stopped.get(optimizer, self.config.most_units), self.config.most_units)

    def includes(self, optimizer: str, study: int, seed: int | None = None) -> bool:
        """Whether a study is among it, or the retraining run of one of ``retrain.seeds``."""
        units = self.units(optimizer)
        if self.config.unit == "study":
            return study < units
        return seed is None or units >= self.config.most_units or self._places[seed] < units

    @cached_property
    def _places(self) -> dict[int, int]:
        """Of the evaluation seeds, in their order."""
        return {seed: place for place, seed in enumerate(self.config.retrain.seeds)}

    def studies(self, optimizer: str) -> int:
        return self.units(optimizer) if self.config.unit == "study" else 1

    def trials(self, optimizer: str) -> int:
        """Of all studies."""
        return self.studies(optimizer) * self.config.trials(optimizer)

    def seeds(self, optimizer: str) -> int:
        """Of each study."""
        return len(self.config.retrain.seeds) if self.config.unit == "study" else self.units(optimizer)

    def retraining_runs(self, optimizer: str) -> int:
        return self.studies(optimizer) * self.seeds(optimizer)

    @property
    def saved(self) -> tuple[int, int]:
        """Trials and retraining runs that were not needed."""
        names, all_of = self.config.optimizers, Extent(self.config)
        return (
            sum(all_of.trials(name) - self.trials(name) for name in names),
            sum(all_of.retraining_runs(name) - self.retraining_runs(name) for name in names),
        )


class Look(Content):
    units: Positive
    decided: dict[str, str]


class Looks(Content):
    """What looks.json says."""

    unit: Literal["study", "seed"]
    most: Positive
    looks: list[Look]
    stopped: dict[str, Positive]


def write(path: Path, config: Config, looks: Sequence[Mapping[str, Any]], stopped: Mapping[str, int]) -> None:
    """Write looks.json: what was decided at each look, and who stopped after how many units."""
    content = {"unit": config.unit, "most": config.most_units, "looks": looks, "stopped": stopped}
    write_whole(path / FILE, json.dumps({"schema_version": 1, **content}, indent=2) + "\n")


def read(path: Path) -> dict[str, Any]:
    """What it has; nothing before the first look.

    Raises:
        UserError: it is damaged.
    """
    try:
        content = json.loads((path / FILE).read_text(encoding="utf-8"))
        Looks.model_validate(content)
    except FileNotFoundError:
        return {}
    except ValueError:  # of pydantic, too
        raise UserError(f"{path / FILE}: is damaged; remove it, and the next command writes it anew") from None
    return dict(content)
