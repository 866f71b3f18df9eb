"""Contrasts in which runs diverged: ranks decide, what diverged is last, and nothing is made of its value."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from tests.support.edited_runs import copied, edit_seeds
from tests.support.made_runs import make_run
from tests.tuner.analysis.test_calibration import most
from tuner.analysis.paired import differences, wilcoxon
from tuner.analysis.rules import Rules, Test
from tuner.analysis.stats import Mode, contrast, contrasts
from tuner.comparison.results import compare
from tuner.reporting import verdicts
from tuner.reporting.as_json import document
from tuner.reporting.caveats import caveat_sentences
from tuner.reporting.drawings import task_drawings
from tuner.store.run import Run

INF, NAN = math.inf, math.nan
OF_MEANS = ["mean", "baseline_mean", "mean_difference", "sd_difference", "t_low", "t_high", "bca_low", "bca_high",
            "p_t", "p_sign_flip", "d_z", "p_tost"]  # fmt: skip


def only(x: Any, y: Any, mode: Mode = "min", rules: Rules | None = None) -> dict[Any, Any]:
    """The contrast of x with the baseline y."""
    rows = [(name, seed, value) for name, own in (("x", x), ("base", y)) for seed, value in enumerate(own)]
    values = pd.DataFrame(rows, columns=["optimizer", "seed", "value"]).assign(study=0)
    (row,) = contrasts(values, "base", mode, rules or Rules(margin=1e9)).to_dict("records")
    return row


@pytest.mark.parametrize("test", ["t", "wilcoxon", "sign_flip"])
def test_nothing_is_made_of_means(test: Test) -> None:
    row = only([0.3, 0.4, INF, 0.5], [0.35, 0.3, 0.4, 0.45], rules=Rules(test, margin=1e9))
    assert all(math.isnan(row[key]) for key in OF_MEANS)
    assert (row["test"], row["n_diverged"], row["diverged"], row["baseline_diverged"]) == ("wilcoxon", 1, 1, 0)
    assert (row["median"], row["baseline_median"]) == pytest.approx((0.45, 0.375))
    assert row["median_difference"] == pytest.approx(0.075)  # -0.05, 0.05, 0.1, and one beyond all
    assert (row["wins"], row["ties"], row["losses"]) == (1, 0, 3)
    assert row["verdict"] == "inconclusive"


@pytest.mark.parametrize(("mode", "sign"), [("min", 1), ("max", -1)])
def test_p_is_that_of_any_value_that_is_bad_enough(mode: Mode, sign: int) -> None:
    """Of scipy's permutations of the signs of ranks, with a number beyond all in place of none."""
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=9), rng.normal(size=9)
    x[[1, 4]], y[[4, 6]] = INF, INF
    d = np.where(np.isfinite(x), x, 1e6) - np.where(np.isfinite(y), y, 1e6)
    ranks = np.sign(d[d != 0]) * scipy_stats.rankdata(abs(d[d != 0]).clip(max=1e3))
    expected = scipy_stats.permutation_test((ranks,), np.sum, permutation_type="samples", n_resamples=np.inf).pvalue
    row = only(sign * x, sign * y, mode)
    assert row["p"] == row["p_wilcoxon"] == pytest.approx(expected)
    assert (row["n_diverged"], row["diverged"], row["baseline_diverged"], row["ties"]) == (3, 2, 2, 1)


@pytest.mark.parametrize(("n", "word"), [(5, "inconclusive"), (6, "worse"), (12, "worse")])
def test_an_optimizer_that_always_diverges_is_worse_where_seeds_suffice(n: int, word: str) -> None:
    fine = 0.4 + 0.01 * np.arange(n)
    row = only([INF] * n, fine)
    assert (row["verdict"], row["p"]) == (word, 2 / 2**n)
    assert only(-fine, [-INF] * n, "max")["verdict"] == word.replace("worse", "better")
    assert row["median"] == row["median_difference"] == INF


def test_one_that_diverges_often_enough_is_worse_though_it_is_better_elsewhere() -> None:
    # 12 of 20 seeds beyond all, ranks 9 to 20, at 14.5 each; 8 better by ranks 1 to 8.
    y = np.linspace(1, 2, 20)
    x = np.concatenate([[INF] * 12, y[12:] - 0.01 * np.arange(1, 9)])
    row = only(x, y)
    assert row["verdict"] == "worse"
    assert row["p"] < 0.01
    assert (row["wins"], row["losses"]) == (8, 12)


def test_it_is_never_equivalent_nor_by_less_than_matters() -> None:
    rng = np.random.default_rng(0)
    y = rng.normal(size=30)
    same = y + 1e-3 * np.tile([1.0, -1.0], 15)
    assert only(same, y)["verdict"] == "equivalent"
    assert only([INF, *same[1:]], y)["verdict"] == "inconclusive"
    assert only([INF, *(y[1:] + 1)], y)["verdict"] == "worse"


def test_both_diverged_is_a_tie_and_everywhere_it_is_nothing_to_go_by() -> None:
    assert differences(np.array([INF, INF, 1.0]), np.array([INF, 1.0, INF])).tolist() == [0, INF, -INF]
    row = only([INF] * 4, [INF] * 4)
    assert (row["verdict"], row["reason"], row["ties"]) == ("inconclusive", "both diverged on every seed", 4)


def test_the_correction_is_over_each_contrasts_own_test() -> None:
    rng = np.random.default_rng(1)
    y = rng.normal(size=10)
    runs = {"a": y + rng.normal(0.8, 1, 10), "b": np.where(np.arange(10) < 3, INF, y + 0.1), "base": y}
    rows = [(name, seed, value) for name, own in runs.items() for seed, value in enumerate(own)]
    values = pd.DataFrame(rows, columns=["optimizer", "seed", "value"]).assign(study=0)
    found = contrasts(values, "base", "min", Rules())
    raw = [scipy_stats.ttest_rel(runs["a"], y).pvalue, wilcoxon(differences(runs["b"], y))]
    assert found["test"].tolist() == ["t", "wilcoxon"]
    small, large = sorted(raw)
    assert sorted(found["p"]) == pytest.approx([2 * small, max(2 * small, large)])


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5])
@pytest.mark.parametrize("n", [5, 10, 19])
def test_the_level_is_kept_where_runs_of_one_distribution_diverge(n: int, share: float) -> None:
    """Pairs are exchangeable, with what a seed does to both; each test decides where it is its turn."""
    m, rng = 500, np.random.default_rng(n)
    wrong = 0
    for _ in range(m):
        runs = rng.lognormal(size=(2, n)) + rng.normal(size=n)
        runs[rng.random((2, n)) < share] = INF
        row = contrast(*runs, "min", Rules())
        wrong += row["p_wilcoxon" if row["n_diverged"] else "p_t"] <= 0.05
    assert wrong / m <= most(m)


# In whole answers.


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The losses of adam about 0.3766, and of diag_hessian too, but for one run with a worst value of 1e4."""
    run = make_run(tmp_path_factory.mktemp("runs") / "three", seeds=3, trials=2, diverged={"diag_hessian": [0]})
    values = {"adam": [0.37, 0.3766, 0.3832], "diag_hessian": [1e4, 0.371, 0.377]}
    edit_seeds(run, lambda row: row | {
        "test_loss": str(values[row["optimizer"]][int(row["seed"])]),
        "status": "diverged" if row["optimizer"] == "diag_hessian" and row["seed"] == "0" else "complete",
    })  # fmt: skip
    return run


def test_a_mean_does_not_hide_who_diverged(three: Run) -> None:
    """A mean of 3334 against 0.3766 was "inconclusive, p = 0.85"."""
    (task,) = compare([three]).tasks
    text = verdicts.verdict(task, "diag_hessian")
    assert text.startswith(
        "diag_hessian's configuration is neither shown to be better than adam's on test_loss nor to be worse, found by "
        "one search each: diag_hessian diverged on 1 of 3 seeds; "
        "median 0.377 against 0.3766, a median difference of -0.0056 (no interval of so few; decided by "
        "ranks, diverged runs last: Wilcoxon signed-rank test over only 3 seeds, p = 1)"
    )
    assert not any("3334" in shown for shown in (text, *caveat_sentences(compare([three]))))
    (made,) = document(compare([three]))["tasks"]
    (entry,) = [entry for entry in made["optimizers"] if entry["optimizer"] == "diag_hessian"]
    (row,) = [row for row in made["contrasts"] if row["primary"]]
    assert (entry["mean"], entry["seeds_diverged"], row["mean"], row["mean_difference"]) == (None, 1, None, None)
    assert verdicts.verdict(task, "adam") == "adam is the baseline, with a median test_loss of 0.3766."


def test_where_the_baseline_diverged_its_sentence_says_so(three: Run) -> None:
    (task,) = compare([three], baseline="diag_hessian").tasks
    assert verdicts.verdict(task, "diag_hessian") == (
        "diag_hessian is the baseline, with a median test_loss of 0.377; it diverged on 1 of 3 seeds."
    )
    assert "diag_hessian diverged on 1 of 3 seeds; median" in verdicts.verdict(task, "adam")


def test_figures_and_curves_do_not_show_the_worst_value(three: Run, tmp_path: Path) -> None:
    run = copied(three, tmp_path / "three")
    (task,) = compare([run]).tasks
    drawn = [
        drawing for part in task_drawings(task, 0, ["diag_hessian", "adam"], whole=True).values() for drawing in part
    ]
    for drawing in drawn:
        shown = [text.get_text() for text in drawing.draw(*drawing.args).texts]
        assert not any("3334" in text or "10k" in text for text in shown), drawing.name
    ends = task.filled[task.filled["optimizer"] == "diag_hessian"].groupby("seed")["value"].last()
    assert ends[0] == INF
    assert np.isfinite(ends[[1, 2]]).all()


def test_over_tasks_an_optimizer_whose_median_run_diverged_is_last(tmp_path: Path) -> None:
    effects = {"diag_hessian": -0.3, "adam": 0.0, "sgdm": 0.2}
    runs = [
        make_run(tmp_path / task, task, effects, seeds=5, trials=2, diverged={"diag_hessian": lost})
        for task, lost in (("mnist1d", [0, 1, 2]), ("resnet18", [0]))
    ]
    across = compare(runs).across
    assert across is not None
    assert across.ranks.loc["mnist1d"].to_dict() == {"diag_hessian": 3, "adam": 1, "sgdm": 2}
    assert across.ranks.loc["resnet18"].to_dict() == {"diag_hessian": 1, "adam": 2, "sgdm": 3}
