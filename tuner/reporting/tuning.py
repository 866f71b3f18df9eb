"""How much tuning an optimizer needs is said beside its figure. No torch, no ray."""

from __future__ import annotations

from tuner.analysis.tuning_curves import Lead, TuningCurves, known_to, leads, tuning_curves
from tuner.comparison.comparison import Comparison


def curves_of(comparison: Comparison) -> TuningCurves:
    """The curves that the trials of a task allow."""
    enqueued = {
        name: len(source.config.optimizers[own].enqueued())
        for source in comparison.sources for own, name in source.names.items()
    }  # fmt: skip
    samplers = {source.config.search.sampler for source in comparison.sources}
    confidence = 1 - comparison.config.report.alpha
    return tuning_curves(comparison.trials, samplers, comparison.config.task.mode, confidence, enqueued)


def caption(curves: TuningCurves, comparison: Comparison) -> str:
    """What the curves are, what their bands say, and, of random searches, who leads from which number of trials on."""
    metric, percent = comparison.config.task.metric, f"{100 * (1 - comparison.config.report.alpha):g} %"
    if curves.kind == "median":
        band = f"a {percent} band for all n and all optimizers at once"
        return f"Best {metric} of n random trials: the median, with {band}. {_who_leads(curves, comparison)}"
    which = "mean over studies" if curves.kind == "mean" else "one study"
    drawn = "no interval" if curves.table["low"].isna().all() else f"with a {percent} t interval at each n"
    return f"Best {metric} of the first n trials: {which}, {drawn}. {curves.reason[:1].upper()}{curves.reason[1:]}."


def _who_leads(curves: TuningCurves, comparison: Comparison) -> str:
    table, mode, baseline = curves.table, comparison.config.task.mode, comparison.baseline
    others = [name for name in dict.fromkeys(table["optimizer"]) if name != baseline]
    if not others or baseline not in set(table["optimizer"]):
        return _how_far(curves, comparison)
    said = []
    for name in others:
        found = leads(table, name, baseline, mode)
        said += [lead(each, name if each.optimizer == baseline else baseline) for each in found]
        if not found:
            said.append(f"{name} and {baseline} are not told apart at any n")
    return f"Where bands do not touch one is better: {'; '.join(said)}. {_how_far(curves, comparison)}"


def lead(found: Lead, behind: str) -> str:
    """Who is better than who, and with how many trials."""
    span = f"with {found.first}" if found.first == found.last else f"from {found.first} to {found.last}"
    return f"{found.optimizer} is better than {behind} {span} trial{'s' * (found.last > 1)}"


def _how_far(curves: TuningCurves, comparison: Comparison) -> str:
    mode = comparison.config.task.mode
    known = min(known_to(rows, mode) for _, rows in curves.table.groupby("optimizer"))
    return f"Beyond n = {known} the trials do not say how good the best may be, and bands reach the edge."
