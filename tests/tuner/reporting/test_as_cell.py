"""Below a notebook's cell: the verdicts, then the leaderboard's columns that fit; nothing that is not escaped."""

from __future__ import annotations

import re
from html import escape
from pathlib import Path

import tuner
from tests.support.made_runs import make_run
from tuner.comparison.results import compare
from tuner.reporting.as_cell import REPORT_ALONE, cell, table
from tuner.reporting.leaderboard import leaderboard
from tuner.reporting.verdicts import verdicts


def test_verdicts_then_a_table_per_task(tmp_path: Path) -> None:
    effects = {"adam": 0.0, "sgd": 0.1}
    results = compare(
        [make_run(tmp_path / task, task, effects, seeds=5, trials=4) for task in ("mnist1d", "tabular_mlp")]
    )
    html = cell(results)
    said = re.findall("<p>([^<]*)</p>", html)
    assert said == [escape(sentence) for sentence in verdicts(results) if sentence]
    tables = html.split("<table>")[1:]
    assert [re.findall("<caption>(.*)</caption>", text) for text in tables] == [["mnist1d"], ["tabular_mlp"]]
    for text, task in zip(tables, results.tasks, strict=True):
        head, rows = leaderboard(task)
        shown = [index for index, name in enumerate(head) if name not in REPORT_ALONE]
        assert len(shown) == len(head) - len(REPORT_ALONE)
        assert re.findall("<th[^>]*>([^<]*)", text) == [head[index] for index in shown]
        assert re.findall("<td[^>]*>([^<]*)", text) == [row[index].text for row in rows for index in shown]


def test_names_are_escaped_and_empty_cells_kept() -> None:
    assert table([["<b>&", ""]], caption="a<b") == (
        '<table><caption>a&lt;b</caption><tr><td style="text-align: left">&lt;b&gt;&amp;</td>'
        '<td style="text-align: left"></td></tr></table>'
    )


def test_what_cannot_be_compared_says_why(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "mnist1d", {"adam": 0.0, "sgd": 0.1}, seeds=5, trials=4)
    shown = tuner.open(run.path, baseline="adma")
    assert re.fullmatch("<p>[^<]*adma[^<]*</p>", shown._repr_html_())
    assert "adma" in repr(shown).splitlines()[1]
