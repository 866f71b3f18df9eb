"""The functions of ``import tuner``: how they are called, what they show, and the Ray that they find."""

from __future__ import annotations

import inspect
import io
import pickle
import sys
import types
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import tuner
from tests.support.made_runs import make_run
from tuner import call, events
from tuner.call import Answer
from tuner.console.terminal import Terminal
from tuner.errors import MachineError, UserError
from tuner.events import Listener
from tuner.planning.progress import Progress
from tuner.store.run import Run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return make_run(tmp_path / "run", "mnist1d", {"adam": 0.0, "sgd": 0.1}, seeds=5, trials=4)


@pytest.fixture
def asked(run: Run, monkeypatch: pytest.MonkeyPatch) -> list[call.Call]:
    """What a child is asked, who answers at once."""
    calls: list[call.Call] = []

    def carry_out(asked: call.Call, tell: Listener) -> Answer:
        calls.append(asked)
        tell(events.Remark("told"))
        return Answer(run.path)

    monkeypatch.setattr(call, "carry_out", carry_out)
    return calls


def test_the_functions_are_the_modules_of_their_names() -> None:
    assert tuner.search is sys.modules["tuner.search"] and callable(tuner.search) and callable(tuner.retrain)
    assert list(inspect.signature(tuner.search).parameters)[:5] == ["task", "optimizers", "trials", "studies", "seeds"]
    assert str(inspect.getdoc(tuner.search)).startswith("Search each optimizer's hyperparameters, ")
    assert pickle.loads(pickle.dumps(tuner.search)) is tuner.search
    with pytest.raises(AttributeError, match="no attribute 'serach'"):
        tuner.serach  # noqa: B018


def test_a_search_and_a_retraining_are_asked_for_in_flags(asked: list[call.Call], run: Run) -> None:
    told: list[events.Event] = []
    searched = tuner.search("mnist1d", ["adam", "sgd"], trials=4, seeds=[1, 2], no_report=True, on_event=told.append)
    retrained = tuner.retrain(run.path, seeds=6, verbose=True, on_event=told.append)
    assert [(one.command, one.argv) for one in asked] == [
        ("search", ["--task=mnist1d", "--optimizers", "adam", "sgd", "--trials=4", "--seeds=1,2", "--no-report"]),
        ("retrain", [str(run.path), "--seeds=6", "--verbose"]),
    ]
    assert told == [events.Remark("told")] * 2
    assert searched.path == retrained.path == run.path


@pytest.mark.parametrize("stream", [None, "closed", "left"])
def test_the_work_goes_on_where_nobody_sees_it(
    stream: str | None, asked: list[call.Call], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Left(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    shown = {None: None, "closed": io.StringIO(), "left": Left()}[stream]
    if stream == "closed" and shown:
        shown.close()
    monkeypatch.setattr(sys, "stderr", shown)
    assert tuner.search("mnist1d", "adam").runs


def test_what_is_told_is_shown_on_stderr(asked: list[call.Call], capsys: pytest.CaptureFixture[str]) -> None:
    tuner.search("mnist1d", "adam", quiet=True)
    assert capsys.readouterr() == ("", "told\n")


def test_a_terminal_is_left_as_it_was_whatever_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    class Tty(io.StringIO):
        def isatty(self) -> bool:
            return True

    def dies(asked: call.Call, tell: Listener) -> Answer:
        tell(events.TrainingBegan("val_loss", lambda: [Progress("adam", "search", 1, 2, 1, 0, 0, 0.5)], Path("runs/a")))
        raise MachineError("gone")

    monkeypatch.setattr(call, "carry_out", dies)
    monkeypatch.setenv("TERM", "xterm")
    out, err = sys.stdout, Tty()
    monkeypatch.setattr(sys, "stderr", err)
    with pytest.raises(MachineError, match="gone"):
        tuner.search("mnist1d", "adam")
    assert sys.stdout is out and sys.stderr is err
    shown = err.getvalue()
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") == 1  # the cursor, hidden and shown again


def test_closing_twice_shows_nothing_twice(capsys: pytest.CaptureFixture[str]) -> None:
    with closing(Terminal(quiet=False)) as terminal:
        terminal(events.TrainingBegan("val_loss", lambda: [Progress("adam", "search", 2, 2, 0, 0, 0, 0.5)], Path("a")))
        terminal(events.TrainingEnded())
    assert capsys.readouterr().err.count("search  adam") == 1


# A Ray that is there.


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A stand-in for Ray, initialised on one node."""
    fake = types.SimpleNamespace(
        is_initialized=lambda: True,
        nodes=lambda: [{"Alive": True}, {"Alive": False}],
        available_resources=lambda: {"CPU": 3.5, "GPU": 1.0, "memory": 1.0},
        get_runtime_context=lambda: types.SimpleNamespace(gcs_address="10.0.0.1:6379"),
    )
    monkeypatch.setitem(sys.modules, "ray", fake)
    return fake


def test_what_is_free_in_an_initialised_ray_is_used(ray: Any, asked: list[call.Call]) -> None:
    tuner.search("mnist1d", "adam", on_event=print)
    tuner.search("mnist1d", "adam", address="auto", on_event=print)
    inside = asked[0].program.inside
    assert inside and (inside.address, inside.cpus, inside.gpus) == ("10.0.0.1:6379", 3, 1)
    assert asked[1].program.inside is None


def test_a_ray_that_is_not_initialised_is_not(ray: Any, asked: list[call.Call]) -> None:
    ray.is_initialized = lambda: False
    tuner.search("mnist1d", "adam", on_event=print)
    assert asked[0].program.inside is None


def test_of_several_nodes_the_address_must_be_said(ray: Any, asked: list[call.Call]) -> None:
    ray.nodes = lambda: [{"Alive": True}] * 2
    with pytest.raises(
        UserError, match=r"^Ray is initialised on 2 nodes: say address='10\.0\.0\.1:6379' to search on "
    ):
        tuner.search("mnist1d", "adam")
    assert asked == []


# What is there.


def test_runs_are_opened_and_winners_found(run: Run, tmp_path: Path) -> None:
    other = make_run(tmp_path / "other", "tabular_mlp", {"adam": 0.0, "sgd": 0.1}, seeds=5, trials=4)
    assert tuner.open(run.path).path == run.path
    both = tuner.open([run.path, str(other.path)], baseline="sgd", metric="test_acc")
    assert both.paths == [run.path, other.path]
    assert {(row.baseline, row.metric) for row in both.verdicts.itertuples()} == {("sgd", "test_acc")}
    assert set(both.trials["task"]) == {"mnist1d", "tabular_mlp"}
    for alone in ("path", "best"):
        with pytest.raises(UserError, match=f"^{alone}: is of one run, and there are 2; open that one alone$"):
            getattr(both, alone)
    assert tuner.best(run.path, "adam").hp == tuner.open(run.path).best["adam"].hp
    for wrong in (
        lambda: tuner.open(tmp_path / "nowhere"),
        lambda: tuner.open([]),
        lambda: tuner.best(run.path, "adma"),
    ):
        with pytest.raises(UserError):
            wrong()


def test_a_report_that_cannot_be_written_says_so(run: Run) -> None:
    figures = run.path / "figures"
    figures.write_text("mine")
    with pytest.raises(MachineError, match="figures: File exists"):
        tuner.open(run.path).report()
    assert figures.read_text() == "mine" and not (run.path / "report.html").exists()
