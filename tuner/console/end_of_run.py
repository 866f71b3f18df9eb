"""The end of a run shows what it came to: as a document for ``--json``, as a table and verdicts for a person."""

from __future__ import annotations

import json
import math
import shlex
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tuner.config.schema import Config
from tuner.errors import CHANGED_CODE
from tuner.execute import Executed
from tuner.machine.invocation import command_line
from tuner.store.extent import Extent
from tuner.store.run import Run
from tuner.store.winners import valid
from tuner.text import hp_text, line

if TYPE_CHECKING:
    from tuner.comparison.results import Results

VALID = "complete"
COHORT = "cohort (trials, seeds)"
TABLE_WIDTH = 250  # enough for every column; a narrower terminal wraps the lines and hides nothing


def present(done: Executed, *, as_json: bool) -> str:
    """Print results and next commands on stdout; how complete the run is."""
    run, config = done.run, done.config
    summary = summarize(run, config)
    sentences = _add_verdicts(summary, done.results)
    if as_json:
        print(json.dumps(summary | {"report": done.report and str(done.report)}, indent=2))
        return summary["status"]
    console = Console(highlight=False, width=TABLE_WIDTH)
    with console.capture() as captured:
        print_table(summary, config, console)
    print("\n" + "\n".join(line.rstrip() for line in captured.get().splitlines()))
    print("\n" + "\n".join([*sentences, setting(summary, config)]))
    if any(other := summary["other_code"].values()):
        trials, seeds = other
        print(
            f"made by other code than the run was begun with ({CHANGED_CODE}): {trials} trials, {seeds} retraining runs"
        )
    print(f"files: {run.path}/ ({', '.join(run.files())})")
    if done.report:
        print(f"report: {done.report}")
    commands = _next_commands(done, summary)
    if commands:
        print("next:")
    for command, what in commands:
        print(f"  {command}   # {what}")
    return summary["status"]


def _add_verdicts(summary: dict[str, Any], results: Results | None) -> list[str]:
    """Put the verdicts, and what they are about, into the summary; that in words, and a sentence on each."""
    from tuner.reporting.subject import answer_is_about
    from tuner.reporting.verdicts import verdict

    summary["about"] = None
    if results is None:
        return []
    (task,) = results.tasks
    summary["about"] = task.about
    for entry in summary["optimizers"]:
        entry["verdict"] = task.verdict(entry["optimizer"])
    return [*answer_is_about(results), *(verdict(task, contrast.optimizer) for contrast in task.primary_contrasts)]


def _next_commands(done: Executed, summary: dict[str, Any]) -> list[tuple[str, str]]:
    """With what each is for."""
    run, config = done.run, done.config
    extent = Extent.of(config, run.path)
    searched = [entry for entry in summary["optimizers"] if entry["hp"] is not None]
    commands = []
    if summary["lacks_trials"]:
        commands.append((command_line("tuner.search", "--resume", run.path), "the trials that are still missing"))
    if any(_finished(entry) < extent.seeds(entry["optimizer"]) * valid(entry) for entry in searched):
        commands.append((command_line("tuner.retrain", run.path), "the evaluation seeds that are still missing"))
    elif searched:
        anew = "the same with another --baseline or --metric, or with other runs"
        what = anew if done.report else "the answer, with figures, as one page"
        commands.append((command_line("tuner.report", run.path), what))
    if "study.db" in run.files():
        dashboard = shlex.join(["optuna-dashboard", run.study_url])
        commands.append((dashboard, "look into the search (pip install optuna-dashboard)"))
    return commands


def _finished(entry: dict[str, Any]) -> int:
    return entry["n_seeds"] - entry["seeds"].get("failed", 0)


def summarize(run: Run, config: Config) -> dict[str, Any]:
    """One entry per optimizer, in the configuration's order, and how complete the run is.

    ``status`` is "done", "partly" (a search without a valid trial, or a retraining run that is missing or failed) or
    "nothing" (no valid trial, or no valid retraining run).
    """
    from tuner.comparison.comparison import largest_cohort
    from tuner.comparison.metrics import metrics, mode

    trials, seeds = run.trials(), run.seeds()
    best = run.best_optimizers()
    optimizers = []
    for name in config.optimizers:
        runs = seeds[seeds["optimizer"] == name]
        entry = best.get(name, {"hp": None, "value": None, "trial": None, "n_trials": 0, "n_diverged": 0,
                                "n_failed": 0, "at_boundary": []})  # fmt: skip
        entry = {"optimizer": name, **entry, "n_seeds": len(runs), "seeds": _count(runs["status"]), "verdict": None}
        entry["metrics"] = {metric: _described(runs, metric, mode(config, metric)) for metric in metrics(config, seeds)}
        entry["step_ms"] = _mean_sd(numbers(runs, "step_ms"))
        searched = trials[trials["optimizer"] == name]
        entry["cohort"] = {"search": largest_cohort(searched), "retrain": largest_cohort(runs)}
        optimizers.append(entry)
    env, extent = run.env() if run.has_env() else {}, Extent.of(config, run.path)
    return {"schema_version": 1, "run": str(run.path), "task": config.task.name, "metric": config.task.metric,
            "preset": config.preset, "data": env.get("data"), "parameters": env.get("parameters"),
            "status": _status(extent, trials, seeds), "lacks_trials": _lacks_trials(extent, trials),
            "other_code": {"trials": _marked(trials), "seeds": _marked(seeds)},
            "optimizers": optimizers}  # fmt: skip


def _marked(rows: pd.DataFrame) -> int:
    """How many were made by other code than the run was begun with."""
    return int(rows["code"].notna().sum()) if "code" in rows else 0


def _status(extent: Extent, trials: pd.DataFrame, seeds: pd.DataFrame) -> str:
    optimizers = extent.config.optimizers
    valid_seeds = int((seeds["status"] == VALID).sum())
    if not (trials["state"] == VALID).any() or not valid_seeds:
        return "nothing"
    searched = trials[trials["state"] == VALID]["optimizer"].nunique() == len(optimizers)
    finished = int((seeds["status"] != "failed").sum()) >= sum(map(extent.retraining_runs, optimizers))
    return "done" if searched and not _lacks_trials(extent, trials) and finished else "partly"


def _lacks_trials(extent: Extent, trials: pd.DataFrame) -> bool:
    """Whether budgets were not equal."""
    counts = trials["optimizer"].value_counts()
    return any(counts.get(name, 0) < extent.trials(name) for name in extent.config.optimizers)


def _count(states: pd.Series) -> dict[str, int]:
    return {str(state): int(n) for state, n in states.value_counts().items()}


def numbers(rows: pd.DataFrame, column: str) -> pd.Series:
    """Those that there are."""
    return pd.to_numeric(rows[column], errors="coerce").dropna() if column in rows else pd.Series(dtype=float)


def _described(rows: pd.DataFrame, metric: str, mode: str) -> dict[str, float | None] | None:
    """Median over seeds, in which diverged runs are worse than all others, none where it is one of them; mean and
    sample standard deviation where no run diverged."""
    values = numbers(rows, metric)
    lost = rows["status"].reindex(values.index) == "diverged"
    if values.empty:
        return None
    median = float(values.mask(lost, math.inf if mode == "min" else -math.inf).median())
    described = {"mean": None, "sd": None} if lost.any() else _mean_sd(values)
    return {**(described or {}), "median": median if math.isfinite(median) else None}


def _mean_sd(values: pd.Series) -> dict[str, float | None] | None:
    """The latter with n - 1."""
    if values.empty:
        return None
    return {"mean": float(values.mean()), "sd": float(values.std(ddof=1)) if len(values) > 1 else None}


def print_table(summary: dict[str, Any], config: Config, console: Console) -> None:
    """The optimizers, one per row; best of its kind is for the report to say."""
    from tuner.comparison.comparison import shared
    from tuner.reporting.leaderboard import step_head

    shown = next((list(entry["metrics"]) for entry in summary["optimizers"]), [])
    largest = max((size for entry in summary["optimizers"] for size in entry["cohort"].values()), default=1)
    cohorts = largest > 1
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    step = step_head(shared=shared(config, largest))
    for column in ("optimizer", *shown, step, *([COHORT] if cohorts else []), "diverged", "at boundary"):
        table.add_column(Text(column), no_wrap=True)
    studies = config.search.studies
    best = "best hyperparameters" if studies == 1 else f"hyperparameters of the best of {studies} studies"
    table.add_column(best, overflow="fold")
    for entry in summary["optimizers"]:
        cells = [
            entry["optimizer"],
            *(_plus_minus(entry["metrics"][metric]) for metric in shown),
            _plus_minus(entry["step_ms"], 3),
            *([f"{entry['cohort']['search']}, {entry['cohort']['retrain']}"] if cohorts else []),
            _diverged(entry),
            line(", ".join(entry["at_boundary"]) or "-"),
            _best(entry),
        ]
        table.add_row(*map(Text, cells))  # text that looks like rich's markup is none
    console.print(table)


def _best(entry: dict[str, Any]) -> str:
    if entry["hp"] is None:
        return "none was valid" if entry["n_trials"] else "not searched yet"
    return hp_text(entry["hp"]) or "nothing searched"


def setting(summary: dict[str, Any], config: Config) -> str:
    """What was trained, in a line: task, preset, network, data."""
    arguments = {name: value for name, value in config.task.args.items() if not isinstance(value, dict | None)}
    parts = [f"{summary['task']}, preset {summary['preset']}" + (f" ({hp_text(arguments)})" if arguments else "")]
    if summary["parameters"] is not None:
        parts.append(f"{summary['parameters']:,} parameters")
    if summary["data"] is not None:
        rows = ", ".join(f"{split} {count:,}" for split, count in summary["data"].get("rows", {}).items())
        parts.append(f"{summary['data'].get('name', 'data')} ({rows})")
    return line("; ".join(parts))


def _plus_minus(stat: dict[str, float | None] | None, digits: int = 4) -> str:
    if stat is None:
        return "-"
    mean, sd = stat["mean"], stat["sd"]
    if mean is None:
        median = stat.get("median")
        return "median " + ("diverged" if median is None else f"{median:.{digits}g}")
    if sd is not None and sd < 1e-12 * abs(mean):  # rounding
        sd = 0.0
    return f"{mean:.{digits}g}" + (f" ± {sd:.2g}" if sd is not None else "")


def _diverged(entry: dict[str, Any]) -> str:
    parts = [f"{entry['n_diverged']}/{entry['n_trials']} trials"]
    if entry["n_seeds"]:
        parts.append(f"{entry['seeds'].get('diverged', 0)}/{entry['n_seeds']} seeds")
    failed = entry.get("n_failed", 0) + entry["seeds"].get("failed", 0)
    return ", ".join(parts) + (f" ({failed} failed)" if failed else "")
