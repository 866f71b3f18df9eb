"""The answer in words: numbers, and verdicts on a task and over several."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import sem, t, ttest_rel
from statsmodels.stats.multitest import multipletests

from tests.support.edited_runs import Row, copied, edit_best, edit_config, edit_seeds, where, without
from tests.support.made_runs import make_run, make_tasks
from tuner.comparison.results import compare
from tuner.reporting import numbers, verdicts
from tuner.reporting.drawings import task_drawings
from tuner.reporting.leaderboard import leaderboard
from tuner.store.run import Run
from tuner.text import number, p_value

EFFECTS = {"diag_hessian": -0.05, "adam": 0.0, "sgdm": 0.05}


@pytest.fixture(scope="module")
def clean_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Nothing limits its answer."""
    run = make_run(tmp_path_factory.mktemp("runs") / "clean", effects=EFFECTS, seeds=12, trials=20)
    edit_best(run, lambda name, entry: entry.update(n_diverged=0))
    return run


@pytest.fixture
def run(clean_run: Run, tmp_path: Path) -> Run:
    return copied(clean_run, tmp_path / "clean")


# Numbers.


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.123456, "0.1235"), (12345678.0, "1.235e+07"), (-2.0, "-2"), (0.0, "0"), (None, "-"), (math.nan, "-"),
     (math.inf, "never"), (-math.inf, "-inf"), (1e-300, "1e-300")],
)  # fmt: skip
def test_numbers(value: float | None, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.5, "+0.5"), (-0.5, "-0.5"), (0.0, "+0"), (math.nan, "-"), (1234.5, "+1.23e+03")]
)
def test_signed_numbers(value: float, text: str) -> None:
    assert numbers.signed(value) == text


def test_a_signed_nothing_has_one_sign() -> None:
    assert numbers.signed(-0.0) in ("+0", "-0", "0")


@pytest.mark.parametrize(
    ("p", "text"), [(0.04321, "p = 0.043"), (1.0, "p = 1"), (0.0001, "p = 0.0001"), (9.9e-5, "p < 0.0001"),
                    (0.0, "p < 0.0001"), (math.nan, "p -")],
)  # fmt: skip
def test_p_values(p: float, text: str) -> None:
    assert p_value(p) == text


@pytest.mark.parametrize(
    ("share", "text"), [(0.95, "95 %"), (1 - 0.05, "95 %"), (1 - 0.001, "99.9 %"), (1 - 0.32, "68 %")]
)
def test_shares(share: float, text: str) -> None:
    assert numbers.percent(share) == text


# Verdicts.


def test_a_verdict_gives_its_numbers(clean_run: Run) -> None:
    (task,) = compare([clean_run]).tasks
    seeds = clean_run.seeds().pivot(index="seed", columns="optimizer", values="test_loss")
    ms = clean_run.seeds().pivot(index="seed", columns="optimizer", values="step_ms")

    text = verdicts.verdict(task, "diag_hessian")

    means, difference = seeds.mean(), (seeds["diag_hessian"] - seeds["adam"]).mean()
    assert text.startswith(
        "diag_hessian's configuration is better than adam's on test_loss, found by one search each: "
        f"{means['diag_hessian']:.4g} against {means['adam']:.4g}, a difference of {difference:.3g} (97.5 % interval -"
    )
    ps = [ttest_rel(seeds[name], seeds["adam"]).pvalue for name in ("diag_hessian", "sgdm")]
    p = multipletests(ps, method="bonferroni")[1][0]
    assert f"; paired t-test over 12 seeds, Holm-corrected {p_value(p)}); " in text
    assert " at its corrected level; paired" in text
    logs = np.log(ms["diag_hessian"] / ms["adam"])
    low, high = np.exp(t.interval(0.95, 11, logs.mean(), sem(logs)))
    ratio = np.exp(logs.mean())
    assert text.endswith(f"a step takes {ratio:.2f} times as long (95 % interval {low:.2f} to {high:.2f}).")
    assert verdicts.verdict(task, "sgdm").startswith("sgdm's configuration is worse than adam's on test_loss, ")
    assert verdicts.verdict(task, "adam") == f"adam is the baseline, with {means['adam']:.4g} test_loss."


def test_what_has_no_verdict_says_why(run: Run) -> None:
    edit_seeds(run, lambda row: None if row["optimizer"] == "diag_hessian" or (
        row["optimizer"] == "sgdm" and row["seed"] != "3") else row)  # fmt: skip
    (task,) = compare([run]).tasks
    assert verdicts.verdict(task, "diag_hessian") == "diag_hessian was not retrained."
    assert verdicts.verdict(task, "sgdm").startswith(
        "sgdm and adam cannot be told apart on test_loss: one seed in common; at least 3 are needed: 0."
    )
    assert verdicts.verdict(task, "sgdm").endswith(" times as long (1 seed, no interval).")


def test_without_retraining_nothing_has_a_value(run: Run) -> None:
    edit_seeds(run, lambda row: None)
    assert verdicts.verdicts(compare([run])) == [
        "diag_hessian was not retrained.",
        "adam is the baseline, and was not retrained.",
        "sgdm was not retrained.",
    ]


def test_an_equivalence_names_its_margin(run: Run) -> None:
    edit_config(run, "    loss: 2%", "    loss: 0.2")

    def near(row: Row) -> Row:
        noise = 0.001 * (-1) ** int(row["seed"]) * (row["optimizer"] == "sgdm")
        return row | {"test_loss": str(0.5 + 0.01 * int(row["seed"]) + noise)}

    edit_seeds(run, near)
    (task,) = compare([run]).tasks
    assert verdicts.verdict(task, "sgdm").startswith(
        "sgdm's configuration is equivalent to adam's on test_loss, within 0.2, found by one search each: "
    )
    reason = "the same value on every seed"
    assert verdicts.verdict(task, "diag_hessian").startswith(
        f"diag_hessian and adam cannot be told apart on test_loss: {reason}: 0.555 against 0.555"
    )


def test_gradient_equivalents_stand_in_for_seconds_that_are_shared(run: Run) -> None:
    edit_seeds(run, lambda row: row | {"cohort": "4"})
    (task,) = compare([run]).tasks
    assert verdicts.verdict(task, "diag_hessian").endswith(
        "; a step takes 1.30 times the gradient-equivalents (times of stacks are not compared)."
    )
    head, rows = leaderboard(task)
    cells = [row[head.index("ms/step (shared)")] for row in rows]
    assert all(cell.text.endswith(" (4 at once)") and cell.value is None for cell in cells)


def test_times_of_stacks_and_of_others_are_not_shown_as_if_alike(run: Run) -> None:
    edit_seeds(run, where("sgdm", cohort="4"))
    (task,) = compare([run]).tasks
    head, rows = leaderboard(task)
    shown = {row[0].text: row[head.index("ms/step (shared)")].text.partition(" ")[2] for row in rows}
    assert shown == {"sgdm": "(4 at once)", "adam": "(alone)", "diag_hessian": "(alone)"}
    assert "times as long" not in " ".join(verdicts.verdicts(compare([run])))
    assert [drawing.name for drawing in task_drawings(task, 0, list(EFFECTS), whole=True)["curves"]] == [
        "1-curves-steps", "1-curves-grad_equivalents",
    ]  # fmt: skip


def of_ratios(run: Run, ratios: list[float]) -> str:
    """What is said of the time of sgdm's steps, in adam's."""
    edit_seeds(run, lambda row: row if int(row["seed"]) < len(ratios) else None)
    edit_seeds(run, lambda row: row | {"step_ms": str(ratios[int(row["seed"])] if row["optimizer"] == "sgdm" else 1)})
    (task,) = compare([run]).tasks
    return verdicts.verdict(task, "sgdm").rpartition("; ")[2]


def test_the_time_of_a_step_is_not_decided_by_extremes(run: Run) -> None:
    ratios = [0.60, 0.65, 0.70, 0.72, 0.75, 0.78, 0.80, 0.85, 0.90, 1.33]
    logs = np.log(ratios)
    low, high = np.exp(t.interval(0.95, 9, logs.mean(), sem(logs)))
    assert high < 1
    assert of_ratios(run, ratios) == (
        f"a step takes {np.exp(logs.mean()):.2f} times as long (95 % interval {low:.2f} to {high:.2f})."
    )


def test_the_time_of_a_step_may_not_be_told(run: Run) -> None:
    # Logarithms -ln 2, 0, ln 2: mean 0, standard error ln 2 / sqrt(3), t(2) at 97.5 % 4.302653.
    half = 4.302653 * math.log(2) / math.sqrt(3)
    assert of_ratios(run, [0.5, 1.0, 2.0]) == (
        f"whether a step takes longer cannot be told (1.00 times, 95 % interval {math.exp(-half):.2f} to "
        f"{math.exp(half):.2f})."
    )


def test_the_time_of_a_step_is_about_as_long_where_the_whole_interval_says_so(run: Run) -> None:
    assert of_ratios(run, [0.99, 1.0, 1.02] * 4) == (
        "a step takes about as long (1.00 times, 95 % interval 1.00 to 1.01)."
    )


def test_of_two_seeds_the_time_of_a_step_has_no_interval(run: Run) -> None:
    assert of_ratios(run, [2.0, 8.0]) == "a step takes 4.00 times as long (2 seeds, no interval)."


def test_a_baseline_that_took_no_time_has_no_ratio(run: Run) -> None:
    edit_seeds(run, where("adam", step_ms="0"))
    (task,) = compare([run]).tasks
    assert "times as long" not in verdicts.verdict(task, "sgdm")


def test_a_metric_that_is_not_there_is_not_a_missing_retraining(run: Run) -> None:
    path = run.path / "seeds.csv"
    path.write_text(path.read_text().replace("_loss", "_los"))
    (task,) = compare([run]).tasks
    assert task.comparison.seeds["status"].eq("complete").all()
    assert "not retrained" not in verdicts.verdict(task, "sgdm")


def test_runs_without_a_value_are_not_a_lack_of_common_seeds(run: Run) -> None:
    edit_seeds(run, lambda row: row | {"status": "diverged", "test_loss": "inf", "val_loss": "inf"})
    (task,) = compare([run], metric="test_loss").tasks
    assert "no seed in common" not in verdicts.verdict(task, "sgdm")


# Over tasks.


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    return make_tasks(tmp_path_factory.mktemp("tasks"), 3)


def test_over_tasks_verdicts_are_gathered_the_good_ones_first(tasks: list[Run]) -> None:
    found = compare(tasks)
    expected = {
        task.comparison.task: contrast.verdict for task, (contrast,) in zip(found.tasks, found.together, strict=True)
    }

    text = verdicts.overall(found, "diag_hessian")

    assert verdicts.by_verdict(found, "diag_hessian") == {
        word: [f"{task} (configurations of one search each)" for task, said in expected.items() if said == word]
        for word in verdicts.VERDICTS if word in expected.values()
    }  # fmt: skip
    assert text.startswith("diag_hessian against adam: ")
    assert all(task in text for task in expected)
    assert verdicts.overall(found, "adam") == "adam is the baseline."
    said = verdicts.verdicts(found)
    assert said[1:3] == [text, "adam is the baseline."]
    assert said[0].startswith("The answer is about configurations")
    for task in found.tasks:
        assert all(verdicts.verdict(task, name) in said[3:] for name in ("adam", "diag_hessian"))


def test_an_optimizer_that_was_never_retrained_is_not_the_baseline(tasks: list[Run], tmp_path: Path) -> None:
    runs = [copied(run, tmp_path / run.path.name) for run in tasks[:2]]
    for run in runs:
        edit_seeds(run, without("diag_hessian"))
    assert "is the baseline" not in verdicts.overall(compare(runs), "diag_hessian")
