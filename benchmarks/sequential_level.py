"""How often a comparison that is looked at more than once finds what is not there, by simulation.

Families of contrasts with one baseline, without an effect: the chance that any of them is ever found, by Holm on
sequential p-values, at a declared level of 5 %; by plan of looks, number of contrasts and distribution of the
differences. Beside it the same of the fixed design: one t-test at the cap. ``python -m benchmarks.sequential_level``
writes a table.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from tuner.analysis.paired import Array
from tuner.analysis.sequential import stopping_levels
from tuner.analysis.spending import Looks
from tuner.config.declared import equal_steps

ALPHA = 0.05
FAMILIES = 20_000
PLANS = {
    "5 in 3 looks": Looks(tuple(equal_steps(5))),
    "10 in 4": Looks(tuple(equal_steps(10))),
    "20 in 4": Looks(tuple(equal_steps(20))),
    "20 in 18": Looks(tuple(range(3, 21))),
    "20 in 4, Pocock": Looks(tuple(equal_steps(20)), "pocock"),
    "20 in 4, O'Brien-Fleming": Looks(tuple(equal_steps(20)), "obrien_fleming"),
    "40 in 4": Looks(tuple(equal_steps(40))),
}
Draw = Callable[[np.random.Generator, tuple[int, ...]], Array]
LOG_MEAN = math.exp(0.5)
NOISE: dict[str, Draw] = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "t, 3 df": lambda rng, shape: rng.standard_t(3, shape),
    "Cauchy": lambda rng, shape: rng.standard_cauchy(shape),
    "uniform": lambda rng, shape: rng.uniform(-1, 1, shape),
    "gamma, skewness 1": lambda rng, shape: rng.standard_gamma(4, shape) - 4,
    "exponential, skewness 2": lambda rng, shape: rng.standard_exponential(shape) - 1,
    "lognormal, skewness 6": lambda rng, shape: rng.lognormal(0, 1, shape) - LOG_MEAN,
}
"""Of the differences of one contrast."""


def sequential_p(d: Array, looks: Looks) -> Array:
    """Of courses (m, cap)."""
    taken, smallest = tuple(enumerate(looks.units)), np.ones(len(d))
    for index, n in taken:
        t = d[:, :n].mean(axis=1) / d[:, :n].std(axis=1, ddof=1) * math.sqrt(n)
        smallest = np.fmin(smallest, stopping_levels(t, looks, taken, index, ALPHA))
    return smallest


def found(draw: Draw, looks: Looks, contrasts: int, *, shared: bool, seed: int = 0) -> float:
    """The share of families of which any contrast is found.

    Args:
        shared: runs have this noise, so that differences from one baseline, symmetric then, depend on each other; else
            the differences have, independently.
    """
    rng = np.random.default_rng(seed)
    shape = (FAMILIES, contrasts, looks.units[-1])
    d = draw(rng, shape)
    if shared:
        d = d - draw(rng, (FAMILIES, 1, looks.units[-1]))
    p = np.stack([sequential_p(d[:, k], looks) for k in range(contrasts)], axis=1)
    return float((p.min(axis=1) * contrasts <= ALPHA).mean())


def main() -> None:
    error = 100 * math.sqrt(ALPHA * (1 - ALPHA) / FAMILIES)
    print(f"found without an effect, %, of {FAMILIES} families (standard error {error:.2f}); contrasts 1 / 2 / 5")
    for shared in (True, False):
        print("\nruns of this noise, one baseline for all:" if shared else "\ndifferences of this noise, independent:")
        print(f"{'':26}" + "".join(f"{name:>26}" for name in (*PLANS, "fixed 20")))
        for noise, draw in NOISE.items():
            cells = []
            for looks in (*PLANS.values(), Looks((20,))):
                cells.append(" / ".join(f"{100 * found(draw, looks, m, shared=shared):.1f}" for m in (1, 2, 5)))
            print(f"{noise:26}" + "".join(f"{cell:>26}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
