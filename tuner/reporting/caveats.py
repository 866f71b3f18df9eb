"""Caveats are put into words: what limits the results, and how far. No torch, no ray."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from tuner.analysis import across_tasks
from tuner.analysis import searches as search_audit
from tuner.analysis.paired import power
from tuner.analysis.rules import FEWEST_PAIRS, TESTS
from tuner.comparison.comparison import Comparison, machine
from tuner.comparison.results import FEW_TASKS, Across, Results, TaskResults
from tuner.reporting.numbers import percent
from tuner.text import number

ENOUGH_SEEDS = 10


def caveat_sentences(results: Results) -> list[str]:
    """What limits the results, the gravest first within each task."""
    found = [f"{task.comparison.task}: {text}" for task in results.tasks for text in _of_task(task)]
    names = Counter(task.comparison.config.task.name for task in results.tasks)
    found += [f"{name} is compared {n} times, under different conditions: these are not {n} independent tasks."
              for name, n in names.items() if n > 1]  # fmt: skip
    return found + (list(_over_tasks(results.across)) if results.across else [])


def _over_tasks(across: Across) -> Iterator[str]:
    n, left_out = len(across.ranks), across.ranks.attrs[across_tasks.LEFT_OUT]
    if n == 0:
        yield "no task has all optimizers, so there are no ranks and no interquartile means."
        return
    if left_out:
        yield f"{', '.join(left_out)}: without one of the optimizers, so not in profile, ranks and interquartile means."
    without = [task.comparison.task for task in across.tasks if task.target is None]
    if without:
        yield f"{', '.join(without)}: no target, since most runs of the baseline diverged; not in the profile."
    if n < FEW_TASKS:
        tasks = "1 task" if n == 1 else f"{n} tasks"
        yield (f"{tasks} with all optimizers are too few for statements over tasks: ranks, their tests and the profile "
               f"describe these only (at least {FEW_TASKS} are wanted; Wilcoxon's p-value of {n} is never below "
               f"{number(min(1.0, 2 / 2**n), 2)}).")  # fmt: skip


def _of_task(task: TaskResults) -> Iterator[str]:
    made = task.comparison
    yield from made.notes
    yield from _missing(task)
    yield from _diverged(task)
    yield from _few(task)
    yield from _looks(made)
    yield from _budgets(made)
    yield from _metric(made)
    yield from _boundary(made)
    yield from _devices(made)
    yield from _costs(made)


def _missing(task: TaskResults) -> Iterator[str]:
    made = task.comparison
    for row in task.summary.to_dict("records"):
        name, failed = row["optimizer"], row["seeds_failed"]
        if not row["seeds"]:
            yield f"{name} has not been retrained."
        elif failed:
            are = "is" if failed == 1 else "are"
            yield f"{name}: {failed} of {row['seeds']} retraining runs failed and {are} left out."
    wanted = {name: len(source.config.retrain.seeds) for source in made.sources for name in source.names.values()}
    short = [name for name, n in task.summary.set_index("optimizer")["seeds"].items() if 0 < n < wanted[str(name)]]
    if short:
        yield f"the retraining of {', '.join(map(str, short))} is not complete."
    for contrast in task.primary_contrasts:
        if contrast.n_unpaired:
            both = f"{contrast.optimizer} or {contrast.baseline}"
            one = contrast.n_unpaired == 1
            seeds, have = ("1 seed", "has") if one else (f"{contrast.n_unpaired} seeds", "have")
            yield f"{seeds} of {both} {have} no partner and {'does' if one else 'do'} not count in their contrast."


def _diverged(task: TaskResults) -> Iterator[str]:
    for row in task.summary.to_dict("records"):
        if row["seeds_diverged"]:
            count = "counts" if row["seeds_diverged"] == 1 else "count"
            of = f"{row['seeds_diverged']} of {row['seeds']} retraining runs"
            yield f"{row['optimizer']}: {of} diverged and {count} as worse than all others, at the cost of a whole run."
    trials = [f"{row['optimizer']} {row['trials_diverged']} of {row['trials']}"
              for row in task.summary.to_dict("records") if row["trials_diverged"]]  # fmt: skip
    if trials:
        yield f"trials of the search that diverged: {', '.join(trials)}."


def _few(task: TaskResults) -> Iterator[str]:
    said = task.comparison.config.report
    pairs = [(contrast.n, contrast.test) for contrast in task.primary_contrasts]
    if few := [n for n, _ in pairs if n < FEWEST_PAIRS]:
        yield f"few seeds ({min(few)}): without {FEWEST_PAIRS} seeds in common nothing is tested."
    tested = sorted(pair for pair in pairs if pair[0] >= FEWEST_PAIRS)
    for n, test in [pair for pair in tested if pair[1] != "t"][:1]:
        least = len(tested) * 2 / 2**n
        if least > said.alpha:
            yield (f"few seeds ({n}): the {TESTS[test]} may find nothing, since its least p-value, corrected for "
                   f"{len(tested)} contrasts, is {number(min(1.0, least), 2)}.")  # fmt: skip
            return
    if tested and (n := tested[0][0]) < ENOUGH_SEEDS:
        found = f"{100 * power(n, said.alpha):.0f} % of such comparisons"
        yield (f"few seeds ({n}): a true difference of one standard deviation is found in {found}, by a t-test and "
               "before correction for their number.")  # fmt: skip


def _looks(made: Comparison) -> Iterator[str]:
    """At data that grew because of what it showed."""
    resumed = [entry for source in made.sources for entry in source.env.get("resumed") or []]
    added = [entry["added_seeds"] for entry in resumed if isinstance(entry, dict) and entry.get("added_seeds")]
    if added:
        alpha = made.config.report.alpha
        seeds = ", then ".join(str(len(seeds)) if isinstance(seeds, list) else "some" for seeds in added)
        errs = percent(min(1.0, alpha * (1 + len(added))))
        yield (f"{seeds} seeds were added after the results of others could be looked at: what a test at "
               f"{percent(alpha)} says at a further look is wrong in up to {errs} of comparisons.")  # fmt: skip


def _budgets(made: Comparison) -> Iterator[str]:
    searches = {
        (s.config.search.trials, s.config.search.sampler, s.config.search.seed, s.config.search.scheduler)
        for s in made.sources
    }
    if len(searches) > 1:
        yield "the runs were searched with different trials, samplers, seeds or schedulers: budgets are not equal."
    if any(scheduler == "asha" for *_, scheduler in searches):
        yield "ASHA stopped trials early, which favours optimizers that start fast."
    searched, retrained = made.config.train.epochs, made.config.retrain_epochs
    if searched != retrained:
        yield f"hyperparameters were chosen by trials of {searched} epochs, and retrained for {retrained}."
    trials = {name: int((made.trials["optimizer"] == name).sum()) for name in made.optimizers if made.spaces[name]}
    short = [name for name, n in trials.items() if n < made.source(name).config.search.trials]
    if short:
        yield f"the search of {', '.join(short)} is not complete."
    if len(set(trials.values())) > 1:
        shown = ", ".join(f"{name} {n}" for name, n in trials.items())
        yield f"the numbers of trials are not equal ({shown})."
    if trials and min(trials.values()) < search_audit.FEW_TRIALS:
        yield (f"fewer than {search_audit.FEW_TRIALS} trials per search: the optimizers are not well tuned, and the "
               "importances of hyperparameters are guesses.")  # fmt: skip
    declared = {repr(source.config.report) for source in made.sources}
    if len(declared) > 1:
        yield "the runs declare different comparisons; that of the first is used."


def _metric(made: Comparison) -> Iterator[str]:
    if made.metric not in made.seeds or made.seeds[made.metric].isna().all():
        if len(made.seeds):
            yield f"no run has a {made.metric}, so that nothing is compared."
    elif made.metric == made.config.task.metric and made.metric.startswith("val_"):
        yield f"{made.metric} is what the hyperparameters were chosen by; a test split would say more."


def _boundary(made: Comparison) -> Iterator[str]:
    for name in made.optimizers:
        if there := made.at_boundary(name):
            yield f"{name}: {', '.join(there)} at the boundary of what was searched; a wider range may do better."


def _devices(made: Comparison) -> Iterator[str]:
    if made.stacked:
        sizes = ", ".join(f"{name} {'alone' if n == 1 else f'{n} at once'}" for name, n in made.cohorts.items())
        yield (f"retraining runs trained as stacks ({sizes}): their seconds and ms per step are shares of a stack's, "
               "and comparable between optimizers only with --cohort 1.")  # fmt: skip
    elif made.shared:
        yield ("runs shared their device: seconds and ms per step are shares, and comparable between optimizers only "
               "with a whole device each.")  # fmt: skip
    machines = {machine(source) for source in made.sources}
    if len(machines) > 1:
        yield "the runs were made on different hardware: seconds are not comparable."
    elif any(source.env.get("resumed") for source in made.sources):
        yield "a run was made by several commands; its env.json says when, and on which machines."


def _costs(made: Comparison) -> Iterator[str]:
    """Of runs that were made before FLOPs were counted, beside others; where all are alike nothing is unfair."""
    if not {"steps", "grad_equivalents", "nominal_grad_equivalents"} <= set(made.seeds):
        return
    dear = made.seeds[made.seeds["grad_equivalents"] > made.seeds["steps"]]
    counted = made.seeds["nominal_grad_equivalents"].notna().any()
    nominal = dear.loc[dear["nominal_grad_equivalents"].isna(), "optimizer"]
    if counted and len(nominal):
        names = ", ".join(dict.fromkeys(nominal))
        yield f"gradient-equivalents of {names} are by nominal costs, those of other runs by counted FLOPs."
