"""Suites as a user runs them: several tasks by one command, gone on with, added to, borrowed from; killed."""

from __future__ import annotations

import json
import random
import signal
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import yaml

from tests.support.commands import environment, finish, run, start
from tests.test_kill import Command, curves, tables_equal
from tuner.store.suites import Suite

NOTES = """
    import os
    from pathlib import Path

    import torch

    class Notes(torch.optim.SGD):
        '''Writes down which process trains how many parameters.'''

        def __init__(self, params, lr):
            params = list(params)
            with (Path(__file__).parent / "noted").open("a") as file:
                file.write(f"{os.getpid()} {sum(p.numel() for p in params)}\\n")
            super().__init__(params, lr=lr)
"""
SMALL = {
    "preset": "smoke",
    "search": {"optimizers": ["adam", "notes"], "trials": 2, "studies": 3, "sampler": "random", "draws": "shared"},
    "retrain": {"seeds": 1},
    "tasks": {
        "tabular_mlp": {"train": {"epochs": 20}},
        "wine": {"task": {"name": "tabular_mlp", "dataset": "wine"}, "train": {"epochs": 20}},
        "no_text": {"task": {"name": "transformer"}},
    },
}
SUITE = ["--suite", "small", "--configs", "mine", "--studies", 3]
PARAMETERS = {"tabular_mlp": 268, "wine": 403}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a suite of two tasks and one that cannot be trained, and an optimizer of its own."""
    folder = tmp_path_factory.mktemp("suites")
    (folder / "mine" / "optimizers").mkdir(parents=True)
    (folder / "mine" / "suites").mkdir()
    (folder / "mine" / "noting.py").write_text(textwrap.dedent(NOTES))
    space = {"lr": {"low": 0.001, "high": 1.0, "log": True}}
    for name in ("notes", "more_notes"):
        content = yaml.safe_dump({"class": "noting.Notes", "space": space})
        (folder / "mine" / "optimizers" / f"{name}.yaml").write_text(content)
    (folder / "mine" / "suites" / "small.yaml").write_text(yaml.safe_dump(SMALL, sort_keys=False))
    return folder


def search(folder: Path, *words: object) -> tuple[int, str, str]:
    return run(folder, "tuner.search", *words, "--max-concurrent", "1", "-q", env=environment())


def test_a_suite_is_searched_added_to_and_borrowed_from(folder: Path) -> None:
    code, out, err = search(
        folder, "--suite", "small", "--configs", "mine", "--studies", 3, "--name", "first", "--json"
    )
    assert code == 3, err
    assert err.splitlines()[-1].startswith(
        "no_text: cannot be trained, the other tasks are (transformer: dataset words "
    )
    found = json.loads(out)
    assert (found["status"], list(found["failed"])) == ("partly", ["no_text"])
    assert [found["tasks"][task]["status"] for task in SMALL["tasks"]] == ["done", "done", "nothing"]
    suite = Suite.open(folder / "runs" / "first")
    assert sorted(path.name for path in suite.path.iterdir()) == sorted(
        ["contrasts.csv", "no_text", "suite.yaml", "summary.csv", "tabular_mlp", "wine"]
    )
    assert list(pd.read_csv(suite.path / "summary.csv")["task"].unique()) == ["tabular_mlp", "wine"]
    same_worker(folder, PARAMETERS.values())
    shared_draws(suite)
    status = run(folder, "tuner.status", "runs/first", "--json", env=environment())
    tasks = json.loads(status.out)["tasks"]
    assert [(task["state"], task["complete"]) for task in tasks.values()] == [
        ("ended", True), ("ended", True), ("not begun", False)
    ]  # fmt: skip
    added(folder, suite)
    borrowed(folder)


def same_worker(folder: Path, parameters: object) -> None:
    """One process trained both tasks: the last of those that were noted, behind the preflight's."""
    noted = [line.split() for line in (folder / "mine" / "noted").read_text().splitlines()]
    trained = {count: [pid for pid, of in noted if of == str(count)][-1] for count in PARAMETERS.values()}
    assert len(set(trained.values())) == 1


def shared_draws(suite: Suite) -> None:
    """All tasks have tried the same configurations."""
    tried = [
        suite.runs[task].trials().sort_values(["optimizer", "study", "trial"])["hp.lr"].tolist() for task in PARAMETERS
    ]
    assert tried[0] == tried[1] and len(set(tried[0])) > 4


def added(folder: Path, suite: Suite) -> None:
    """One more optimizer on every task; what was there is as it was."""
    before = {task: suite.runs[task].seed_rows() for task in PARAMETERS}
    words = ["--add-optimizer", "more_notes", "--configs", "mine", "--only", *PARAMETERS]
    code, out, err = search(folder, "--resume", "runs/first", *words)
    assert code == 0, err
    for task in PARAMETERS:
        rows = suite.runs[task].seed_rows()
        assert [row for row in rows if row["optimizer"] != "more_notes"] == before[task]
        assert sum(row["optimizer"] == "more_notes" for row in rows) == 3
        assert suite.runs[task].config().baseline == "adam"
    assert "more_notes against adam: " in out
    assert search(folder, "--resume", "runs/first", "--add-optimizer", "adam") == (
        2, "", "error: --add-optimizer: the run has adam already\n"
    )  # fmt: skip


def borrowed(folder: Path) -> None:
    """Of a suite with the same budget; with another, nothing is."""
    words = [*SUITE, "--only", "wine", "--against", "runs/first"]
    code, _, err = search(folder, *words, "--optimizers", "sgdm", "--name", "second")
    assert code == 0, err
    wine = Suite.open(folder / "runs" / "second").runs["wine"]
    trials = wine.trials()
    assert list(wine.config().optimizers) == ["sgdm", "adam", "notes", "more_notes"]
    assert trials[trials["borrowed"].isna()]["optimizer"].unique().tolist() == ["sgdm"]
    lent = trials[trials["borrowed"].notna()]
    assert lent["borrowed"].unique().tolist() == ["runs/first/wine"] and len(lent) == 18
    first = Suite.open(folder / "runs" / "first").runs["wine"].trials()
    key = ["optimizer", "study", "trial"]
    assert lent.set_index(key)["value"].to_dict() == first.set_index(key)["value"].to_dict()
    summary = pd.read_csv(folder / "runs" / "second" / "summary.csv").set_index("optimizer")
    assert summary["step_ms"].isna().to_dict() == {"sgdm": False, "adam": True, "notes": True, "more_notes": True}
    contrasts = pd.read_csv(folder / "runs" / "second" / "contrasts.csv")
    assert "seconds" not in set(contrasts["clock"])


KILLED = {
    "preset": "smoke",
    "search": {"optimizers": ["adam", "sgd"], "trials": 8, "studies": 3},
    "retrain": {"seeds": 2},
    "tasks": {
        "tabular_mlp": {},
        "mnist1d": {"train": {"epochs": 1}},
        "wine": {"task": {"name": "tabular_mlp", "dataset": "wine"}},
    },
}


@pytest.mark.slow
def test_an_interrupted_suite_says_how_to_go_on(tmp_path: Path) -> None:
    (tmp_path / "long.yaml").write_text(yaml.safe_dump(KILLED | {"train": {"epochs": 2000}}, sort_keys=False))
    words = ["--suite", "long.yaml", "--name", "cut", "--max-concurrent", "1", "--studies", "3"]
    process = start(tmp_path, "tuner.search", *words)
    until = time.monotonic() + 120
    while not grown(tmp_path / "runs" / "cut") and time.monotonic() < until:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    code, _, err = finish(process)
    assert code == 130, err
    (said,) = [line for line in err.splitlines() if line.startswith("interrupted: ")]
    assert said.endswith("--resume runs/cut")
    status = run(tmp_path, "tuner.status", "runs/cut", "--json")
    found = json.loads(status.out)
    assert (found["state"], found["complete"]) == ("interrupted", False)
    assert {task["state"] for task in found["tasks"].values()} == {"interrupted"}
    assert "--resume runs/cut" in run(tmp_path, "tuner.status", "runs/cut").out.splitlines()[-1]


@pytest.mark.slow
def test_a_suite_killed_three_times_is_that_which_was_not(tmp_path: Path) -> None:
    (tmp_path / "killed.yaml").write_text(yaml.safe_dump(KILLED, sort_keys=False))
    args = ["--suite", "killed.yaml", "--studies", "3", "--out", ".", "--max-concurrent", "1"]
    Command(tmp_path, *args, "--name", "undisturbed").finish()
    draw = random.Random(3)
    for kill in range(3):
        command = Command(tmp_path, *(["--resume", "again"] if kill else [*args, "--name", "again"]))
        before = grown(tmp_path / "again")
        command.until(more_than(tmp_path / "again", before))
        time.sleep(draw.uniform(0, 4))
        command.kill()
    Command(tmp_path, "--resume", "again").finish()
    expected, found = Suite.open(tmp_path / "undisturbed"), Suite.open(tmp_path / "again")
    for task, run_of_task in expected.runs.items():
        tables_equal(found.runs[task].trials(), run_of_task.trials())
        tables_equal(found.runs[task].seeds(), run_of_task.seeds())
        pd.testing.assert_frame_equal(curves(found.runs[task]), curves(run_of_task), check_exact=True)
    tables_equal(untimed(found), untimed(expected))


def untimed(suite: Suite) -> pd.DataFrame:
    """Its contrasts, but for those by seconds, which are other ones each time."""
    table = pd.read_csv(suite.path / "contrasts.csv")
    return table[table["clock"] != "seconds"].reset_index(drop=True)


def grown(folder: Path) -> int:
    """Bytes of the tables of its runs."""
    return sum(path.stat().st_size for name in ("trials.csv", "seeds.csv") for path in folder.glob(f"*/{name}"))


def more_than(folder: Path, size: int) -> Callable[[], bool]:
    return lambda: grown(folder) > size
