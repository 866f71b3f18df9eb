"""Retraining a run: what is missing is done, what is there stays."""

from __future__ import annotations

import json

import pytest

from tests.support.plans import OPTIMIZERS, config, ended, finish, more, new_search, next_job
from tuner import execute
from tuner.console.terminal import Terminal, conclude
from tuner.store.run import Run


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
    for name in ("preflight", "run_plan"):
        monkeypatch.setattr(execute, name, lambda *args, **kwargs: pytest.fail("there is nothing to do"))
    terminal = Terminal(quiet=True)
    result = execute.resume(config(), run, terminal, search=search)
    assert conclude(result, terminal, as_json=False) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in OPTIMIZERS)


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
