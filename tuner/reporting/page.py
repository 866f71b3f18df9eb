"""report.html holds the results, their figures and where they come from: one page that needs nothing else.

No torch, no ray.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tuner.analysis.rules import TESTS
from tuner.analysis.stats import FEWEST_FOR_BCA
from tuner.comparison.across import FEW_TASKS, IQM_COLUMNS, Across
from tuner.comparison.comparison import Source
from tuner.comparison.results import Results
from tuner.comparison.task_results import TaskResults
from tuner.figures.canvas import colour, dashed
from tuner.reporting import looks, matrix, sensitivity, times
from tuner.reporting.caveats import grouped
from tuner.reporting.drawings import CLOCK_NAMES, Drawing, Drawings, Drawn, is_whole
from tuner.reporting.leaderboard import ORDER, Cell, counted, leaderboard
from tuner.reporting.numbers import number_or_infinity, percent, with_interval
from tuner.reporting.subject import answer_is_about, luck_of_search
from tuner.reporting.verdicts import overall, verdict
from tuner.text import number, p_value

TEMPLATES = Path(__file__).parent / "templates"
MOST_UNFOLDED = 12
MOST_NAMED = 4


def page(results: Results, drawings: Drawings, drawn: Mapping[str, Drawn]) -> str:
    """The HTML.

    Args:
        drawings: of the results.
        drawn: by their names, what of them goes into the page.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shades = {name: _swatch(index) for index, name in enumerate(results.optimizers)}
    tasks = [_task(task, index, drawings.tasks[index], drawn, shades) for index, task in enumerate(results.tasks)]
    return environment.get_template("report.html").render(
        title=_title(results),
        setting=_setting(results),
        css=Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
        script=Markup((TEMPLATES / "report.js").read_text(encoding="utf-8")),
        legend=[{"name": name, "swatch": shades[name]} for name in results.optimizers],
        several=len(tasks) > 1,
        overall=_overall(results),
        matrix=_matrix(results, shades) if len(tasks) > 1 else None,
        lines=[overall(results, name) for name in results.optimizers] if len(tasks) > 1 else [],
        whole=is_whole(results),
        times=times.table(results) if len(tasks) > 1 else None,
        tasks=tasks,
        most_unfolded=MOST_UNFOLDED,
        across=results.across and _across(results.across, drawings.across, drawn, shades),
        sensitivity=sensitivity.section(results, shades),
        sensitivity_figures=_figures(drawings.sensitivity, drawn),
        about=answer_is_about(results),
        caveats=[
            {"text": group.text, "items": group.listed(several=len(tasks) > 1), "tasks": group.tasks}
            for group in grouped(results)
        ],
        method=_method(results),
        runs=[_run(source) for task in results.tasks for source in task.comparison.sources],
    )


def _swatch(index: int) -> dict[str, str]:
    """As an optimizer's lines are."""
    return {"colour": colour(index), "dash": dashed(index)}


def _title(results: Results) -> str:
    names = list(dict.fromkeys(task.comparison.task for task in results.tasks))
    tasks = ", ".join(names) if len(names) <= MOST_NAMED else f"{len(names)} tasks"
    baselines = list(dict.fromkeys(task.comparison.baseline for task in results.tasks))
    others = [name for name in results.optimizers if name not in baselines]
    shown = ", ".join(others) if len(others) < MOST_NAMED else f"{len(others)} optimizers"
    return f"{shown} against {', '.join(baselines)} on {tasks}" if others else f"{', '.join(baselines)} on {tasks}"


def _setting(results: Results) -> str:
    seeds = sorted({int(n) for task in results.tasks for n in task.summary["seeds"]})
    shown = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}" if seeds else "0"
    trials = int(sum(len(task.comparison.trials) for task in results.tasks))
    runs = sum(len(task.comparison.sources) for task in results.tasks)
    return f"{len(results.optimizers)} optimizers, {trials:,} trials, {shown} retraining runs each, from {runs} " + (
        "run" if runs == 1 else "runs"
    )


def _overall(results: Results) -> list[dict[str, Any]]:
    """The verdicts of the first screen."""
    return _verdicts(results.tasks[0]) if len(results.tasks) == 1 else []


def _matrix(results: Results, shades: Mapping[str, Any]) -> dict[str, Any]:
    """Verdicts of optimizers by tasks, as one family; what there is more of goes down the page."""
    tasks = [{"name": task.comparison.task, "swatch": None} for task in results.tasks]
    optimizers = [{"name": name, "swatch": shades[name]} for name in results.optimizers]
    found = matrix.words(results)
    if len(tasks) > len(optimizers):
        head, lines, found, what = optimizers, tasks, [list(column) for column in zip(*found, strict=True)], "task"
    else:
        head, lines, what = tasks, optimizers, "optimizer"
    rows = [{**line, "words": words} for line, words in zip(lines, found, strict=True)]
    return {"what": what, "head": head, "rows": rows, "family": results.family}


def _verdicts(task: TaskResults) -> list[dict[str, Any]]:
    return [{"word": task.standing(name) if task.verdict(name) else None, "sentence": verdict(task, name)}
            for name in task.summary["optimizer"]]  # fmt: skip


def _task(
    task: TaskResults,
    task_index: int,
    parts: Mapping[str, list[Drawing]],
    drawn: Mapping[str, Drawn],
    shades: Mapping[str, Any],
) -> dict[str, Any]:
    return {
        "id": f"task-{task_index + 1}",
        "name": task.comparison.task,
        "verdicts": _verdicts(task),
        "luck": luck_of_search(task),
        "looks": looks.table(task),
        "board": _board(task, shades),
        "figures": {part: _figures(drawings, drawn) for part, drawings in parts.items()},
        "contrasts": _contrasts(task),
    }


def _figures(drawings: Iterable[Drawing], drawn: Mapping[str, Drawn]) -> list[dict[str, Any]]:
    figures = []
    for drawing in drawings:
        image = drawn[drawing.name]
        figures.append({
            "name": drawing.name, "svg": image.svg, "caption": drawing.caption, "file": f"figures/{drawing.name}",
            "hover": json.dumps(image.hover) if image.hover else "",
        })  # fmt: skip
    return figures


def _board(task: TaskResults, shades: Mapping[str, Any]) -> dict[str, Any]:
    """The leaderboard: what is shown of a cell, and what it is sorted by."""
    comparison = task.comparison
    head, rows = leaderboard(task)
    first = "ascending" if comparison.mode(comparison.metric) == "min" else "descending"
    level = percent(1 - comparison.config.report.alpha)
    last = ", diverged runs last," * (task.typical == "median")
    return {
        "task": comparison.task,
        "caption": f"{task.typical.capitalize()} over {counted(task)}{last} with its own {level} "
                   f"interval; differences to {comparison.baseline}, pair by pair, with intervals "
                   "at the levels that they were decided at, after Holm.",
        "head": [{"name": name, "sorted": first if index == 1 else ""} for index, name in enumerate(head)],
        "rows": [
            {"baseline": row[0].text == comparison.baseline, "swatch": shades[row[0].text],
             "cells": [_cell(cell, name) for cell, name in zip(row, head, strict=True)]}
            for row in rows
        ],
    }  # fmt: skip


def _cell(cell: Cell, column: str) -> dict[str, Any]:
    missing = cell.value is None or (isinstance(cell.value, float) and not math.isfinite(cell.value))  # which are last
    wide = column == "tuned hyperparameters"
    verdict = cell.text if column.startswith("verdict on ") and cell.value != ORDER.index("-") else None
    return {"text": cell.text, "value": "" if missing else cell.value, "verdict": verdict, "wide": wide}


def _across(
    across: Across, drawings: list[Drawing], drawn: Mapping[str, Drawn], shades: Mapping[str, Any]
) -> dict[str, Any]:
    scored = f"AlgoPerf score, {CLOCK_NAMES[across.clock]}"
    head = ["optimizer", "mean rank", scored, "interquartile mean", f"difference to {across.baseline}"]
    ranks, nothing = across.ranks.mean(), dict.fromkeys(IQM_COLUMNS, float("nan"))
    means = {row["optimizer"]: row for row in across.interquartile_means.to_dict("records")}
    rows = []
    for name in across.optimizers:
        score, mean = across.scores[across.clock][name], means.get(name, nothing)
        cells = [
            (name, name),
            (number(ranks.get(name), 3), ranks.get(name)),
            (number(score, 3), score),
            (with_interval(mean["iqm"], mean["low"], mean["high"]), mean["iqm"]),
            (
                with_interval(*(mean[key] for key in ("difference", "difference_low", "difference_high"))),
                mean["difference"],
            ),
        ]
        shown = [_cell(Cell(text, value), "") for text, value in cells]
        rows.append({"baseline": name == across.baseline, "swatch": shades[name], "cells": shown})
    caption = f"Over the {len(across.ranks)} tasks that have all optimizers; 1 is the best rank, score and mean."
    columns = [{"name": name, "sorted": ""} for name in head]
    board = {"task": "all tasks", "caption": caption, "head": columns, "rows": rows}
    return {"board": board, "text": across_text(across), "figures": _figures(drawings, drawn)}


def across_text(across: Across) -> str:
    if across.friedman is None:
        return "Friedman's test says nothing here: it needs three optimizers, on two tasks at least."
    statistic, p = across.friedman
    return f"Friedman's test over {len(across.ranks)} tasks: chi-squared {statistic:.3g}, {p_value(p)}."


def _method(results: Results) -> dict[str, Any]:
    """What the paragraphs on the method have to name."""
    rules = {}
    for task in results.tasks:
        comparison, declared = task.comparison, task.comparison.config.report
        margin = comparison.rules(comparison.metric).margin
        size = f"{margin} of {comparison.baseline}'s value" if isinstance(margin, str) else number(margin)
        within = f"differences within {size} do not matter" if margin is not None else "no margin is declared"
        rules[comparison.task] = f"{TESTS[declared.test]} at level {declared.alpha:g}; {within}"
    looked = any(task.looked for task in results.tasks)
    return {"rules": rules, "few": FEW_TASKS, "bca": FEWEST_FOR_BCA, "looks": looked}


CONTRAST_COLUMNS = (
    "metric", "clock", "optimizer", "unit", "n", "seeds", "n_diverged", "mean_difference", "low", "high", "t_low",
    "t_high", "bca_low", "bca_high",
    "median_difference", "median_low", "median_high", "test", "p", "p_t_holm", "p_wilcoxon_holm",
    "p_sign_flip_holm", "d_z",
    "p_better", "wins", "ties", "losses", "margin", "margin_declared", "p_tost", "p_equivalent", "verdict", "declared",
)  # fmt: skip


def _contrasts(task: TaskResults) -> dict[str, Any] | None:
    table = task.contrasts
    columns = [name for name in CONTRAST_COLUMNS if name in table]
    if table.empty:
        return None
    rows = [[number_or_infinity(cell) if isinstance(cell, float) else str(cell) for cell in row]
            for row in table[columns].itertuples(index=False)]  # fmt: skip
    return {"head": columns, "rows": rows}


def _run(source: Source) -> dict[str, Any]:
    env, config = source.env, source.config
    hardware, data = env.get("hardware") or {}, env.get("data") or {}
    git = env.get("git") or {}
    rows = data.get("rows") or {}
    facts = {
        "task": f"{config.task.name}, preset {config.preset}, {config.train.epochs} epochs per trial, "
                f"{config.retrain_epochs} in retraining, batches of {config.train.batch_size}",
        "search": f"{config.search.studies} {'study' if config.search.studies == 1 else 'studies'} per optimizer, "
                  f"{config.search.trials} trials each, {config.search.sampler}, {config.search.scheduler}, "
                  f"seed {config.search.seed}",
        "seeds": ", ".join(map(str, config.retrain.seeds)),
        "data": f"{data['name']} ({', '.join(f'{k} {v:,}' for k, v in rows.items())})" if data.get("name") else None,
        "data source": data.get("source"),
        "data sha256": data.get("sha256"),
        "parameters": f"{env['parameters']:,}" if env.get("parameters") else None,
        "device": ", ".join(hardware.get("gpus") or []) or hardware.get("cpu"),
        "cores": hardware.get("cpus"),
        "memory": f"{hardware['memory_mb']:,} MB" if hardware.get("memory_mb") else None,
        "platform": hardware.get("platform"),
        "versions": ", ".join(f"{k} {v}" for k, v in (env.get("versions") or {}).items() if v),
        "code": f"{git['commit']}{', changed' if git.get('dirty') else ''}" if git.get("commit") else None,
        "started": env.get("started"),
        "command": " ".join(map(str, env["command"])) if env.get("command") else None,
    }  # fmt: skip
    shown = [(key, value) for key, value in facts.items() if value not in (None, "")]
    return {"name": str(source.run.path), "facts": shown}
