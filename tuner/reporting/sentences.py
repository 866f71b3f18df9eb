"""The answer in words: a verdict per optimizer, and what to keep in mind. No torch, no ray."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from tuner.analysis import across_tasks, stats
from tuner.analysis import searches as search_audit
from tuner.analysis.paired import FEWEST_PAIRS, power
from tuner.comparison.comparison import Comparison, machine
from tuner.comparison.results import FEW_TASKS, Across, Answer, TaskAnswer

ENOUGH_SEEDS = 10
ABOUT = 1.05
"""A ratio of times of which nobody cares."""
VERDICTS = get_args(stats.Verdict)
CLOCK_NAMES = {"steps": "steps", "grad_equivalents": "gradient-equivalents", "seconds": "seconds"}


def number(value: float | None, digits: int = 4) -> str:
    """For a person; a dash for none."""
    if value is None or not math.isfinite(value):
        return "-" if value is None or math.isnan(value) else "never" if value > 0 else "-inf"
    return f"{value:.{digits}g}"


def result(value: float, digits: int = 4) -> str:
    """A value of a metric: infinite where a run diverged."""
    return "diverged" if math.isinf(value) else number(value, digits)


def signed(value: float, digits: int = 3) -> str:
    if math.isinf(value):
        return "-inf" if value < 0 else "+inf"
    return number(value, digits) if value < 0 or math.isnan(value) else f"+{number(abs(value), digits)}"


def interval(low: float, high: float, digits: int = 3) -> str:
    return f"{signed(low, digits)} to {signed(high, digits)}"


def p_value(p: float) -> str:
    return "p -" if math.isnan(p) else "p < 0.0001" if p < 1e-4 else f"p = {p:.2g}"


def percent(share: float) -> str:
    return f"{100 * share:.10g} %"


def verdict(task: TaskAnswer, optimizer: str) -> str:
    """A sentence on an optimizer and its task's baseline, with the numbers behind it."""
    made = task.comparison
    row = task.contrast(optimizer)
    if optimizer == made.baseline:
        own = next(row for row in task.summary.to_dict("records") if row["optimizer"] == optimizer)
        if task.typical == "mean":
            return f"{optimizer} is the baseline, with {number(own['mean'])} {made.metric}."
        lost = f"; it diverged on {own['seeds_diverged']} of {own['n']} seeds" if own["seeds_diverged"] else ""
        return f"{optimizer} is the baseline, with a median {made.metric} of {result(own['median'])}{lost}."
    if row is None:
        runs = made.seeds[made.seeds["optimizer"] == optimizer]
        return f"{optimizer} has no {made.metric}." if len(runs) else f"{optimizer} was not retrained."
    return f"{_claim(row)}{_exploratory(made)}{_numbers(task, row)}{_cost(task, optimizer)}."


def _claim(row: Mapping[Any, Any]) -> str:
    name, baseline, metric = row["optimizer"], row["baseline"], row["metric"]
    word, _, slightly = row["verdict"].partition(", ")
    if word in ("better", "worse"):
        size = f", {slightly}, which is {margin(row)}" if slightly else ""
        return f"{name} is {word} than {baseline} on {metric}{size}"
    if word == "equivalent":
        return f"{name} is equivalent to {baseline} on {metric}, within {margin(row)}"
    if row["reason"]:
        return f"{name} and {baseline} cannot be told apart on {metric}: {row['reason']}"
    return f"{name} is neither shown to be better than {baseline} on {metric} nor to be worse"


def margin(row: Mapping[Any, Any]) -> str:
    """The one that a contrast was judged by; a relative one as it was declared, too."""
    declared = str(row["margin_declared"])
    return number(row["margin"]) + (f" ({declared} of {row['baseline']}'s)" if declared.endswith("%") else "")


def _exploratory(made: Comparison) -> str:
    """Behind a claim about what was chosen when its result was known."""
    what = " and ".join(made.undeclared)
    were = "were" if len(made.undeclared) > 1 else "was"
    return f" (not declared: the {what} {were} chosen afterwards)" if what else ""


def _numbers(task: TaskAnswer, row: Mapping[Any, Any]) -> str:
    if not row["n"]:
        return ""
    which, between, median = ("mean", ("t_low", "t_high"), "")
    if row["n_diverged"]:
        which, between, median = ("median", ("median_low", "median_high"), "median ")
    text = f": {_lost(row)}{median}{result(row[which])} against {result(row[f'baseline_{which}'])}"
    if row["reason"]:
        return text
    level, test = percent(1 - task.comparison.config.report.alpha), stats.TESTS[row["test"]]
    ends = [row[end] for end in between]
    inside = "no interval of so few" if math.isnan(ends[0]) else f"uncorrected {level} interval {interval(*ends)}"
    ranks = "decided by ranks, diverged runs last: " if row["n_diverged"] else ""
    contrary = row["verdict"] not in ("equivalent", "inconclusive") and row["shift"] * row[f"{which}_difference"] < 0
    seeds = f"{row['n']} seeds{f'; by ranks, the {which}s say otherwise' if contrary else ''}"
    text += f", a {median}difference of {signed(row[f'{which}_difference'])} ({inside}; {ranks}{test}"
    return f"{text}, Holm-corrected {p_value(row['p'])}, {seeds})"


def _lost(row: Mapping[Any, Any]) -> str:
    """Which of the two diverged, and how often."""
    counts = {row["optimizer"]: row["diverged"], row["baseline"]: row["baseline_diverged"]}
    said = [f"{name} diverged on {count} of {row['n']} seeds" for name, count in counts.items() if count]
    return f"{' and '.join(said)}; " if said else ""


def _cost(task: TaskAnswer, optimizer: str) -> str:
    """What a step takes, in the baseline's; in gradient-equivalents where times are not comparable."""
    made = task.comparison
    alone = made.timed and made.source(optimizer) is made.source(made.baseline)  # else at another time, beside others
    clocks = ["step_ms"] if alone else ["grad_equivalents", "steps"]
    if not set(clocks) <= set(made.seeds):
        return ""
    costs = made.seeds.assign(cost=made.seeds[clocks[0]] / (1 if alone else made.seeds["steps"]))
    table = costs.pivot(index="seed", columns="optimizer", values="cost").reindex(columns=[optimizer, made.baseline])
    table = table.where(table > 0).dropna()
    mine, theirs = table.to_numpy(float).T
    ratio = stats.ratio(mine, theirs, 1 - made.config.report.alpha)
    if math.isnan(ratio["mean"]):
        return ""
    if not alone:
        stacked = " (times of stacks are not compared)" if made.stacked else ""
        return f"; a step takes {ratio['mean']:.2f} times the gradient-equivalents{stacked}"
    level = percent(1 - made.config.report.alpha)
    if math.isnan(ratio["low"]):
        return f"; a step takes {ratio['mean']:.2f} times as long ({len(table)} seeds, no interval)"
    between = f"{level} interval {ratio['low']:.2f} to {ratio['high']:.2f}"
    if 1 / ABOUT <= ratio["low"] <= ratio["high"] <= ABOUT:
        return f"; a step takes about as long ({ratio['mean']:.2f} times, {between})"
    if ratio["low"] <= 1 <= ratio["high"]:
        return f"; whether a step takes longer cannot be told ({ratio['mean']:.2f} times, {between})"
    return f"; a step takes {ratio['mean']:.2f} times as long ({between})"


def verdicts(answer: Answer) -> list[str]:
    """A sentence per task and optimizer, and of several tasks one per optimizer."""
    if answer.across is None:
        return [verdict(task, name) for task in answer.tasks for name in task.summary["optimizer"]]
    found = [overall(answer, name) for name in answer.optimizers]
    for task in answer.tasks:
        found += ["", f"{task.comparison.task}:", *(verdict(task, name) for name in task.summary["optimizer"])]
    return found


def overall(answer: Answer, optimizer: str) -> str:
    """A sentence on an optimizer over several tasks."""
    found = by_verdict(answer, optimizer)
    if not found:
        return f"{optimizer} {without_verdict(answer, optimizer)}."
    parts = "; ".join(f"{word}{',' * (',' in word)} on {', '.join(tasks)}" for word, tasks in found.items())
    return f"{optimizer} against {baselines(answer)}: {parts}."


def without_verdict(answer: Answer, optimizer: str) -> str:
    """What an optimizer is that has none on any task."""
    of_tasks = [task.comparison for task in answer.tasks if optimizer in task.comparison.optimizers]
    return "is the baseline" if any(made.baseline == optimizer for made in of_tasks) else "was not retrained"


def by_verdict(answer: Answer, optimizer: str) -> dict[str, list[str]]:
    """The tasks of each verdict that there is, the good ones first; marked where the comparison was not declared."""
    named = [
        (task.verdict(optimizer), task.comparison.task + " (not declared)" * bool(task.comparison.undeclared))
        for task in answer.tasks
    ]
    found = {word: [name for own, name in named if own == word] for word in VERDICTS}
    return {word: tasks for word, tasks in found.items() if tasks}


def baselines(answer: Answer) -> str:
    return ", ".join(dict.fromkeys(task.comparison.baseline for task in answer.tasks))


def caveats(answer: Answer) -> list[str]:
    """What limits the answer, the gravest first within each task."""
    found = [f"{task.comparison.task}: {text}" for task in answer.tasks for text in _of_task(task)]
    names = Counter(task.comparison.config.task.name for task in answer.tasks)
    found += [f"{name} is compared {n} times, under different conditions: these are not {n} independent tasks."
              for name, n in names.items() if n > 1]  # fmt: skip
    return found + (list(_over_tasks(answer.across)) if answer.across else [])


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
               f"{min(1.0, 2 / 2**n):.2g}).")  # fmt: skip


def _of_task(task: TaskAnswer) -> Iterator[str]:
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


def _missing(task: TaskAnswer) -> Iterator[str]:
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
    for row in task.primary.to_dict("records"):
        if row["n_unpaired"]:
            both = f"{row['optimizer']} or {row['baseline']}"
            one = row["n_unpaired"] == 1
            seeds, have = ("1 seed", "has") if one else (f"{row['n_unpaired']} seeds", "have")
            yield f"{seeds} of {both} {have} no partner and {'does' if one else 'do'} not count in their contrast."


def _diverged(task: TaskAnswer) -> Iterator[str]:
    for row in task.summary.to_dict("records"):
        if row["seeds_diverged"]:
            count = "counts" if row["seeds_diverged"] == 1 else "count"
            of = f"{row['seeds_diverged']} of {row['seeds']} retraining runs"
            yield f"{row['optimizer']}: {of} diverged and {count} as worse than all others, at the cost of a whole run."
    trials = [f"{row['optimizer']} {row['trials_diverged']} of {row['trials']}"
              for row in task.summary.to_dict("records") if row["trials_diverged"]]  # fmt: skip
    if trials:
        yield f"trials of the search that diverged: {', '.join(trials)}."


def _few(task: TaskAnswer) -> Iterator[str]:
    said = task.comparison.config.report
    pairs = [(row["n"], row["test"]) for row in task.primary.to_dict("records")]
    if few := [n for n, _ in pairs if n < FEWEST_PAIRS]:
        yield f"few seeds ({min(few)}): without {FEWEST_PAIRS} seeds in common nothing is tested."
    tested = sorted(pair for pair in pairs if pair[0] >= FEWEST_PAIRS)
    for n, test in [pair for pair in tested if pair[1] != "t"][:1]:
        least = len(tested) * 2 / 2**n
        if least > said.alpha:
            yield (f"few seeds ({n}): the {stats.TESTS[test]} may find nothing, since its least p-value, corrected for "
                   f"{len(tested)} contrasts, is {min(1.0, least):.2g}.")  # fmt: skip
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
