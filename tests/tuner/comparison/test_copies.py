"""What was borrowed counts once where its lender is compared as well."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.edited_runs import edit_seeds, where
from tests.support.made_runs import SHA, make_run
from tuner.comparison.results import compare
from tuner.config.layers import resolve
from tuner.machine.code import identity
from tuner.planning.borrowing import borrowed, end_without_work, write
from tuner.store.run import Run


@pytest.fixture
def lender(tmp_path: Path) -> Run:
    return make_run(tmp_path / "lender", effects={"sgdm": 0.02, "adam": 0.0}, seeds=2, studies=3, trials=3)


def borrower(lender: Run, path: Path) -> Run:
    """Of all that the lender has."""
    flags = {"task.name": "mnist1d", "search.optimizers": ["adam"], "search.trials": 3, "search.studies": 3}
    config = resolve(flags | {"retrain.seeds": 2})
    found = borrowed(config, [lender], {"sha256": SHA}, identity(config))
    run = Run.create(path, found.config)
    run.code = identity(config)
    write(run, found.config, found.loans)
    end_without_work(run, found.config, lender.env()["data"], lender)
    return run


@pytest.mark.parametrize("lender_first", [True, False])
def test_a_borrowed_optimizer_is_not_held_against_itself(lender: Run, tmp_path: Path, lender_first: bool) -> None:
    copy = borrower(lender, tmp_path / "copy")
    (task,) = compare([lender, copy] if lender_first else [copy, lender]).tasks
    assert sorted(task.comparison.optimizers) == ["adam", "sgdm"]
    (contrast,) = task.primary_contrasts
    (alone,) = compare([lender]).tasks[0].primary_contrasts
    assert contrast == alone
    assert f"adam, sgdm: borrowed by {copy.path}, and counted once." in [
        ", ".join(sorted(note.partition(":")[0].split(", "))) + note[note.index(":") :]
        for note in task.comparison.notes
    ]
    assert not any("does not know" in note for note in task.comparison.notes)


def test_of_two_that_have_borrowed_the_same_the_first_counts(lender: Run, tmp_path: Path) -> None:
    one, two = (borrower(lender, tmp_path / name) for name in ("one", "two"))
    (task,) = compare([one, two]).tasks
    assert sorted(task.comparison.optimizers) == ["adam", "sgdm"]
    assert list(task.comparison.borrowed) == [str(lender.path)]


def test_a_lender_that_has_more_by_now_is_the_one_that_counts(lender: Run, tmp_path: Path) -> None:
    copy = borrower(lender, tmp_path / "copy")
    edit_seeds(copy, lambda row: None if row["seed"] == "1" else row)
    (task,) = compare([copy, lender]).tasks
    assert sorted(task.comparison.optimizers) == ["adam", "sgdm"]
    assert (task.comparison.seeds["seed"] == 1).sum() == 2


def test_a_lender_that_has_other_values_by_now_is_another(lender: Run, tmp_path: Path) -> None:
    copy = borrower(lender, tmp_path / "copy")
    edit_seeds(lender, where("adam", "1", test_loss="9.5"))
    (task,) = compare([lender, copy]).tasks
    assert task.comparison.optimizers == ["sgdm", "adam", "adam@copy"]


def test_what_two_runs_did_themselves_are_two(lender: Run, tmp_path: Path) -> None:
    other = make_run(tmp_path / "other", effects={"sgdm": 0.02, "adam": 0.0}, seeds=2, studies=3, trials=3)
    (task,) = compare([lender, other]).tasks
    assert len(task.comparison.optimizers) == 4
