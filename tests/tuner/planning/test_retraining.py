"""Retraining a run: what is missing is done, what is there stays."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.support.plans import OPTIMIZERS, config, ended, finish, more, new_search, next_job
from tuner import events, execute
from tuner.config.changes import revise
from tuner.config.schema import Config
from tuner.console.terminal import Terminal, conclude, sentence_of
from tuner.jobs import Job, Outcome
from tuner.store.run import Run
from tuner.trackers.tracker import Tracker


def test_retraining_does_the_missing_cells_and_redoes_the_failed(run: Run) -> None:
    first = finish(new_search(config(), run), lambda job: "failed" if str(job) == "two seed 1" else "complete")
    before = run.seed_rows()
    jobs = finish(more(config(seeds=3), run))
    assert list(map(str, jobs)) == ["two seed 1", "one seed 2", "two seed 2"]
    assert {str(job.hp) for job in jobs} == {str(job.hp) for job in first if job.phase == "retrain"}
    rows = run.seeds()
    assert list(zip(rows["optimizer"], rows["seed"], strict=True)) == [(o, s) for o in OPTIMIZERS for s in range(3)]
    assert rows["status"].unique().tolist() == ["complete"]
    assert all(row in run.seed_rows() for row in before if row["status"] == "complete")


@pytest.mark.parametrize("search", [False, True])
def test_with_nothing_missing_neither_data_is_loaded_nor_ray_started(
    run: Run, search: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    finish(new_search(config(), run))
    run.write_env({})
    for name in ("preflight", "run_plans"):
        monkeypatch.setattr(execute, name, lambda *args, **kwargs: pytest.fail("there is nothing to do"))
    terminal = Terminal(quiet=True)
    result = execute.resume(config(), run, terminal, search=search)
    assert conclude(result, terminal, as_json=False) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in OPTIMIZERS)


def test_what_cannot_be_written_at_the_end_is_not_done(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    finish(new_search(config(), run))
    run.write_env({})
    (run.path / "figures").write_text("mine")
    terminal = Terminal(quiet=True)
    assert conclude(execute.resume(config(), run, terminal, search=True, report=True), terminal, as_json=True) == 3
    out, err = capsys.readouterr()
    assert json.loads(out)["report"] is None and err == f"{run.path}/figures: cannot be written (File exists)\n"


@pytest.mark.parametrize("times", [1, 3])
def test_rows_of_earlier_seeds_stay_to_the_byte(run: Run, times: int) -> None:
    finish(new_search(config(seeds=1), run))
    lines = (run.path / "seeds.csv").read_text().splitlines()
    for extra in range(times):
        finish(more(config(seeds=2 + extra), run))
    assert set(lines) <= set((run.path / "seeds.csv").read_text().splitlines())


def test_retraining_a_complete_run_does_nothing(run: Run) -> None:
    finish(new_search(config(), run))
    before = {path.name: path.read_bytes() for path in run.path.iterdir() if path.is_file()}
    assert finish(more(config(), run)) == []
    assert {path.name: path.read_bytes() for path in run.path.iterdir() if path.is_file()} == before


def test_retraining_skips_an_optimizer_that_has_no_best(run: Run) -> None:
    finish(new_search(config(seeds=1), run), lambda job: "diverged" if job.optimizer == "one" else "complete")
    assert list(map(str, finish(more(config(seeds=2), run)))) == ["two seed 1"]


def test_retraining_skips_an_optimizer_whose_search_never_ended(run: Run) -> None:
    finish(new_search(config(seeds=1), run))
    best = json.loads((run.path / "best.json").read_text())
    del best["optimizers"]["one"], best["schema_version"]
    run.write_best(best)
    assert list(map(str, finish(more(config(seeds=2), run)))) == ["two seed 1"]


def test_an_interrupted_retraining_is_taken_up_where_it_stopped(run: Run) -> None:
    finish(new_search(config(seeds=1), run))
    plan = more(config(seeds=3), run)
    job = next_job(plan)
    assert job
    plan.record([(job, ended(job))])
    next_job(plan)
    plan.close()
    assert list(map(str, finish(more(config(seeds=3), run)))) == ["two seed 1", "one seed 2", "two seed 2"]


# Weights.


def with_weights(seeds: int = 2) -> Config:
    return revise(config(seeds=seeds), {"retrain.keep_weights": True})


def test_weights_are_written_before_the_row_that_says_the_run_is_done(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*args: Any) -> None:
        raise KeyboardInterrupt

    finish(new_search(config(seeds=1), run))
    plan = more(with_weights(), run)
    job = next_job(plan)
    assert job
    monkeypatch.setattr(Run, "write_seeds", killed)
    with pytest.raises(KeyboardInterrupt):
        plan.record([(job, replace(ended(job), weights=b"weights"))])
    assert run.weights.read(job.optimizer, job.seed) == b"weights"
    monkeypatch.undo()
    assert job in finish(more(config(), run))  # it is done again, and keeps none: those of before are not its own
    assert run.weights.read(job.optimizer, job.seed) is None


def test_a_tracker_that_is_told_late_does_not_hold_weights(run: Run) -> None:
    told: list[tuple[Job, Outcome]] = []
    finish(new_search(config(seeds=1), run))
    plan = more(with_weights(), run)
    plan.tracker = cast(Tracker, SimpleNamespace(record=lambda *of: told.append(of)))
    job = next_job(plan)
    assert job
    outcome = ended(job)
    plan.record([(job, replace(outcome, weights=b"weights"))])
    assert told == [(job, outcome)]


@pytest.mark.parametrize(
    ("without", "said"),
    [
        (4, ["4 earlier retraining runs were made without --keep-weights, and stay so"]),
        (1, ["1 earlier retraining run was made without --keep-weights, and stays so"]),
        (0, []),
    ],
)
def test_how_many_runs_of_before_have_no_weights_is_said_where_weights_are_to_be_kept(
    run: Run, without: int, said: list[str]
) -> None:
    finish(new_search(config(), run))
    run.write_env({})
    for row in run.seed_rows()[without:]:
        run.weights.write(row["optimizer"], int(row["seed"]), b"weights")
    told: list[events.Event] = []
    execute.resume(config(), run, told.append, search=False)
    assert told == []
    execute.resume(with_weights(), run, told.append, search=False)
    assert [(type(event), sentence_of(event)) for event in told] == [(events.WeightsRemark, text) for text in said]
