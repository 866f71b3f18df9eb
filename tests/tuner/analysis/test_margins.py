"""Margins: in the metric's unit or as a share of the baseline's value, and what lies within them."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.support.edited_runs import edit_config, edit_seeds
from tests.support.made_runs import make_run
from tuner.analysis import stats
from tuner.analysis.rules import Margin, Rules, Test
from tuner.analysis.stats import contrasts
from tuner.comparison.results import compare
from tuner.config.layers import from_yaml, resolve
from tuner.errors import UserError
from tuner.reporting import verdicts
from tuner.reporting.as_json import document
from tuner.reporting.as_tables import latex, markdown
from tuner.reporting.leaderboard import leaderboard
from tuner.store.run import Run


def only(x: Any, y: Any, margin: Margin | None, test: Test = "t") -> dict[Any, Any]:
    """The contrast of x with the baseline y; lower is better."""
    rows = [(name, seed, value) for name, own in (("x", x), ("base", y)) for seed, value in enumerate(own)]
    values = pd.DataFrame(rows, columns=["optimizer", "seed", "value"]).assign(study=0)
    (row,) = contrasts(values, "base", "min", Rules(test, margin=margin)).to_dict("records")
    return row


def about(mean: float, sd: float, n: int = 10) -> Any:
    """Values with exactly this mean, and alternating deviations."""
    return mean + sd * np.array([(-1) ** i * (1 + i // 2) for i in range(n)])


def test_a_small_loss_is_not_equivalent_to_one_seven_times_as_small() -> None:
    """0.01185 was "equivalent" to 0.001639, within 0.02."""
    x, y = about(0.01185, 0.0045), about(0.001639, 1e-5)
    assert only(x, y, 0.02)["verdict"] == "equivalent"
    row = only(x, y, "1%")
    assert row["verdict"] == "inconclusive"
    assert row["margin"] == pytest.approx(0.00001639)
    assert row["margin_declared"] == "1%"


def test_a_slightly_better_perplexity_is_better_by_less_than_matters() -> None:
    """89.49 was "better" than 89.57."""
    x, y = about(89.49, 0.01), about(89.57, 0.02)
    assert only(x, y, None)["verdict"] == "better"
    row = only(x, y, "1%")
    assert row["verdict"] == "better, by less than matters"
    assert row["margin"] == pytest.approx(0.8957)
    assert only(y, x, "1%")["verdict"] == "worse, by less than matters"


@pytest.mark.parametrize("test", ["t", "wilcoxon", "sign_flip"])
@pytest.mark.parametrize(("margin", "slight"), [(0.4999, False), (0.5001, True), ("4.99%", False), ("5.01%", True)])
def test_a_significant_difference_within_the_margin_is_slight(margin: Margin, slight: bool, test: Test) -> None:
    row = only(about(9.5, 0.01), about(10, 0.002), margin, test)
    assert row["verdict"] == ("better, by less than matters" if slight else "better")


@pytest.mark.parametrize(("margin", "size"), [("1%", 0.02), ("2.5%", 0.05), ("100%", 2.0), (0.3, 0.3)])
def test_a_share_is_of_the_size_of_the_baselines_mean(margin: Margin, size: float) -> None:
    for sign in (1, -1):
        assert only(about(1.0, 0.1), sign * about(2.0, 0.1), margin)["margin"] == pytest.approx(size)


def test_where_ranks_decide_a_share_is_of_the_baselines_median() -> None:
    y = [1.0, 2.0, 3.0, 40.0, np.inf]
    row = only([1.0, 2.0, 3.0, 4.0, 5.0], y, "10%")
    assert row["margin"] == pytest.approx(0.3)
    assert np.isnan(only([1.0, 2.0, 3.0], [1.0, np.inf, np.inf], "10%")["margin"])


# Declared.


@pytest.mark.parametrize(
    ("text", "kept"), [("1%", "1%"), ("0.5 %", "0.5%"), (".5%", ".5%"), ("0.02", 0.02), ("3", 3.0), ("1e-3", 0.001)]
)
def test_a_margin_may_be_a_number_or_a_share(text: str, kept: float | str) -> None:
    config = resolve({"task.name": "mnist1d"}, [f"report.margin.loss={text}"])
    assert config.report.margin["loss"] == kept
    assert from_yaml(config.to_yaml()) == config


@pytest.mark.parametrize("text", ["0", "-1", "0%", "-1%", "abc", "1%%", "true", "null", "[1]", "1e999", "1 percent"])
def test_what_is_no_margin_is_refused(text: str) -> None:
    expected = r"report\.margin\.loss: must be a number above 0 in the metric's unit, or a share of the baseline's"
    with pytest.raises(UserError, match=expected):
        resolve({"task.name": "mnist1d"}, [f"report.margin.loss={text}"])


@pytest.mark.parametrize(("key", "name"), [("test_acc", "acc"), ("val_loss", "loss"), ("train_top_5", "top_5")])
def test_a_margin_of_a_split_has_no_effect_and_is_refused(key: str, name: str) -> None:
    with pytest.raises(UserError, match=rf"report\.margin\.{key}: has no effect, .*; use report\.margin\.{name}$"):
        resolve({"task.name": "mnist1d"}, [f"report.margin.{key}=0.1"])


def test_a_run_that_has_such_a_margin_still_opens(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", seeds=3, trials=2)
    edit_config(run, "    loss: 2%", "    test_loss: 0.02")
    (task,) = compare([run]).tasks
    assert task.comparison.rules("test_loss").margin is None


@pytest.mark.parametrize("metric", ["accuracy", "tset_acc", "test_", "test acc"])
def test_a_metric_that_is_of_no_split_is_refused_in_words(metric: str) -> None:
    expected = f"must be train_NAME or val_NAME or test_NAME, a split's metric, say test_acc, got '{metric}'"
    with pytest.raises(UserError, match=re.escape(f"report.metric: {expected}")):
        resolve({"task.name": "mnist1d"}, [f"report.metric={metric}"])


@pytest.mark.parametrize(
    ("metric", "margin"),
    [("test_loss", "1%"), ("train_rmse", "1%"), ("test_mse", "1%"), ("test_mae", "1%"), ("val_ppl", "1%"),
     ("val_nll", "1%"), ("test_acc", 0.005), ("test_f1", None), ("test_error", None)],
)  # fmt: skip
def test_by_default_margins_are_relative_where_a_scale_is_not_bounded(metric: str, margin: Margin | None) -> None:
    config = resolve({"task.name": "rahimi_recht"})
    assert config.report.margin.get(metric.partition("_")[2]) == margin


def test_no_shipped_task_has_an_absolute_margin_of_a_loss() -> None:
    for task in ("cifar_cnn", "mnist1d", "quadratic_deep", "rahimi_recht", "resnet18", "tabular_mlp", "transformer"):
        for name, margin in resolve({"task.name": task}).report.margin.items():
            assert isinstance(margin, float) == (name == "acc"), (task, name)


# Shown.


@pytest.fixture(scope="module")
def slight(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Losses of 89.49 against 89.57."""
    run = make_run(tmp_path_factory.mktemp("runs") / "slight", seeds=10, trials=2)
    means = {"diag_hessian": about(89.49, 0.01), "adam": about(89.57, 0.02)}
    edit_seeds(run, lambda row: row | {"test_loss": str(means[row["optimizer"]][int(row["seed"])])})
    edit_config(run, "    loss: 2%", "    loss: 1%")
    return run


def test_that_it_is_slight_stands_wherever_the_verdict_does(slight: Run, tmp_path: Path) -> None:
    found = compare([slight])
    (task,) = found.tasks
    word = "better, by less than matters"
    assert verdicts.verdict(task, "diag_hessian").startswith(
        "diag_hessian's configuration is better than adam's on test_loss, by less than matters, which is 0.8957 (1% of "
        "adam's), found by one search each: "
        "89.49 against 89.57, a difference of -0.08 "
    )
    head, rows = leaderboard(task)
    assert rows[0][head.index("verdict on configurations")].text == word
    assert word in markdown(found) and word in latex(found)
    (made,) = document(found)["tasks"]
    assert made["optimizers"][0]["verdict"] == word
    assert made["rules"]["margin"] == "1%"
    (primary,) = [row for row in made["contrasts"] if row["primary"]]
    assert (primary["margin"], primary["margin_declared"]) == (pytest.approx(0.8957), "1%")
    found.write_tables(tmp_path)
    with (tmp_path / "contrasts.csv").open() as file:
        (row,) = [row for row in csv.DictReader(file) if row["primary"] == "True"]
    assert (row["verdict"], row["margin_declared"], row["declared"]) == (word, "1%", "True")
    assert float(row["margin"]) == pytest.approx(0.8957)


def test_every_verdict_has_its_place() -> None:
    from tuner.reporting.leaderboard import ORDER

    assert set(verdicts.VERDICTS) == set(ORDER) - {"baseline", "-"}
    assert stats.share("2.5%") == 0.025
