"""A run that goes on until it is decided, by the whole command: killed between two looks it comes to the same."""

from __future__ import annotations

import json
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pytest

from tests.support.commands import finish, run, start
from tests.test_kill import descendants
from tuner.store.run import Run

CONFIGS = {
    "still": "class: torch.optim.SGD\nspace:\n  lr: {low: 1.0e-9, high: 1.0e-8, log: true}\n",
    "twin": "class: torch.optim.SGD\nspace:\n  lr: {low: 0.3, high: 0.6, log: true}\n",
    "plain": "class: torch.optim.SGD\nspace:\n  lr: {low: 0.3, high: 0.6, log: true}\n",
}
ARGUMENTS = (
    "--task", "tabular_mlp", "--preset", "smoke", "--configs", "mine", "--optimizers", "plain", "still", "twin",
    "--trials", "2", "--studies", "6", "--seeds", "1", "--sampler", "random", "--until", "decided", "--max-concurrent",
    "1", "--gpus-per-trial", "0", "--out", "runs",
    "--set", "report.baseline=plain", "report.looks=[3,5,6]", "report.spending=pocock", "train.epochs=60",
    "retrain.epochs=60",
)  # fmt: skip
TABLES = ["optimizer", "study", "seed", "status", "train_loss", "val_loss", "test_loss"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("until")
    (folder / "mine" / "optimizers").mkdir(parents=True)
    for name, text in CONFIGS.items():
        (folder / "mine" / "optimizers" / f"{name}.yaml").write_text(text)
    return folder


def seeds(found: Run) -> pd.DataFrame:
    return found.seeds()[TABLES]


@pytest.mark.slow
def test_a_run_that_is_killed_between_looks_is_decided_as_if_it_had_not_been(folder: Path) -> None:
    whole = run(folder, "tuner.search", *ARGUMENTS, "--name", "whole")
    assert whole.code == 0, whole.err
    undisturbed = Run(folder / "runs" / "whole")
    log = json.loads((undisturbed.path / "looks.json").read_text())
    assert log["looks"][0]["decided"] == {"still": "worse"} and log["stopped"]["still"] == 3
    studies = undisturbed.seeds().groupby("optimizer")["study"].nunique().to_dict()
    assert studies["still"] == 3 and studies["plain"] == studies["twin"] >= 5
    assert "decided at look 1 of 3, after 3 of 6 studies" in whole.out

    cut = Run(folder / "runs" / "cut")
    process = start(folder, "tuner.search", *ARGUMENTS, "--name", "cut", "-q")
    deadline = time.monotonic() + 200
    while not (cut.path / "looks.json").exists() or len(cut.trial_rows()) < 19:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    for pid in [process.pid, *descendants(process.pid)]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    finish(process)
    refused = run(folder, "tuner.search", "--resume", "runs/cut", "--trials", "9")
    assert refused.code == 2 and "search.trials: this run is decided at looks after 3, 5, 6 studies" in refused.err
    resumed = run(folder, "tuner.search", "--resume", "runs/cut", "-q")
    assert resumed.code == 0, resumed.err
    assert json.loads((cut.path / "looks.json").read_text()) == log
    pd.testing.assert_frame_equal(seeds(cut), seeds(undisturbed))
    again = run(folder, "tuner.retrain", "runs/cut", "-q", "--no-report")
    assert again.code == 0
    status = json.loads(run(folder, "tuner.status", "runs/cut", "--json").out)
    assert status["complete"] and status["looks"]["stopped"] == log["stopped"]


def test_what_would_be_done_says_the_looks(folder: Path) -> None:
    done = run(folder, "tuner.search", *ARGUMENTS, "--dry-run")
    assert done.code == 0, done.err
    assert "looks after 3, 5, 6 studies (pocock)" in done.out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--set", "report.looks=[3,5]"], "report.looks: the last must be at 6, all studies that may be, got 5"),
        (["--set", "report.looks=[2,6]"], "report.looks: must be increasing numbers of studies, from 3, got [2, 6]"),
        (["--studies", "2"], "report.until: nothing is decided by 2 studies"),
    ],
)
def test_plans_that_cannot_be(folder: Path, change: list[str], message: str) -> None:
    arguments = [each for each in ARGUMENTS if not each.startswith("report.looks")]
    done = run(folder, "tuner.search", *arguments, *change, "--dry-run")
    assert done.code == 2 and message in done.err
