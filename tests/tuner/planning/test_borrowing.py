"""What a run borrows from another, and each condition that stands against it. No training."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.support.edited_runs import edit_best, edit_config, edit_env, edit_trials, without
from tests.support.made_runs import SHA, make_run
from tuner.comparison.results import compare
from tuner.config.carried import MODULE
from tuner.config.layers import resolve
from tuner.config.schema import Config
from tuner.console.status_view import describe
from tuner.execute import begun
from tuner.machine.code import Code, identity, mark
from tuner.planning.borrowing import Loans, borrowed, write
from tuner.planning.estimate import Timings
from tuner.planning.remaining import Work, remaining_work
from tuner.reporting.drawings import report_drawings
from tuner.store.run import Run
from tuner.work import RunWork, expectations
from tuner.workers.preflight import PreflightResult

EFFECTS = {"sgdm": 0.02, "adam": 0.0}
DATA = {"sha256": SHA}
SETTINGS = ["search.sampler=random", "search.draws=shared"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(
        tmp_path_factory.mktemp("runs") / "lender", effects=EFFECTS, seeds=2, studies=3, trials=3, settings=SETTINGS
    )


@pytest.fixture
def lender(made: Run, tmp_path: Path) -> Run:
    """Of its own, for a test that changes it."""
    return make_run(tmp_path / "lender", effects=EFFECTS, seeds=2, studies=3, trials=3, settings=SETTINGS)


def asked(*settings: str, optimizers: Any = ("sgd", "adam"), **flags: Any) -> Config:
    same = {"task.name": "mnist1d", "search.trials": 3, "search.studies": 3, "retrain.seeds": 2}
    return resolve(same | {"search.optimizers": list(optimizers)} | flags, [*SETTINGS, *settings])


def loans(config: Config, *lenders: Run, data: Any = None, code: Code | None = None) -> Loans:
    return borrowed(config, lenders, data or DATA, code or identity(config))


def names(found: Loans) -> list[str]:
    return [loan.optimizer for loan in found.loans]


def test_what_the_other_has_is_borrowed_and_what_was_not_asked_for_too(made: Run) -> None:
    found = loans(asked(), made)
    assert (names(found), found.remarks) == (["sgdm", "adam"], [])
    assert list(found.config.optimizers) == ["sgd", "adam", "sgdm"]
    assert found.config.optimizers["sgdm"] == made.config().optimizers["sgdm"]
    assert {loan.code for loan in found.loans} == {""}


def test_the_first_that_has_an_optimizer_lends_it(made: Run, tmp_path: Path) -> None:
    other = make_run(
        tmp_path / "other", effects={"adam": 0.0, "nesterov": 0.0}, seeds=2, studies=3, trials=3, settings=SETTINGS
    )
    found = loans(asked(), other, made)
    assert [(loan.optimizer, loan.lender.path.name) for loan in found.loans] == [
        ("adam", "other"), ("nesterov", "other"), ("sgdm", "lender"),
    ]  # fmt: skip


def test_the_baseline_may_be_a_borrowed_one(made: Run) -> None:
    assert loans(asked(optimizers=["sgd"]), made).config.baseline == "adam"
    declared = asked("report.baseline=sgd", optimizers=["sgd"])
    assert loans(declared, made).config.baseline == "sgd"


def test_classes_of_the_lenders_own_folder_are_found_where_it_is(lender: Run) -> None:
    edit_config(lender, "python_path: []\n", "python_path: [/some/folder]\n")
    assert loans(asked(), lender).config.python_path == ["/some/folder"]
    assert loans(asked(optimizers=["sgdm", "adam"]), lender).config.python_path == []


# Conditions.


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("task.metric=val_acc task.mode=max", "task.metric is 'val_loss' there, 'val_acc' here"),
        ("train.epochs=7 retrain.epochs=20", "train.epochs is 10 there, 7 here"),
        ("train.batch_size=48", "train.batch_size is "),
        ("train.precision=bf16", "train.precision is "),
        ("search.trials=4", "search.trials is 3 there, 4 here"),
        ("search.seed=5", "search.seed is "),
        ("search.studies=4", "search.studies is 3 there, 4 here"),
        ("search.sampler=tpe", "search.sampler is 'random' there, 'tpe' here"),
        ("search.draws=own", "search.draws is 'shared' there, 'own' here"),
        ("search.scheduler=asha", "search.scheduler is 'fifo' there, 'asha' here"),
        ("search.space={train.warmup_epochs: {low: 0.5, high: 1.0}}", "search.space is {} there, "),
        ("retrain.seeds=3", "retrain.seeds are [0, 1] there, [0, 1, 2] here"),
        ("retrain.epochs=7", "retraining is of 10 epochs there, of 7 here"),
        ("search.studies=3 report.until=decided", "a comparison that goes on until it is decided has units of its own"),
    ],
)
def test_a_condition_that_differs_stops_all_and_is_said(made: Run, setting: str, said: str) -> None:
    parts = [setting] if "{" in setting else setting.split()
    keys = {part.partition("=")[0] for part in parts}
    same = {"search.trials": 3, "search.studies": 3, "retrain.seeds": 2}
    flags = {"task.name": "mnist1d", "search.optimizers": ["sgd", "adam"]}
    flags |= {key: value for key, value in same.items() if key not in keys}
    config = resolve(flags, [*SETTINGS, *parts])
    found = loans(config, made)
    assert (found.loans, found.config) == ([], config)
    (remark,) = found.remarks
    assert remark.startswith(f"nothing is borrowed from {made.path}: {said}") and "\n" not in remark


@pytest.mark.parametrize(
    "setting",
    ["task.target=0.25", "report.alpha=0.01", "resources.cohort=1", "faults.retries=0", "retrain.keep_weights=true",
     "train.capture=off"],
)  # fmt: skip
def test_what_is_no_condition_of_training_may_differ(made: Run, setting: str) -> None:
    assert names(loans(asked(setting), made)) == ["sgdm", "adam"]


def test_other_data_stops_it(made: Run) -> None:
    found = loans(asked(), made, data={"sha256": "0" * 64})
    said = f"its data is other (sha256 {SHA[:12]}..., here 000000000000...)"
    assert (names(found), found.remarks) == ([], [f"nothing is borrowed from {made.path}: {said}"])


def test_a_run_that_has_not_loaded_its_data_lends_nothing(lender: Run) -> None:
    edit_env(lender, data=None)
    (remark,) = loans(asked(), lender).remarks
    assert remark.startswith(f"nothing is borrowed from {lender.path}: ")
    (lender.path / "env.json").unlink()
    (remark,) = loans(asked(), lender).remarks
    assert remark.startswith(f"nothing is borrowed from {lender.path}: ")


@pytest.mark.parametrize("part", ["tuner", "torch"])
def test_another_version_stops_it(made: Run, part: str) -> None:
    code = deepcopy(identity(asked()))
    before, code[part]["version"] = code[part]["version"], "99.0"
    (remark,) = loans(asked(), made, code=code).remarks
    assert remark == f"nothing is borrowed from {made.path}: made by {part} {before}, here it is 99.0"


def test_other_code_of_the_same_version_is_marked_and_said(made: Run) -> None:
    code = deepcopy(identity(asked()))
    code["tuner"]["sha256"] = "1" * 64
    found = loans(asked(), made, code=code)
    expected = mark(made.env()["code"])
    assert names(found) == ["sgdm", "adam"] and {loan.code for loan in found.loans} == {expected}
    (remark,) = found.remarks
    assert remark.startswith(f"{made.path}: tuner: ")
    assert remark.endswith(f"; what is borrowed has {expected} in its column code")


def test_runs_of_other_tasks_or_data_sets_lend_nothing_which_is_said_where_there_is_no_other(
    made: Run, tmp_path: Path
) -> None:
    iris = make_run(tmp_path / "iris", "tabular_mlp", EFFECTS, seeds=2, studies=3, trials=3, settings=SETTINGS)
    assert names(loans(asked(), iris, made)) == ["sgdm", "adam"]
    assert loans(asked(), iris, made).remarks == []
    of_wine = resolve({"task.name": "tabular_mlp", "search.optimizers": ["adam"]}, ["task.dataset=wine"])
    for config, what in (
        (asked(), "mnist1d with the data set mnist1d"),
        (of_wine, "tabular_mlp with the data set wine"),
    ):
        found = loans(config, iris)
        assert found.loans == []
        assert found.remarks == [f"nothing is borrowed: there is no run of {what} to borrow from"]


# Of one optimizer.


def test_an_optimizer_of_another_space_is_searched_and_that_is_said(made: Run) -> None:
    found = loans(asked("optimizers.adam.space.lr.high=0.25"), made)
    why = "its class, arguments, space or defaults are others there"
    assert names(found) == ["sgdm"]
    assert found.remarks == [f"adam is not borrowed from {made.path}, but searched: {why}"]


def test_what_is_not_complete_is_searched(lender: Run) -> None:
    edit_trials(
        lender, lambda row: None if (row["optimizer"], row["study"], row["trial"]) == ("adam", "1", "2") else row
    )
    found = loans(asked(), lender)
    assert names(found) == ["sgdm"]
    assert found.remarks == [f"adam is not borrowed from {lender.path}, but searched: it is not complete there"]


def test_what_is_not_complete_and_was_not_asked_for_is_left_without_a_word(lender: Run) -> None:
    edit_trials(lender, without("sgdm"))
    found = loans(asked(), lender)
    assert (names(found), found.remarks) == (["adam"], [])


def test_a_class_that_a_program_gave_is_not_borrowed(lender: Run) -> None:
    edit_config(lender, "class: torch.optim.Adam\n", f"class: {MODULE}.Adam\n")
    found = loans(asked(optimizers=["sgd"]), lender)
    assert "adam" not in names(found)


# What is written.


def written(found: Loans, path: Path) -> Run:
    run = Run.create(path, found.config)
    write(run, found.config, found.loans)
    return run


def test_rows_are_the_lenders_but_for_times_and_say_whose_they_are(made: Run, tmp_path: Path) -> None:
    found = loans(asked(), made)
    run = written(found, tmp_path / "run")
    for ours, theirs in ((run.trial_rows(), made.trial_rows()), (run.seed_rows(), made.seed_rows())):
        assert len(ours) == len(theirs)
        assert {row["borrowed"] for row in ours} == {str(made.path)}
        assert not any(row.get("seconds") or row.get("step_ms") for row in ours)
        kept = [key for key in theirs[0] if key not in ("seconds", "step_ms")]
        own = sorted([[row[key] for key in kept] for row in ours])
        assert own == sorted([[row[key] for key in kept] for row in theirs])
    assert run.best_optimizers() == made.best_optimizers()
    run.finish_curves()
    keys = ["optimizer", "study", "phase", "trial", "seed", "step", "split", "metric"]
    tables = [each.curves().sort_values(keys).reset_index(drop=True) for each in (run, made)]
    pd.testing.assert_frame_equal(tables[0][[*keys, "value"]], tables[1][[*keys, "value"]])
    assert tables[0]["seconds"].isna().all() and tables[1]["seconds"].notna().all()


@pytest.mark.parametrize("lost", ["write_trials", "write_best", "write_seeds"])
def test_a_loan_that_is_cut_off_is_gone_on_with(
    made: Run, tmp_path: Path, lost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is work left then, whose plan writes best.json anew."""
    found = loans(asked(optimizers=["adam"]), made)

    def cut_off(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Run, lost, cut_off)
        with pytest.raises(KeyboardInterrupt):
            written(found, tmp_path / "run")
    work, seeds = remaining_work(found.config, Run(tmp_path / "run"), search=True)
    assert (work.trials > 0) == (lost == "write_trials") and seeds == [0, 1]


def test_rows_of_other_code_have_its_mark(made: Run, tmp_path: Path) -> None:
    code = deepcopy(identity(asked()))
    code["tuner"]["sha256"] = "1" * 64
    run = written(loans(asked(), made, code=code), tmp_path / "run")
    assert {row["code"] for row in [*run.trial_rows(), *run.seed_rows()]} == {mark(made.env()["code"])}


def test_only_what_is_not_borrowed_is_left_to_do(made: Run, tmp_path: Path) -> None:
    found = loans(asked(), made)
    part = begun(Run.create(tmp_path / "run", found.config), found, checked())
    assert part is not None
    # of sgd alone: three studies of three trials and of two seeds, over three optimizers
    assert (part.work.trials * 3, part.work.seeds * 3) == (pytest.approx(9), pytest.approx(6))


def test_the_time_expected_is_that_of_what_is_not_borrowed(made: Run, tmp_path: Path) -> None:
    """As of a run of that alone: two others are borrowed, and were not timed."""
    found = loans(asked(), made)
    timed = replace(checked(), timings=Timings({"sgd": 0.001}, 0.0, 10, {}))
    part = begun(Run.create(tmp_path / "run", found.config), found, timed)
    alone = asked(optimizers=["sgd"])
    whole = RunWork(alone, Run.create(tmp_path / "alone", alone), Work(search=True, trials=9, seeds=6), timed)
    assert part is not None
    (_, expected), (_, of_alone) = (expectations(each, lambda event: None) for each in (part, whole))
    assert expected and of_alone
    steps = 10 * (9 * alone.train.epochs + 6 * alone.retrain_epochs)
    total = expected.search_s + expected.retrain_s
    assert total == pytest.approx(0.001 * steps) == pytest.approx(of_alone.search_s + of_alone.retrain_s)


def checked() -> PreflightResult:
    return PreflightResult(Timings({}, 0.0, 1, {}), {"name": "mnist1d", "sha256": SHA}, "cpu")


def test_a_run_that_borrows_all_ends_without_work(made: Run, tmp_path: Path) -> None:
    found = loans(asked(optimizers=["adam"]), made)
    run = Run.create(tmp_path / "run", found.config)
    run.code = identity(found.config)
    assert begun(run, found, checked()) is None
    status = describe(run)
    assert (status["state"], status["complete"]) == ("ended", True)
    assert run.env()["data"]["sha256"] == SHA and run.env()["parameters"] == made.env()["parameters"]
    both = [compare([each]).contrasts.set_index("metric") for each in (run, made)]
    for table in both:
        assert set(table["clock"]) >= {"steps"}
    first, second = (table[table["clock"] == "steps"]["mean_difference"] for table in both)
    pd.testing.assert_series_equal(first, second)


def test_seconds_of_another_command_are_not_drawn(made: Run, tmp_path: Path) -> None:
    run = written(loans(asked(optimizers=["adam"]), made), tmp_path / "run")
    names = [[drawing.name for drawing in report_drawings(compare([each])).all] for each in (made, run)]
    assert sorted(set(names[0]) - set(names[1])) == ["1-curves-seconds"] and set(names[1]) <= set(names[0])


def test_a_winner_without_a_valid_trial_is_borrowed_as_it_is(lender: Run) -> None:
    """All its trials diverged, so that there was nothing to retrain: it is complete."""
    edit_trials(lender, lambda row: row | {"state": "diverged"} if row["optimizer"] == "sgdm" else row)

    def lose(name: str, entry: dict[str, Any]) -> None:
        if name == "sgdm":
            for each in (entry, *entry["studies"]):
                each.update(hp=None, value=None, trial=None)

    edit_best(lender, lose)
    assert names(loans(asked(), lender)) == ["sgdm", "adam"]
