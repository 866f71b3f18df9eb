"""What random trials say of a search space: how many diverge or get nowhere, and where the best tenth lies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from docs.generate import space as searched
from tuner.config.space import Dimension, OptimizerConfig

BEST = 0.1
"""The share of the trials that is looked at."""
EDGE = 0.05
"""The outer share of an interval at either end."""
CROWD = 0.2
"""An end is crowded that has so much more of the best tenth than of all trials in its outer share, or beyond it."""
NOWHERE = 0.1
"""A trial is useless that goes less of the way from the first loss to the least one that any trial came to."""


TEXT = """\
# Search spaces

The spaces of `configs/optimizers` by measurement: `python -m benchmarks.spaces --out docs/spaces.md`. Of each optimizer
and task {trials} points were drawn at random from the shipped space, and {trials} more from a wider one around it; of
optimizers that no stack can hold, which train one at a time, {alone} each. The settings are those of the smoke preset
and the seed that of its search, but the runs are short, of up to a few hundred steps. Epochs: {epochs}.

- **Diverged**: of the shipped draw, as a search counts it. At most a tenth of an optimizer's trials on its four tasks
  should. On one of them more may: the best rates of another lie beyond those at which this one diverges.
- **Useless**: of the shipped draw, those that diverged, and those that went less than {nowhere:.0f} % of the way from
  the first loss to the least one of any trial. Learning rates over four decades and more cost such trials, and so does
  a published default that is meant for many more steps, as the 1e-6 of diag_hessian.
- **Best tenth**: of the wide draw, the trials with the least losses (`val_loss`; of Rahimi-Recht `train_loss`) that are
  not useless: the least and the greatest value of each hyperparameter among them, and their middle half.
  Choices have no ends.
- **Inside**: yes, if the best tenth is crowded at no end of the shipped interval, in either draw: its share in the
  outer {edge:.0f} % there, or beyond, is at most {crowd:.0f} % of the trials more than that of all.

Longer runs want smaller learning rates than these: the low ends leave room for them. No space is narrower than four
decades of the learning rate. Newton steps on MNIST-1D, with 4,000 by 4,000 second derivatives, take too long: wine is
in its place.
"""


@dataclass(frozen=True)
class Row:
    """One optimizer on one task, smaller metrics being better.

    Attributes:
        spec: of the optimizer, with the shipped space.
        shipped, wide: trials drawn from that space, and from one around it: state, first and last value of the metric,
            and the hyperparameters.
    """

    task: str
    spec: OptimizerConfig
    shipped: pd.DataFrame
    wide: pd.DataFrame

    @property
    def diverged(self) -> float:
        """The share of the shipped draw that diverged, or failed."""
        return float((self.shipped["state"] != "complete").mean())

    @property
    def useless(self) -> float:
        """The share of the shipped draw that diverged, failed or got nowhere."""
        return 1 - len(self.useful(self.shipped)) / len(self.shipped)

    def useful(self, trials: pd.DataFrame) -> pd.DataFrame:
        """Those that got somewhere."""
        ended = pd.concat([self.shipped, self.wide]).query("state == 'complete'")
        bound = (1 - NOWHERE) * ended["first"].max() + NOWHERE * ended["value"].min()
        return trials[(trials["state"] == "complete") & (trials["value"] <= bound)]

    def best(self, trials: pd.DataFrame) -> pd.DataFrame:
        """The tenth of all trials with the least values, as far as they got somewhere."""
        return self.useful(trials).nsmallest(max(1, round(BEST * len(trials))), "value")

    @property
    def intervals(self) -> dict[str, Dimension]:
        """What lies between two ends; choices have none."""
        return {name: dim for name, dim in self.spec.space.items() if dim.choices is None}

    @property
    def crowded(self) -> list[str]:
        """The ends of the shipped space at which one of the draws has its best tenth."""
        draws = [(trials, self.best(trials)) for trials in (self.wide, self.shipped)]
        return [
            f"{name} {end}"
            for name, dim in self.intervals.items()
            for end in ("low", "high")
            if any(outer(dim, end, best[name]) - outer(dim, end, trials[name]) > CROWD for trials, best in draws)
        ]

    def ranges(self) -> str:
        """Of each hyperparameter over the best tenth of the wide draw, with its middle half."""
        found = self.best(self.wide)
        return "; ".join(f"{name} {spread(found[name])}" for name in self.intervals)


def outer(dim: Dimension, end: str, values: pd.Series) -> float:
    """The share of values in the outer part of an interval at that end, or beyond it."""
    places = values.map(dim.position)
    return float((places <= EDGE if end == "low" else places >= 1 - EDGE).mean())


def spread(values: pd.Series) -> str:
    low, first, third, high = (f"{value:.2g}" for value in values.quantile([0, 0.25, 0.75, 1]))
    return f"{low} to {high} ({first} to {third})"


def section(name: str, rows: Sequence[Row]) -> list[str]:
    """An optimizer's part of the page."""
    spec = rows[0].spec
    trials = sorted({len(row.shipped) for row in rows})
    overall = sum(row.diverged for row in rows) / len(rows)
    return [
        f"## {name}",
        "",
        f"Searched: {searched(spec.model_dump())}. Of {' and '.join(map(str, trials))} trials a task "
        f"{100 * overall:.1f} % diverged.",
        "",
        "| task | diverged | useless | best tenth of the wide draw, from to (middle half) | inside |",
        "| --- | ---: | ---: | --- | --- |",
        *(
            f"| {row.task} | {100 * row.diverged:.0f} % | {100 * row.useless:.0f} % | {row.ranges()} | "
            f"{'no: ' + ', '.join(row.crowded) if row.crowded else 'yes'} |"
            for row in rows
        ),
        "",
    ]


def page(found: Mapping[str, Sequence[Row]], missing: Sequence[str], trials: int, alone: int, epochs: str) -> str:
    """docs/spaces.md.

    Args:
        found: rows by optimizer.
        missing: optimizers of which nothing was measured.
        trials, alone: of each draw; of one that cannot be stacked.
        epochs: of the tasks, in words.
    """
    shares = {"nowhere": 100 * NOWHERE, "edge": 100 * EDGE, "crowd": 100 * CROWD}
    lines = [
        TEXT.format(trials=trials, alone=alone, epochs=epochs, **shares),
        *(line for name, rows in found.items() for line in section(name, rows)),
    ]
    if missing:
        lines.append(f"Not measured: {', '.join(missing)}.\n")
    return "\n".join(lines)
