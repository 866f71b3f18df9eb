"""What an answer is about is put into words: optimizers, or the configurations that one search of each found.

No torch, no ray.
"""

from __future__ import annotations

from collections.abc import Callable

from tuner.analysis.rules import FEWEST_PAIRS
from tuner.comparison.contrast import Contrast
from tuner.comparison.results import Results, TaskResults

ENOUGH_STUDIES = 5
"""What is advised."""
MEASURED = ('Ten searches of the same adam (mnist1d, 20 trials, 10 seeds) were "better" or "worse" in 29 to 89 % '
            "of their pairs, where there is nothing to find.")  # fmt: skip

ADVICE = f"For a verdict on optimizers, search each several times: --studies {ENOUGH_STUDIES}."


def tuned(task: TaskResults, contrast: Contrast) -> str:
    """Behind a claim on two optimizers: how they were tuned, which is part of what is claimed."""
    names = _searched(task, contrast)
    trials = task.comparison.config.search.trials
    if not names:
        return ""
    each = f"tuned with {trials} {'trial' if trials == 1 else 'trials'}"
    return f", {'both ' if len(names) == 2 else names[0] + ' '}{each}"


def found_once(task: TaskResults, contrast: Contrast) -> str:
    """Behind a claim on two configurations: that one search of each found them."""
    names = _searched(task, contrast)
    return {0: "", 1: f", {''.join(names[:1])}'s by one search"}.get(len(names), ", found by one search each")


def _searched(task: TaskResults, contrast: Contrast) -> list[str]:
    return [name for name in (contrast.optimizer, contrast.baseline) if task.comparison.spaces[name]]


def subject(task: TaskResults) -> str:
    """In a caption: "optimizers, tuned with 30 trials, 5 studies of each"."""
    search = task.comparison.config.search
    if task.about == "optimizers":
        return f"optimizers, tuned with {search.trials} trials, {search.studies} studies of each"
    return f"the configurations that {_how_many(search.studies)} of each optimizer found"


def _how_many(studies: int) -> str:
    return "one search" if studies == 1 else f"{studies} searches"


def answer_is_about(results: Results) -> list[str]:
    """The paragraphs before the verdicts: what they are about, what that leaves open, and what to do about it; each
    with its tasks before it, where it is not of all."""
    kinds: dict[str, list[TaskResults]] = {}
    for task in results.tasks:
        if any(task.comparison.spaces.values()) and any(contrast.n for contrast in task.primary_contrasts):
            once = task.comparison.config.search.studies == 1
            kinds.setdefault("once" if once else task.about, []).append(task)
    texts = [(PARAGRAPHS[kind](tasks), tasks) for kind, tasks in kinds.items()]
    if len(texts) == 1:
        return [text for text, _ in texts]
    return [f"{', '.join(task.comparison.task for task in tasks)}: {text}" for text, tasks in texts]


def _of_optimizers(tasks: list[TaskResults]) -> str:
    text = (f"The answer is about optimizers, each tuned with {_trials(tasks)} trials. Of each there are "
            f"{_studies(tasks)} studies, independent searches, each winner retrained on {_seeds(tasks)}; an "
            f"optimizer is held against {_baselines(tasks)} study by study, so that one lucky search is not "
            "enough.")  # fmt: skip
    luck = luck_of_search(tasks[0]) if len(tasks) == 1 else ""
    return f"{text} {luck}" if luck else text


def _of_few_studies(tasks: list[TaskResults]) -> str:
    return (f"The answer is about configurations. Of each optimizer there are {_studies(tasks)} studies, independent "
            f"searches, but fewer than {FEWEST_PAIRS} in common, of which nothing is tested: another search may find "
            f"settings that are better or worse by more than the differences below. {MEASURED} {ADVICE}")  # fmt: skip


def _of_one_search(tasks: list[TaskResults]) -> str:
    return (f"The answer is about configurations, not optimizers: of each optimizer the one that a single search of "
            f"{_trials(tasks)} trials found. Its retraining was repeated ({_seeds(tasks)}), but not the search: "
            f"another may find settings that are better or worse. {MEASURED} {ADVICE}")  # fmt: skip


PARAGRAPHS: dict[str, Callable[[list[TaskResults]], str]] = {
    "optimizers": _of_optimizers, "configurations": _of_few_studies, "once": _of_one_search,
}  # fmt: skip


def _trials(tasks: list[TaskResults]) -> str:
    return _from_to({task.comparison.config.search.trials for task in tasks})


def _studies(tasks: list[TaskResults]) -> str:
    return _from_to({task.comparison.config.search.studies for task in tasks})


def _seeds(tasks: list[TaskResults]) -> str:
    counts = {len(task.comparison.config.retrain.seeds) for task in tasks}
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
