"""Twins are searches of the same optimizer with other search seeds: each verdict that one is better is a false one.

python -m benchmarks.twins --out DIR [--arms 20] [--trials 12] [--seeds 10]

Each arm is a whole run of `adam` on `mnist1d`, of five studies, by the plan, the sampler, the cohorts and the training
of a search, in this process instead of Ray's workers. Arms that DIR has are not made again. An arm is compared with the
two that come after it, as two optimizers are: evaluation seeds are the same for all, study by study. For one study each
the same pairs are compared by their first study alone.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from tuner.analysis import stats
from tuner.comparison.comparison import Comparison
from tuner.comparison.load import read
from tuner.config.layers import resolve
from tuner.config.schema import Config
from tuner.machine.resources import Machine, settle
from tuner.planning.cohorts import CohortSizes
from tuner.planning.messages import Request
from tuner.planning.plan import search_plan
from tuner.store.run import Run
from tuner.workers.workbench import Workbench

TASK, OPTIMIZER = "mnist1d", "adam"
STUDIES, FEWER_STUDIES = 5, 3
EPOCHS = 10
"""Of the search and of the retraining: the verdict is to be wrong by the luck of the search alone."""
FIRST_SEED, SEED_STEP = 5000, 100
NEXT = (1, 2)
"""How far on the arms are with which one is compared."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the arms' runs are")
    parser.add_argument("--arms", type=int, default=20)
    parser.add_argument("--trials", type=int, default=12, help="of each study")
    parser.add_argument("--seeds", type=int, default=10, help="evaluation seeds of each study")
    args = parser.parse_args()
    started = time.process_time()
    runs = make_arms(args.out, args.arms, args.trials, args.seeds)
    print(f"{time.process_time() - started:.0f} s of CPU time for {len(runs)} arms", flush=True)
    (comparison,) = read([Run.open(path) for path in runs])
    for line in table(comparison):
        print(line)


def make_arms(out: Path, arms: int, trials: int, seeds: int) -> list[Path]:
    """The runs of all arms, those made that are not there yet."""
    bench: Workbench | None = None
    paths = [out / f"arm-{arm:02}" for arm in range(arms)]
    for arm, path in enumerate(paths):
        if path.exists():
            continue
        config = arm_config(FIRST_SEED + SEED_STEP * arm, trials, seeds)
        bench = bench or Workbench(config)  # the search seed is the plan's affair
        began = time.monotonic()
        search(config, bench, path)
        print(f"{path.name}: {time.monotonic() - began:.1f} s", flush=True)
    return paths


def arm_config(search_seed: int, trials: int, seeds: int) -> Config:
    """Cohorts have a quarter of the studies' trials, as by default."""
    flags = {
        "task.name": TASK, "search.optimizers": [OPTIMIZER], "search.studies": STUDIES, "search.trials": trials,
        "search.seed": search_seed, "retrain.seeds": seeds, "train.epochs": EPOCHS, "retrain.epochs": EPOCHS,
        "resources.cohort": STUDIES * trials // 4,
    }  # fmt: skip
    return settle(resolve(flags), Machine(cpus=1, gpus=0))


def search(config: Config, bench: Workbench, path: Path) -> None:
    """Search and retrain into a run directory, one cohort after the other."""
    building = path.with_suffix(".part")  # of an arm that was cut off
    run = Run.create(building, config, another=True)
    plan = search_plan(config, run, CohortSizes(config, {}, config.retraining_runs))
    while jobs := plan.next_jobs():
        for report in bench.reports(Request(jobs), every_evaluation=False):
            plan.record([(jobs[index], outcome) for index, outcome in report.outcomes.items()])
    plan.close()
    run.path.rename(path)


def pairs(names: Sequence[str]) -> Iterator[tuple[str, str]]:
    for step in NEXT:
        for index, name in enumerate(names):
            yield name, names[(index + step) % len(names)]


def verdicts(comparison: Comparison, studies: Sequence[int]) -> pd.DataFrame:
    """The contrast of each pair on these studies, a row each."""
    metric = comparison.metric
    mode, rules = comparison.mode(metric), comparison.rules(metric)
    values = comparison.values(metric)
    values = values[values["study"].isin(studies)]
    contrasts = [
        stats.contrasts(values[values["optimizer"].isin(pair)], pair[1], mode, rules)
        for pair in pairs(comparison.optimizers)
    ]
    return pd.concat(contrasts, ignore_index=True)


def table(comparison: Comparison) -> list[str]:
    """As a page has it: how many pairs of twins have each verdict."""
    kinds = [(f"{studies} studies each", range(studies)) for studies in (STUDIES, FEWER_STUDIES)]
    kinds += [(f"study {study} of each alone", range(study, study + 1)) for study in range(STUDIES)]
    lines = [
        "| twins | about | pairs | better or worse | equivalent | inconclusive |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for what, studies in kinds:
        found = verdicts(comparison, studies)
        words = Counter(verdict.partition(",")[0] for verdict in found["verdict"])
        (about,) = set(found["about"])
        counts = [len(found), words["better"] + words["worse"], words["equivalent"], words["inconclusive"]]
        lines.append(f"| {what} | {about} | " + " | ".join(map(str, counts)) + " |")
    return lines


if __name__ == "__main__":
    main()
