"""Caveats are put into words: each kind once, with the optimizers and tasks that it is of. No torch, no ray."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tuner.analysis.rules import FEWEST_PAIRS, TESTS, Test
from tuner.comparison.across import FEW_TASKS
from tuner.comparison.caveats import KINDS, Caveat, Kind, caveats
from tuner.comparison.results import Results
from tuner.reporting.numbers import percent, result
from tuner.text import number

Words = str | Callable[..., str]


@dataclass
class Group:
    """What there is of one kind of caveat.

    Attributes:
        text: what limits the results.
        items: of what: an optimizer and its numbers -> the tasks; of several tasks only these are named.
        tasks: all of them.
    """

    kind: Kind
    text: str
    items: dict[str, list[str]] = field(default_factory=dict)
    tasks: list[str] = field(default_factory=list)

    def listed(self, *, several: bool) -> list[str]:
        """The items, each with its tasks where there are several."""
        return [item + (f" on {', '.join(tasks)}" if several and any(tasks) else "") for item, tasks in
                self.items.items()]  # fmt: skip

    def sentence(self, *, several: bool) -> str:
        """All in one: "best values at the boundary: adam (lr); sgdm (lr)."."""
        if self.items:
            return f"{self.text}: {'; '.join(self.listed(several=several))}."
        where = f" ({', '.join(self.tasks)})" if several and any(self.tasks) else ""
        return f"{self.text}{where}."


def grouped(results: Results) -> list[Group]:
    """What limits the results, the gravest kind first, each once."""
    groups: dict[tuple[Kind, str], Group] = {}
    for caveat in caveats(results):
        text, item = (_said(words, caveat) for words in WORDS[caveat.kind])
        group = groups.setdefault((caveat.kind, text), Group(caveat.kind, text))
        if caveat.task not in group.tasks:
            group.tasks.append(caveat.task)
        if item:
            group.items.setdefault(item, []).append(caveat.task)
    return sorted(groups.values(), key=lambda group: KINDS.index(group.kind))


def caveat_sentences(results: Results) -> list[str]:
    """A sentence of each kind."""
    return [group.sentence(several=len(results.tasks) > 1) for group in grouped(results)]


def _said(words: Words, caveat: Caveat) -> str:
    if not words:
        return NOTHING
    return words.format(**caveat.data) if isinstance(words, str) else words(**caveat.data)


def _optimizers(optimizers: Sequence[str]) -> str:
    return ", ".join(optimizers)


def _tasks(tasks: Sequence[str]) -> str:
    return ", ".join(tasks)


def _training_tuned_apart(tuned: Mapping[str, Sequence[str]]) -> str:
    by_names: dict[str, list[str]] = {}
    for optimizer, names in tuned.items():
        by_names.setdefault(", ".join(names) or "nothing", []).append(optimizer)
    return "; ".join(f"{names} for {', '.join(optimizers)}" for names, optimizers in by_names.items())


def _at_boundary(optimizer: str, hyperparameters: Sequence[str]) -> str:
    return f"{optimizer} ({', '.join(hyperparameters)})"


def _unpaired(optimizer: str, baseline: str, seeds: int) -> str:
    return f"{seeds} of {optimizer} or {baseline}"


def _trials_diverged(trials: Mapping[str, tuple[int, int]]) -> str:
    return ", ".join(f"{name} {diverged} of {n}" for name, (diverged, n) in trials.items())


def _least(units: str, test: Test, contrasts: int, least: float) -> str:
    shared = f", corrected for {contrasts} contrasts," if contrasts > 1 else ""
    return f"the least p-value of the {TESTS[test]} over {units}{shared} is {number(least, 2)}"


def _power(units: str, power: float, contrasts: int) -> str:
    shared = f", corrected for {contrasts} contrasts" if contrasts > 1 else ""
    return f"in {100 * power:.0f} % of comparisons by a t-test over {units}{shared}"


def _added(what: str) -> Callable[..., str]:
    def words(counts: Sequence[int | None], alpha: float) -> str:
        numbers = ", then ".join("some" if count is None else str(count) for count in counts)
        errors = percent(min(1.0, alpha * (1 + len(counts))))
        return (f"{numbers} {what} were added after the results of others could be looked at: what a test at "
                f"{percent(alpha)} says at a further look is wrong in up to {errors} of comparisons")  # fmt: skip

    return words


def _longer(searched: int, retrained: int, metric: str, worse: Mapping[str, tuple[float, float]], known: bool) -> str:
    text = f"{searched} epochs, then {retrained}"
    went = ", ".join(f"{name}'s went from {result(before)} to {result(after)}" for name, (before, after) in
                     worse.items())  # fmt: skip
    if went:
        return f"{text}; of what was chosen by, {metric}, {went} in the epochs after {searched}"
    return text + (f"; no optimizer's {metric} got worse in the epochs after {searched}" if known else "")


def _unequal(trials: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {n}" for name, n in trials.items())


def _stacked(cohorts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {'alone' if n == 1 else f'{n} at once'}" for name, n in cohorts.items())


def _few_tasks(n: int) -> str:
    tasks = "1 task" if n == 1 else f"{n} tasks"
    return (f"{tasks} with all optimizers are too few for statements over tasks: ranks, their tests and the profile "
            f"describe these only (at least {FEW_TASKS} are wanted; Wilcoxon's p-value of {n} is never below "
            f"{number(min(1.0, 2 / 2**n), 2)})")  # fmt: skip


NOTHING = ""
WORDS: dict[Kind, tuple[Words, Words]] = {
    "baseline_at_boundary": ("the baseline's own best value lies at the boundary of what was searched: it may not be "
                             "well tuned, and a wider range may do better, which would change every verdict",
                             _at_boundary),
    "metric_missing": ("no run has a {metric}, so that nothing is compared", NOTHING),
    "note": (lambda text: text.removesuffix("."), NOTHING),
    "failed_search": ("worse than what they contain, and what their search should therefore have found: a failed "
                      "search, and no verdict on the rule; more trials, a narrower space or a start from the "
                      "contained optimizer's best point would tell", "{optimizer} contains {inner}"),
    "untested": (f"without {FEWEST_PAIRS} studies, or of one search each {FEWEST_PAIRS} seeds, in common nothing is "
                 "tested", "{optimizer} has {units}"),
    "training_tuned_apart": ("the searches did not set the same of training, or not from the same choices, so that a "
                             "difference may be that of the schedules; search.space gives all the same",
                             _training_tuned_apart),
    "few_units": ("a verdict of three or four studies or seeds: the t-test takes it on trust that so few differences "
                  "are normal, and sees large ones only", "{optimizer} ({units})"),
    "not_retrained": ("not retrained", "{optimizer}"),
    "failed": ("retraining runs that failed are left out", "{optimizer} {failed} of {runs}"),
    "retraining_incomplete": ("the retraining is not complete", _optimizers),
    "unpaired": ("seeds that have no partner do not count in their contrast", _unpaired),
    "diverged": ("retraining runs that diverged count as worse than all others, at the cost of a whole run",
                 "{optimizer} {diverged} of {runs}"),
    "trials_diverged": ("trials of the search that diverged", _trials_diverged),
    "least_p_too_large": ("too few for the test to find anything, whatever there is", _least),
    "low_power": ("few studies or seeds: how often a true difference of one standard deviation is found", _power),
    "studies_added": (_added("studies"), NOTHING),
    "seeds_added": (_added("seeds"), NOTHING),
    "searches_differ": ("the runs were searched with different trials, studies, samplers, seeds or schedulers: budgets "
                        "are not equal", NOTHING),
    "stopped_early": ("ASHA stopped trials early, which favours optimizers that start fast", NOTHING),
    "epochs_differ": ("hyperparameters were chosen by trials of another length than the retraining", _longer),
    "search_incomplete": ("the search is not complete", _optimizers),
    "trials_unequal": ("the numbers of trials are not equal", _unequal),
    "few_trials": ("fewer than {wanted} trials per search: the optimizers are not well tuned, and the importances of "
                   "hyperparameters are guesses", NOTHING),
    "declarations_differ": ("the runs declare different comparisons; that of the first is used", NOTHING),
    "metric_chosen_by": ("{metric} is what the hyperparameters were chosen by; a test split would say more", NOTHING),
    "at_boundary": ("best values at the boundary of what was searched, where a wider range may do better",
                    _at_boundary),
    "stacked": ("retraining runs trained as stacks: their seconds and ms per step are shares of a stack's, and "
                "comparable between optimizers only with --cohort 1", _stacked),
    "device_shared": ("runs shared their device: seconds and ms per step are shares, and comparable between optimizers "
                      "only with a whole device each", NOTHING),
    "hardware_differs": ("the runs were made on different hardware: seconds are not comparable", NOTHING),
    "several_commands": ("a run was made by several commands; its env.json says when, and on which machines", NOTHING),
    "nominal_costs": ("gradient-equivalents by nominal costs, beside those of other runs by counted FLOPs",
                      _optimizers),
    "task_repeated": ("{task} is compared {times} times, under different conditions: these are not {times} independent "
                      "tasks", NOTHING),
    "no_common_task": ("no task has all optimizers, so there are no ranks and no interquartile means", NOTHING),
    "tasks_left_out": ("without one of the optimizers, so not in profile, ranks and interquartile means", _tasks),
    "no_target": ("no target, since most runs of the baseline diverged, so not in the profile", _tasks),
    "few_tasks": (_few_tasks, NOTHING),
}  # fmt: skip
"""By kind: what limits the results, and of what; templates of the caveat's data, or functions of it."""
