"""Caveats are put into words: a sentence of each kind. No torch, no ray."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from tuner.analysis.rules import FEWEST_PAIRS, TESTS, Test
from tuner.comparison.caveats import Caveat, Kind, caveats
from tuner.comparison.results import FEW_TASKS, Results
from tuner.reporting.numbers import percent
from tuner.text import number


def caveat_sentences(results: Results) -> list[str]:
    """What limits the results, the gravest first within each task."""
    return [sentence(caveat) for caveat in caveats(results)]


def sentence(caveat: Caveat) -> str:
    """Its task first, where it is of one."""
    template = SENTENCES[caveat.kind]
    text = template.format(**caveat.data) if isinstance(template, str) else template(**caveat.data)
    return f"{caveat.task}: {text}" if caveat.task else text


def _failed(optimizer: str, failed: int, runs: int) -> str:
    return f"{optimizer}: {failed} of {runs} retraining runs failed and {'is' if failed == 1 else 'are'} left out."


def _retraining_incomplete(optimizers: Sequence[str]) -> str:
    return f"the retraining of {', '.join(optimizers)} is not complete."


def _unpaired(optimizer: str, baseline: str, seeds: int) -> str:
    subject, have, do = ("1 seed", "has", "does") if seeds == 1 else (f"{seeds} seeds", "have", "do")
    return f"{subject} of {optimizer} or {baseline} {have} no partner and {do} not count in their contrast."


def _diverged(optimizer: str, diverged: int, runs: int) -> str:
    count = "counts" if diverged == 1 else "count"
    return (f"{optimizer}: {diverged} of {runs} retraining runs diverged and {count} as worse than all others, at the "
            "cost of a whole run.")  # fmt: skip


def _trials_diverged(trials: Mapping[str, tuple[int, int]]) -> str:
    counts = ", ".join(f"{name} {diverged} of {n}" for name, (diverged, n) in trials.items())
    return f"trials of the search that diverged: {counts}."


def _untested(seeds: int) -> str:
    return f"few seeds ({seeds}): without {FEWEST_PAIRS} seeds in common nothing is tested."


def _least_p_too_large(seeds: int, test: Test, contrasts: int, least: float) -> str:
    return (f"few seeds ({seeds}): the {TESTS[test]} may find nothing, since its least p-value, corrected for "
            f"{contrasts} contrasts, is {number(least, 2)}.")  # fmt: skip


def _low_power(seeds: int, power: float) -> str:
    return (f"few seeds ({seeds}): a true difference of one standard deviation is found in {100 * power:.0f} % of such "
            "comparisons, by a t-test and before correction for their number.")  # fmt: skip


def _seeds_added(counts: Sequence[int | None], alpha: float) -> str:
    seeds = ", then ".join("some" if count is None else str(count) for count in counts)
    errors = percent(min(1.0, alpha * (1 + len(counts))))
    return (f"{seeds} seeds were added after the results of others could be looked at: what a test at "
            f"{percent(alpha)} says at a further look is wrong in up to {errors} of comparisons.")  # fmt: skip


def _search_incomplete(optimizers: Sequence[str]) -> str:
    return f"the search of {', '.join(optimizers)} is not complete."


def _trials_unequal(trials: Mapping[str, int]) -> str:
    return f"the numbers of trials are not equal ({', '.join(f'{name} {n}' for name, n in trials.items())})."


def _training_tuned_apart(tuned: Mapping[str, Sequence[str]]) -> str:
    by_names: dict[str, list[str]] = {}
    for optimizer, names in tuned.items():
        by_names.setdefault(", ".join(names) or "nothing", []).append(optimizer)
    each = "; ".join(f"{names} for {', '.join(optimizers)}" for names, optimizers in by_names.items())
    return (f"the searches did not set the same of training, or not from the same choices ({each}): a difference may "
            "be that of the schedules; search.space gives all the same.")  # fmt: skip


def _at_boundary(optimizer: str, hyperparameters: Sequence[str]) -> str:
    names = ", ".join(hyperparameters)
    return f"{optimizer}: {names} at the boundary of what was searched; a wider range may do better."


def _stacked(cohorts: Mapping[str, int]) -> str:
    sizes = ", ".join(f"{name} {'alone' if n == 1 else f'{n} at once'}" for name, n in cohorts.items())
    return (f"retraining runs trained as stacks ({sizes}): their seconds and ms per step are shares of a stack's, "
            "and comparable between optimizers only with --cohort 1.")  # fmt: skip


def _nominal_costs(optimizers: Sequence[str]) -> str:
    names = ", ".join(optimizers)
    return f"gradient-equivalents of {names} are by nominal costs, those of other runs by counted FLOPs."


def _tasks_left_out(tasks: Sequence[str]) -> str:
    return f"{', '.join(tasks)}: without one of the optimizers, so not in profile, ranks and interquartile means."


def _no_target(tasks: Sequence[str]) -> str:
    return f"{', '.join(tasks)}: no target, since most runs of the baseline diverged; not in the profile."


def _few_tasks(n: int) -> str:
    tasks = "1 task" if n == 1 else f"{n} tasks"
    return (f"{tasks} with all optimizers are too few for statements over tasks: ranks, their tests and the profile "
            f"describe these only (at least {FEW_TASKS} are wanted; Wilcoxon's p-value of {n} is never below "
            f"{number(min(1.0, 2 / 2**n), 2)}).")  # fmt: skip


SENTENCES: dict[Kind, str | Callable[..., str]] = {
    "note": "{text}",
    "not_retrained": "{optimizer} has not been retrained.",
    "failed": _failed,
    "retraining_incomplete": _retraining_incomplete,
    "unpaired": _unpaired,
    "diverged": _diverged,
    "trials_diverged": _trials_diverged,
    "untested": _untested,
    "least_p_too_large": _least_p_too_large,
    "low_power": _low_power,
    "seeds_added": _seeds_added,
    "searches_differ": "the runs were searched with different trials, samplers, seeds or schedulers: budgets are not "
                       "equal.",
    "stopped_early": "ASHA stopped trials early, which favours optimizers that start fast.",
    "epochs_differ": "hyperparameters were chosen by trials of {searched} epochs, and retrained for {retrained}.",
    "search_incomplete": _search_incomplete,
    "trials_unequal": _trials_unequal,
    "few_trials": "fewer than {wanted} trials per search: the optimizers are not well tuned, and the importances of "
                  "hyperparameters are guesses.",
    "training_tuned_apart": _training_tuned_apart,
    "declarations_differ": "the runs declare different comparisons; that of the first is used.",
    "metric_missing": "no run has a {metric}, so that nothing is compared.",
    "metric_chosen_by": "{metric} is what the hyperparameters were chosen by; a test split would say more.",
    "at_boundary": _at_boundary,
    "stacked": _stacked,
    "device_shared": "runs shared their device: seconds and ms per step are shares, and comparable between optimizers "
                     "only with a whole device each.",
    "hardware_differs": "the runs were made on different hardware: seconds are not comparable.",
    "several_commands": "a run was made by several commands; its env.json says when, and on which machines.",
    "nominal_costs": _nominal_costs,
    "task_repeated": "{task} is compared {times} times, under different conditions: these are not {times} independent "
                     "tasks.",
    "no_common_task": "no task has all optimizers, so there are no ranks and no interquartile means.",
    "tasks_left_out": _tasks_left_out,
    "no_target": _no_target,
    "few_tasks": _few_tasks,
}  # fmt: skip
"""By kind: a template of the caveat's data, or a function of it."""
