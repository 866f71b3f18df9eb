"""Looks at a run: what they decide, how the decision reads, and that what stopped is not said to be missing."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from tests.support.made_runs import make_run
from tuner.comparison.looks import decided
from tuner.comparison.results import compare
from tuner.console.end_of_run import summarize
from tuner.console.status_view import describe, lines
from tuner.execute import resume
from tuner.planning.looking import Looking
from tuner.reporting.as_json import document
from tuner.reporting.as_tables import latex
from tuner.reporting.looks import plan, rows
from tuner.reporting.verdicts import verdict
from tuner.store.extent import Extent
from tuner.store.run import Run
from tuner.store.seed_rows import Retraining

EFFECTS = {"adam": 0.0, "sgdm": 0.6, "adamw": 0.0}
UNTIL = ["report.until=decided", "report.baseline=adam", "report.margin.loss=0.2"]


def looked_at(run: Run) -> Run:
    """The run as its looks leave it: without the runs that they made needless."""
    config = run.config()
    looking = Looking(config, lambda units: decided(run, units), run.path)
    while looking.take():
        pass
    extent = Extent.of(config, run.path)
    rows = [(row, Retraining.of(row)) for row in run.seed_rows()]
    kept = [row for row, of in rows if extent.includes(of.optimizer, of.study, of.declared_seed)]
    run.write_seeds(kept, config.hyperparameters)
    trials = [row for row in run.trial_rows() if extent.includes(row["optimizer"], int(row["study"]))]
    run.write_trials(trials, config.hyperparameters)
    best = run.best()
    for name, entry in best["optimizers"].items():
        entry["studies"] = entry["studies"][: extent.studies(name)]
    run.write_best(best)
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    path = tmp_path_factory.mktemp("looks") / "run"
    settings = [*UNTIL, "report.looks=[3, 6, 8]"]
    return looked_at(make_run(path, effects=EFFECTS, studies=8, seeds=2, trials=4, settings=settings, draw=3))


def test_what_is_decided_stops(run: Run) -> None:
    content = json.loads((run.path / "looks.json").read_text())
    assert content["looks"][0] == {"units": 3, "decided": {"sgdm": "worse"}}
    assert content["stopped"] == {"sgdm": 3, "adamw": 6, "adam": 6}
    studies = run.seeds().groupby("optimizer")["study"].nunique().to_dict()
    assert studies == {"adam": 6, "adamw": 6, "sgdm": 3}


def test_a_look_sees_its_own_units_only(run: Run) -> None:
    assert decided(run, 3) == {"sgdm": "worse"}
    assert set(decided(run, 6)) == {"sgdm", "adamw"}


def test_the_sentence_says_when_it_was_decided(run: Run) -> None:
    (task,) = compare([run]).tasks
    assert "; decided at look 1 of 3, after 3 of 8 studies" in verdict(task, "sgdm")
    assert "group-sequential t-test over only 3 studies" in verdict(task, "sgdm")
    assert "; decided at look 2 of 3, after 6 of 8 studies" in verdict(task, "adamw")
    assert task.verdict("adamw") == "equivalent"
    assert "two one-sided group-sequential t-tests over 6 studies" in verdict(task, "adamw")
    assert "levels; group-sequential t-test against adam}" in latex(compare([run]))
    assert (
        "of what the last look would have taken, 36 of 96 trials and 18 of 48 retraining runs"
        in plan(task.looking).lower()
    )


def test_statistics_and_boundaries_are_those_of_the_looks(run: Run) -> None:
    (task,) = compare([run]).tasks
    table = {(row["optimizer"], row["look"]): row for row in rows(task)}
    assert [key for key in table if key[0] == "adamw"] == [("adamw", 1), ("adamw", 2)]
    first = table["sgdm", 1]
    assert abs(first["t"]) >= first["boundary"] and first["decision"] == "worse" and first["n"] == 3
    pairs = task.contrast("adamw").course.d
    assert table["adamw", 2]["t"] == pytest.approx(math.sqrt(6) * pairs.mean() / pairs.std(ddof=1))
    low, high = task.contrast("sgdm").interval
    assert low > 0 and high > low
    content = document(compare([run]))["tasks"][0]
    assert content["looks"]["stopped"] == {"sgdm": 3, "adamw": 6, "adam": 6}
    assert len(content["looks"]["contrasts"]) == 3
    json.dumps(content, allow_nan=False)


def test_what_looks_decided_is_not_said_of_a_comparison_that_was_not_declared(run: Run) -> None:
    (task,) = compare([run], metric="val_loss").tasks
    assert {row["decision"] for row in rows(task)} == {"-"}


def test_what_stopped_is_not_missing(run: Run) -> None:
    config = run.config()
    run.write_status({"state": "ended", "updated": "2026-01-01T00:00:00+00:00", "progress": []})
    assert summarize(run, config)["status"] == "done"
    status = describe(run)
    assert status["complete"]
    assert "decided after 3 of 8 studies: sgdm worse" in lines(status)
    kinds = {group["kind"] for group in document(compare([run]))["caveats_by_kind"]}
    assert not kinds & {"retraining_incomplete", "search_incomplete", "trials_unequal", "unpaired", "studies_added"}


def test_between_looks_nothing_new_is_said(tmp_path: Path) -> None:
    """A report that is made while the second look's units are under way is that of the first."""
    settings = [*UNTIL, "report.looks=[4, 8]"]
    run = make_run(tmp_path / "run", effects={"adam": 0.0, "adamw": 0.01}, studies=8, seeds=2, trials=3,
                   settings=settings)  # fmt: skip
    before = compare([run]).tasks[0].contrast("adamw")
    assert (before.verdict, before.n) == ("inconclusive", 0) and "first look" in before.reason
    looking = Looking(run.config(), lambda units: {}, run.path)
    looking.take()
    config = run.config()
    first = compare([run]).tasks[0].contrast("adamw")
    assert first.n == 4
    run.write_seeds([row for row in run.seed_rows() if int(row["study"]) < 6], config.hyperparameters)
    again = compare([run]).tasks[0].contrast("adamw")
    assert (again.n, again.p, again.interval) == (first.n, first.p, first.interval)


def test_seeds_are_units_of_one_study(tmp_path: Path) -> None:
    settings = [*UNTIL, "report.looks=[3, 6]"]
    run = looked_at(make_run(tmp_path / "run", effects=EFFECTS, seeds=[5, 3, 9, 1, 7, 2], trials=3, settings=settings))
    log = json.loads((run.path / "looks.json").read_text())
    assert log["unit"] == "seed" and log["stopped"]["sgdm"] in (3, 6)
    kept = [int(row["seed"]) for row in run.seed_rows() if row["optimizer"] == "sgdm"]
    assert sorted(kept) == sorted([5, 3, 9, 1, 7, 2][: log["stopped"]["sgdm"]])
    assert compare([run]).tasks[0].verdict("sgdm") == "worse"


def test_an_open_ended_plan_reads_as_one(tmp_path: Path) -> None:
    settings = [*UNTIL, "report.spending=e_process"]
    run = looked_at(make_run(tmp_path / "run", effects=EFFECTS, studies=12, seeds=2, trials=3, settings=settings))
    (task,) = compare([run]).tasks
    assert task.verdict("sgdm") == "worse"
    assert "e-process of the t-test" in verdict(task, "sgdm") and rows(task) == []
    low, high = task.contrast("sgdm").interval
    assert low > 0 and np.isfinite(high)


def test_diverged_runs_are_looked_at_by_ranks(tmp_path: Path) -> None:
    lost = {"sgdm": [10_000 * study for study in range(12)]}
    run = looked_at(make_run(tmp_path / "run", effects=EFFECTS, studies=12, seeds=2, trials=3, diverged=lost,
                             settings=[*UNTIL, "report.spending=pocock"]))  # fmt: skip
    (task,) = compare([run]).tasks
    assert task.verdict("sgdm") == "worse"
    assert "sequential signed-rank test" in verdict(task, "sgdm")


def test_the_last_look_that_a_command_did_not_come_to_is_taken_by_the_next(tmp_path: Path) -> None:
    settings = [*UNTIL, "report.looks=[3, 8]"]
    run = make_run(tmp_path / "run", effects=EFFECTS, studies=8, seeds=2, trials=4, settings=settings, draw=3)
    looking = Looking(run.config(), lambda units: {}, run.path)
    looking.take()  # and killed when all else was done
    assert len(json.loads((run.path / "looks.json").read_text())["looks"]) == 1
    resume(run.config(), run, lambda event: None, search=True)
    content = json.loads((run.path / "looks.json").read_text())
    assert content == json.loads((looked_at(run).path / "looks.json").read_text())
    assert content["stopped"]["sgdm"] == 3


def test_a_run_of_one_study_beside_a_plan_over_studies_says_what_it_lacks(run: Run, tmp_path: Path) -> None:
    other = make_run(tmp_path / "other", effects={"nesterov": 0.0, "adam": 0.0}, studies=1, seeds=8, trials=4)
    (task,) = compare([run, other]).tasks
    assert "it has 1 of the 3 studies of the first look" in verdict(task, "nesterov")
