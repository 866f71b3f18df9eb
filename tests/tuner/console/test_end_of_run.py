from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tuner.comparison.metrics import metrics
from tuner.config.schema import Config
from tuner.console.end_of_run import print_table, setting, summarize
from tuner.store.run import Run

SEED = 1000


def config(seeds: int = 3, metric: str = "val_loss", gpus: float = 0) -> Config:
    space = {"lr": {"low": 0.0, "high": 1.0}, "nu": {"low": 0, "high": 9, "integer": True}}
    return Config.model_validate({
        "preset": "default", "out": "runs", "name": None,
        "task": {"name": "blobs", "class": "pkg.Blobs", "args": {}, "metric": metric, "mode": "min", "target": None,
                 "dataset": "d", "datasets": ["d"], "data_dir": None, "check": None},
        "optimizers": {name: {"class": "pkg.Opt", "space": space} for name in ("one", "two")},
        "train": {"epochs": 1, "batch_size": 8, "evaluations": 2},
        "search": {"optimizers": ["one", "two"], "trials": 1, "seed": SEED, "sampler": "tpe", "scheduler": "fifo"},
        "retrain": {"seeds": seeds, "epochs": None},
        "resources": {"cpus_per_trial": 1, "gpus_per_trial": gpus, "max_concurrent": 1, "address": None},
    })  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Run:
    made = Run.create(tmp_path / "run", config())
    made.write_env({"data": {"name": "two blobs", "rows": {"train": 1200, "val": 9, "test": 8}}, "parameters": 1234567})
    return made


def entry(**changes: Any) -> dict[str, Any]:
    return {"hp": {"lr": 0.5, "nu": 3}, "value": 0.25, "trial": 1, "n_trials": 2, "n_diverged": 0, "n_failed": 0,
            "at_boundary": []} | changes  # fmt: skip


def fill(run: Run, one: list[str], two: list[str], states: tuple[str, str] = ("complete", "complete")) -> None:
    """A run whose optimizers have a trial of that state each, and retrained seeds of those statuses."""
    best = {}
    for name, state in zip(("one", "two"), states, strict=True):
        run.append_trials(
            [{"task": "blobs", "optimizer": name, "study": 0, "trial": 0, "state": state, "seed": SEED}], []
        )
        valid = state == "complete"
        best[name] = entry() if valid else entry(hp=None, value=None, trial=None, n_diverged=1)
    run.write_best({"task": "blobs", "metric": "val_loss", "optimizers": best})
    rows = [(name, seed, status) for name, own in (("one", one), ("two", two)) for seed, status in enumerate(own)]
    if rows:
        run.write_seeds([seed_row(*row) for row in rows], [])


def seed_row(name: str, seed: int, status: str = "complete", **values: Any) -> dict[str, Any]:
    row = {"task": "blobs", "optimizer": name, "study": 0, "seed": seed, "status": status}
    return row if status == "failed" else row | {"val_loss": 1.0 + seed, "test_loss": 2.0, "step_ms": 4.0} | values


# Means and deviations.


def test_mean_and_sample_deviation_are_taken_over_seeds(run: Run) -> None:
    fill(run, [], [])
    run.write_seeds([seed_row("one", seed, val_loss=value) for seed, value in enumerate([1.0, 2.0, 6.0])], [])
    one, two = summarize(run, config())["optimizers"]
    assert one["metrics"]["val_loss"] == {"mean": 3.0, "sd": pytest.approx(math.sqrt(7)), "median": 2.0}
    assert one["step_ms"] == {"mean": 4.0, "sd": 0.0}
    assert two["metrics"] == {"val_loss": None, "test_loss": None}
    assert two["step_ms"] is None


def test_one_seed_has_no_deviation(run: Run) -> None:
    fill(run, ["complete"], ["complete"])
    assert summarize(run, config(1))["optimizers"][0]["metrics"]["val_loss"] == {"mean": 1.0, "sd": None, "median": 1.0}


@pytest.mark.parametrize(("worst", "median"), [(9.0, 4.0), (0.1, 4.0)])
def test_diverged_seeds_are_last_whatever_their_value_and_failed_ones_are_none(
    run: Run, worst: float, median: float
) -> None:
    fill(run, [], [])
    run.write_seeds(
        [seed_row("one", 0, val_loss=1.0), seed_row("one", 1, "diverged", val_loss=worst), seed_row("one", 2, "failed"),
         seed_row("one", 3, val_loss=4.0), seed_row("two", 0, "diverged", val_loss=worst)],
        [],
    )  # fmt: skip
    one, two = summarize(run, config())["optimizers"]
    assert one["metrics"]["val_loss"] == {"mean": None, "sd": None, "median": median}
    assert two["metrics"]["val_loss"] == {"mean": None, "sd": None, "median": None}
    assert one["n_seeds"] == 4
    assert one["seeds"] == {"complete": 2, "diverged": 1, "failed": 1}
    shown = [cells(line)[1] for line in table(run, config())]
    assert shown == ["val_loss", "median 4", "median diverged"]


def test_an_entry_holds_what_best_json_says(run: Run) -> None:
    fill(run, [], [])
    best = entry(n_trials=7, n_diverged=2, n_failed=1, at_boundary=["lr"])
    run.write_best({"optimizers": {"one": best}})
    summary = summarize(run, config())
    one, two = summary["optimizers"]
    assert one.items() >= {"optimizer": "one", **best}.items()
    assert (two["optimizer"], two["hp"], two["n_trials"]) == ("two", None, 0)
    assert (summary["run"], summary["task"], summary["metric"]) == (str(run.path), "blobs", "val_loss")


def test_an_empty_run_has_a_summary(run: Run) -> None:
    summary = summarize(run, config())
    assert summary["status"] == "nothing"
    assert [one["n_seeds"] for one in summary["optimizers"]] == [0, 0]


def test_a_summary_is_plain_json(run: Run) -> None:
    fill(run, ["complete", "failed"], ["diverged"])
    summary = summarize(run, config())
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


@pytest.mark.parametrize(
    ("metric", "columns", "chosen"),
    [
        ("val_loss", ["train_loss", "val_loss", "test_loss"], ["val_loss", "test_loss"]),
        ("val_loss", ["val_loss", "test_loss", "val_acc", "test_acc"], ["val_loss", "test_loss", "test_acc"]),
        ("train_loss", ["train_loss", "val_loss", "test_loss"], ["train_loss", "val_loss", "test_loss"]),
        ("val_acc", ["val_loss", "val_acc", "test_acc"], ["val_acc", "test_acc"]),
        ("val_loss", ["val_loss"], ["val_loss"]),
    ],
)
def test_the_metric_its_like_and_the_accuracy_are_shown(
    run: Run, metric: str, columns: list[str], chosen: list[str]
) -> None:
    row = {"task": "blobs", "optimizer": "one", "study": 0, "seed": 0, "status": "complete"}
    run.write_seeds([row | dict.fromkeys(columns, 0.5)], [])
    seeds = run.seeds().dropna(axis="columns", how="all")
    assert metrics(config(metric=metric), seeds) == chosen


# How complete a run is.


@pytest.mark.parametrize(
    ("one", "two", "states", "status"),
    [
        (["complete"] * 3, ["complete"] * 3, ("complete", "complete"), "done"),
        (["complete"] * 3, ["complete", "diverged", "diverged"], ("complete", "complete"), "done"),
        (["complete"] * 3, ["diverged"] * 3, ("complete", "complete"), "done"),
        (["complete"] * 3, ["complete", "failed", "complete"], ("complete", "complete"), "partly"),
        (["complete"] * 3, ["complete"] * 2, ("complete", "complete"), "partly"),
        (["complete"] * 3, [], ("complete", "diverged"), "partly"),
        (["complete"] * 3, [], ("complete", "failed"), "partly"),
        (["failed"] * 3, ["failed"] * 3, ("complete", "complete"), "nothing"),
        (["diverged"] * 3, ["diverged"] * 3, ("complete", "complete"), "nothing"),
        ([], [], ("complete", "complete"), "nothing"),
        ([], [], ("diverged", "failed"), "nothing"),
    ],
)
def test_the_status_says_how_complete_the_run_is(
    run: Run, one: list[str], two: list[str], states: tuple[str, str], status: str
) -> None:
    fill(run, one, two, states)
    assert summarize(run, config())["status"] == status


def test_a_search_that_was_cut_off_is_partly_done(run: Run) -> None:
    fill(run, ["complete"] * 3, ["complete"] * 3, ("complete", "complete"))
    asked = config().model_copy(update={"search": config().search.model_copy(update={"trials": 2})})
    assert summarize(run, asked)["status"] == "partly"


# The table.


def table(run: Run, settled: Config, width: int = 250) -> list[str]:
    out = io.StringIO()
    print_table(summarize(run, settled), settled, Console(file=out, width=width))
    return [line.rstrip() for line in out.getvalue().splitlines()]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.split("   ") if cell.strip()]


def test_the_table_has_one_line_per_optimizer(run: Run) -> None:
    fill(run, ["complete", "complete", "diverged"], ["complete", "failed"])
    run.write_best({"optimizers": {"one": entry(n_diverged=1, at_boundary=["lr", "nu"]), "two": entry(n_failed=1)}})
    assert [cells(line) for line in table(run, config())] == [
        ["optimizer", "val_loss", "test_loss", "ms/step", "diverged", "at boundary", "best hyperparameters"],
        ["one", "median 2", "median 2", "4 ± 0", "1/2 trials, 1/3 seeds", "lr, nu", "lr=0.5, nu=3"],
        ["two", "1", "2", "4", "0/2 trials, 0/2 seeds (2 failed)", "-", "lr=0.5, nu=3"],
    ]


def test_the_table_of_a_run_without_seeds_has_dashes(run: Run) -> None:
    fill(run, [], [], ("complete", "diverged"))
    assert [cells(line)[-2:] for line in table(run, config())[1:]] == [["-", "lr=0.5, nu=3"], ["-", "none was valid"]]


@pytest.mark.parametrize(("gpus", "said"), [(0, "ms/step"), (0.25, "ms/step (shared)"), (1, "ms/step")])
def test_times_on_a_shared_gpu_are_called_shared(run: Run, gpus: float, said: str) -> None:
    fill(run, ["complete"], ["complete"])
    assert said in cells(table(run, config(gpus=gpus))[0])


def test_no_line_of_the_table_wraps_in_a_pipe(run: Run) -> None:
    fill(run, ["complete"] * 3, ["complete"] * 3)
    hp = {f"hyperparameter_{i}": 1.23456789e-5 for i in range(5)}
    run.write_best({"optimizers": {"one": entry(hp=hp, at_boundary=["lr", "nu"]), "two": entry()}})
    lines = table(run, config())
    assert len(lines) == 3
    assert lines[1].endswith(", ".join(f"{name}=1.235e-05" for name in hp))


def test_a_line_says_what_was_trained(run: Run) -> None:
    fill(run, [], [])
    said = setting(summarize(run, config()), config())
    assert said.startswith("blobs, preset ")
    assert said.endswith("1,234,567 parameters; two blobs (train 1,200, val 9, test 8)")


# Cohorts.


def test_what_trained_together_is_said_where_anything_did(run: Run) -> None:
    trial = {"task": "blobs", "study": 0, "trial": 0, "state": "complete", "seed": SEED}
    run.write_best({"task": "blobs", "metric": "val_loss", "optimizers": {"one": entry(), "two": entry()}})
    sizes = [("one", 4), ("one", 2), ("two", 1)]
    run.append_trials([trial | {"optimizer": name, "cohort": size} for name, size in sizes], [])
    run.write_seeds([seed_row("one", seed, cohort=3) for seed in range(3)] + [seed_row("two", 0, cohort=1)], [])
    summary = summarize(run, config())
    assert [one["cohort"] for one in summary["optimizers"]] == [
        {"search": 4, "retrain": 3}, {"search": 1, "retrain": 1},
    ]  # fmt: skip
    shown = "\n".join(table(run, config()))
    assert "cohort (trials, seeds)" in shown and " 4, 3 " in shown and " 1, 1 " in shown and "ms/step (shared)" in shown


def test_of_runs_one_at_a_time_and_of_older_tables_the_report_says_nothing(run: Run) -> None:
    fill(run, ["complete"], ["complete"])
    for line in ("trials.csv", "seeds.csv"):
        lines = [row.split(",") for row in (run.path / line).read_text().splitlines()]
        place = lines[0].index("cohort")
        (run.path / line).write_text("".join(",".join(row[:place] + row[place + 1 :]) + "\n" for row in lines))
    summary = summarize(run, config(1))
    assert [one["cohort"] for one in summary["optimizers"]] == [{"search": 1, "retrain": 1}] * 2
    assert "cohort" not in "\n".join(table(run, config(1)))
