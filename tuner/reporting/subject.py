"""What an answer is about is put into words: optimizers, or the configurations that one search of each found.

No torch, no ray.
"""

from __future__ import annotations

from collections.abc import Callable

from tuner.analysis.rules import FEWEST_PAIRS
from tuner.comparison.contrast import Contrast
from tuner.comparison.results import Results
from tuner.comparison.task_results import TaskResults

ENOUGH_STUDIES = 5
"""What is advised."""
MEASURED = ('Ten searches of the same adam (mnist1d, 20 trials, 10 seeds) were "better" or "worse" in 29 to 89 % '
            "of their pairs, where there is nothing to find.")  # fmt: skip

ADVICE = f"For a verdict on optimizers, search each several times: --studies {ENOUGH_STUDIES}."


def tuned(task: TaskResults, contrast: Contrast) -> str:
    """Behind a claim on two optimizers: how they were tuned, which is part of what is claimed."""
    trials = {name: _trials_of(task, name) for name in searched(task, contrast)}
    if not trials:
        return ""
    (first, count), *others = trials.items()
    each = f"tuned with {count} {'trial' if count == 1 else 'trials'}"
    if others and len(set(trials.values())) == 1:
        return f", both {each}"
    return f", {first} {each}" + "".join(f", {name} with {number}" for name, number in others)


def found_once(task: TaskResults, contrast: Contrast) -> str:
    """Behind a claim on two configurations: that one search of each found them."""
    names = searched(task, contrast)
    return {0: "", 1: f", {''.join(names[:1])}'s by one search"}.get(len(names), ", found by one search each")


def aside(task: TaskResults, contrast: Contrast) -> str:
    """Behind a verdict that stands for several, or beside others: that it is on configurations; empty where it is on
    optimizers, or there is none."""
    if contrast.about == "optimizers" or not contrast.n:
        return ""
    once = contrast.unit == "seed" and len(searched(task, contrast)) == 2
    return " (configurations of one search each)" if once else " (configurations)"


def searched(task: TaskResults, contrast: Contrast) -> list[str]:
    """Which of the two have hyperparameters that were searched for."""
    return [name for name in (contrast.optimizer, contrast.baseline) if task.comparison.spaces[name]]


def subject(task: TaskResults) -> str:
    """In a caption: "optimizers, tuned with 30 trials, 5 studies of each"."""
    if not _retrained(task):
        return "the configurations that were found"
    if task.about == "optimizers":
        return f"optimizers, tuned with {_trials([task])} trials, {studies([task])} studies of each"
    found = studies([task])
    return f"the configurations that {'one search' if found == '1' else f'{found} searches'} of each optimizer found"


def answer_is_about(results: Results) -> list[str]:
    """The paragraphs before the verdicts: what they are about, what that leaves open, and what to do about it; each
    with its tasks before it, where it is not of all."""
    kinds: dict[str, list[TaskResults]] = {}
    for task in results.tasks:
        if any(task.comparison.spaces.values()) and _compared(task):
            kinds.setdefault(_kind(task), []).append(task)
    texts = [(PARAGRAPHS[kind](tasks), tasks) for kind, tasks in kinds.items()]
    if len(texts) == 1:
        return [text for text, _ in texts]
    return [f"{', '.join(task.comparison.task for task in tasks)}: {text}" for text, tasks in texts]


def _compared(task: TaskResults) -> list[Contrast]:
    return [contrast for contrast in task.primary_contrasts if contrast.n]


def _kind(task: TaskResults) -> str:
    if task.about == "optimizers":
        return "optimizers"
    if studies([task]) == "1":
        return "once"
    return "few" if all(contrast.unit == "study" for contrast in _compared(task)) else "one in common"


def _of_optimizers(tasks: list[TaskResults]) -> str:
    text = (f"The answer is about optimizers, each tuned with {_trials(tasks)} trials. Of each there are "
            f"{studies(tasks)} studies, independent searches, each winner retrained on {_seeds(tasks)}; an "
            f"optimizer is held against {_baselines(tasks)} study by study, so that one lucky search is not "
            "enough.")  # fmt: skip
    luck = luck_of_search(tasks[0]) if len(tasks) == 1 else ""
    return " ".join(filter(None, [text, *(_exceptions(task, len(tasks) > 1) for task in tasks), luck]))


def _exceptions(task: TaskResults, several: bool) -> str:
    """Which optimizers of such a task the answer is not about; empty where there are none."""
    names = [contrast.optimizer for contrast in _compared(task) if contrast.about != "optimizers"]
    if not names:
        return ""
    on = f" on {task.comparison.task}" if several else ""
    return (f"Not so of {', '.join(names)}{on}, with fewer than {FEWEST_PAIRS} studies in common with "
            f"{task.comparison.baseline}: there it is about the configurations that were found.")  # fmt: skip


def _of_few_studies(tasks: list[TaskResults]) -> str:
    return (f"The answer is about configurations. Of each optimizer there are {studies(tasks)} studies, independent "
            f"searches, but fewer than {FEWEST_PAIRS} in common, of which nothing is tested: another search may find "
            f"settings that are better or worse by more than the differences below. {MEASURED} {ADVICE}")  # fmt: skip


def _of_one_in_common(tasks: list[TaskResults]) -> str:
    return (f"The answer is about configurations. Of each optimizer there are {studies(tasks)} studies, independent "
            f"searches, but fewer than {FEWEST_PAIRS} in common with {_baselines(tasks)}: where it is one, "
            f"its configurations are compared seed by seed{_two_in_common(tasks)}. Another search may find settings "
            f"that are better or worse. {MEASURED} {ADVICE}")  # fmt: skip


def _two_in_common(tasks: list[TaskResults]) -> str:
    by_study = any(contrast.unit == "study" for task in tasks for contrast in _compared(task))
    return ", where it is two nothing is tested" * by_study


def _of_one_search(tasks: list[TaskResults]) -> str:
    return (f"The answer is about configurations, not optimizers: of each optimizer the one that a single search of "
            f"{_trials(tasks)} trials found. Its retraining was repeated ({_seeds(tasks)}), but not the search: "
            f"another may find settings that are better or worse. {MEASURED} {ADVICE}")  # fmt: skip


PARAGRAPHS: dict[str, Callable[[list[TaskResults]], str]] = {
    "optimizers": _of_optimizers, "few": _of_few_studies, "one in common": _of_one_in_common, "once": _of_one_search,
}  # fmt: skip


def _trials(tasks: list[TaskResults]) -> str:
    return _from_to({_trials_of(task, name) for task in tasks for name in _retrained(task)})


def _trials_of(task: TaskResults, optimizer: str) -> int:
    return task.comparison.source(optimizer).config.search.trials


def studies(tasks: list[TaskResults]) -> str:
    """How many there are of each optimizer, which may be fewer than were planned: "5", or "1 to 5"."""
    return _from_to({task.comparison.studies(name) for task in tasks for name in _retrained(task)})


def _retrained(task: TaskResults) -> list[str]:
    """The optimizers that were searched and retrained."""
    comparison = task.comparison
    return [name for name in comparison.optimizers if comparison.spaces[name] and comparison.studies(name)]


def _seeds(tasks: list[TaskResults]) -> str:
    """How many a study was retrained on."""
    runs = [task.comparison.seeds.groupby(["optimizer", "study"]).size() for task in tasks]
    counts = {int(count) for of_task in runs for count in of_task}
    return f"{_from_to(counts)} evaluation {'seed' if counts == {1} else 'seeds'}"


def _from_to(counts: set[int]) -> str:
    return f"{min(counts)}" if len(counts) == 1 else f"{min(counts)} to {max(counts)}"


def _baselines(tasks: list[TaskResults]) -> str:
    return " or ".join(dict.fromkeys(task.comparison.baseline for task in tasks))


def luck_of_search(task: TaskResults) -> str:
    """How much of the variance of runs is the luck of searches; empty where that cannot be told."""
    shares = []
    for name in task.comparison.optimizers:
        split = task.luck(name)
        if not split.reason:
            between = f"interval {_percent(split.share_low)} to {_percent(split.share_high)}"
            shares.append(f"{_percent(split.share)} for {name} ({between})")
    if not shares:
        return ""
    return f"Luck of the search is this much of the variance of a single retraining run: {', '.join(shares)}."


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
