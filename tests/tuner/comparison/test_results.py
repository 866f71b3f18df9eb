"""What comparisons come to: tables, equal costs, the document, and tables for papers."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats
from statsmodels.stats.multitest import multipletests

from tests.support.edited_runs import LOST, Row, copied, edit_seeds, where, without
from tests.support.made_runs import make_run
from tuner.comparison.results import HIDDEN, compare
from tuner.comparison.task_results import TaskResults
from tuner.reporting import as_tables
from tuner.reporting.as_json import document
from tuner.reporting.leaderboard import leaderboard
from tuner.reporting.verdicts import VERDICTS
from tuner.store.run import Run

EFFECTS = {"diag_hessian": -0.05, "adam": 0.0, "sgdm": 0.05}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("runs") / "one", effects=EFFECTS, seeds=6, trials=3,
                    diverged={"sgdm": [2]})  # fmt: skip


@pytest.fixture
def run(made: Run, tmp_path: Path) -> Run:
    return copied(made, tmp_path / "one")


def of(run: Run) -> TaskResults:
    (task,) = compare([run]).tasks
    return task


def wide(run: Run, metric: str) -> pd.DataFrame:
    return run.seeds().pivot(index="seed", columns="optimizer", values=metric)


def test_the_summary_is_of_the_runs(run: Run) -> None:
    edit_seeds(run, where("sgdm", status="complete"))
    own = run.seeds()
    table = of(run).summary

    assert table["mean"].is_monotonic_increasing
    for row in table.to_dict("records"):
        mine = own[own["optimizer"] == row["optimizer"]]
        interval = scipy_stats.t.interval(0.95, 5, mine["test_loss"].mean(), scipy_stats.sem(mine["test_loss"]))
        assert row["mean"] == pytest.approx(mine["test_loss"].mean())
        assert (row["low"], row["high"]) == pytest.approx(interval)
        assert row["median"] == pytest.approx(mine["test_loss"].median())
        assert row["test_acc_mean"] == pytest.approx(mine["test_acc"].mean())
        for clock in ("steps", "seconds", "grad_equivalents", "step_ms", "peak_mem_mb"):
            assert row[clock] == pytest.approx(mine[clock].mean())
        assert (row["seeds"], row["seeds_diverged"], row["trials"]) == (6, 0, 3)


def test_where_a_run_diverged_the_summary_is_one_of_medians(run: Run) -> None:
    own = run.seeds()
    table = of(run).summary
    assert table["median"].is_monotonic_increasing
    for row in table.to_dict("records"):
        mine = own[own["optimizer"] == row["optimizer"]]
        values = sorted(mine["test_loss"].where(mine["status"] == "complete", math.inf))
        assert row["median"] == pytest.approx((values[2] + values[3]) / 2)
        assert (row["median_low"], row["median_high"]) == pytest.approx((values[0], values[5]))  # of six
        diverged = row["optimizer"] == "sgdm"
        assert row["seeds_diverged"] == int(diverged)
        assert all(math.isnan(row[key]) == diverged for key in ("mean", "sd", "low", "high", "val_loss_mean"))
        assert not math.isnan(row["val_loss_median"])
    assert table["steps"].tolist() == [2000] * 3
    head, rows = leaderboard(of(run))
    assert head[1] == "test_loss (median)"
    (sgdm,) = [row for row in rows if row[0].text == "sgdm"]
    assert sgdm[1].text.endswith(", diverged]")
    assert sgdm[2].text.startswith("median +")


def test_the_contrasts_are_of_the_pairs(run: Run) -> None:
    edit_seeds(run, where("sgdm", status="complete"))
    table = of(run).contrasts
    for metric, mode in (("test_loss", "min"), ("val_loss", "min"), ("test_acc", "max")):
        pairs = wide(run, metric)
        rows = table[(table["metric"] == metric) & (table["clock"] == "steps")].set_index("optimizer")
        assert rows["mode"].eq(mode).all()
        raw = [scipy_stats.ttest_rel(pairs[name], pairs["adam"]).pvalue for name in rows.index]
        assert rows["p_t"].to_numpy() == pytest.approx(raw)
        assert rows["p"].to_numpy() == pytest.approx(multipletests(raw, method="bonferroni")[1])
        assert rows["p_t_holm"].to_numpy() == pytest.approx(multipletests(raw, method="holm")[1])
        assert rows["mean_difference"].to_list() == pytest.approx([
            (pairs[name] - pairs["adam"]).mean() for name in rows.index
        ])  # fmt: skip
    assert table[table["primary"]]["metric"].unique().tolist() == ["test_loss"]
    assert len(table) == 2 * (3 + 2)


def at_cost(run: Run, optimizer: str, clock: str) -> dict[int, float]:
    """By hand: the validation loss of a run, between its evaluations, when the baseline's of its seed had ended."""
    curves = run.curves()
    curves = curves[(curves["phase"] == "retrain") & (curves["split"] == "val") & (curves["metric"] == "loss")]
    found = {}
    for seed in range(6):
        own = curves[(curves["optimizer"] == optimizer) & (curves["seed"] == seed)].sort_values("step")
        end = curves[(curves["optimizer"] == "adam") & (curves["seed"] == seed)][clock].max()
        xs, ys = own[clock].tolist(), own["value"].tolist()
        after = next((place for place, x in enumerate(xs) if x >= end), len(xs) - 1)
        if xs[after] <= end:
            found[seed] = ys[after]
        else:
            share = (end - xs[after - 1]) / (xs[after] - xs[after - 1])
            found[seed] = ys[after - 1] + share * (ys[after] - ys[after - 1])
    return found


def test_contrasts_at_equal_cost_by_hand(run: Run) -> None:
    # A step of diag_hessian costs 1.3 gradient-equivalents: adam's 2,000 are over after 1,538 of its steps.
    table = of(run).contrasts
    for clock in ("grad_equivalents", "seconds"):
        rows = table[(table["clock"] == clock) & (table["metric"] == "val_loss")].set_index("optimizer")
        mine, base = at_cost(run, "diag_hessian", clock), at_cost(run, "adam", clock)
        differences = [mine[seed] - base[seed] for seed in range(6)]
        assert rows.loc["diag_hessian", "mean_difference"] == pytest.approx(np.mean(differences))
        assert not rows["primary"].any()
    at_end = table[(table["clock"] == "steps") & (table["metric"] == "val_loss")].set_index("optimizer")
    costly = table[table["clock"] == "grad_equivalents"].set_index("optimizer")
    assert costly["mean_difference"]["diag_hessian"] > at_end["mean_difference"]["diag_hessian"]


def test_seconds_that_are_shared_are_not_compared(run: Run) -> None:
    edit_seeds(run, lambda row: row | {"cohort": "2"})
    assert set(of(run).contrasts["clock"]) == {"steps", "grad_equivalents"}


def test_the_tables_can_be_read_back(run: Run) -> None:
    found = compare([run])
    found.write_tables(run.path)
    for name, table in (("summary", found.summary), ("contrasts", found.contrasts.drop(columns=list(HIDDEN)))):
        back = pd.read_csv(run.path / f"{name}.csv", keep_default_na=False, na_values=[""])
        assert list(back.columns) == list(table.columns)
        for column in table:
            if table[column].dtype.kind == "f":
                assert back[column].to_numpy(float) == pytest.approx(table[column].to_numpy(), rel=1e-15, nan_ok=True)
            else:
                assert ["" if pd.isna(cell) else str(cell) for cell in back[column]] == table[column].astype(
                    str
                ).tolist()


def without_metric(row: Row) -> Row:
    return {key: value for key, value in row.items() if not key.endswith(("_loss", "_acc"))}


ODD: dict[str, Any] = {
    "nothing odd": lambda row: row,
    "all failed": lambda row: row | LOST,
    "all diverged": lambda row: row | {"status": "diverged"},
    "all infinite": lambda row: row | {"status": "diverged", "test_loss": "inf", "val_loss": "inf"},
    "one seed": lambda row: row if row["seed"] == "0" else None,
    "no metric": without_metric,
    "no clocks": lambda row: {key: value for key, value in row.items() if key not in ("steps", "seconds", "step_ms",
                              "grad_equivalents", "peak_mem_mb", "cohort")},
    "no baseline": without("adam"),
    "the baseline alone": lambda row: row if row["optimizer"] == "adam" else None,
    "the same everywhere": lambda row: row | {"test_loss": "0.5", "val_loss": "0.5", "test_acc": "0.5"},
    "no cost": where("adam", step_ms="0", seconds="0", grad_equivalents="0"),
    "huge": lambda row: row | {"test_loss": str(1e300 * (1 + float(row["test_loss"])))},
}  # fmt: skip


@pytest.mark.parametrize("odd", ODD)
def test_the_document_is_json_and_the_papers_are_whole(run: Run, odd: str) -> None:
    edit_seeds(run, ODD[odd])
    found = compare([run])

    text = json.dumps(document(found), allow_nan=False)

    (task,) = json.loads(text)["tasks"]
    assert {entry["optimizer"] for entry in task["optimizers"]} == set(EFFECTS)
    assert all(entry["sentence"] for entry in task["optimizers"])
    for each in (as_tables.markdown(found), as_tables.latex(found)):
        assert "nan" not in each and "None" not in each
    markdown_rows(as_tables.markdown(found), 3)
    latex_rows(as_tables.latex(found), 3)
    assert all(row["verdict"] in VERDICTS for row in task["contrasts"])


# Papers.


def markdown_rows(text: str, optimizers: int) -> list[list[str]]:
    """The cells of the one table, of which every line has as many."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [re.split(r"(?<!\\)\|", line.replace(r"\\", ""))[1:-1] for line in lines]
    assert len(cells) == 2 + optimizers
    assert len({len(line) for line in cells}) == 1
    return cells


def latex_rows(text: str, optimizers: int) -> list[list[str]]:
    body = text.partition("\\midrule\n")[2].partition("    \\bottomrule")[0]
    lines = body.splitlines()
    assert len(lines) == optimizers
    assert all(line.endswith(r"\\") for line in lines)
    cells = [re.split(r"(?<!\\)&", line) for line in lines]
    assert {len(line) for line in cells} == {7}
    return cells


HOSTILE = "a|b_c%d&e#f$g^h~i\\j{k}l<m>n*o`p"


def test_hostile_names_are_escaped(made: Run, tmp_path: Path) -> None:
    """Runs' folders may have any name, and become parts of optimizers' names."""
    found = compare([made, copied(made, tmp_path / HOSTILE)])
    markdown, latex = as_tables.markdown(found), as_tables.latex(found)

    markdown_rows(markdown, 6)
    latex_rows(latex, 6)
    own = latex.replace("$d_z$", "").replace(" & ", "")
    assert re.search(r"(?<!\\)[_%#$&^~|<>]", own.replace(r"\textbackslash{}", "")) is None
    assert r"adam@a\textbar{}b\_c\%d\&e\#f\$g\textasciicircum{}h\textasciitilde{}i\textbackslash{}j\{k\}l" in latex
    assert r"adam@a\|b\_c%d&e\#f$g^h~i\\j{k}l\<m\>n\*o\`p" in markdown


@pytest.mark.parametrize("name", ["two\nlines", "a\n\nparagraph", "return\rhere"])
def test_names_of_several_lines_stay_in_their_cells(made: Run, tmp_path: Path, name: str) -> None:
    found = compare([made, copied(made, tmp_path / name)])
    markdown_rows(as_tables.markdown(found), 6)
    latex_rows(as_tables.latex(found), 6)


def test_metrics_of_any_name_are_escaped(run: Run) -> None:
    edit_seeds(run, lambda row: row | {"test_a|b_%": row["test_loss"]})
    found = compare([run], metric="test_a|b_%")
    markdown_rows(as_tables.markdown(found), 3)
    assert r"median test\_a\textbar{}b\_\% over 6 seeds" in as_tables.latex(found)


def test_the_numbers_in_papers_are_those_of_the_runs(run: Run) -> None:
    edit_seeds(run, where("sgdm", status="complete"))
    pairs = wide(run, "test_loss")
    means = pairs.mean().sort_values()
    rows = latex_rows(as_tables.latex(compare([run])), 3)

    for cells, (name, mean) in zip(rows, means.items(), strict=True):
        assert cells[0].strip() == str(name).replace("_", r"\_")
        assert cells[1].strip().startswith(f"{mean:.4g} [")
        d = pairs[name] - pairs["adam"]
        expected = "-" if name == "adam" else f"{d.mean() / d.std():.3g}"
        assert cells[4].strip() == expected


def test_the_leaderboard_sorts_what_is_missing_last(run: Run) -> None:
    edit_seeds(run, without("sgdm"))
    head, rows = leaderboard(of(run))
    assert [row[0].text for row in rows] == ["diag_hessian", "adam", "sgdm"]
    assert {len(row) for row in rows} == {len(head)}
    place = head.index("test_loss")
    assert rows[2][place].text == "-"
    value = rows[2][place].value
    assert isinstance(value, float) and math.isnan(value)


def test_who_was_not_retrained_is_not_called_the_baseline(run: Run) -> None:
    edit_seeds(run, without("sgdm"))
    head, rows = leaderboard(of(run))
    verdicts = {row[0].text: row[head.index("verdict on configurations")].text for row in rows}
    assert verdicts["adam"] == "baseline"
    assert verdicts["sgdm"] != "baseline"
    latex = as_tables.latex(compare([run]))
    assert [line.count("baseline") for line in latex.splitlines() if line.startswith("    sgdm")] == [0]


def test_summary_csv_keeps_names_with_commas_and_quotes(made: Run, tmp_path: Path) -> None:
    found = compare([made, copied(made, tmp_path / 'a,"b"\nc')])
    found.write_tables(tmp_path)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "summary.csv").read_text(), newline="")))
    assert {row["optimizer"] for row in rows} >= {'adam@a,"b"\nc', "adam"}
