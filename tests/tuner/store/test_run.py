"""What is written into a run directory comes back: trials, seeds, curves, JSON."""

from __future__ import annotations

import csv
import json
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.examples import examples
from tests.support.table_rows import CONFIG, Row, contents, evaluation, full_run, seed_row, trial
from tuner.errors import UserError
from tuner.jobs import Job
from tuner.store.run import Run

numbers = st.floats(allow_nan=False, allow_infinity=False)
printable = st.characters(exclude_categories=["Cs"], exclude_characters="\r\0")
texts = st.text(printable, min_size=1, max_size=6) | st.sampled_from(
    ["nan", "NA", "null", "None", "inf", "1", "1e-3", "True", " ", "a,b", '"', '"a"', "a\nb", "\n", "'", "#", "日本"]
)  # fmt: skip


@pytest.fixture(scope="module")
def new_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Run]:
    return lambda: Run.create(tmp_path_factory.mktemp("runs") / "run", CONFIG)


def header(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()[0].split(",")


def bits(values: list[float]) -> list[bytes]:
    return [struct.pack("d", value) for value in values]


# trials.csv


def test_trials_have_the_columns_of_the_design(run: Run) -> None:
    run.append_trials([trial(0, **{"hp.lr": 0.1})], ["lr", "beta"])
    design = ["task", "optimizer", "study", "trial", "state", "value", "seed", "steps", "seconds", "cohort", "code",
              "borrowed", "error", "hp.lr", "hp.beta"]  # fmt: skip
    assert header(run.path / "trials.csv") == design
    assert list(run.trials().columns) == design


@examples(30)
@given(st.lists(st.tuples(numbers, numbers, numbers), min_size=1, max_size=4))
def test_numbers_of_trials_come_back_to_the_bit(new_run: Callable[[], Run], rows: list[tuple[float, ...]]) -> None:
    run = new_run()
    for number, (value, seconds, lr) in enumerate(rows):
        run.append_trials([trial(number, value=value, seconds=seconds, **{"hp.lr": lr})], ["lr"])
    table = run.trials()
    read = zip(table["value"], table["seconds"], table["hp.lr"], strict=True)
    assert [bits(list(row)) for row in read] == [bits(list(row)) for row in rows]
    assert table["trial"].tolist() == list(range(len(rows)))


@examples(30)
@given(
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=4)
    | st.lists(st.booleans(), min_size=1, max_size=4)
    | st.lists(texts, max_size=5).map(lambda values: ["a word", *values])
)
def test_hyperparameters_of_any_type_come_back(new_run: Callable[[], Run], values: list[Any]) -> None:
    run = new_run()
    for number, value in enumerate(values):
        run.append_trials([trial(number, **{"hp.kind": value})], ["kind"])
    assert list(map(repr, run.trials()["hp.kind"].tolist())) == list(map(repr, values))


def test_a_hyperparameter_that_an_optimizer_has_not_is_empty(run: Run) -> None:
    run.append_trials([trial(0, **{"hp.lr": 0.1})], ["lr", "beta"])
    run.append_trials([trial(1, **{"hp.beta": "x"})], ["lr", "beta"])
    table = run.trials()
    assert table["hp.lr"].isna().tolist() == [False, True]
    assert table["hp.beta"].isna().tolist() == [True, False]
    assert (run.path / "trials.csv").read_text().splitlines()[1:] == [
        "blobs,adam,0,0,complete,0.5,1000,10,0.25,1,,,,0.1,",
        "blobs,adam,0,1,complete,0.5,1000,10,0.25,1,,,,,x",
    ]


def test_a_failed_trial_has_no_value(run: Run) -> None:
    run.append_trials([trial(0, state="failed", value=None, error="lost, twice")], [])
    assert math.isnan(run.trials()["value"][0])
    assert run.trials()["error"][0] == run.trial_rows()[0]["error"] == "lost, twice"


def test_trials_are_appended_and_never_rewritten(run: Run) -> None:
    path = run.path / "trials.csv"
    run.append_trials([trial(0, **{"hp.lr": 0.1})], ["lr"])
    before = path.read_bytes()
    run.append_trials([trial(1, **{"hp.lr": 0.2})], ["lr"])
    assert path.read_bytes().startswith(before)
    assert len(path.read_text().splitlines()) == 3


# seeds.csv


def test_seeds_have_the_columns_of_the_design(run: Run) -> None:
    metrics = {"test_loss": 0.3, "val_f1": 0.1, "train_loss": 0.1, "test_acc": 0.9, "val_loss": 0.2, "val_acc": 0.8}
    run.write_seeds([seed_row(0, **metrics, **{"hp.lr": 0.1})], ["lr"])
    assert header(run.path / "seeds.csv") == [
        "task", "optimizer", "study", "seed", "status", "train_loss", "val_loss", "test_loss", "test_acc", "val_acc",
        "val_f1", "steps", "grad_equivalents", "nominal_grad_equivalents", "seconds", "step_ms", "peak_mem_mb",
        "cohort", "code", "borrowed", "error", "hp.lr",
    ]  # fmt: skip


@examples(30)
@given(st.dictionaries(st.integers(0, 2**63 - 1), st.tuples(numbers, numbers, numbers), min_size=1, max_size=4))
def test_seeds_come_back_to_the_bit(new_run: Callable[[], Run], rows: dict[int, tuple[float, ...]]) -> None:
    run = new_run()
    run.write_seeds([seed_row(s, val_loss=a, step_ms=b, **{"hp.lr": c}) for s, (a, b, c) in rows.items()], ["lr"])
    table = run.seeds()
    assert table["seed"].tolist() == list(rows)
    read = zip(table["val_loss"], table["step_ms"], table["hp.lr"], strict=True)
    assert [bits(list(row)) for row in read] == [bits(list(row)) for row in rows.values()]


def test_writing_seeds_replaces_them(run: Run) -> None:
    run.write_seeds([seed_row(0), seed_row(1)], [])
    run.write_seeds([seed_row(2)], [])
    assert run.seeds()["seed"].tolist() == [2]


CURVE_COLUMNS = ["task", "optimizer", "study", "phase", "trial", "seed", "step", "epoch", "seconds", "grad_equivalents",
                 "split", "metric", "value"]  # fmt: skip


# Curves.


def records(table: pd.DataFrame) -> list[Row]:
    return table.to_dict("records")


@examples(15)
@given(st.lists(st.tuples(numbers, numbers, texts), min_size=1, max_size=4))
def test_curves_are_the_same_before_and_after_the_end(new_run: Callable[[], Run], values: list[Any]) -> None:
    rows = [evaluation(i, seconds=a, value=b, optimizer="o" + name) for i, (a, b, name) in enumerate(values)]
    run = new_run()
    for row in rows:
        run.append_curves([row])
    while_running = run.curves()
    run.finish_curves()
    for table in (while_running, run.curves()):
        assert list(table.columns) == CURVE_COLUMNS
        assert records(table) == rows
        assert [bits([row["value"], row["seconds"]]) for row in records(table)] == [bits([b, a]) for a, b, _ in values]
    assert not list(run.logs.iterdir())


def test_finished_curves_are_one_parquet_file_of_the_design(run: Run) -> None:
    run.append_curves([evaluation(0)])
    run.finish_curves()
    table = pd.read_parquet(run.path / "curves.parquet")
    assert list(table.columns) == CURVE_COLUMNS
    assert sorted(contents(run.path)) == ["config.yaml", "curves.parquet"]


def test_curves_appended_after_the_end_follow_the_others(run: Run) -> None:
    run.append_curves([evaluation(0), evaluation(1)])
    run.finish_curves()
    run.append_curves([evaluation(2)])
    assert run.curves()["step"].tolist() == [0, 1, 2]
    run.finish_curves()
    assert run.curves()["step"].tolist() == [0, 1, 2]
    assert sorted(contents(run.path)) == ["config.yaml", "curves.parquet"]


def test_finishing_without_new_curves_changes_nothing(run: Run) -> None:
    run.append_curves([evaluation(0)])
    run.finish_curves()
    before = contents(run.path)
    run.finish_curves()
    assert contents(run.path) == before


def test_a_run_cut_off_while_finishing_has_each_evaluation_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut_off(path: Path, **options: Any) -> None:
        raise KeyboardInterrupt

    run.append_curves([evaluation(0), evaluation(1)])
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", cut_off)
        with pytest.raises(KeyboardInterrupt):
            run.finish_curves()
    assert len(list(run.path.rglob("curves.*"))) == 2
    assert records(run.curves()) == [evaluation(0), evaluation(1)]
    run.append_curves([evaluation(2)])
    run.finish_curves()
    assert records(run.curves()) == [evaluation(0), evaluation(1), evaluation(2)]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | numbers | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


# JSON and YAML.


@examples(30)
@given(st.dictionaries(st.text(max_size=5).filter(lambda key: key != "schema_version"), json_values, max_size=4))
def test_best_and_env_come_back_with_their_schema_version(new_run: Callable[[], Run], content: Row) -> None:
    run, best = new_run(), {**content, "optimizers": {}}
    run.write_best(best)
    run.write_env(content)
    assert run.best() == {"schema_version": 1, **best}
    assert run.env() == {"schema_version": 1, **content}
    assert json.loads((run.path / "best.json").read_text()) == run.best()


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_a_file_of_another_schema_version_is_refused(run: Run, version: object) -> None:
    (run.path / "best.json").write_text(json.dumps({"schema_version": version, "optimizers": {}}))
    with pytest.raises(UserError, match=r"best\.json: schema_version .*, expected 1"):
        run.best()


def test_a_file_without_schema_version_is_refused(run: Run) -> None:
    (run.path / "env.json").write_text("{}")
    with pytest.raises(UserError, match=r"env\.json: schema_version"):
        run.env()


def test_the_configuration_comes_back(run: Run) -> None:
    run.write_config(CONFIG)
    assert run.config() == CONFIG
    assert Run.open(run.path).config() == CONFIG


def test_json_never_holds_nan(run: Run) -> None:
    run.write_best({"optimizers": {}, "value": 1.0})
    with pytest.raises(ValueError, match="JSON"):
        run.write_best({"optimizers": {}, "value": math.nan})
    assert run.best()["value"] == 1.0


# Runs that are empty.


def test_an_empty_run_has_empty_tables(run: Run) -> None:
    for table in (run.trials(), run.seeds(), run.curves()):
        assert len(table) == 0
    assert {"optimizer", "state", "value"} <= set(run.trials().columns)
    assert {"optimizer", "seed", "status", "test_loss", "step_ms"} <= set(run.seeds().columns)
    assert list(run.curves().columns) == CURVE_COLUMNS


@pytest.mark.parametrize("read", [Run.best, Run.env])
def test_a_file_that_is_not_there_yet_is_named(run: Run, read: Callable[[Run], object]) -> None:
    with pytest.raises(UserError, match=r"\.json: no such file"):
        read(run)


def test_a_new_run_lists_its_files(run: Run) -> None:
    assert run.files() == ["config.yaml", "logs/"]
    assert full_run(run).files() == ["best.json", "config.yaml", "curves.parquet", "env.json", "logs/", "seeds.csv"]


def test_what_was_asked_for_comes_back_by_study_but_for_a_line_cut_off(run: Run) -> None:
    assert run.asked() == {}
    hp: list[dict[str, Any]] = [{"lr": 0.1, "kind": "é"}, {"lr": 1e-300, "n": 3, "flag": True}]
    run.append_asked([Job("search", "adam", 0, 1000, hp[0]), Job("search", "adam", 0, 1001, {}, 1)])
    run.append_asked([Job("search", "adam", 1, 1000, hp[1])])
    assert run.asked() == {("adam", 0): {0: hp[0], 1: hp[1]}, ("adam", 1): {0: {}}}
    path = run.logs / "asked.jsonl"
    path.write_bytes(path.read_bytes()[:-2])
    assert run.asked()["adam", 0] == {0: hp[0]}
    run.append_asked([Job("search", "adam", 1, 1000, {"lr": 0.5})])
    assert run.asked()["adam", 0] == {0: hp[0], 1: {"lr": 0.5}}


def test_a_text_with_line_ends_is_one_record(run: Run) -> None:
    run.append_trials([trial(0, **{"hp.kind": "a\nb"})], ["kind"])
    with (run.path / "trials.csv").open(newline="", encoding="utf-8") as file:
        assert [row["hp.kind"] for row in csv.DictReader(file)] == ["a\nb"]
