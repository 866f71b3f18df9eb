"""Runs read to be compared, as searches leave them and as others may have left their tables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.support.edited_runs import Row, copied, edit_best, edit_config, edit_env, edit_seeds, hit, where, without
from tests.support.made_runs import make_run
from tuner.comparison.comparison import Comparison
from tuner.comparison.load import read
from tuner.comparison.results import compare
from tuner.errors import UserError
from tuner.reporting.caveats import caveat_sentences
from tuner.store.run import Run


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("runs") / "one", effects={"diag_hessian": -0.05, "adam": 0.0, "sgdm": 0.05},
                    seeds=5, trials=3)  # fmt: skip


@pytest.fixture
def run(made: Run, tmp_path: Path) -> Run:
    return copied(made, tmp_path / "one")


def only(*runs: Run, **asked: str) -> Comparison:
    (found,) = read(list(runs), **asked)
    return found


def add_rows(run: Run, change: Callable[[Row], Row | None]) -> None:
    """Beside those that there are, these that ``change`` makes of them."""
    lines = (run.path / "seeds.csv").read_text()
    edit_seeds(run, change)
    (run.path / "seeds.csv").write_text(lines + (run.path / "seeds.csv").read_text().partition("\n")[2])


def values(found: Comparison, optimizer: str, metric: str = "test_loss") -> list[float]:
    table = found.values(metric)
    return table[table["optimizer"] == optimizer]["value"].tolist()


def test_a_run_as_it_is(run: Run) -> None:
    found = only(run)

    assert (found.task, found.metric, found.baseline) == ("mnist1d", "test_loss", "adam")
    assert found.optimizers == ["diag_hessian", "adam", "sgdm"]
    assert found.metrics == ["test_loss", "val_loss", "test_acc"]
    assert [found.mode(metric) for metric in ("val_loss", "test_loss", "test_acc", "val_acc")] == [
        "min", "min", "max", "max",
    ]  # fmt: skip
    assert (found.rules("test_loss").margin, found.rules("val_acc").margin, found.rules("test_f1").margin) == (
        "2%", 0.01, None,
    )  # fmt: skip
    assert found.undeclared == []
    assert not found.shared
    assert found.notes == []
    table = found.values("test_loss")
    assert table["optimizer"].tolist() == ["diag_hessian"] * 5 + ["adam"] * 5 + ["sgdm"] * 5
    assert table["seed"].tolist() == [*range(5)] * 3
    own = run.seeds()
    assert values(found, "sgdm") == own[own["optimizer"] == "sgdm"]["test_loss"].tolist()


def test_an_accuracy_that_is_the_tasks_metric_is_better_when_higher(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "resnet18", seeds=3, trials=2)
    found = only(run)
    assert (found.metric, found.mode("test_acc"), found.mode("test_loss")) == ("test_acc", "max", "min")


@pytest.mark.parametrize("metric", ["test_macro_f1", "test_top5_acc", "test_balanced_accuracy", "val_acc_top1"])
def test_other_kinds_of_accuracy_are_better_when_higher_too(run: Run, metric: str) -> None:
    edit_seeds(run, lambda row: row | {metric: row["test_acc"]})
    assert only(run).mode(metric) == "max"


@pytest.mark.parametrize(
    ("names", "expected"),
    [(["sgd", "adamw", "sgdm"], "adamw"), (["sgd", "sgdm"], "sgdm"), (["sophia", "sgd"], "sgd"),
     (["sophia", "lion"], "sophia"), (["sgd", "adam"], "adam")],
)  # fmt: skip
def test_which_is_the_baseline(tmp_path: Path, names: list[str], expected: str) -> None:
    run = make_run(tmp_path / "run", effects=dict.fromkeys(names, 0.0), seeds=1, trials=1)
    assert only(run).baseline == expected


def test_a_declared_baseline_and_metric(run: Run) -> None:
    edit_config(run, "  baseline: null\n", "  baseline: sgdm\n")
    edit_config(run, "  metric: null\n", "  metric: test_acc\n")
    assert (only(run).baseline, only(run).metric) == ("sgdm", "test_acc")
    assert only(run, baseline="diag_hessian").baseline == "diag_hessian"
    assert only(run, metric="val_acc").metric == "val_acc"
    assert only(run, metric="test_acc", baseline="sgdm").undeclared == []
    assert only(run, metric="test_acc", baseline="adam").undeclared == ["baseline"]
    assert only(run, metric="val_acc", baseline="adam").undeclared == ["baseline", "metric"]
    with pytest.raises(UserError, match="--baseline: unknown optimizer 'adamw'; did you mean 'adam'"):
        only(run, baseline="adamw")


# Tables of others.


def test_rows_in_another_order_are_the_same(run: Run) -> None:
    before = only(run)
    path = run.path / "seeds.csv"
    head, *lines = path.read_text().splitlines(keepends=True)
    path.write_text(head + "".join(reversed(lines)))
    for name in before.optimizers:
        assert values(only(run), name) == values(before, name)


def test_columns_of_others_whole_numbers_and_unknown_statuses(run: Run) -> None:
    before = values(only(run), "adam")
    edit_seeds(run, lambda row: row | {"my note": "7", "status": "done", "test_loss": row["test_loss"]})
    found = only(run)
    assert values(found, "adam") == before
    assert found.notes == ["seeds.csv: status done is not known; these runs count as complete."]
    edit_seeds(run, lambda row: row | {"test_loss": str(int(row["seed"]) + 1), "status": "complete"})
    assert values(only(run), "adam") == [1, 2, 3, 4, 5]


def test_text_where_a_number_must_be_is_refused(run: Run) -> None:
    edit_seeds(run, where("adam", "2", test_loss="good"))
    with pytest.raises(UserError, match=r"seeds\.csv: line 9: test_loss must be a number, got 'good'"):
        read([run])


@pytest.mark.parametrize("text", ["inf", "-inf", "nan"])
@pytest.mark.parametrize("status", ["diverged", "complete"])
def test_what_is_not_finite_is_worse_than_all_others(run: Run, text: str, status: str) -> None:
    edit_seeds(run, where("adam", "0 1", test_loss=text, test_acc=text, status=status))

    found = only(run)

    assert values(found, "adam")[:2] == [np.inf] * 2
    assert values(found, "adam", "test_acc")[:2] == [-np.inf] * 2
    assert len(found.notes) == (2 if status == "complete" else 0)
    assert found.seeds["test_loss"].dtype == np.float64


def test_a_diverged_run_is_worse_than_all_others_whatever_its_task_calls_the_worst(run: Run) -> None:
    edit_seeds(run, where("adam", "0 1", test_loss="0.01", test_acc="0.99", status="diverged"))
    found = only(run)
    assert values(found, "adam")[:2] == [np.inf] * 2
    assert values(found, "adam", "test_acc")[:2] == [-np.inf] * 2


def test_a_diverged_run_costs_its_whole_budget(run: Run) -> None:
    """2,000 steps, at its own pace; one whose clocks never began at that of the others of its optimizer."""
    own = run.seeds()
    rest = own[(own["optimizer"] == "adam") & (own["seed"] > 1)]
    edit_seeds(run, where("adam", "0", status="diverged", steps="300", seconds="0.6", grad_equivalents="390"))
    edit_seeds(run, where("adam", "1", status="diverged", steps="0", seconds="0", grad_equivalents="0"))
    found = only(run).seeds
    first, second = found[(found["optimizer"] == "adam") & (found["seed"] < 2)].to_dict("records")
    assert (first["steps"], first["seconds"], first["grad_equivalents"]) == pytest.approx((2000, 4.0, 2600))
    paces = sorted([0.6 / 300, *(rest["seconds"] / rest["steps"])])
    assert (second["steps"], second["grad_equivalents"]) == pytest.approx((2000, 2000))
    assert second["seconds"] == pytest.approx(2000 * (paces[1] + paces[2]) / 2)
    (task,) = compare([run]).tasks
    assert task.summary["steps"].tolist() == [2000] * 3


def test_where_all_runs_diverged_nothing_says_what_a_whole_budget_is(run: Run) -> None:
    edit_seeds(run, lambda row: row | {"status": "diverged", "steps": "300"})
    assert only(run).seeds["steps"].tolist() == [300] * 15


def test_an_optimizer_that_always_diverged_is_not_equivalent(run: Run) -> None:
    """Others differ by less than the margin, so that the worst of them is no bad value."""
    tight = ["0.5", "0.5001", "0.501", "0.5011", "0.5012"]
    edit_seeds(run, lambda row: row | ({"status": "diverged", "test_loss": "inf"} if row["optimizer"] == "sgdm"
                                       else {"test_loss": tight[int(row["seed"])]}))  # fmt: skip
    (task,) = compare([run]).tasks
    assert task.verdict("sgdm") in ("worse", "inconclusive")


def test_a_failed_run_is_left_out_whatever_it_says(run: Run) -> None:
    edit_seeds(run, where("adam", "1", status="failed", test_loss="99", test_acc="0"))
    found = only(run)
    assert np.isnan(values(found, "adam")[1])
    (task,) = compare([run]).tasks
    assert task.summary.set_index("optimizer")["n"]["adam"] == 4
    assert task.primary["n"].tolist() == [4, 4]


def test_a_run_that_is_there_twice_counts_once(run: Run) -> None:
    add_rows(run, lambda row: row | {"test_loss": "0.25"} if hit(row, "adam", "0") else None)
    (task,) = compare([run]).tasks
    assert task.summary.set_index("optimizer")["n"]["adam"] == 5
    assert values(task.comparison, "adam")[0] == 0.25  # the later one
    assert task.primary["n"].tolist() == [5, 5]


def test_a_run_that_is_there_twice_is_one_over_tasks_too(run: Run, tmp_path: Path) -> None:
    add_rows(run, lambda row: row if hit(row, "adam", "0") else None)
    other = make_run(tmp_path / "other", "resnet18", {"diag_hessian": -0.05, "adam": 0.0, "sgdm": 0.05}, seeds=5,
                     trials=2)  # fmt: skip
    across = compare([run, other]).across
    assert across is not None
    assert across.interquartile_means["iqm"].notna().all()


def test_optimizers_that_the_configuration_does_not_know_are_named(run: Run) -> None:
    add_rows(run, lambda row: row | {"optimizer": "stranger"} if row["optimizer"] == "adam" else None)
    found = only(run)
    assert found.optimizers == ["diag_hessian", "adam", "sgdm"]
    assert not (found.seeds["optimizer"] == "stranger").any()
    assert any("stranger" in note for note in found.notes)


def test_what_best_json_says_of_others_does_not_matter(run: Run) -> None:
    best = run.best()
    best["optimizers"]["stranger"] = best["optimizers"]["adam"] | {"n_trials": 999}
    run.write_best({key: value for key, value in best.items() if key != "schema_version"})
    assert list(only(run).best) == ["diag_hessian", "adam", "sgdm"]
    assert not any("999" in text for text in caveat_sentences(compare([run])))


@pytest.mark.parametrize("content", ["", "task,optimizer,seed,status\n"])
def test_tables_that_are_empty(run: Run, content: str) -> None:
    (run.path / "seeds.csv").write_text(content)
    (run.path / "trials.csv").write_text("")
    (run.path / "curves.parquet").unlink()
    found = only(run)
    assert found.seeds.empty and found.trials.empty and found.curves.empty
    assert found.metric == "val_loss"
    assert found.values("val_loss").empty


def test_a_metric_without_a_number_does_not_decide(run: Run) -> None:
    edit_seeds(run, lambda row: row | {"test_loss": ""})
    assert only(run).metric == "val_loss"


# Several runs.


def test_seeds_may_differ_between_runs(run: Run, tmp_path: Path) -> None:
    second = make_run(tmp_path / "second", effects={"adamw": 0.0}, seeds=[3, 4, 5, 6], trials=3)
    (task,) = compare([run, second]).tasks
    row = task.primary.set_index("optimizer").loc["adamw"]
    assert (row["n"], row["n_unpaired"]) == (2, 3 + 2)
    assert row["verdict"] == "inconclusive"


def test_each_of_many_runs_of_one_name_has_a_name_of_its_own(made: Run, tmp_path: Path) -> None:
    paths = [tmp_path / folder / "same" for folder in "abc"]
    for path in paths:
        path.parent.mkdir()
    found = only(*(copied(made, path) for path in paths))
    assert found.optimizers[3:6] == ["diag_hessian@same", "adam@same", "sgdm@same"]
    assert found.optimizers[7] == f"adam@{paths[2]}"
    assert len(set(found.optimizers)) == 9
    assert found.baseline == "adam"
    assert found.seeds["optimizer"].value_counts().tolist() == [5] * 9
    assert set(found.best) == set(found.spaces) == set(found.optimizers)


@pytest.mark.parametrize(
    ("old", "new"),
    [("  dataset: mnist1d\n", "  dataset: other\n"), ("  batch_size: 32\n", "  batch_size: 64\n"),
     ("  metric: val_loss\n", "  metric: val_acc\n"), ("  schedule: constant\n", "  schedule: cosine\n"),
     ("  epochs: 10\n  batch", "  epochs: 11\n  batch"), ("  ema: null\n", "  ema: 0.99\n")],
)  # fmt: skip
def test_what_keeps_runs_apart(run: Run, old: str, new: str) -> None:
    second = copied(run, run.path.with_name("second"))
    edit_config(second, old, new)
    assert [found.task for found in read([run, second])] == ["mnist1d (one)", "mnist1d (second)"]


@pytest.mark.parametrize(
    ("old", "new"),
    [("  cpus_per_trial: 1.0\n", "  cpus_per_trial: 2.0\n"), ("  trials: 3\n", "  trials: 4\n"),
     ("  capture: auto\n", "  capture: 'off'\n"), ("  capture: auto\n", "")],
)  # fmt: skip
def test_what_does_not(run: Run, old: str, new: str) -> None:
    second = copied(run, run.path.with_name("second"))
    edit_config(second, old, new)
    assert len(only(run, second).optimizers) == 6


def test_other_data_keeps_runs_apart(run: Run) -> None:
    second = copied(run, run.path.with_name("second"))
    edit_env(second, data=run.env()["data"] | {"sha256": "00" * 32})
    assert len(read([run, second])) == 2


def test_a_baseline_that_one_task_lacks_is_replaced_there(run: Run, tmp_path: Path) -> None:
    other = make_run(tmp_path / "other", "resnet18", {"adam": 0.0, "lion": 0.0}, seeds=3, trials=2)
    first, second = read([run, other], baseline="sgdm")
    assert (first.baseline, second.baseline) == ("sgdm", "adam")


def test_a_baseline_without_runs(run: Run) -> None:
    edit_seeds(run, without("adam"))
    edit_best(run, lambda name, entry: entry.update(hp=None, value=None, trial=None) if name == "adam" else None)
    (task,) = compare([run]).tasks
    assert task.primary["verdict"].tolist() == ["inconclusive"] * 2
    assert task.comparison.baseline == "adam"


@pytest.mark.parametrize(("targets", "said"), [((0.5, 0.9), "0.5, 0.9"), ((0.9, None), "0.9, none")])
def test_runs_that_do_not_agree_on_the_target_say_so(
    made: Run, tmp_path: Path, targets: tuple[float, float | None], said: str
) -> None:
    """Whose times are to be compared depends on the order of the runs then."""
    runs = [copied(made, tmp_path / name) for name in ("first", "second")]
    for run, target in zip(runs, targets, strict=True):
        edit_config(run, "  target: null\n", f"  target: {'null' if target is None else target}\n")
    note = f"the runs have different targets ({said}); times are to the first run's."
    assert note in only(*runs).notes
    assert compare(runs).tasks[0].target == targets[0]
    assert not any("targets" in note for note in only(runs[0]).notes)
