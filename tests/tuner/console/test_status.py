"""Looking in on a run: what is said of it, from its directory alone, whatever became of the command at work."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import tuner.console.status_view
from tests.support.commands import python
from tests.support.run_configs import run_config
from tuner.console.parsing import run_command
from tuner.console.status_view import describe, lines
from tuner.status import main
from tuner.store.run import Run

NAMES = ("adam", "diag_hessian")
SPACE = {"lr": {"low": 0.0, "high": 1.0}}
NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def at_noon(monkeypatch: pytest.MonkeyPatch) -> list[datetime]:
    """Make it ``NOW``; the time, to be changed."""
    now = [NOW]
    clock = SimpleNamespace(now=lambda _: now[0], fromisoformat=datetime.fromisoformat)
    monkeypatch.setattr(tuner.console.status_view, "datetime", clock)
    return now


def new_run(folder: Path, studies: int = 1) -> Run:
    """Two optimizers, four trials and two seeds of each study; nothing has begun."""
    optimizers = {name: {"class": "pkg.Opt", "space": SPACE} for name in NAMES}
    return Run.create(folder / "run", run_config(optimizers, trials=4, seeds=2, studies=studies))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    at_noon(monkeypatch)
    return new_run(tmp_path)


def add_trials(run: Run, optimizer: str, *states: str, start: int = 0, study: int = 0) -> None:
    rows = [
        {"task": "blobs", "optimizer": optimizer, "study": study, "trial": n, "state": state, "seed": 1000 + study,
         "steps": 8, "seconds": 1.0, "value": None if state == "failed" else 1.0 / (n + 1), "cohort": 1,
         "hp.lr": 0.25 * n, "error": f"ValueError: lr of trial {n}" if state == "failed" else ""}
        for n, state in enumerate(states, start)
    ]  # fmt: skip
    run.append_trials(rows, ["lr"])


def set_best(run: Run, **trials: int | None) -> None:
    """The best trial of each optimizer; ``None`` where none was valid."""
    entries: dict[str, Any] = {
        name: {"hp": None, "value": None, "trial": None, "n_trials": 4, "n_diverged": 0, "n_failed": 4,
               "at_boundary": []} if n is None
        else {"hp": {"lr": 0.25 * n}, "value": 1.0 / (n + 1), "trial": n, "n_trials": 4, "n_diverged": 0, "n_failed": 0,
              "at_boundary": []}
        for name, n in trials.items()
    }  # fmt: skip
    run.write_best({"task": "blobs", "metric": "val_loss", "optimizers": entries})


def set_seeds(run: Run, *cells: tuple[str, int, str, float]) -> None:
    rows = [{"task": "blobs", "optimizer": name, "study": seed // 10_000, "seed": seed, "status": status, "hp.lr": lr}
            for name, seed, status, lr in cells]  # fmt: skip
    run.write_seeds(rows, ["lr"])


def say(run: Run, state: str, ago_s: float = 1.0, **left: float | None) -> None:
    """What a command at work said so long ago; the time left of searches."""
    progress = [
        {"optimizer": name, "phase": phase, "done": 0, "total": 4, "running": 2 if phase == "search" else 0,
         "diverged": 0, "failed": 0, "best": None, "left_s": left.get(name) if phase == "search" else None}
        for phase in ("search", "retrain")
        for name in NAMES
    ]  # fmt: skip
    updated = (NOW - timedelta(seconds=ago_s)).isoformat(timespec="seconds")
    run.write_status({"state": state, "updated": updated, "host": "node7", "pid": 4321, "progress": progress})


def finish(run: Run) -> None:
    for name in NAMES:
        add_trials(run, name, *["complete"] * 4)
    set_best(run, adam=3, diag_hessian=3)
    set_seeds(run, *((name, seed, "complete", 0.75) for name in NAMES for seed in (0, 1)))


def test_a_run_under_way(run: Run) -> None:
    add_trials(run, "adam", "complete", "diverged", "failed")
    set_best(run, adam=0)
    say(run, "running", 3.0, adam=75.0, diag_hessian=3700.0)
    assert lines(describe(run)) == [
        f"{run.path}: running, process 4321 on node7; heard of 0:03 ago; about 1:01:40 left of this phase",
        "search   adam          3/4  2 running  1 diverged  1 failed  best val_loss 1 (trial 0: lr=0)  1:15 left",
        "search   diag_hessian  0/4  2 running  1:01:40 left",
        "retrain  adam          0/2",
        "retrain  diag_hessian  0/2",
        "failed: adam trial 2: ValueError: lr of trial 2",
    ]


def test_a_run_of_several_studies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts are of all of them; what is one trial's names its study, unless that is the first."""
    at_noon(monkeypatch)
    run = new_run(tmp_path, studies=3)
    add_trials(run, "adam", "complete", "failed")
    add_trials(run, "adam", "complete", "complete", "diverged", "failed", study=2)
    none = {"hp": None, "value": None, "trial": None, "n_trials": 0, "n_diverged": 0, "n_failed": 0, "at_boundary": []}
    studies = [none | {"study": 0, "trial": 0, "value": 1.0, "hp": {"lr": 0.0}}]
    studies += [none | {"study": 2, "trial": 1, "value": 0.5, "hp": {"lr": 0.25}}]
    entry = studies[1] | {"studies": studies}
    run.write_best({"task": "blobs", "metric": "val_loss", "optimizers": {"adam": entry}})
    set_seeds(run, ("adam", 0, "complete", 0.0), ("adam", 20_000, "complete", 0.25), ("adam", 20_001, "complete", 0.0))
    say(run, "running", 3.0)
    found = describe(run)
    assert lines(found)[1:] == [
        "search   adam          6/12  2 running  1 diverged  2 failed  best val_loss 0.5 (study 2 trial 1: lr=0.25)",
        "search   diag_hessian  0/12  2 running",
        "retrain  adam          2/6",  # one is of what was once the best
        "retrain  diag_hessian  0/6",
        "failed: adam trial 1: ValueError: lr of trial 1",
        "failed: adam study 2 trial 3: ValueError: lr of trial 3",
    ]
    assert found["studies"] == 3 and found["best"]["adam"]["study"] == 2


def test_a_run_that_has_ended(run: Run) -> None:
    finish(run)
    say(run, "ended", 7200.0)
    assert lines(describe(run)) == [
        f"{run.path}: ended 2:00:00 ago",
        *(f"search   {name:12}  4/4  best val_loss 0.25 (trial 3: lr=0.75)" for name in NAMES),
        *(f"retrain  {name:12}  2/2" for name in NAMES),
    ]


@pytest.mark.parametrize(
    ("state", "ago_s", "headline"),
    [
        ("interrupted", 5.0, "interrupted 0:05 ago"),
        ("halted", 5.0, "halted 0:05 ago: the run directory could not be written"),
        ("ended", 5.0, "ended 0:05 ago"),
        ("running", 61.0, "not running: last heard of process 4321 on node7 1:01 ago"),
    ],
)
def test_a_run_that_is_not_complete_says_how_to_go_on(run: Run, state: str, ago_s: float, headline: str) -> None:
    add_trials(run, "adam", "complete")
    set_best(run, adam=0)
    say(run, state, ago_s, adam=75.0)
    text = lines(describe(run))
    assert text[0] == f"{run.path}: {headline}"
    assert (
        text[1] == "search   adam          1/4  best val_loss 1 (trial 0: lr=0)"
    )  # what ran, and how long still, is gone
    assert text[-1] == f"to go on: python -m tuner.search --resume {run.path}"


@pytest.mark.parametrize(("ago_s", "state"), [(-5.0, "running"), (0.0, "running"), (60.0, "running"), (61.0, "silent")])
def test_silence_of_a_minute_is_taken_for_death_and_clocks_may_differ(run: Run, ago_s: float, state: str) -> None:
    say(run, "running", ago_s)
    found = describe(run)
    assert (found["state"], found["ago_s"]) == (state, max(0.0, ago_s))


def test_a_run_that_never_began_and_one_of_before_there_was_a_status(run: Run) -> None:
    text = lines(describe(run))
    assert text[0] == f"{run.path}: nothing is known of a command at work"
    assert text[1:3] == [f"search   {name:12}  0/4" for name in NAMES]
    finish(run)
    found = describe(run)
    assert found["complete"] and found["ago_s"] is found["pid"] is found["host"] is None
    assert not lines(found)[-1].startswith("to go on")


def test_only_the_last_failures_are_shown_but_all_are_counted(run: Run) -> None:
    add_trials(run, "adam", "failed", "complete", "failed", "failed")
    add_trials(run, "diag_hessian", "failed")
    say(run, "running")
    text = lines(describe(run))
    assert "3 failed" in text[1] and "1 failed" in text[2]
    where = ["adam trial 2", "adam trial 3", "diag_hessian trial 0"]
    assert [line.partition(": ValueError")[0] for line in text if line.startswith("failed: ")] == [
        f"failed: {place}" for place in where
    ]
    assert len(describe(run)["failures"]) == 4


def test_a_search_without_a_valid_trial_has_no_best(run: Run) -> None:
    add_trials(run, "adam", *["failed"] * 4)
    set_best(run, adam=None)
    say(run, "running")
    assert lines(describe(run))[1] == "search   adam          4/4  2 running  4 failed"


def test_seeds_retrained_with_what_was_once_the_best_do_not_count(run: Run) -> None:
    finish(run)
    set_seeds(run, ("adam", 0, "complete", 0.75), ("adam", 1, "diverged", 0.5), ("diag_hessian", 0, "failed", 0.75))
    say(run, "ended")
    found = describe(run)
    assert [(p["optimizer"], p["done"], p["diverged"], p["failed"]) for p in found["phases"][2:]] == [
        ("adam", 1, 0, 0), ("diag_hessian", 1, 0, 1),
    ]  # fmt: skip
    assert not found["complete"]


@pytest.mark.parametrize("cut", [1, 10, 40])
def test_a_line_that_is_being_written_is_not_there_yet(run: Run, cut: int) -> None:
    add_trials(run, "adam", "complete")
    path = run.path / "trials.csv"
    before = path.read_bytes()
    add_trials(run, "adam", "failed", start=1)
    path.write_bytes(path.read_bytes()[: len(before) + cut])
    found = describe(run)
    assert found["phases"][0]["done"] == 1 and found["failures"] == []


def test_a_header_that_is_being_written_is_not_there_yet(run: Run) -> None:
    (run.path / "trials.csv").write_text("task,optimi")
    assert describe(run)["phases"][0]["done"] == 0


def test_as_json(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    add_trials(run, "adam", "complete", "failed")
    set_best(run, adam=0)
    say(run, "running", 2.0, adam=10.0)
    assert main([str(run.path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    phases = found.pop("phases")
    assert found == {
        "schema_version": 1, "run": str(run.path), "task": "blobs", "metric": "val_loss", "state": "running",
        "ago_s": 2.0, "host": "node7", "pid": 4321, "left_s": 10.0, "complete": False,
        "studies": 1, "looks": {}, "best": {"adam": {"study": 0, "value": 1.0, "trial": 0, "hp": {"lr": 0.0}}},
        "failures": [{"optimizer": "adam", "study": 0, "trial": 1, "error": "ValueError: lr of trial 1"}],
    }  # fmt: skip
    assert phases[0] == {
        "phase": "search", "optimizer": "adam", "total": 4, "running": 2, "left_s": 10.0, "done": 2, "diverged": 0,
        "failed": 1, "complete": False,
    }  # fmt: skip
    assert [(p["phase"], p["optimizer"]) for p in phases] == [(a, b) for a in ("search", "retrain") for b in NAMES]


# What is not a run.


def complaint(argv: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[Any, str]:
    with pytest.raises(SystemExit) as left:
        run_command(main, argv)
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    return left.value.code, err


def test_what_is_no_run_is_one_line_and_exit_code_2(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for path in (tmp_path / "none", tmp_path, file):
        assert complaint([str(path)], capsys) == (2, f"error: {path}: not a run directory, it has no config.yaml\n")
        assert complaint([str(path), "--watch"], capsys)[0] == 2
    for argv in ([], [str(run.path), "--wacth"], [str(run.path), "more"]):
        assert complaint(argv, capsys)[0] == 2
    for name in ("config.yaml", "best.json", "status.json"):
        before = (run.path / name).read_bytes() if (run.path / name).exists() else None
        (run.path / name).write_text("[1, 2")
        code, line = complaint([str(run.path)], capsys)
        assert code == 2 and f"{run.path / name}: " in line
        (run.path / name).unlink() if before is None else (run.path / name).write_bytes(before)
    assert main([str(run.path)]) == 0


def test_nothing_heavy_is_imported(run: Run) -> None:
    script = (
        "import sys; from tuner.status import main; code = main(sys.argv[1:]); "
        "print(code, sorted({'torch', 'ray', 'pandas', 'optuna', 'numpy'} & set(sys.modules)), file=sys.stderr)"
    )
    finish(run)
    done = python(script, run.path)
    assert done.err == "0 []\n" and done.out.startswith(f"{run.path}: nothing is known")
