"""The results are written as HTML that a notebook shows below a cell: the verdicts, then a table per task.

No torch, no ray.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from tuner.comparison.results import Results
from tuner.comparison.task_results import TaskResults
from tuner.reporting.leaderboard import leaderboard
from tuner.reporting.verdicts import verdicts

REPORT_ALONE = ("MB memory", "gradient-equivalents", "at boundary")
"""Columns of the leaderboard that are left to the report."""


def cell(results: Results) -> str:
    """Sentences and tables, without scripts or styles of a page."""
    return "".join([*paragraphs(verdicts(results)), *map(_table, results.tasks)])


def paragraphs(sentences: Iterable[str]) -> list[str]:
    return [f"<p>{escape(sentence)}</p>" for sentence in sentences if sentence]


def _table(task: TaskResults) -> str:
    head, rows = leaderboard(task)
    shown = [index for index, name in enumerate(head) if name not in REPORT_ALONE]
    cells = [[row[index].text for index in shown] for row in rows]
    return table(cells, head=[head[index] for index in shown], caption=task.comparison.task)


def table(rows: Iterable[Iterable[str]], head: Iterable[str] = (), caption: str = "") -> str:
    """With text to the left, which a notebook would put to the right."""
    lines = [_row("th", head), *(_row("td", row) for row in rows)]
    return f"<table><caption>{escape(caption)}</caption>{''.join(lines)}</table>"


def _row(tag: str, texts: Iterable[str]) -> str:
    cells = "".join(f'<{tag} style="text-align: left">{escape(text)}</{tag}>' for text in texts)
    return f"<tr>{cells}</tr>" if cells else ""
