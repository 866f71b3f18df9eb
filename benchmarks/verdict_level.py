"""How often a verdict is wrong, and right, where the luck of search and seed is known: a simulation.

python -m benchmarks.verdict_level [--contrasts 40000]

A retraining run's value is the optimizer's, plus what its study's search was lucky by, plus what its seed was: both
normal, the search's variance 0, 1 or 10 times the seed's. Studies of two optimizers are compared as the report compares
them, by the paired t-test over the differences of the studies' means; beside it stands what the test over the seeds of
one study each says. The share of contrasts that are significant at 5 % is held against the calculated one.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from tuner.analysis import paired

ALPHA = 0.05
STUDIES = (3, 5, 10)
RATIOS = (0, 1, 10)
"""The variance of the search over that of the seed."""
SEEDS = 4
"""Of each study."""
SEEDS_OF_ONE = 10
"""Of the only study."""
EFFECTS = (0.0, 1.0, 2.0)
"""In standard deviations of the studies' differences."""
SURE = 0.999
"""How surely a true rate lies within the tolerance."""


@dataclass(frozen=True)
class Rate:
    """How many contrasts were significant, of how many, and the chance that was calculated."""

    significant: int
    contrasts: int
    calculated: float

    @property
    def share(self) -> float:
        return self.significant / self.contrasts

    @property
    def as_calculated(self) -> bool:
        """Whether the binomial distribution allows it."""
        low, high = stats.binom.ppf([(1 - SURE) / 2, (1 + SURE) / 2], self.contrasts, self.calculated)
        return bool(low <= self.significant <= high)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--contrasts", type=int, default=40_000, help="of each rate")
    args = parser.parse_args()
    print("\n".join(table(args.contrasts)))


def table(contrasts: int) -> list[str]:
    """As a page has it: measured, and in brackets calculated."""
    rng = np.random.default_rng(0)
    lines = ["| search : seed | unit | " + " | ".join(f"effect {effect:g}" for effect in EFFECTS) + " |",
             "| --- | --- |" + " --- |" * len(EFFECTS)]  # fmt: skip
    for ratio in RATIOS:
        rows: list[tuple[str, list[Rate]]] = [
            (f"{studies} studies", [over_studies(rng, contrasts, studies, ratio, effect) for effect in EFFECTS])
            for studies in STUDIES
        ]
        rows.append((f"{SEEDS_OF_ONE} seeds of one study", [over_seeds(rng, contrasts, ratio)]))
        for unit, rates in rows:
            lines.append(f"| {ratio} : 1 | {unit} | " + " | ".join(cells(rates)) + " |")
    return lines


def cells(rates: Sequence[Rate]) -> Iterator[str]:
    for rate in rates:
        mark = "" if rate.as_calculated else " **not as calculated**"
        yield f"{100 * rate.share:.1f} % ({100 * rate.calculated:.1f} %){mark}"
    yield from [""] * (len(EFFECTS) - len(rates))


def over_studies(rng: np.random.Generator, contrasts: int, studies: int, ratio: float, effect: float) -> Rate:
    """The test of as many studies of each, whose seeds are averaged."""
    runs = differences(rng, (contrasts, studies, SEEDS), ratio)
    shift = effect * np.sqrt(2 * (ratio + 1 / SEEDS))
    of_studies = runs.mean(axis=2) + shift
    return Rate(significant(of_studies), contrasts, paired.power(studies, ALPHA, effect))


def over_seeds(rng: np.random.Generator, contrasts: int, ratio: float) -> Rate:
    """The test of the seeds of one study each, of two equal optimizers.

    The luck of the two searches, which all seeds share, widens the t statistic by sqrt(1 + seeds x ratio).
    """
    runs = differences(rng, (contrasts, 1, SEEDS_OF_ONE), ratio)[:, 0]
    bound = stats.t.ppf(1 - ALPHA / 2, SEEDS_OF_ONE - 1)
    calculated = 2 * stats.t.sf(bound / np.sqrt(1 + SEEDS_OF_ONE * ratio), SEEDS_OF_ONE - 1)
    return Rate(significant(runs), contrasts, float(calculated))


def differences(rng: np.random.Generator, shape: tuple[int, int, int], ratio: float) -> NDArray[np.float64]:
    """Of paired runs of two equal optimizers, (contrasts, studies, seeds)."""
    contrasts, studies, _ = shape
    luck = rng.normal(0, np.sqrt(ratio), (2, contrasts, studies, 1))
    runs = luck + rng.normal(size=(2, *shape))
    return runs[0] - runs[1]


def significant(samples: NDArray[np.float64]) -> int:
    """How many of the rows are, by the test that decides: that of ``paired.t_test``, of all rows at once."""
    return int((stats.ttest_1samp(samples, 0.0, axis=1).pvalue <= ALPHA).sum())


if __name__ == "__main__":
    main()
