"""A run directory of today's format, kept as it was written, is read by every later version as it was then.

``tests/golden/<name>/run`` was written by the version that env.json names, with the command that stands there, and
``python -m tuner.report run``; its figures and its page are left out, and so is where on which machine it was. Beside
it lies what that version printed of it. Numbers may differ in the last digits: another numpy adds in another order.
"""

from __future__ import annotations

import csv
import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tuner import report, retrain, search, status
from tuner.comparison.results import compare
from tuner.store.run import Run

GOLDEN = Path(__file__).parent / "golden" / "mnist1d"
AGO = re.compile(r"^run: ended .* ago\n")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A copy that a command may write to, under the path by which the outputs name it."""
    monkeypatch.chdir(shutil.copytree(GOLDEN, tmp_path / "golden"))
    return Run(Path("run"))


def printed(capsys: pytest.CaptureFixture[str], command: Any, *args: str) -> str:
    assert command.main(list(args)) == 0
    return capsys.readouterr().out


def differences(then: Any, now: Any, where: str = "") -> list[str]:
    """Of two documents, where the second may have more keys."""
    if isinstance(then, dict) and isinstance(now, dict):
        return [line for key in then for line in differences(then[key], now.get(key, "missing"), f"{where}.{key}")]
    if isinstance(then, list) and isinstance(now, list) and len(then) == len(now):
        return [
            line
            for index, pair in enumerate(zip(then, now, strict=True))
            for line in differences(*pair, f"{where}[{index}]")
        ]
    if isinstance(then, float) and isinstance(now, float) and math.isclose(then, now, rel_tol=1e-9, abs_tol=1e-12):
        return []
    return [] if then == now else [f"{where}: {then!r} then, {now!r} now"]


def test_the_json_document_is_the_same(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    now = json.loads(printed(capsys, report, "run", "--json"))
    assert differences(json.loads(Path("report.json").read_text()), now) == []


@pytest.mark.parametrize(("flag", "file"), [("--markdown", "report.md"), ("--latex", "report.tex")])
def test_the_tables_are_the_same(run: Run, capsys: pytest.CaptureFixture[str], flag: str, file: str) -> None:
    assert printed(capsys, report, "run", flag) == Path(file).read_text()


def test_the_status_is_the_same_but_for_how_long_ago(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    now, then = printed(capsys, status, "run"), Path("status.txt").read_text()
    assert re.search(AGO, then) and re.sub(AGO, "", now) == re.sub(AGO, "", then)


def cells(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    with path.open(newline="", encoding="utf-8") as file:
        table = csv.DictReader(file)
        return list(table.fieldnames or ()), list(table)


def test_tables_have_their_columns_in_order_and_their_values(run: Run, tmp_path: Path) -> None:
    again = Run.create(tmp_path / "again", run.config())
    again.write_trials(run.trial_rows(), run.config().hyperparameters)
    again.write_seeds(run.seed_rows(), run.config().hyperparameters)
    compare([run]).write_tables(again.path)
    for name in ("trials.csv", "seeds.csv", "summary.csv", "contrasts.csv"):
        (columns, then), (columns_now, now) = cells(run.path / name), cells(again.path / name)
        assert [column for column in columns_now if column in columns] == columns, name
        assert len(then) == len(now), name
        for row in [*then, *now]:
            row.pop("p", None)  # is corrected anew, for the number of contrasts
        known = [column for column in columns if column != "p"]
        assert differences([list(map(number, row.values())) for row in then],
                           [[number(row[column]) for column in known] for row in now], name) == []  # fmt: skip


def number(cell: str) -> float | str:
    try:
        value = float(cell)
    except ValueError:
        return cell
    return value if math.isfinite(value) else cell


def test_curves_and_curvature_are_read(run: Run) -> None:
    curves, curvature = run.curves(), run.curvature()
    for file, table in (("curves.parquet", curves), ("curvature.parquet", curvature)):
        then = pd.read_parquet(run.path / file)
        pd.testing.assert_frame_equal(then, table[list(then)], check_dtype=False)
    last = curves[(curves["phase"] == "retrain") & (curves["metric"] == "loss") & (curves["step"] == 2000)]
    values = {(row["optimizer"], int(row["seed"])): float(row["val_loss"]) for row in run.seed_rows()}
    ends = {(row.optimizer, row.seed): row.value for row in last[last["split"] == "val"].itertuples()}
    assert ends == values


def has_lines_of(now: str, then: str) -> bool:
    """All of them, in their order; keys may have been added."""
    rest = iter(now.splitlines())
    return all(line in rest for line in then.splitlines())


def test_the_configuration_is_written_as_it_was_read(run: Run) -> None:
    written = run.config().to_yaml()
    assert has_lines_of(written, (run.path / "config.yaml").read_text())
    run.write_config(run.config())
    assert run.config().to_yaml() == written


@pytest.mark.parametrize("more", [(), ("--trials", "20", "--seeds", "8")])
def test_the_search_can_go_on(run: Run, capsys: pytest.CaptureFixture[str], more: tuple[str, ...]) -> None:
    shown = printed(capsys, search, "--resume", "run", "--dry-run", "--allow-changed-code", *more)
    assert f"{60 if more else 36} trials: 3 optimizers x {20 if more else 12}" in shown


@pytest.mark.parametrize("command", [(search, "--resume", "run"), (retrain, "run")])
def test_a_run_that_lacks_nothing_is_shown_and_left_as_it_is(
    run: Run, capsys: pytest.CaptureFixture[str], command: tuple[Any, ...]
) -> None:
    config = run.path / "config.yaml"
    remade = (config, run.path / "summary.csv", run.path / "contrasts.csv")  # with what an older version did not say
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file() and path not in remade}
    then = config.read_text()
    shown = printed(capsys, *command)
    assert (
        "sgd's configuration is better than adam's on test_loss, found by one search each: 1.243 against 1.468" in shown
    )
    assert {path: path.read_bytes() for path in before} == before
    assert has_lines_of(config.read_text(), then)
