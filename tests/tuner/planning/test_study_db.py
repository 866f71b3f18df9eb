"""study.db follows a study in memory, whatever happens to the process or to the file."""

from __future__ import annotations

import math
import random
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from tests.support.run_configs import AtOnce, Failing, blank_database, copied_url, stored
from tests.support.thinned import thinned
from tuner.planning.study_db import OpenStorage, StudyDatabase, orphans

NAME = "blobs/one"
COMPLETE, PRUNED, FAIL = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL
WAITING, RUNNING = TrialState.WAITING, TrialState.RUNNING
SPACE: dict[str, BaseDistribution] = {
    "lr": FloatDistribution(1e-5, 0.1, log=True),
    "width": IntDistribution(1, 64, log=True),
    "kind": CategoricalDistribution(["a", 2, 0.5, True]),
}


@pytest.fixture(scope="module")
def blank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return blank_database(tmp_path_factory.mktemp("blank"))


@pytest.fixture
def url(blank: Path, tmp_path: Path) -> str:
    return copied_url(blank, tmp_path)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Optuna sleeps for seconds before it tries a locked database again."""
    monkeypatch.setattr("optuna.storages._rdb.storage.random", SimpleNamespace(random=lambda: 0.0))


def impatient(url: str) -> OpenStorage:
    """A storage that does not wait for whoever has locked it."""
    return lambda: optuna.storages.RDBStorage(url, engine_kwargs={"connect_args": {"timeout": 0.0}})


def new_study() -> optuna.Study:
    return optuna.create_study(study_name=NAME, sampler=optuna.samplers.RandomSampler(seed=0))


def record_of(study: optuna.Study, url: str, writer: Executor | None = None) -> StudyDatabase:
    return StudyDatabase(study, impatient(url), writer or AtOnce())


def ask(study: optuna.Study, number: int = 1) -> list[optuna.Trial]:
    return [study.ask(SPACE) for _ in range(number)]


def tell(study: optuna.Study, trial: optuna.Trial, state: TrialState = COMPLETE, value: float = 1.0) -> None:
    trial.set_user_attr("state", state.name)
    if state == PRUNED:
        trial.report(value, step=3)
    study.tell(trial, value if state == COMPLETE else None, state=state)


def after_a_crash(study: optuna.Study) -> optuna.Study:
    """What another process makes of the records: ended trials as they were, the others to be done again."""
    anew = new_study()
    for trial in study.trials:
        if trial.state.is_finished():
            anew.add_trial(trial)
        else:
            anew.enqueue_trial(trial.params)
    return anew


def what(trial: FrozenTrial) -> dict[str, Any]:
    """All that a reader may want of a trial that has ended."""
    return {
        "number": trial.number, "state": trial.state, "values": trial.values, "params": trial.params,
        "distributions": trial.distributions, "user_attrs": trial.user_attrs,
        "intermediate": trial.intermediate_values,
    }  # fmt: skip


def assert_stored(study: optuna.Study, url: str) -> None:
    assert list(map(what, stored(url))) == list(map(what, study.trials))


@contextmanager
def locked(url: str) -> Iterator[Callable[[], None]]:
    """Another program has the database for itself, until the end or the call."""
    connection = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None, check_same_thread=False)
    connection.execute("BEGIN EXCLUSIVE")
    try:
        yield connection.rollback
    finally:
        connection.close()


# In the order of numbers.


def test_only_what_has_ended_is_written_and_in_the_order_of_numbers(url: str) -> None:
    study = new_study()
    record, trials = record_of(study, url), ask(study, 4)
    for told, written in ((1, 0), (2, 0), (0, 3), (3, 4)):
        tell(study, trials[told], value=float(told))
        record.write()
        assert [trial.value for trial in stored(url)] == [float(number) for number in range(written)]
        assert all(trial.state is COMPLETE for trial in stored(url))
    assert [trial.number for trial in stored(url)] == [0, 1, 2, 3]


@pytest.mark.parametrize("seed", thinned(range(3), 3))
def test_whatever_ends_first_fails_to_be_written_or_dies_each_trial_is_there_once(seed: int, url: str) -> None:
    chance, study, left = random.Random(seed), new_study(), 12
    record, running = record_of(study, url), ask(study, 3)
    while left or running:
        match chance.choice(["ask", "tell", "tell", "write", "write", "fail", "die", "close and die"]):
            case "ask" if left:
                running += ask(study)
                left -= 1
            case "tell" if running:
                trial = running.pop(chance.randrange(len(running)))
                tell(study, trial, chance.choice([COMPLETE, PRUNED, FAIL]), float(trial.number))
            case "write":
                record.write()
            case "fail":
                record._writer = Failing(chance.randint(1, 2))
            case "die" | "close and die" as how:
                if how != "die":
                    record._writer = AtOnce()
                    assert record.close() == ""
                numbers = {trial.number: trial.params for trial in running}
                study = after_a_crash(study)
                record, running = record_of(study, url), ask(study, len(running))
                assert {trial.number: trial.params for trial in running} == numbers
                now = stored(url)
                assert [trial.number for trial in now] == list(range(len(now)))
                assert RUNNING not in {trial.state for trial in now}
    record._writer = AtOnce()
    assert record.close() == ""
    assert_stored(study, url)


def test_nothing_is_written_before_it_is_asked_for_and_nothing_twice(url: str) -> None:
    study = new_study()
    record = record_of(study, url)
    for trial in ask(study, 3):
        tell(study, trial)
    assert stored(url) == []
    for _ in range(2):
        record.write()
        assert len(stored(url)) == 3
    assert record.close() == ""
    assert len(stored(url)) == 3


def test_a_written_trial_is_optunas_own(url: str) -> None:
    """With its distributions and times: what a dashboard, or a study that goes on, reads."""
    study = new_study()
    record, trials = record_of(study, url), ask(study, 3)
    for trial, state in zip(trials, (COMPLETE, PRUNED, FAIL), strict=True):
        tell(study, trial, state)
    record.write()
    assert_stored(study, url)
    for trial in stored(url):
        assert trial.distributions == SPACE
        assert trial.datetime_start is not None and trial.datetime_complete is not None
        assert trial.datetime_start <= trial.datetime_complete


def test_a_slow_disk_holds_up_nobody_but_the_end(url: str) -> None:
    gate, study = threading.Event(), new_study()
    with ThreadPoolExecutor(max_workers=1) as writer:
        writer.submit(gate.wait, 30)
        record = record_of(study, url, writer)
        for trial in ask(study, 3):
            tell(study, trial)
            record.write()
        assert stored(url) == []
        threading.Timer(0.05, gate.set).start()
        assert record.close() == ""
    assert_stored(study, url)


# What cannot be written for now.


def test_a_disk_that_cannot_be_written_is_said_in_a_line(url: str) -> None:
    study = new_study()
    record = record_of(study, url, Failing(math.inf))
    for trial in ask(study, 2):
        tell(study, trial)
    assert record.close(0.2) == f"study.db lacks 2 trials of {NAME} (no space left)"


def test_what_could_not_be_written_is_written_later_and_once(url: str) -> None:
    study = new_study()
    record, trials = record_of(study, url, Failing(2)), ask(study, 2)
    tell(study, trials[0])
    assert not record.write() and not record.write()
    tell(study, trials[1])
    assert record.close() == ""
    assert_stored(study, url)


@pytest.mark.parametrize("before", [0, 2])
def test_a_database_locked_at_first_or_in_the_middle_is_written_once_it_is_free(url: str, before: int) -> None:
    study = new_study()
    record, trials = record_of(study, url), ask(study, 5)
    for trial in trials[:before]:
        tell(study, trial)
    record.write()
    with locked(url):
        for trial in trials[before:]:
            tell(study, trial)
            assert not record.write()
    assert len(stored(url)) == before
    assert record.close() == ""
    assert_stored(study, url)


@pytest.mark.parametrize("before", [0, 1])
def test_a_database_locked_at_the_end_is_waited_for(url: str, before: int) -> None:
    study = new_study()
    record, trials = record_of(study, url), ask(study, 2)
    for trial in trials[:before]:
        tell(study, trial)
        record.write()
    for trial in trials[before:]:
        tell(study, trial)
    with locked(url) as free:
        assert record.close(0.2).startswith(f"study.db lacks {2 - before} trials of {NAME} (")
        assert "database is locked" in record.close(0.2)
        timer = threading.Timer(0.2, free)
        timer.start()
        assert record.close(30.0) == ""
        timer.join()
    assert_stored(study, url)


# Trials that have not ended.


def test_trials_that_run_wait_where_later_ones_have_ended(url: str) -> None:
    study = new_study()
    record, trials = record_of(study, url), ask(study, 4)
    tell(study, trials[0])
    tell(study, trials[2])
    assert record.close() == ""
    assert [trial.state for trial in stored(url)] == [COMPLETE, WAITING, COMPLETE]
    assert stored(url)[1].system_attrs["fixed_params"] == trials[1].params
    assert orphans(impatient(url), NAME) == set()


@pytest.mark.parametrize("state", [COMPLETE, PRUNED, FAIL])
def test_a_trial_that_waited_ends_in_its_place(url: str, state: TrialState) -> None:
    study = new_study()
    trials = ask(study, 3)
    tell(study, trials[1])
    assert record_of(study, url).close() == ""
    study = after_a_crash(study)
    first, last = ask(study, 2)
    tell(study, last, FAIL)
    assert record_of(study, url).close() == ""
    assert [trial.state for trial in stored(url)] == [WAITING, COMPLETE, FAIL]
    study = after_a_crash(study)
    (first,) = ask(study)
    tell(study, first, state, value=0.25)
    assert record_of(study, url).close() == ""
    assert [trial.state for trial in stored(url)] == [state, COMPLETE, FAIL]
    assert_stored(study, url)
    assert stored(url)[0].params == trials[0].params
    assert stored(url)[0].intermediate_values == ({3: 0.25} if state == PRUNED else {})


def test_a_trial_of_a_process_that_is_no_more_fails(url: str) -> None:
    """As optuna.Study.ask leaves it in the database; the process that died did not know where its study would go on."""
    other = optuna.create_study(study_name=NAME, storage=url)
    dead = ask(other)[0]
    assert orphans(impatient(url), NAME) == {0}
    study = new_study()
    study.add_trial(optuna.trial.create_trial(state=FAIL))  # its number is taken
    tell(study, ask(study)[0])
    record_of(study, url).close()
    assert [(trial.state, trial.params) for trial in stored(url)] == [
        (FAIL, dead.params),
        (COMPLETE, study.trials[1].params),
    ]
    assert orphans(impatient(url), NAME) == {0}


def test_without_a_study_nobody_is_orphaned(url: str, tmp_path: Path) -> None:
    assert orphans(impatient(url), NAME) == set()
    assert orphans(impatient(f"sqlite:///{tmp_path}"), NAME) == set()  # a folder
    (tmp_path / "spoilt.db").write_bytes(b"no database" * 999)
    assert orphans(impatient(f"sqlite:///{tmp_path}/spoilt.db"), NAME) == set()


# A record that is opened again.


@pytest.mark.parametrize("times", [1, 3])
def test_a_record_opened_again_adds_nothing_twice(url: str, times: int) -> None:
    study = new_study()
    for trial in ask(study, 3):
        tell(study, trial)
    record_of(study, url).close()
    before = stored(url)
    for _ in range(times):
        study = after_a_crash(study)
        assert record_of(study, url).close() == ""
    assert stored(url) == before


def test_a_record_whose_last_seconds_are_lost_gets_what_it_lacks(url: str) -> None:
    study = new_study()
    record, trials = record_of(study, url), ask(study, 4)
    for number, trial in enumerate(trials):
        tell(study, trial, value=float(number))
        if number == 1:
            record.write()
    assert len(stored(url)) == 2
    study = after_a_crash(study)
    assert record_of(study, url).close() == ""
    assert_stored(study, url)


def test_a_deleted_database_is_made_anew(tmp_path: Path) -> None:
    url, study = f"sqlite:///{tmp_path}/study.db", new_study()
    for trial in ask(study, 2):
        tell(study, trial)
    record_of(study, url).close()
    (tmp_path / "study.db").unlink()
    study = after_a_crash(study)
    tell(study, ask(study)[0])
    assert record_of(study, url).close() == ""
    assert len(stored(url)) == 3
    assert_stored(study, url)


def test_the_record_is_a_plain_optuna_study_of_the_same_direction(url: str) -> None:
    study = optuna.create_study(study_name=NAME, direction="maximize")
    for value, trial in enumerate(ask(study, 2)):
        tell(study, trial, value=float(value))
    record_of(study, url).close()
    found = optuna.load_study(study_name=NAME, storage=url)
    assert found.direction is optuna.study.StudyDirection.MAXIMIZE
    assert (found.best_value, found.best_params) == (1.0, study.trials[1].params)
    assert optuna.get_all_study_names(url) == [NAME]
