"""What a suite would cost, from configurations and what is there, without training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.folders import everything
from tests.support.made_runs import make_run
from tuner import search
from tuner.config.changes import revise
from tuner.config.layers import resolve
from tuner.config.registry import SHIPPED
from tuner.config.schema import Config
from tuner.console.suite_plan import describe
from tuner.store.run import Run

pytestmark = pytest.mark.usefixtures("folder")


def smoke(**flags: Any) -> Config:
    return resolve({"task.name": "mnist1d", "preset": "smoke"} | flags)


def measured(task: str = "mnist1d") -> float:
    """As the task's file has it, of a default run of preset smoke."""
    return float(yaml.safe_load((SHIPPED / f"tasks/{task}.yaml").read_text())["about"]["minutes"]["smoke"])


def planned(config: Config, path: Path = Path("nowhere")) -> dict[str, Any]:
    (task,) = describe("one", {"mnist1d": config}, path)["tasks"]
    return task


def test_a_preset_as_it_is_takes_what_was_measured() -> None:
    assert planned(smoke())["minutes"] == pytest.approx(measured())


def test_times_are_scaled_by_the_epochs_of_all_training_runs() -> None:
    """Two optimizers in the usual run: T trials and R retraining runs of each study, of the same number of epochs."""
    usual = smoke()
    studies, trials, seeds = usual.search.studies, usual.search.trials, len(usual.retrain.seeds)
    assert len(usual.optimizers) == 2 and usual.retrain_epochs == usual.train.epochs
    three = planned(smoke(**{"search.optimizers": ["adam", "sgd", "sgdm"]}))
    assert three["minutes"] == pytest.approx(measured() * 3 / 2)
    longer = planned(smoke(**{"search.trials": 3 * trials}))
    assert longer["minutes"] == pytest.approx(measured() * (3 * trials + seeds) / (trials + seeds))
    assert (longer["trials"], longer["retrain"]) == (2 * studies * 3 * trials, 2 * studies * seeds)
    epochs = planned(smoke(**{"train.epochs": 2 * usual.train.epochs, "retrain.epochs": usual.train.epochs}))
    assert epochs["minutes"] == pytest.approx(measured() * (2 * trials + seeds) / (trials + seeds))


def test_what_was_not_measured_is_not_known_and_neither_is_the_whole(tmp_path: Path) -> None:
    (tmp_path / "tasks").mkdir()
    content = yaml.safe_load((SHIPPED / "tasks/mnist1d.yaml").read_text())
    del content["about"]["minutes"]
    (tmp_path / "tasks" / "unmeasured.yaml").write_text(yaml.safe_dump(content))
    unknown = resolve({"task.name": "unmeasured", "preset": "smoke"}, configs=tmp_path)
    plan = describe("two", {"known": smoke(), "unknown": unknown}, Path("nowhere"))
    assert [task["minutes"] is None for task in plan["tasks"]] == [False, True]
    assert plan["minutes"] is None and plan["total"] == sum(task["trials"] + task["retrain"] for task in plan["tasks"])


def test_a_task_that_no_file_has_is_not_known() -> None:
    config = smoke()
    given = config.model_copy(update={"task": config.task.model_copy(update={"name": "of_a_program"})})
    assert planned(given)["minutes"] is None


def test_a_suite_that_goes_on_shows_what_is_left(folder: Path) -> None:
    done = make_run(folder / "suite" / "done", seeds=2, studies=3, trials=3).config()
    Run.create(folder / "suite" / "new", done)
    make_run(folder / "suite" / "more", seeds=2, studies=3, trials=3)
    configs = {"done": done, "new": done, "more": revise(done, {"search.trials": 5, "retrain.seeds": 3})}
    plan = describe("three", configs, folder / "suite")
    assert [(task["trials"], task["retrain"]) for task in plan["tasks"]] == [
        (0, 0), (2 * 3 * 3, 2 * 3 * 2), (2 * 3 * (5 - 3), 2 * 3 * (3 - 2)),
    ]  # fmt: skip
    assert plan["total"] == 18 + 12 + 12 + 6
    assert plan["tasks"][0]["minutes"] == 0


# The command.

TWO = {
    "search": {"optimizers": ["adam", "sgd"], "trials": 4, "studies": 3},
    "retrain": {"seeds": 2},
    "tasks": {"mnist1d": {"task": {"target": 1.25}}, "wine": {"task": {"name": "tabular_mlp", "dataset": "wine"}}},
}


def dry_run(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    Path("two.yaml").write_text(yaml.safe_dump(TWO, sort_keys=False))
    before = everything(Path())
    assert search.main(["--suite", "two.yaml", "--dry-run", *argv]) == 0
    assert everything(Path()) == before
    out, err = capsys.readouterr()
    assert err == ""
    return out


def test_a_dry_run_has_a_line_per_task_and_the_sum(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [" ".join(line.split()) for line in dry_run(capsys, "--name", "mine").splitlines()]
    assert lines[0] == "# suite two"
    assert lines[2].startswith("mnist1d default 2 24 in 3 studies 12 ")
    assert lines[3].startswith("wine default 2 24 in 3 studies 12 ")
    assert [line.split()[8:10] for line in lines[2:4]] == [["10", "1.25"], ["200", "-"]]
    assert any(line.startswith("72 training runs in all, about ") for line in lines)
    assert lines[-1] == "nothing was started; the folder would be runs/mine"


def test_what_is_compared_is_said_of_each_task_where_it_differs(capsys: pytest.CaptureFixture[str]) -> None:
    of_all = dry_run(capsys).partition("# comparison\n")[2].splitlines()
    assert of_all[0].startswith("sgd against adam, by test_loss")
    margin = dict(TWO, tasks={**TWO["tasks"], "mnist1d": {"report": {"margin": {"loss": 0.5}}}})  # type: ignore[dict-item]
    Path("other.yaml").write_text(yaml.safe_dump(margin, sort_keys=False))
    assert search.main(["--suite", "other.yaml", "--dry-run"]) == 0
    each = capsys.readouterr().out.partition("# comparison\n")[2].splitlines()
    assert each[0].startswith("mnist1d: sgd against adam") and "within 0.5 do not matter" in each[0]
    assert each[1].startswith("wine: sgd against adam")


def test_only_some_of_its_tasks_are_planned(capsys: pytest.CaptureFixture[str]) -> None:
    plan = json.loads(dry_run(capsys, "--only", "wine", "--json"))
    assert ([task["entry"] for task in plan["tasks"]], plan["total"], plan["suite"]) == (["wine"], 36, "two")


def test_a_finished_suite_says_that_nothing_is_left(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(folder / "suite" / "a", seeds=2, trials=3)
    (folder / "suite" / "suite.yaml").write_text("{suite: one, tasks: [a]}")
    assert search.main(["--resume", "suite", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "\nnothing is left to do\n" in out
    assert out.endswith("\nnothing was started; the folder is suite\n")
