"""The results are written as tables for papers: Markdown and LaTeX. No torch, no ray."""

from __future__ import annotations

from tuner.analysis.rules import TESTS
from tuner.comparison.results import Results
from tuner.comparison.task_results import TaskResults
from tuner.reporting.caveats import caveat_sentences
from tuner.reporting.leaderboard import (
    counted,
    difference,
    leaderboard,
    metric_heads,
    step_head,
    step_time,
    typical_and_interval,
)
from tuner.reporting.looks import test_name
from tuner.reporting.numbers import percent
from tuner.reporting.subject import answer_is_about, subject
from tuner.reporting.verdicts import overall, verdict
from tuner.text import number, p_value

LATEX = {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
         "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
         "|": r"\textbar{}"}  # fmt: skip


def markdown(results: Results) -> str:
    """What the answer is about, the verdicts, a table per task, and the caveats."""
    parts = [_escaped_markdown(text) + "\n" for text in answer_is_about(results)]
    for task in results.tasks:
        head, cells = leaderboard(task)
        rows = [[cell.text for cell in row] for row in cells]
        parts.append(f"## {_escaped_markdown(task.comparison.task)}\n")
        parts += [f"- {_escaped_markdown(verdict(task, row[0]))}" for row in rows]
        lines = [head, ["---"] * len(head), *rows]
        parts.append("\n" + "\n".join("| " + " | ".join(map(_escaped_markdown, line)) + " |" for line in lines) + "\n")
    if results.across is not None:
        parts.append("## Over the tasks\n")
        parts += [f"- {_escaped_markdown(overall(results, name))}" for name in results.optimizers]
        parts.append("")
    if caveats := caveat_sentences(results):
        parts += ["## Caveats\n", *(f"- {_escaped_markdown(text)}" for text in caveats)]
    return "\n".join(parts)


def _escaped_markdown(text: str) -> str:
    text = " ".join(text.split())
    for character in "\\`*_<>|#[]":
        text = text.replace(character, "\\" + character)
    return "---" if text == "---" else text


def latex(results: Results) -> str:
    """A table per task, of the booktabs package."""
    return "\n\n".join(_latex_table(task) for task in results.tasks)


def _latex_table(task: TaskResults) -> str:
    comparison = task.comparison
    tests = list(dict.fromkeys(map(test_name, task.primary_contrasts))) or [TESTS[comparison.config.report.test]]
    head = ["Optimizer", metric_heads(task)[0], "Difference", "p (corrected)", "$d_z$", "Verdict",
            step_head(shared=comparison.shared)]  # fmt: skip
    lines = []
    for row in task.summary.to_dict("records"):
        contrast = task.contrast(row["optimizer"])
        p = p_value(contrast.p).removeprefix("p ").removeprefix("= ") if contrast else "-"
        cells = [row["optimizer"], typical_and_interval(task, row), difference(contrast).text if contrast else "-", p,
                 number(contrast.d_z, 3) if contrast else "-",
                 task.standing(row["optimizer"]), step_time(task, row).text]  # fmt: skip
        lines.append(" & ".join(map(_escaped_latex, cells)) + r" \\")
    level = percent(1 - comparison.config.report.alpha)
    ranks = ", by ranks where runs diverged" * (task.typical == "median")
    caption = (f"{comparison.task}, {subject(task)}: {task.typical} {comparison.metric} over {counted(task)} with its "
               f"own {level} interval; differences with intervals at their Holm-corrected levels; "
               f"{' or '.join(tests)} against {comparison.baseline}{ranks}")  # fmt: skip
    return "\n".join([
        r"\begin{table}", r"  \centering", rf"  \caption{{{_escaped_latex(caption)}}}",
        r"  \begin{tabular}{lllllll}", r"    \toprule",
        "    " + " & ".join([*map(_escaped_latex, head[:4]), head[4], *map(_escaped_latex, head[5:])]) + r" \\",
        r"    \midrule", *("    " + line for line in lines), r"    \bottomrule", r"  \end{tabular}", r"\end{table}",
    ])  # fmt: skip


def _escaped_latex(text: str) -> str:
    return "".join(LATEX.get(character, character) for character in " ".join(text.split()))
