"""Odd search spaces and texts, at random: refused in one line, or sampled, written and read back equal."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from tests.support.examples import examples
from tests.support.run_configs import AtOnce, blank_database, ended, run_config
from tests.support.thinned import thinned
from tests.tuner.console.test_fuzz import TEXT, WORDS
from tuner.config.changes import revise
from tuner.config.layers import from_yaml
from tuner.config.schema import Config
from tuner.errors import UserError
from tuner.planning.cohorts import CohortSizes
from tuner.planning.looking import Looking
from tuner.planning.phases import Search
from tuner.store.optuna_space import hyperparameters
from tuner.store.run import Run
from tuner.store.tables import HP

SAMPLERS = ["random", "tpe", "qmc", "gp"]
TRIALS = 4

NUMBERS = st.one_of(
    st.sampled_from([0, 0.0, -0.0, 1, 1.0, 10, 0.001, 1e-5, 5e-324, 2.3e-308, 1e-100, 1e100, 1e308, -1e308, 1e15, -1e15,
                     10**15, 2**53, 2**53 + 1, 2**63, 1.0000000000000002, 999_999, 1_000_000]),
    st.integers(-20, 20), st.floats(), st.floats(1e-9, 1e3), st.integers(),
)  # fmt: skip
TEXTS = st.one_of(
    st.sampled_from(["", "\r", "a\rb", " ", " a", "1", "1.0", "1e5", "nan", "inf", "True", "true", "None", "null",
                     "[1, 2]", "['a']", '"', '""', ",", "'", "=1", "#", "a" * 200, "a" * 201, "é😀", "x\u2028y",
                     "\ufeff", "0"]),
    TEXT, st.sampled_from(WORDS),
)  # fmt: skip
SCALARS = st.one_of(st.booleans(), NUMBERS, TEXTS, TEXTS)
CHOICES = st.lists(st.one_of(SCALARS, SCALARS, st.lists(SCALARS, max_size=3), st.none()), min_size=1, max_size=4)
NAMES = st.one_of(
    st.sampled_from(["lr", "n", "betas", "kind", "Δ", "def", "x" * 60, " ", ",", '"', "<b>", "a.b"]), TEXT
)


@st.composite
def intervals(draw: st.DrawFn) -> dict[str, Any]:
    low, high = draw(NUMBERS), draw(NUMBERS)
    if draw(st.integers(0, 9)) and low == low and high == high:
        low, high = min(low, high), max(low, high)
    log, integer = draw(st.booleans()), draw(st.booleans())
    if integer and draw(st.booleans()):
        low, high = draw(st.integers(-(2**53), 2**53)), draw(st.integers(1, 20))
        high += low
    return {"low": low, "high": high, "log": log, "integer": integer}


SPACES = st.dictionaries(NAMES, st.one_of(intervals(), intervals(), CHOICES.map(lambda c: {"choices": c})), max_size=3)


@cache
def plain(sampler: str) -> Config:
    return run_config({"one": {"class": "pkg.One", "space": {}}}, trials=TRIALS, sampler=sampler)


@pytest.fixture(scope="module")
def blank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return blank_database(tmp_path_factory.mktemp("blank"))


def accepted(space: dict[str, Any], sampler: str) -> Config | None:
    """The configuration with this space, where it is not refused in one line."""
    try:
        config = revise(plain(sampler), {"optimizers": {"one": {"class": "pkg.One", "space": space}}})
    except UserError as error:
        if "\n" in str(error) or "\r" in str(error):
            raise
        return None
    assert from_yaml(config.to_yaml()) == config
    return config


def searched(config: Config, folder: Path, blank: Path) -> tuple[Run, list[dict[str, Any]]]:
    """A run with all trials but the last, which has begun; their hyperparameters, by their numbers."""
    shutil.rmtree(folder, ignore_errors=True)
    run = Run.create(folder, config)
    shutil.copy(blank, run.path / "study.db")
    search = begin(config, run)
    tried = []
    for number in range(config.trials("one")):
        jobs = search.next_jobs()
        assert [job.trial for job in jobs] == [number]
        tried += [job.hp for job in jobs]
        if number < TRIALS - 1:
            search.record([(job, ended(1.0 + abs(number - 1))) for job in jobs])
    assert search.close(30.0) == []
    return run, tried


def begin(config: Config, run: Run) -> Search:
    sizes = CohortSizes(config, {}, 1)
    sizes.startup = lambda optimizer: 2  # type: ignore[method-assign]  # so that samplers learn soon
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tuner.planning.phases.BackgroundThread", AtOnce)
        looking = Looking(config, None, run.path)
        return Search(config, run, lambda: optuna.storages.RDBStorage(run.study_url), sizes, looking)


def exact(hp: Any) -> str:
    """As text, in which 1, 1.0 and True are not equal."""
    return repr(hp)


def assert_survives(config: Config, folder: Path, blank: Path) -> None:
    run, tried = searched(config, folder, blank)
    spec, all_but_last = config.optimizers["one"], tried[: TRIALS - 1]
    for hp in tried:
        assert list(hp) == list(spec.space)
        assert all(spec.space[name].contains(value) for name, value in hp.items())
        assert all(
            type(v) is (int if spec.space[k].integer else float) for k, v in hp.items() if not spec.space[k].choices
        )
    assert run.config() == config
    assert exact(run.asked()["one", 0]) == exact(dict(enumerate(tried)))
    rows, table = run.trial_rows(), run.trials()
    assert exact([{k: d.parse(row[HP + k]) for k, d in spec.space.items()} for row in rows]) == exact(all_but_last)
    for number, hp in enumerate(all_but_last):
        assert exact({k: d.read(table[HP + k][number]) for k, d in spec.space.items()}) == exact(hp)
    assert exact(run.best_optimizers()["one"]["hp"]) == exact(tried[min(1, len(tried) - 1)])
    stored = optuna.load_study(study_name="blobs/one", storage=run.study_url).trials
    assert exact([hyperparameters(spec, trial.params) for trial in stored[: TRIALS - 1]]) == exact(all_but_last)
    again = begin(config, run)
    assert exact([job.hp for job in again.next_jobs()]) == exact(tried[TRIALS - 1 :])
    assert exact(again.studies["one", 0].summary()["hp"]) == exact(run.best_optimizers()["one"]["hp"])


def check(data: st.DataObject, sampler: str, folder: Path, blank: Path) -> None:
    config = accepted(data.draw(SPACES), sampler)
    event("refused" if config is None else "accepted")
    if config is not None:
        assert_survives(config, folder, blank)


@pytest.mark.parametrize("sampler", SAMPLERS)
@examples(6)
@given(st.data())
def test_what_is_accepted_is_sampled_written_and_read_back(
    tmp_path_factory: pytest.TempPathFactory, blank: Path, sampler: str, data: st.DataObject
) -> None:
    check(data, sampler, tmp_path_factory.getbasetemp() / "space", blank)


@pytest.mark.slow
@pytest.mark.parametrize("sampler", SAMPLERS)
@examples(375)
@given(st.data())
def test_what_is_accepted_is_sampled_written_and_read_back_many_times(
    tmp_path_factory: pytest.TempPathFactory, blank: Path, sampler: str, data: st.DataObject
) -> None:
    check(data, sampler, tmp_path_factory.getbasetemp() / "many spaces", blank)


@pytest.mark.parametrize("sampler", thinned(SAMPLERS, 2))
@pytest.mark.parametrize(
    "space",
    [
        {"betas": {"choices": [[0.9, 0.999], [0.95, 0.95], []]}, "lr": {"low": 1e-5, "high": 0.1, "log": True}},
        {"kind": {"choices": ["1", 1.0, "[1]", [2], " a", '"', ",", "nan"]}, "n": {"choices": [True, 3, 0.5, "true"]}},
        {"n": {"low": 1, "high": 1_000_000, "integer": True, "log": True}, "m": {"low": 0, "high": 9, "integer": True}},
        {"a": {"low": -1e100, "high": 1e100}, "b": {"low": 1e-100, "high": 1e100, "log": True}},
        {"a": {"low": 1.0, "high": 1 + 2e-9, "log": True}, "b": {"low": 0.0, "high": 1e-100}},
        {"n": {"low": 10**9, "high": 10**9 + 2, "integer": True, "log": True}, "one": {"choices": ["only"]}},
        {},
    ],
    ids=["lists", "texts", "whole", "wide", "narrow", "far", "nothing"],
)  # fmt: skip
def test_spaces_at_the_edge_of_what_is_accepted(
    tmp_path: Path, blank: Path, space: dict[str, Any], sampler: str
) -> None:
    config = accepted(space, sampler)
    assert config is not None
    assert_survives(config, tmp_path / "run", blank)


@pytest.mark.parametrize(
    "dimension",
    [{"choices": ["a", ""]}, {"choices": ["a", "b\r"]}, {"low": -1e308, "high": 1e308},
     {"low": 0, "high": 1e15, "integer": True}, {"choices": ["a", None]}, {"choices": ["${"]}],
)  # fmt: skip
def test_what_could_not_be_sampled_or_read_back_is_refused(dimension: dict[str, Any]) -> None:
    assert accepted({"x": dimension}, "tpe") is None
