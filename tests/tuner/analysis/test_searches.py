from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest

from tests.support.run_configs import run_config
from tuner.analysis.searches import FEW_TRIALS, boundary, importance
from tuner.config.boundary import at_boundary
from tuner.config.space import Dimension
from tuner.store.run import Run
from tuner.store.tables import hp_columns

NAN = math.nan
SPACE = {
    "lr": Dimension(low=1e-5, high=1.0, log=True),
    "momentum": Dimension(low=0.0, high=1.0),
    "n": Dimension(low=1, high=9, integer=True),
    "kind": Dimension(choices=["none", "0.5", 2, True]),
}


def trials(values: list[float], states: list[str] | str = "complete", **hp: list[Any]) -> pd.DataFrame:
    table = pd.DataFrame({"optimizer": "one", "trial": range(len(values)), "state": states, "value": values})
    return table.assign(**{f"hp.{name}": column for name, column in hp.items()})


def drawn(n: int, seed: int = 0) -> dict[str, list[Any]]:
    """A random search of ``SPACE``."""
    rng = np.random.default_rng(seed)
    choices = SPACE["kind"].choices
    assert choices
    return {
        "lr": (10 ** rng.uniform(-5, 0, n)).tolist(),
        "momentum": rng.random(n).tolist(),
        "n": rng.integers(1, 10, n).tolist(),
        "kind": [choices[i] for i in rng.integers(0, 4, n)],
    }


# Importance.


def test_importance_equals_optunas_on_a_study_made_by_asking() -> None:
    def objective(trial: optuna.Trial) -> float:
        lr = trial.suggest_float("lr", 1e-5, 1.0, log=True)
        n = trial.suggest_int("n", 1, 9)
        kind = trial.suggest_categorical("kind", ["none", "0.5", 2, True])
        return (math.log10(lr) + 2) ** 2 + 0.1 * trial.suggest_float("momentum", 0.0, 1.0) + 0.2 * n + (kind == "none")

    for mode, direction, sign in (("min", "minimize", 1.0), ("max", "maximize", -1.0)):
        study = optuna.create_study(direction=direction, sampler=optuna.samplers.RandomSampler(seed=3))
        study.optimize(lambda trial, sign=sign: sign * objective(trial), n_trials=40)
        expected = optuna.importance.get_param_importances(study)
        hp = {name: [trial.params[name] for trial in study.trials] for name in SPACE}
        values = [trial.value for trial in study.trials if trial.value is not None]
        found = importance(trials(values, **hp), SPACE, mode)  # type: ignore[arg-type]
        assert found.table["hyperparameter"].tolist() == list(expected)
        assert found.table["importance"].tolist() == pytest.approx(list(expected.values()), abs=0)
        assert (found.n_trials, found.few, found.reason) == (40, False, "")


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("which", ["lr", "momentum", "n", "kind"])
def test_what_alone_decides_is_the_most_important(which: str, mode: Any) -> None:
    hp = drawn(60)
    target = {"lr": 1e-4, "momentum": 0.1, "n": 2, "kind": "0.5"}[which]
    position = SPACE[which].position
    away = [abs(position(x) - position(target)) if which != "kind" else float(x != target) for x in hp[which]]  # type: ignore[operator]
    noise = np.random.default_rng(1).random(60) * 1e-3
    found = importance(trials(((1 if mode == "min" else -1) * (np.array(away) + noise)).tolist(), **hp), SPACE, mode)
    assert found.table["hyperparameter"].iloc[0] == which
    assert found.table["importance"].iloc[0] > 0.5
    assert found.table["importance"].sum() == pytest.approx(1)
    assert found.table["importance"].is_monotonic_decreasing


def test_trials_count_as_they_stand_in_the_file(tmp_path: Path) -> None:
    """Also where another optimizer lacks the column, so that numbers and choices are read as other numbers."""
    hp = drawn(30)
    values = [abs(math.log10(lr) + 3) + 0.1 * n for lr, n in zip(hp["lr"], hp["n"], strict=True)]
    digits = {"low": Dimension(choices=["1", "2"]), "switch": Dimension(choices=[True, False]), "n": SPACE["n"],
              "lr": SPACE["lr"], "word": Dimension(choices=["true", "false"])}  # fmt: skip
    own = {
        "word": ["true" if lr > 0.001 else "false" for lr in hp["lr"]],
        "lr": hp["lr"],
        "n": hp["n"],
        "low": [str(1 + n % 2) for n in hp["n"]],
        "switch": [lr > 0.01 for lr in hp["lr"]],
    }
    rows = [
        {"task": "t", "optimizer": "one", "study": 0, "trial": i, "state": "complete", "value": values[i], "seed": 0}
        | {f"hp.{name}": column[i] for name, column in own.items()}
        for i in range(30)
    ]
    config = run_config({"one": {"class": "pkg.Opt", "space": {}}})
    found = []
    for name, others in (
        ("alone", []),
        ("both", [rows[0] | {"optimizer": "two"} | dict.fromkeys(map("hp.{}".format, own))]),
    ):
        run = Run.create(tmp_path / name, config)
        run.append_trials([*others, *rows], list(own))
        table = run.trials()
        found.append(importance(table[table["optimizer"] == "one"], digits, "min"))
    direct = importance(trials(values, **own), digits, "min")
    assert set(direct.table["hyperparameter"]) == set(own)
    for one in found:
        assert one.n_trials == 30
        pd.testing.assert_frame_equal(one.table, direct.table)


def test_choices_that_differ_as_text_only_are_told_apart_where_the_cells_are_text() -> None:
    lr = drawn(30)["lr"]
    found = [
        importance(
            trials(lr, lr=lr, kind=[choices[x > 0.001] for x in lr]),
            SPACE | {"kind": Dimension(choices=choices)},
            "min",
        )
        for choices in (["1", "1.0"], ["few", "many"])
    ]
    pd.testing.assert_frame_equal(found[0].table, found[1].table)


def test_lists_are_choices_like_others(tmp_path: Path) -> None:
    """Also from a table that was written and read."""
    lr, betas = drawn(30)["lr"], Dimension(choices=[[0.9, 0.999], [0.8, 0.99]])
    chosen = [betas.choices[x > 0.001] for x in lr]  # type: ignore[index]
    run = Run.create(tmp_path / "run", run_config({"one": {"class": "pkg.Opt", "space": {"betas": betas}}}))
    run.append_trials(
        (
            {"task": "t", "optimizer": "one", "study": 0, "trial": i, "state": "complete", "value": lr[i], "seed": 0}
            | hp_columns({"lr": lr[i], "betas": chosen[i]})
            for i in range(30)
        ),
        ["lr", "betas"],
    )
    read = importance(run.trials(), SPACE | {"betas": betas}, "min")
    words = importance(
        trials(lr, lr=lr, betas=["few" if x > 0.001 else "many" for x in lr]),
        SPACE | {"betas": Dimension(choices=["many", "few"])},
        "min",
    )
    pd.testing.assert_frame_equal(read.table, words.table)


def test_diverged_trials_count_and_failed_and_stopped_ones_do_not() -> None:
    hp = drawn(40)
    values = [x if x < 0.8 else 100.0 for x in hp["momentum"]]
    states = ["complete" if x < 0.8 else "diverged" for x in hp["momentum"]]
    counted = importance(trials(values, states, **hp), SPACE, "min")
    more = drawn(3, seed=9)
    extended = trials(
        [*values, NAN, 0.0, math.inf], [*states, "failed", "stopped", "complete"], **{k: [*hp[k], *more[k]] for k in hp}
    )
    found = importance(extended, SPACE, "min")
    assert counted.n_trials == found.n_trials == 40
    pd.testing.assert_frame_equal(found.table, counted.table)
    without = importance(trials(values, ["failed" if s == "diverged" else s for s in states], **hp), SPACE, "min")
    assert without.n_trials == states.count("complete")


def test_hyperparameters_that_did_not_vary_have_no_importance() -> None:
    hp = drawn(30) | {"n": [3] * 30}
    space = SPACE | {"later": Dimension(low=0, high=1)}
    found = importance(trials(hp["momentum"], **hp), space, "min")
    assert sorted(found.table["hyperparameter"]) == ["kind", "lr", "momentum"]


@pytest.mark.parametrize(("n", "few"), [(10, True), (FEW_TRIALS - 1, True), (FEW_TRIALS, False)])
def test_importance_from_few_trials_says_so(n: int, few: bool) -> None:
    hp = drawn(n)
    found = importance(trials(hp["momentum"], **hp), SPACE, "min")
    assert (found.few, found.reason, len(found.table)) == (few, "", 4)


@pytest.mark.parametrize(
    ("values", "hp", "reason"),
    [
        ([], {}, "0 trials with a value; at least 10 are needed"),
        ([0.1 * i for i in range(9)], drawn(9), "9 trials with a value"),
        ([0.5] * 20, drawn(20), "all trials have the same value"),
        ([0.1, *[9.0] * 19], drawn(20), "fewer than a tenth of the trials are better than the worst"),
        ([0.1 * i for i in range(20)], {"lr": drawn(20)["lr"]}, "fewer than two hyperparameters varied"),
        ([0.1 * i for i in range(20)], {}, "fewer than two hyperparameters varied"),
        ([0.1 * i for i in range(20)], drawn(20) | {"lr": [7.0] * 20}, "outside the search space: 7.0 is not between"),
        ([0.1 * i for i in range(20)], drawn(20) | {"n": [2.5] * 20}, "outside the search space: 2.5 is not between"),
        ([0.1 * i for i in range(20)], drawn(20) | {"kind": ["other"] * 20}, "outside the search space: other is none"),
    ],
)
def test_importance_is_silent_where_it_says_nothing(values: list[float], hp: dict[str, Any], reason: str) -> None:
    for mode in ("min", "max"):
        signed = [value if mode == "min" else -value for value in values]
        found = importance(trials(signed, **hp), SPACE, mode)  # type: ignore[arg-type]
        assert found.table.empty
        assert list(found.table) == ["hyperparameter", "importance"]
        assert reason in found.reason


def test_all_diverged_is_silent() -> None:
    assert "same value" in importance(trials([9.0] * 20, "diverged", **drawn(20)), SPACE, "min").reason


def test_a_run_without_trials_has_no_importances(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", run_config({"one": {"class": "pkg.Opt", "space": {}}}))
    assert importance(run.trials(), SPACE, "min").n_trials == 0


# Boundary.


def test_positions_are_on_the_searched_scale() -> None:
    found = boundary({"kind": "0.5", "n": 5, "momentum": 0.97, "lr": 1e-4}, SPACE)
    assert found["hyperparameter"].tolist() == ["lr", "momentum", "n", "kind"]
    assert found["value"].tolist() == [1e-4, 0.97, 5, "0.5"]
    assert found["position"].tolist() == pytest.approx([0.2, 0.97, 0.5, NAN], nan_ok=True)
    assert found["low"].tolist() == pytest.approx([1e-5, 0, 1, NAN], nan_ok=True)
    assert found["high"].tolist() == pytest.approx([1, 1, 9, NAN], nan_ok=True)
    assert found["log"].tolist() == [True, False, False, False]
    assert found["at_boundary"].tolist() == [False, True, False, False]


@pytest.mark.parametrize(
    ("value", "outer"),
    [(0.0, True), (0.049, True), (0.05, False), (0.5, False), (0.95, False), (0.951, True), (1.0, True)],
)
def test_the_outer_twentieth_is_the_boundary(value: float, outer: bool) -> None:
    assert boundary({"momentum": value}, SPACE)["at_boundary"].tolist() == [outer]


def test_the_boundary_is_that_of_the_search() -> None:
    spec = run_config({"one": {"class": "pkg.Opt", "space": {name: d.model_dump() for name, d in SPACE.items()}}})
    for lr in (1e-5, 1.7e-5, 1.8e-5, 1e-2, 0.56, 0.57):
        for n in (1, 5, 9):
            hp = {"lr": lr, "momentum": 0.5, "n": n, "kind": True}
            found = boundary(hp, SPACE)
            assert found.loc[found["at_boundary"], "hyperparameter"].tolist() == at_boundary(
                spec.optimizers["one"].space, hp
            )


def test_without_a_valid_trial_there_is_no_boundary() -> None:
    found = boundary({}, SPACE)
    assert found.empty
    assert list(found) == ["hyperparameter", "value", "low", "high", "log", "position", "at_boundary"]
