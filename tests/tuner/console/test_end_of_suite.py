"""What a command on a suite shows at its end: a matrix of verdicts, and a document."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.made_runs import make_run
from tuner.comparison.results import compare
from tuner.console.end_of_suite import complete, present
from tuner.store.run import Run
from tuner.store.suites import Suite
from tuner.suite import SuiteExecuted

FAR = {"sgdm": 0.3, "adam": 0.0}


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Suite:
    """On the first task sgdm is far worse, on the second far better; the third has nothing."""
    folder = tmp_path_factory.mktemp("suite")
    one = make_run(folder / "digits", "mnist1d", FAR, seeds=2, studies=5, trials=2)
    make_run(folder / "wine", "tabular_mlp", {"sgdm": -0.3, "adam": 0.0}, seeds=2, studies=5, trials=2)
    Run.create(folder / "none", one.config())
    (folder / "suite.yaml").write_text(yaml.safe_dump({"suite": "three", "tasks": ["digits", "none", "wine"]}))
    return Suite.open(folder)


def done(suite: Suite, **changes: Any) -> SuiteExecuted:
    configs = {entry: run.config() for entry, run in suite.runs.items()}
    return SuiteExecuted(suite, configs, **{"results": compare(suite.with_results())} | changes)


def shown(capsys: pytest.CaptureFixture[str], executed: SuiteExecuted) -> list[str]:
    present(executed, as_json=False)
    return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]


def test_a_row_per_task_has_what_was_trained_and_a_verdict_per_optimizer(
    suite: Suite, capsys: pytest.CaptureFixture[str]
) -> None:
    """Differences of 0.3 beside a spread of 0.02: nothing else can be said of five studies."""
    lines = shown(capsys, done(suite))
    assert lines[1] == "task runs sgdm adam"
    assert lines[2] == "digits 20 + 20 worse baseline"  # 2 optimizers, 5 studies, 2 trials; 2 seeds
    assert lines[3] == "none 0 + 0 - -"
    assert lines[4] == "wine 20 + 20 better baseline"


def test_how_to_go_on_is_said_where_something_is_missing(suite: Suite, capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys, done(suite))
    commands = [line.partition(" # ")[0] for line in lines[lines.index("next:") + 1 :]]
    words = [command.split("tuner.")[1].replace(str(suite.path), "SUITE") for command in commands]
    assert words == ["search --resume SUITE", "report SUITE", "search --resume SUITE --add-optimizer NAME"]


def test_a_task_that_could_not_be_trained_is_named_with_the_reason(
    suite: Suite, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "none: not trained (no data)" in shown(capsys, done(suite, failed={"none": "no data"}))


def test_a_suite_without_results_shows_how_much_was_trained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = make_run(tmp_path / "made", seeds=2, trials=2).config()
    Run.create(tmp_path / "suite" / "a", config)
    (tmp_path / "suite" / "suite.yaml").write_text("{suite: one, tasks: [a]}")
    empty = Suite.open(tmp_path / "suite")
    lines = shown(capsys, done(empty, results=None))
    assert lines[2] == "a 0 + 0 - -"
    assert not any("tuner.report" in line for line in lines)
    assert present(done(empty, results=None), as_json=True) == "nothing"


def test_the_document_has_every_task_with_its_verdicts(suite: Suite, capsys: pytest.CaptureFixture[str]) -> None:
    assert present(done(suite, failed={"none": "no data"}), as_json=True) == "partly"
    found = json.loads(capsys.readouterr().out)
    assert (found["schema_version"], found["suite"], found["status"]) == (1, "three", "partly")
    assert (found["folder"], found["failed"], found["report"]) == (str(suite.path), {"none": "no data"}, None)
    verdicts = {
        entry: {each["optimizer"]: each["verdict"] for each in task["optimizers"]}
        for entry, task in found["tasks"].items()
    }
    assert verdicts["digits"]["sgdm"] == "worse" and verdicts["wine"]["sgdm"] == "better"
    assert verdicts["none"] == {"sgdm": None, "adam": None}
    assert {entry: task["about"] for entry, task in found["tasks"].items()} == {
        "digits": "optimizers", "none": None, "wine": "optimizers",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("states", "failed", "whole"),
    [
        (["done", "done"], False, "done"),
        (["done", "done"], True, "partly"),
        (["done", "partly"], False, "partly"),
        (["done", "nothing"], False, "partly"),
        (["nothing", "nothing"], False, "nothing"),
        (["nothing", "nothing"], True, "nothing"),
        (["partly"], False, "partly"),
    ],
)
def test_a_suite_is_as_complete_as_its_tasks(states: list[str], failed: bool, whole: str) -> None:
    assert complete(states, some_failed=failed) == whole
