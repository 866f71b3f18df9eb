"""The end of a command on a suite shows what its tasks came to: a document for ``--json``, a matrix of verdicts and a
line per optimizer for a person."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tuner.console.end_of_run import TABLE_WIDTH, summarize
from tuner.machine.invocation import command_line
from tuner.suite import SuiteExecuted

if TYPE_CHECKING:
    from tuner.comparison.results import Results


def present(done: SuiteExecuted, *, as_json: bool) -> str:
    """Print results and next commands on stdout; how complete what the command was about is."""
    suite, results = done.suite, done.results
    tasks = {entry: summarize(run, done.configs.get(entry) or run.config()) for entry, run in suite.runs.items()}
    of_command = [tasks[entry]["status"] for entry in done.configs]
    status = complete(of_command, some_failed=bool(done.failed))
    if as_json:
        _add_verdicts(tasks, done)
        document = {"schema_version": 1, "suite": suite.name, "folder": str(suite.path), "status": status,
                    "failed": done.failed, "tasks": tasks, "report": done.report and str(done.report)}  # fmt: skip
        print(json.dumps(document, indent=2))
        return status
    console = Console(highlight=False, width=TABLE_WIDTH)
    with console.capture() as captured:
        console.print(_table(tasks, results))
    print("\n" + "\n".join(line.rstrip() for line in captured.get().splitlines()))
    if results is not None:
        from tuner.reporting.subject import answer_is_about
        from tuner.reporting.verdicts import overall, verdict

        whole = [overall(results, name) for name in results.optimizers] if results.across else []
        sentences = whole or [verdict(task, name) for task in results.tasks for name in task.summary["optimizer"]]
        print("\n" + "\n".join([*answer_is_about(results), *sentences]))
    for entry, why in done.failed.items():
        print(f"{entry}: not trained ({why})")
    print(f"files: {suite.path}/ ({', '.join(sorted(path.name for path in suite.path.iterdir()))})")
    if done.report:
        print(f"report: {done.report}")
    print("next:")
    for command, what in _next_commands(done, tasks):
        print(f"  {command}   # {what}")
    return status


def complete(states: list[str], *, some_failed: bool) -> str:
    """ "done", "partly" or "nothing", of tasks together."""
    if all(state == "nothing" for state in states):
        return "nothing"
    return "done" if not some_failed and all(state == "done" for state in states) else "partly"


def _add_verdicts(tasks: dict[str, Any], done: SuiteExecuted) -> None:
    by_path = {task.comparison.sources[0].run.path: task for task in (done.results.tasks if done.results else ())}
    for entry, summary in tasks.items():
        task = by_path.get(done.suite.runs[entry].path)
        summary["about"] = task and task.about
        for optimizer in summary["optimizers"]:
            optimizer["verdict"] = task and task.verdict(optimizer["optimizer"])


def _table(tasks: dict[str, Any], results: Results | None) -> Table:
    """A task per row, a verdict per optimizer, all of them as one family; what is trained, where there is none yet."""
    names = list(dict.fromkeys(each["optimizer"] for summary in tasks.values() for each in summary["optimizers"]))
    words = verdict_words(results) if results is not None else {}
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for column in ("task", "runs", *names):
        table.add_column(Text(column), no_wrap=True)
    for entry, summary in tasks.items():
        searched = sum(each["n_trials"] for each in summary["optimizers"])
        retrained = sum(each["n_seeds"] for each in summary["optimizers"])
        of_task = words.get(summary["run"], {})
        table.add_row(entry, f"{searched} + {retrained}", *(Text(of_task.get(name, "-")) for name in names))
    return table


def verdict_words(results: Results) -> dict[str, dict[str, str]]:
    """By run directory and optimizer, as the page's matrix has them."""
    from tuner.reporting.matrix import words

    return {
        str(task.comparison.sources[0].run.path): dict(zip(results.optimizers, column, strict=True))
        for task, column in zip(results.tasks, zip(*words(results), strict=True), strict=True)
    }


def _next_commands(done: SuiteExecuted, tasks: dict[str, Any]) -> list[tuple[str, str]]:
    path = done.suite.path
    commands = []
    if any(summary["status"] != "done" for summary in tasks.values()):
        commands.append((command_line("tuner.search", "--resume", path), "what is still missing"))
    anew = "the same with another --baseline or --metric, or with other runs"
    if done.results is not None:
        what = anew if done.report else "the answer, with figures, as one page"
        commands.append((command_line("tuner.report", path), what))
    commands.append(
        (command_line("tuner.search", "--resume", path, "--add-optimizer", "NAME"), "one more optimizer on every task")
    )
    return commands
