"""A run that goes on with one more optimizer: what was there stays, and only the new one is searched."""

from __future__ import annotations

from collections.abc import Callable

from tests.support.plans import OPTIMIZERS, finish, new_search
from tests.support.run_configs import run_config
from tuner.config.schema import Config
from tuner.planning.remaining import remaining_work
from tuner.store.run import Run


def test_only_the_new_one_is_searched_and_retrained(run_of: Callable[[Config], Run]) -> None:
    """It has a hyperparameter that the tables had no column for."""
    before = run_config({"one": OPTIMIZERS["one"]}, trials=3, seeds=2)
    after = run_config(OPTIMIZERS, trials=3, seeds=2)
    run = run_of(before)
    finish(new_search(before, run))
    tables = [run.trial_rows(), run.seed_rows()]
    best, curves = run.best_optimizers()["one"], run.curves()
    run.write_config(after)
    work, seeds = remaining_work(after, run, search=True)
    assert (2 * work.trials, 2 * work.seeds, seeds) == (3, 2, [0, 1])
    jobs = finish(new_search(after, run))
    assert [str(job) for job in jobs] == [*(f"two trial {n}" for n in range(3)), "two seed 0", "two seed 1"]
    for rows, old in zip((run.trial_rows(), run.seed_rows()), tables, strict=True):
        assert [row for row in rows if row["optimizer"] == "one"] == old
    assert run.best_optimizers()["one"] == best
    assert set(run.trials().loc[run.trials()["optimizer"] == "two", "hp.kind"]) <= {"a", "b"}
    now = run.curves()
    assert len(now[now["optimizer"] == "one"]) == len(curves) and (now["optimizer"] == "two").any()


def test_both_draw_as_if_they_had_been_searched_together(run_of: Callable[[Config], Run]) -> None:
    before = run_config({"one": OPTIMIZERS["one"]}, trials=3, seeds=1)
    after = run_config(OPTIMIZERS, trials=3, seeds=1)
    added, together = run_of(before), run_of(after)
    finish(new_search(before, added))
    added.write_config(after)
    finish(new_search(after, added))
    finish(new_search(after, together))
    key = ["optimizer", "trial"]
    tables = [run.trials().set_index(key).sort_index()[["hp.lr", "hp.kind"]] for run in (added, together)]
    assert tables[0].equals(tables[1])
