"""A search that a program calls gives the bytes of the command's, inside the program's own Ray, which stays as it was;
interrupted or killed it goes on, from Python and from the command line."""

from __future__ import annotations

import html
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
import torch

import tuner
from tests.support.commands import environment, finish, run, start
from tests.test_kill import tables_equal
from tuner.errors import UserError
from tuner.result import Result
from tuner.store.run import Run

SETTINGS = {"train.epochs": 1, "retrain.epochs": 1}
FLAGS = [
    "--task", "mnist1d", "--optimizers", "adam", "sgd", "--trials", "2", "--seeds", "3", "--preset", "smoke",
    "--max-concurrent", "1", "--gpus-per-trial", "0", "--keep-weights", "--no-report", "--out", "out",
    "--set", "train.epochs=1", "retrain.epochs=1",
]  # fmt: skip
INSIDE = f"""
import json, os, signal, sys
import ray
import tuner

@ray.remote(num_cpus=0)
class Counter:
    def __init__(self): self.count = 0
    def up(self): self.count += 1; return self.count

def surroundings():
    handlers = [str(signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]
    return {{
        "ray": [ray.is_initialized(), ray.cluster_resources().get("CPU")], "signals": handlers, "path": list(sys.path),
        "streams": [str(sys.stdout), str(sys.stderr)], "argv": sys.argv, "folder": os.getcwd(),
        "torch": "torch" in sys.modules, **os.environ,
    }}

ray.init(num_cpus=2, num_gpus=0, include_dashboard=False, log_to_driver=False, logging_level="CRITICAL")
counter = Counter.remote()
first = ray.get(counter.up.remote())
import joblib  # which sets a variable when it is imported
before, told = surroundings(), []
result = tuner.search(
    "mnist1d", ["adam", "sgd"], trials=2, studies=1, seeds=3, preset="smoke", max_concurrent=1, gpus_per_trial=0,
    keep_weights=True, no_report=True, out="out", set={SETTINGS}, on_event=told.append, name="in_ray",
)
after = surroundings()
changed = {{key: [before.get(key), after.get(key)] for key in before | after if before.get(key) != after.get(key)}}
print(json.dumps({{
    "changed": changed, "count": [first, ray.get(counter.up.remote())],
    "run": str(result.path), "told": [type(event).__name__ for event in told],
}}))
"""
FILES = ["config.yaml", "best.json"]
TABLES = ["trials.csv", "seeds.csv", "summary.csv", "contrasts.csv"]
SLOW = """
import sys, time
import torch
import tuner

PAUSE_S = 0.01

class Slow(torch.optim.SGD):
    def step(self, closure=None):
        time.sleep(PAUSE_S)
        return super().step(closure)

try:
    {search}
except KeyboardInterrupt as error:
    print("interrupted:", error)
"""
NEW = """tuner.search("mnist1d", Slow, trials=6, studies=1, seeds=1, preset="smoke", max_concurrent=1, gpus_per_trial=0,
        name="slow", no_report=True, out=".", set={"train.epochs": 1, "retrain.epochs": 1})"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("api")


@pytest.fixture(scope="module")
def by_command(folder: Path) -> Run:
    done = run(folder, "tuner.search", *FLAGS, "--name", "by_command", "-q")
    assert done.code == 0, done.err
    return Run(folder / "out/by_command")


@pytest.fixture(scope="module")
def inside(folder: Path) -> dict[str, Any]:
    """What a program with a Ray of its own saw."""
    done = subprocess.run(
        [sys.executable, "-c", INSIDE], cwd=folder, env=environment(), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def result(folder: Path, inside: dict[str, Any]) -> Result:
    return tuner.open(folder / inside["run"])


# Inside a Ray of the program's own.


def test_the_program_its_ray_and_its_actors_are_as_they_were(inside: dict[str, Any]) -> None:
    assert (inside["changed"], inside["count"]) == ({}, [1, 2])


def test_events_are_told_from_the_first_to_the_last(inside: dict[str, Any]) -> None:
    told = inside["told"]
    assert [name for name in told if name in ("RayRemark", "TrainingBegan", "TrainingEnded")] == [
        "RayRemark", "TrainingBegan", "TrainingEnded",
    ]  # fmt: skip
    assert told.index("TrainingBegan") < told.index("Progressed") < told.index("TrainingEnded")


@pytest.mark.parametrize("name", FILES)
def test_files_are_those_of_the_command(name: str, by_command: Run, result: Result) -> None:
    text = (result.path / name).read_text()
    assert text.replace("in_ray", "by_command") == (by_command.path / name).read_text()


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_those_of_the_command_but_for_times(name: str, by_command: Run, result: Result) -> None:
    one, other = (pd.read_csv(path / name, dtype=str) for path in (result.path, by_command.path))
    assert list(one) == list(other) and len(one) > 1
    if name == "contrasts.csv":
        one, other = (table[table["clock"] == "step"] if "clock" in table else table for table in (one, other))
    times = [column for column in one if any(word in column for word in ("second", "time", "step_ms", "mem", "cost"))]
    tables_equal(one.drop(columns=times), other.drop(columns=times))


# What a result has, against the files.


def test_tables_of_a_result_are_those_of_the_files(result: Result) -> None:
    for name in ("trials", "seeds", "summary", "contrasts"):
        of_file = pd.read_csv(result.path / f"{name}.csv")
        table = getattr(result, name)
        assert len(table) == len(of_file) > 0
        assert [column for column in table if column in of_file] == list(of_file)
        pd.testing.assert_frame_equal(table[list(of_file)].replace("", None), of_file, check_dtype=False)
    of_file = pd.read_parquet(result.path / "curves.parquet")
    pd.testing.assert_frame_equal(result.curves[list(of_file)], of_file, check_dtype=False)
    assert {tuple(table["task"].unique()) for table in (result.trials, result.seeds, result.curves)} == {("mnist1d",)}


def test_verdicts_winners_and_document_agree(result: Result) -> None:
    (row,) = result.verdicts.to_dict("records")
    assert (row["task"], row["optimizer"], row["baseline"], row["metric"]) == ("mnist1d", "sgd", "adam", "test_loss")
    assert f"sgd's configuration is {row['verdict']}" in row["sentence"] or row["verdict"] not in ("better", "worse")
    best = json.loads((result.path / "best.json").read_text())["optimizers"]
    assert {name: won.hp for name, won in result.best.items()} == {name: entry["hp"] for name, entry in best.items()}
    (task,) = json.loads(result.to_json())["tasks"]
    assert (task["task"], task["baseline"]) == ("mnist1d", "adam")
    assert row["sentence"] in repr(result) and html.escape(row["sentence"].partition(":")[0]) in result._repr_html_()


def test_kept_weights_score_what_the_table_says(result: Result) -> None:
    from tuner.training import build

    task = build.make_task(Run(result.path).config())
    task.setup(None, torch.device("cpu"))
    row = result.seeds.query("optimizer == 'sgd' and seed == 1").iloc[0]
    assert task.evaluate(result.model("sgd", 1), "test")["loss"] == pytest.approx(row["test_loss"], rel=1e-5)
    with pytest.raises(UserError, match="7"):
        result.model("sgd", 7)


def test_a_report_is_written_where_one_wants_it(result: Result, tmp_path: Path) -> None:
    page = result.report(tmp_path / "page")
    assert page == tmp_path / "page/report.html" and "mnist1d" in page.read_text()


# Interrupted, killed, and gone on with.


def program(folder: Path, search: str) -> subprocess.Popen[str]:
    """A script under way, in a session of its own."""
    (folder / "script.py").write_text(SLOW.format(search=search))
    return subprocess.Popen(
        [sys.executable, "script.py"], cwd=folder, env=environment(), text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def rows(folder: Path) -> int:
    trials = folder / "slow/trials.csv"
    return len(trials.read_text().splitlines()) - 1 if trials.exists() else 0


def wait_until(reached: Callable[[], bool], within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def family(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


@pytest.mark.slow
def test_a_search_of_a_scripts_own_class_goes_on_after_an_interruption_and_after_a_kill(tmp_path: Path) -> None:
    resumed = "tuner.search(resume='slow', no_report=True)"
    script = program(tmp_path, NEW)
    wait_until(lambda: rows(tmp_path) >= 1, 60)
    processes = family(script.pid)
    os.killpg(script.pid, signal.SIGINT)  # as a terminal does
    code, out, err = finish(script, timeout_s=60)
    assert code == 0 and "Traceback" not in err, err
    assert out.startswith("interrupted: ") and "to go on: tuner.search(resume='slow')" in out
    assert Run(tmp_path / "slow").status()["state"] == "interrupted"
    assert psutil.wait_procs(processes, timeout=20)[1] == []

    before = rows(tmp_path)
    assert 1 <= before < 5
    script = program(tmp_path, resumed)
    wait_until(lambda: rows(tmp_path) > before, 60)
    processes = family(script.pid)
    script.kill()
    script.communicate()
    assert psutil.wait_procs(processes, timeout=30)[1] == []
    assert Run(tmp_path / "slow").status()["state"] == "interrupted"

    done = finish(start(tmp_path, "tuner.search", "--resume", "slow", "--no-report", "-q"))
    assert done.code == 0, done.err
    trials = Run(tmp_path / "slow").trials()
    assert sorted(trials["trial"]) == list(range(6)) and set(trials["state"]) == {"complete"}
    assert len(Run(tmp_path / "slow").seeds()) == 1
