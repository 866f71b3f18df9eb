"""Run directories that were damaged, or edited by hand: one line that says what is wrong, or a report all the same."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.support.edited_runs import copied
from tests.support.made_runs import make_run
from tests.support.thinned import thinned
from tuner import report
from tuner.errors import UserError
from tuner.store.run import Run
from tuner.store.tables import csv_text

NAN = float("nan")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("runs") / "made", seeds=4, trials=4)


@pytest.fixture
def run(made: Run, tmp_path: Path) -> Run:
    return copied(made, tmp_path / "run")


@pytest.fixture
def reported(run: Run, capsys: pytest.CaptureFixture[str]) -> Callable[[], dict[str, Any]]:
    def call() -> dict[str, Any]:
        assert report.main([str(run.path), "--json"]) == 0
        return json.loads(capsys.readouterr().out, parse_constant=pytest.fail)

    return call


def refused(run: Run) -> str:
    """The one line, without the run's path."""
    with pytest.raises(UserError) as caught:
        report.main([str(run.path), "--json"])
    said = str(caught.value)
    assert "\n" not in said and len(said) < 400 + len(str(run.path))
    assert said.startswith(f"{run.path}/")
    return said.removeprefix(f"{run.path}/")


def edit_json(run: Run, name: str, *place: str, value: Any) -> None:
    path = run.path / name
    content = inner = json.loads(path.read_text())
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    path.write_text(json.dumps(content))


def edit_curves(run: Run, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    path = run.path / "curves.parquet"
    change(pd.read_parquet(path)).to_parquet(path, index=False)


def edit_cells(run: Run, name: str, column: str, value: str | None, rows: int | None = None) -> None:
    """The first so many rows, or all; without a value the column goes."""
    path = run.path / name
    table = list(csv.DictReader(path.read_text().splitlines()))
    for row in table[:rows]:
        if value is None:
            del row[column]
        else:
            row[column] = value
    path.write_text(csv_text(list(table[0]), table, header=True))


def contrasts(found: dict[str, Any], clock: str) -> list[dict[str, Any]]:
    return [row for row in found["tasks"][0]["contrasts"] if row["clock"] == clock and row["metric"] != "test_acc"]


# Curves.


@pytest.mark.parametrize("content", [b"", b"junk", b"PAR1" + bytes(40) + b"PAR1"])
def test_curves_that_are_no_parquet_are_named(run: Run, content: bytes) -> None:
    (run.path / "curves.parquet").write_bytes(content)
    assert refused(run).startswith("curves.parquet: cannot be read as parquet: ")


def test_curves_with_spoilt_bytes_are_read_or_refused(run: Run) -> None:
    path = run.path / "curves.parquet"
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    errors = []
    for place in rng.integers(len(whole) - 4000, len(whole), 100):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            run.curves()
        except UserError as error:
            errors.append(str(error))
    assert len(errors) > 20
    assert all(error.startswith(f"{path}: ") for error in errors)


@pytest.mark.parametrize("column", ["optimizer", "phase", "seed", "step", "split", "metric", "value"])
def test_curves_without_a_column_are_refused(run: Run, column: str) -> None:
    edit_curves(run, lambda table: table.drop(columns=column))
    assert refused(run) == f"curves.parquet: has no column {column!r}"


@pytest.mark.parametrize(
    ("column", "value", "wanted"),
    [
        ("value", "x", "a number"),
        ("seconds", "x", "a number"),
        ("step", 0.5, "a whole number of 64 bits"),
        ("step", float("inf"), "a whole number of 64 bits"),
        ("seed", "1e999", "a whole number of 64 bits"),
        ("seed", -(2.0**70), "a whole number of 64 bits"),
        ("seed", 2.0**70, "a whole number of 64 bits"),
        ("study", "x", "a whole number of 64 bits"),
        ("study", NAN, "a whole number of 64 bits"),
        ("study", None, "a whole number of 64 bits"),
    ],
)
def test_curves_of_other_than_numbers_are_refused(run: Run, column: str, value: Any, wanted: str) -> None:
    edit_curves(run, lambda table: table.assign(**{column: value}))
    assert refused(run) == f"curves.parquet: column '{column}': there must be {wanted} in each row"


@pytest.mark.parametrize("gone", [True, False], ids=["gone", "NaN"])
@pytest.mark.parametrize("clock", ["epoch", "seconds", "grad_equivalents"])
def test_without_a_clock_nothing_is_said_by_it(
    run: Run, reported: Callable[[], dict[str, Any]], clock: str, gone: bool
) -> None:
    before = reported()
    edit_curves(run, lambda table: table.drop(columns=clock) if gone else table.assign(**{clock: NAN}))
    after = reported()
    assert contrasts(after, "steps") == contrasts(before, "steps")
    for cost in ("seconds", "grad_equivalents"):
        counts = [row["n"] for row in contrasts(after, cost)]
        assert [row["n"] for row in contrasts(before, cost)] == [4]
        assert counts == [4] if cost != clock else not any(counts)


@pytest.mark.parametrize("column", ["seed", "step"])
def test_rows_of_curves_that_belong_nowhere_are_left_out(
    run: Run, reported: Callable[[], dict[str, Any]], column: str
) -> None:
    before = reported()

    def with_strays(table: pd.DataFrame) -> pd.DataFrame:
        strays = table.tail(8).assign(value=1e9)
        strays[column] = pd.NA
        return pd.concat([table, strays.astype(table.dtypes)], ignore_index=True)

    edit_curves(run, with_strays)
    assert len(run.curves()) > len(run.curves().dropna(subset=column))
    assert reported() == before


def test_unfinished_curves_are_checked_like_finished_ones(run: Run) -> None:
    path = run.logs / "curves.csv"
    path.write_text("task,optimizer\nmnist1d,adam\n")
    assert refused(run) == "logs/curves.csv: has no column 'phase'"


def test_curvature_without_a_column_is_refused(run: Run) -> None:
    pd.DataFrame({"task": ["t"], "optimizer": ["adam"], "seed": [0]}).to_parquet(run.path / "curvature.parquet")
    with pytest.raises(UserError, match=r"curvature\.parquet: has no column 'step'"):
        run.curvature()


# Tables.


@pytest.mark.parametrize("name", ["seeds.csv", "trials.csv"])
@pytest.mark.parametrize("seed", [2**63, -(2**63) - 1, 2**70, "1" + "0" * 5000, "1_0", "１", "2.0", "inf"])
def test_a_seed_is_a_whole_number_of_64_bits(run: Run, name: str, seed: object) -> None:
    edit_cells(run, name, "seed", str(seed), rows=1)
    assert refused(run).startswith(f"{name}: line 2: seed must be a whole number of 64 bits, got '")


@pytest.mark.parametrize("seed", [2**63 - 1, -(2**63), -1])
def test_the_largest_and_least_seeds_are_taken(run: Run, reported: Callable[[], dict[str, Any]], seed: int) -> None:
    first = run.seeds()["seed"][0]
    path = run.path / "seeds.csv"
    path.write_text(path.read_text().replace(f",{first},complete", f",{seed},complete"))
    assert (run.seeds()["seed"] == seed).sum() == 2
    assert contrasts(reported(), "steps")[0]["n"] == 4


def test_trials_without_values_are_refused(run: Run) -> None:
    edit_cells(run, "trials.csv", "value", None)
    assert refused(run) == "trials.csv: has no column 'value'"


@pytest.mark.parametrize("cohort", ["nan", "inf", "many"])
def test_a_cohort_is_a_finite_number(run: Run, cohort: str) -> None:
    edit_cells(run, "seeds.csv", "cohort", cohort, rows=1)
    assert refused(run) == f"seeds.csv: line 2: cohort must be a number, got '{cohort}'"


@pytest.mark.parametrize("text", ["nan", "NaN", "1" + "0" * 30])
@pytest.mark.parametrize("column", ["val_loss", "steps", "seconds"])
def test_numbers_that_are_none_or_huge_are_reported(
    run: Run, reported: Callable[[], dict[str, Any]], column: str, text: str
) -> None:
    edit_cells(run, "seeds.csv", column, text, rows=1)
    assert contrasts(reported(), "steps")[0]["n"] == 4


# env.json.

PLACES = [
    ["data"], ["data", "name"], ["data", "source"], ["data", "sha256"], ["data", "rows"], ["data", "rows", "train"],
    ["hardware"], ["hardware", "cpu"], ["hardware", "gpus"], ["hardware", "memory_mb"], ["git"], ["git", "commit"],
    ["versions"], ["versions", "torch"], ["parameters"], ["command"], ["started"], ["resumed"], ["device"],
]  # fmt: skip


def env_of(run: Run) -> dict[str, Any]:
    return json.loads((run.path / "env.json").read_text())


@pytest.mark.parametrize("place", thinned(PLACES, 5), ids=".".join)
def test_the_environment_never_costs_the_report(run: Run, place: list[str]) -> None:
    from tuner.comparison.load import read
    from tuner.reporting.page import _run

    before = env_of(run)
    odd: list[Any] = [None, True, 2.5, "5k", ["a"], [1], {}, {"a": "b"}, {"\ud800": "x"}, {"a": None}, [[]]]
    for value in odd:
        (run.path / "env.json").write_text(json.dumps(before))
        edit_json(run, "env.json", *place, value=value)
        (source,) = read([run])[0].sources
        shown = _run(source)["facts"]
        assert ("versions" if place[0] != "versions" else "platform") in dict(shown) or place[0] == "hardware"


def test_what_has_another_shape_is_left_out_of_the_environment_and_nothing_else_is(run: Run) -> None:
    odd = {
        "command": "text", "data": {"name": 5, "sha256": "ab", "rows": {"train": "many", "val": 5}, "mine": [1]},
        "hardware": {"cpu": "one", "gpus": ["a", 1, 2], "cpus": "2"}, "git": ["a"], "versions": {"a": None, "b": 2},
        "parameters": "5k", "resumed": None, "cohorts": ["anything"], "mine": None, "schema_version": 1,
    }  # fmt: skip
    (run.path / "env.json").write_text(json.dumps(odd))
    assert run.env() == {
        "data": {"sha256": "ab", "rows": {"val": 5}, "mine": [1]}, "hardware": {"cpu": "one"}, "versions": {"a": None},
        "cohorts": ["anything"], "mine": None, "schema_version": 1,
    }  # fmt: skip


def test_a_whole_environment_comes_back(run: Run) -> None:
    whole = env_of(run) | {"resumed": [{"started": "now"}], "parameters": None, "git": {"commit": None, "dirty": False}}
    (run.path / "env.json").write_text(json.dumps(whole))
    assert run.env() == whole


# best.json.


@pytest.mark.parametrize("value", [-1, 2.5, "3", True, None, 1e999, [1]])
@pytest.mark.parametrize("count", ["n_trials", "n_diverged", "n_failed"])
def test_counts_are_whole_and_not_negative(run: Run, count: str, value: object) -> None:
    edit_json(run, "best.json", "optimizers", "adam", count, value=value)
    assert refused(run).startswith(f"best.json: optimizers.adam.{count}: Input should be ")


@pytest.mark.parametrize("value", ["abc", "0.1", NAN, float("inf"), 10**400])
def test_a_hyperparameter_of_an_interval_is_a_finite_number(run: Run, value: object) -> None:
    edit_json(run, "best.json", "optimizers", "adam", "hp", "lr", value=value)
    assert refused(run).startswith("best.json: optimizers.adam.hp.lr: must be a finite number, got ")


@pytest.mark.parametrize("value", [None, [[1]], [None], {"a": 1}, "\ud800", ["\ud800"]])
def test_a_hyperparameter_is_a_number_a_text_or_a_choice(run: Run, value: object) -> None:
    edit_json(run, "best.json", "optimizers", "adam", "hp", "lr", value=value)
    said = refused(run)
    assert said.startswith("best.json: optimizers.adam.hp.lr: must be a number, a text, true or false, or a list of ")


def test_half_characters_are_refused(run: Run) -> None:
    edit_json(run, "best.json", "optimizers", "adam", "at_boundary", value=["\ud800"])
    assert refused(run).startswith("best.json: optimizers.adam.at_boundary.0: must be a text of whole characters")


def test_hyperparameters_of_another_space_are_shown(run: Run, reported: Callable[[], dict[str, Any]]) -> None:
    edit_json(run, "best.json", "optimizers", "adam", "hp", value={"zz": "abc", "lr": -1.0})
    entries = {entry["optimizer"]: entry["hp"] for entry in reported()["tasks"][0]["optimizers"]}
    assert entries["adam"] == {"zz": "abc", "lr": -1.0}


# Paths.


def test_a_run_may_lie_where_names_are_not_utf8(
    made: Run, tmp_path: Path, reported: Callable[[], dict[str, Any]]
) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe"))
    run = copied(made, path)
    row = {"task": "mnist1d", "optimizer": "adam", "study": 0, "phase": "search", "trial": 0, "seed": 1, "step": 0,
           "split": "val", "metric": "loss", "value": 0.25}  # fmt: skip
    run.append_curves([row])
    run.finish_curves()
    assert len(run.curves()) == len(made.curves()) + 1
    assert list((path / "logs").iterdir()) == []
    assert report.main([str(path), "--json"]) == 0
