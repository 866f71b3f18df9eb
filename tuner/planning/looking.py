"""Looking says which studies, or seeds, may be done now where a comparison goes on until it is decided."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tuner.config.schema import Config
from tuner.store.extent import Extent, read, write

Decide = Callable[[int], Mapping[str, str]]
"""What a look at the first so many units of each optimizer decides: the verdicts of contrasts that are."""


class Looking:
    """Goes from look to look.

    Units are done up to the next look; then optimizers whose contrast is decided stop, and the baseline goes on while
    there are others. The looks are a function of the run's tables: a command that goes on takes them anew.

    Args:
        decide: ``None`` where all units are done at once.
        path: of the run, whose looks.json is written after each look.
    """

    def __init__(self, config: Config, decide: Decide | None, path: Path) -> None:
        self.config = config
        self._decide, self._path = decide, path
        before = [look["units"] for look in read(path).get("looks", ())] if decide else []
        self._steps = sorted({*before, *config.looks}) if decide else []  # an open-ended plan that grew has new ones
        self._taken: list[dict[str, Any]] = []
        self._stopped: dict[str, int] = {}

    @property
    def extent(self) -> Extent:
        """All that may be done, now or later."""
        return Extent(self.config, self._stopped)

    @property
    def open(self) -> Extent:
        """What may be done now."""
        if self.over:
            return self.extent
        next_look = dict.fromkeys(self.config.optimizers, self._steps[len(self._taken)])
        return Extent(self.config, next_look | self._stopped)

    @property
    def over(self) -> bool:
        """Whether there is no look to come."""
        return len(self._taken) == len(self._steps) or set(self._stopped) == set(self.config.optimizers)

    def take(self) -> bool:
        """Look, now that all that is open has ended; whether there is more to do then."""
        if self.over or self._decide is None:
            return False
        units = self._steps[len(self._taken)]
        decided = {name: verdict for name, verdict in self._decide(units).items() if name not in self._stopped}
        self._taken.append({"units": units, "decided": decided})
        self._stopped |= dict.fromkeys(decided, units)
        others = set(self.config.optimizers) - {self.config.baseline}
        if others <= set(self._stopped):
            self._stopped[self.config.baseline] = units
        write(self._path, self.config, self._taken, self._stopped)
        return not self.over
