"""The results are written as HTML that a notebook shows below a cell: the verdicts, then a table per task.

No torch, no ray.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from tuner.comparison.results import Results, TaskResults
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
    lines = [_row("th", [head[index] for index in shown])]
    lines += [_row("td", [row[index].text for index in shown]) for row in rows]
    return f"<table><caption>{escape(task.comparison.task)}</caption>{''.join(lines)}</table>"


def _row(tag: str, texts: Iterable[str]) -> str:
    cells = (f'<{tag} style="text-align: left">{escape(text)}</{tag}>' for text in texts)
    return f"<tr>{''.join(cells)}</tr>"
