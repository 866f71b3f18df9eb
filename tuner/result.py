"""A result is what a program gets of runs: tables, verdicts, winners, a report."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from tuner.errors import MachineError, UserError
from tuner.store.run import Run
from tuner.store.suites import folder_of_suite, runs_at
from tuner.text import refusal

if TYPE_CHECKING:
    from torch import nn

    from tuner.comparison.results import Results
    from tuner.training.best import Best

VERDICT_COLUMNS = ["task", "optimizer", "baseline", "metric", "about", "unit", "n", "verdict", "sentence"]


class Result:
    """What one or several runs come to. Files are read when they are first asked for.

    Args:
        paths: run directories, or folders of suites.
        baseline, metric: in place of those that the runs declare.

    Attributes:
        runs: the runs.

    Raises:
        UserError: there is no such run. What is asked of a result raises it, too: of a run that nothing came of, say.
    """

    def __init__(
        self, paths: Sequence[str | os.PathLike[str]], baseline: str | None = None, metric: str | None = None
    ) -> None:
        if not paths:
            raise UserError("no run is named")
        self.runs = [run for path in paths for run in runs_at(Path(path))]
        self._suite = folder_of_suite([Path(path) for path in paths])
        self._baseline, self._metric = baseline, metric

    @property
    def paths(self) -> list[Path]:
        """The run directories."""
        return [run.path for run in self.runs]

    @property
    def path(self) -> Path:
        """That of a single run, or of a suite.

        Raises:
            UserError: there are several.
        """
        return self._suite or self._single("path").path

    @cached_property
    def _results(self) -> Results:
        from tuner.comparison.results import compare

        return compare(self.runs, self._baseline, self._metric)

    @cached_property
    def verdicts(self) -> pd.DataFrame:
        """A row per optimizer but the baseline, with the verdict in a word and in a sentence, and what it is about:
        "optimizers", over n studies, or "configurations", over n seeds."""
        from tuner.reporting.verdicts import verdict

        rows = [
            [
                c.task,
                contrast.optimizer,
                c.baseline,
                c.metric,
                contrast.about,
                contrast.unit,
                contrast.n,
                contrast.verdict,
                verdict(task, contrast.optimizer),
            ]
            for task in self._results.tasks
            for c in [task.comparison]
            for contrast in task.primary_contrasts
        ]
        return pd.DataFrame(rows, columns=VERDICT_COLUMNS)

    @property
    def contrasts(self) -> pd.DataFrame:
        """A row per metric, clock and optimizer other than the baseline, as in contrasts.csv."""
        return self._results.contrasts

    @property
    def summary(self) -> pd.DataFrame:
        """A row per optimizer, the best first, as in summary.csv."""
        return self._results.summary

    @cached_property
    def trials(self) -> pd.DataFrame:
        """A row per trial of the searches, as in trials.csv, its task before it."""
        return self._stacked(Run.trials)

    @cached_property
    def seeds(self) -> pd.DataFrame:
        """A row per retraining run, as in seeds.csv, its task before it."""
        return self._stacked(Run.seeds)

    @cached_property
    def curves(self) -> pd.DataFrame:
        """A row per evaluation, split and metric of every training run, as in curves.parquet, its task before it."""
        return self._stacked(Run.curves)

    @property
    def best(self) -> dict[str, Best]:
        """The winner of each optimizer's search, of a single run; without those of which no trial was valid."""
        from tuner.training.best import best_of

        run = self._single("best")
        return {name: best_of(run, name) for name, entry in run.best_optimizers().items() if entry["hp"] is not None}

    def model(self, optimizer: str, seed: int) -> nn.Module:
        """The network of a retraining run, of a single run that kept its weights (``keep_weights=True``), in eval mode.

        Raises:
            UserError: there is no such run, or its weights were not kept.
        """
        from tuner.training.saved_model import load_model

        return load_model(self._single("model"), optimizer, seed)

    def report(self, out: str | os.PathLike[str] | None = None) -> Path:
        """Write report.html with its figures and tables; the page.

        Args:
            out: the folder; by default the run, or a new folder beside it where the comparison is another.

        Raises:
            UserError: that is no folder, or not one to write into.
            MachineError: it cannot be written: a full disk, say.
        """
        from tuner.reporting.files import folder, write_report

        declared = self._baseline is None and self._metric is None
        path = folder(self.runs, None if out is None else Path(out), declared=declared, suite=self._suite)
        try:
            return write_report(self._results, path).page
        except OSError as error:
            raise MachineError(refusal(error)) from None

    def to_json(self) -> str:
        """The document that ``tuner.report --json`` prints."""
        from tuner.reporting.as_json import document

        return json.dumps(document(self._results), indent=2, allow_nan=False)

    def _single(self, what: str) -> Run:
        if len(self.runs) > 1:
            raise UserError(f"{what}: is of one run, and there are {len(self.runs)}; open that one alone")
        return self.runs[0]

    def _stacked(self, read: Callable[[Run], pd.DataFrame]) -> pd.DataFrame:
        tables = []
        for run in self.runs:
            table = read(run)
            if "task" not in table:
                table.insert(0, "task", run.config().task.name)
            tables.append(table)
        return pd.concat(tables, ignore_index=True)

    def __repr__(self) -> str:
        from tuner.reporting.verdicts import verdicts

        try:
            sentences = verdicts(self._results)
        except UserError as error:
            sentences = [str(error)]
        return "\n".join([f"Result of {', '.join(map(str, self.paths))}", *sentences])

    def _repr_html_(self) -> str:
        """For a notebook: the verdicts, and what they are about."""
        from tuner.reporting.as_cell import cell, paragraphs

        try:
            return cell(self._results)
        except UserError as error:
            return "".join(paragraphs([str(error)]))
