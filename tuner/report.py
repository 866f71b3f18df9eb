"""`python -m tuner.report RUN...`: which optimizer is better, by how much, how sure, at what cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from tuner.console import completion
from tuner.console.completion import complete
from tuner.console.parsing import Parser, add_volume_flags, run_command
from tuner.errors import DONE, NOTHING, UserError

if TYPE_CHECKING:
    from tuner.comparison.results import Results
    from tuner.store.run import Run


def make_parser() -> Parser:
    parser = Parser("tuner.report", "Compare the optimizers of one or several runs: one self-contained report.html.")
    add = parser.add_argument
    add("runs", type=Path, nargs="+", metavar="RUN", help="run directories, or folders of suites")
    add("--baseline", metavar="NAME", help="what the others are compared with; else as the run declares (adam)")
    add("--metric", metavar="NAME", help="the metric that decides; else as the run declares (its own, on test)")
    add("--out", type=Path, metavar="DIR", help="where to write; else the run, or a new folder beside it")
    shown = parser.add_mutually_exclusive_group()
    for name, what in (("json", "one JSON document"), ("markdown", "Markdown"), ("latex", "a LaTeX table per task")):
        shown.add_argument(f"--{name}", action="store_true", help=f"print {what}, and write nothing")
    lines = "print an optimizer's best configuration as lines of code to paste"
    complete(shown.add_argument("--code", metavar="NAME", help=lines), completion.of_run)
    add_volume_flags(parser, verbose="tracebacks")
    return parser


def main(argv: list[str]) -> int:
    args = make_parser().parse(argv)
    from tuner.store.suites import folder_of_suite, runs_at

    runs = [run for path in args.runs for run in runs_at(path)]
    if args.code is not None:
        print(code(runs, args.code))
        return DONE
    from tuner.comparison.results import compare

    results = compare(runs, args.baseline, args.metric)
    if args.json or args.markdown or args.latex:
        _print(results, "json" if args.json else "markdown" if args.markdown else "latex")
    else:
        from tuner.reporting.files import folder

        declared = args.baseline is None and args.metric is None
        suite = folder_of_suite(args.runs)
        write(results, folder(runs, args.out, declared=declared, suite=suite), quiet=args.quiet)
    return DONE if any((task.comparison.seeds["status"] == "complete").any() for task in results.tasks) else NOTHING


def code(runs: list[Run], optimizer: str) -> str:
    """
    Raises:
        UserError: several runs, or no valid trial of such an optimizer.
    """
    from tuner.training.best import best_of

    if len(runs) > 1:
        raise UserError(f"--code: of one run, got {len(runs)}")
    return best_of(runs[0], optimizer).code()


def _print(results: Results, how: str) -> None:
    from tuner.reporting import as_tables
    from tuner.reporting.as_json import document

    if how == "json":
        print(json.dumps(document(results), indent=2, allow_nan=False))
    else:
        print(as_tables.markdown(results) if how == "markdown" else as_tables.latex(results))


def write(results: Results, path: Path, *, quiet: bool) -> None:
    """report.html, figures/, summary.csv and contrasts.csv into a folder; the verdicts on stdout."""
    from rich.console import Console
    from rich.progress import Progress

    from tuner.reporting.files import write_report
    from tuner.reporting.verdicts import verdicts

    console = Console(stderr=True, quiet=quiet)
    with Progress(console=console, transient=True, disable=quiet or not console.is_terminal) as bar:
        task = bar.add_task("drawing figures", total=None)
        report = write_report(results, path, lambda n, total: bar.update(task, completed=n, total=total))
    for line in verdicts(results):
        print(line)
    print(f"\nreport: {report.page}")
    print(f"files: {path}/ (summary.csv, contrasts.csv, figures/: {report.figures} files)")


if __name__ == "__main__":
    run_command(main)
