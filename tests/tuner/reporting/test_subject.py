"""What an answer is about stands first and everywhere: optimizers, or what one search of each found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

import tuner
from tests.support.edited_runs import copied, edit_env, edit_seeds
from tests.support.made_runs import make_run
from tuner.analysis.family import correct
from tuner.analysis.sequential import Course, Looks
from tuner.analysis.variance import split_variance
from tuner.comparison import evidence
from tuner.comparison.results import Results, compare
from tuner.reporting.as_cell import cell
from tuner.reporting.as_json import document
from tuner.reporting.as_tables import latex, markdown
from tuner.reporting.caveats import caveat_sentences
from tuner.reporting.leaderboard import leaderboard
from tuner.reporting.subject import answer_is_about
from tuner.reporting.verdicts import verdict
from tuner.store.run import Run

EFFECTS = {"diag_hessian": -0.1, "adam": 0.0}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Run]:
    """By their number of studies."""
    folder = tmp_path_factory.mktemp("runs")
    return {n: make_run(folder / str(n), effects=EFFECTS, seeds=4, studies=n, trials=3) for n in (1, 2, 5)}


def everywhere(run: Run) -> list[str]:
    """All that is said of a run, a text of each kind."""
    found = compare([run])
    return [markdown(found), cell(found), repr(tuner.open(run.path)), str(document(found)["about"])]


WORDS = {1: "The answer is about configurations, not optimizers: of each optimizer the one that a single search of 3 ",
         2: "The answer is about configurations. Of each optimizer there are 2 studies",
         5: "The answer is about optimizers, each tuned with 3 trials. Of each there are 5 studies"}  # fmt: skip


@pytest.mark.parametrize("studies", WORDS)
def test_it_is_said_first_and_everywhere(runs: dict[int, Run], studies: int) -> None:
    (text,) = answer_is_about(compare([runs[studies]]))
    assert text.startswith(WORDS[studies])
    assert ("--studies 5" in text) == ("29 to 89 %" in text) == (studies < 3)
    assert all(WORDS[studies] in said for said in everywhere(runs[studies]))


@pytest.mark.parametrize(("studies", "about"), [(1, "configurations"), (2, "configurations"), (5, "optimizers")])
def test_tables_and_documents_have_it(runs: dict[int, Run], studies: int, about: str) -> None:
    found = compare([runs[studies]])
    (task,) = found.tasks
    head, _ = leaderboard(task)
    assert f"verdict on {about}" in head
    (made,) = document(found)["tasks"]
    assert (made["about"], made["studies"]) == (about, studies)
    assert {row["about"] for row in made["contrasts"]} == {about}
    assert set(tuner.open(runs[studies].path).verdicts["about"]) == {about}
    assert ("5 studies of each" if studies == 5 else "the configurations that") in latex(found)


def test_sentences_say_it(runs: dict[int, Run]) -> None:
    said = {n: verdict(compare([run]).tasks[0], "diag_hessian") for n, run in runs.items()}
    assert said[1].startswith(
        "diag_hessian's configuration is better than adam's on test_loss, found by one search each: "
    )
    assert "paired t-test over only 4 seeds, p " in said[1]
    assert said[2].startswith(
        "diag_hessian and adam cannot be told apart on test_loss: 2 studies in common; at least 3 "
    )
    assert "interval" not in said[2].partition(";")[2].partition("; a step")[0]
    assert said[5].startswith("diag_hessian is better than adam on test_loss, both tuned with 3 trials: ")
    assert "(95 % interval " in said[5] and "paired t-test over 5 studies, p " in said[5]
    assert "corrected" not in said[5]  # of one contrast


def test_the_summary_is_over_studies(runs: dict[int, Run]) -> None:
    (task,) = compare([runs[5]]).tasks
    means = runs[5].seeds().groupby(["optimizer", "study"])["test_loss"].mean()
    for row in task.summary.to_dict("records"):
        own = means[row["optimizer"]].to_numpy()
        assert (row["unit"], row["n"], row["studies"], row["seeds"]) == ("study", 5, 5, 20)
        assert row["mean"] == pytest.approx(own.mean())
        assert (row["low"], row["high"]) == pytest.approx(
            scipy_stats.t.interval(0.95, 4, own.mean(), scipy_stats.sem(own))
        )


def test_the_luck_of_the_search_is_said(runs: dict[int, Run]) -> None:
    found = compare([runs[5]])
    own = runs[5].seeds().query("optimizer == 'adam'")
    split = split_variance(own.rename(columns={"test_loss": "value"}))
    (text,) = answer_is_about(found)
    assert f"{100 * split.share:.0f} % for adam (interval {100 * split.share_low:.0f} % to " in text
    entry = next(e for e in document(found)["tasks"][0]["optimizers"] if e["optimizer"] == "adam")
    assert entry["variance"]["share"] == pytest.approx(split.share)


def several(runs: dict[int, Run], folder: Path, *studies: int) -> Results:
    made = [runs[n] for n in studies]
    return compare([*made, make_run(folder / "other", "tabular_mlp", EFFECTS, seeds=4, studies=5, trials=7)])


def test_of_several_tasks_it_is_said_once_where_it_is_the_same(runs: dict[int, Run], tmp_path: Path) -> None:
    (text,) = answer_is_about(several(runs, tmp_path / "a", 5))
    assert text.startswith("The answer is about optimizers, each tuned with 3 to 7 trials.")
    first, second = answer_is_about(several(runs, tmp_path / "b", 1))
    assert first.startswith("mnist1d: The answer is about configurations, not optimizers")
    assert second.startswith("tabular_mlp: The answer is about optimizers")


def test_over_several_tasks_all_contrasts_are_one_family(runs: dict[int, Run], tmp_path: Path) -> None:
    found = several(runs, tmp_path, 5)
    assert found.family == 2
    rows = pd.concat([task.primary for task in found.tasks])
    expected = correct(rows["p_t"].to_numpy(), rows["p_tost"].to_numpy(), 0.05)
    together = [contrast for (contrast,) in found.together]
    assert [contrast.p for contrast in together] == pytest.approx(expected.difference)
    assert [contrast.level for contrast in together] == pytest.approx(expected.level)
    for task, contrast in zip(found.tasks, together, strict=True):
        (alone,) = task.primary_contrasts
        assert alone.level == 0.05
        assert contrast.low <= alone.low and contrast.high >= alone.high
    across = document(found)["across_tasks"]
    assert across["contrasts"] == 2
    assert across["about"] == {task: {"diag_hessian": "optimizers"} for task in ("mnist1d", "tabular_mlp")}
    assert not any("configurations" in sentence for sentence in across["sentences"])
    assert across["verdicts"] == {
        task.comparison.task: {"diag_hessian": contrast.verdict}
        for task, (contrast,) in zip(found.tasks, found.together, strict=True)
    }


def only(run: Run, path: Path, kept: Callable[[str, int], bool]) -> Results:
    """Of a copy with the retraining runs of these studies alone, by optimizer."""
    run = copied(run, path)
    edit_seeds(run, lambda row: row if kept(row["optimizer"], int(row["study"])) else None)
    return compare([run])


def test_studies_are_counted_that_there_are(runs: dict[int, Run], tmp_path: Path) -> None:
    found = only(runs[5], tmp_path / "run", lambda name, study: study < (4 if name == "adam" else 3))
    (text,) = answer_is_about(found)
    assert "Of each there are 3 to 4 studies, independent searches, each winner retrained on 4 evaluation" in text
    assert "tuned with 3 trials, 3 to 4 studies of each" in latex(found)
    assert document(found)["tasks"][0]["studies"] == 4
    edit_seeds(found.tasks[0].comparison.sources[0].run, lambda row: None)
    assert "the configurations that were found" in latex(compare([Run(tmp_path / "run")]))


def test_one_study_in_common_is_compared_by_seed(runs: dict[int, Run], tmp_path: Path) -> None:
    found = only(runs[5], tmp_path / "run", lambda name, study: name == "adam" or study == 0)
    (text,) = answer_is_about(found)
    assert text.startswith("The answer is about configurations. Of each optimizer there are 1 to 5 studies, ")
    assert "where it is one, its configurations are compared seed by seed. Another" in text
    assert "over only 4 seeds" in verdict(found.tasks[0], "diag_hessian")


def test_a_row_about_a_configuration_is_marked_among_those_about_optimizers(
    runs: dict[int, Run], tmp_path: Path
) -> None:
    other = make_run(tmp_path / "other", effects={"sgdm": 0.1}, seeds=4, trials=3)
    found = compare([runs[5], other])
    (task,) = found.tasks
    (text,) = answer_is_about(found)
    assert text.startswith("The answer is about optimizers, ")
    assert " Not so of sgdm, with fewer than 3 studies in common with adam: " in text
    head, rows = leaderboard(task)
    place = head.index("verdict on optimizers")
    assert {row[0].text: row[place].text for row in rows} == {
        "diag_hessian": "better", "adam": "baseline", "sgdm": "worse (configuration)",
    }  # fmt: skip
    assert "& worse (configuration) &" in latex(found)
    assert "over 5 studies or 4 seeds with" in latex(found)


def test_trials_are_those_of_each_run(runs: dict[int, Run], tmp_path: Path) -> None:
    other = make_run(tmp_path / "other", effects={"sgdm": 0.1}, seeds=4, studies=5, trials=7)
    found = compare([runs[5], other])
    (text,) = answer_is_about(found)
    assert text.startswith("The answer is about optimizers, each tuned with 3 to 7 trials.")
    assert " on test_loss, sgdm tuned with 7 trials, adam with 3: " in verdict(found.tasks[0], "sgdm")
    assert " on test_loss, both tuned with 3 trials: " in verdict(found.tasks[0], "diag_hessian")
    assert "optimizers, tuned with 3 to 7 trials, 5 studies of each" in latex(found)


def test_studies_that_were_added_after_looking(runs: dict[int, Run], tmp_path: Path) -> None:
    run = copied(runs[5], tmp_path / "run")
    edit_env(run, resumed=[{"added_seeds": [], "added_studies": 2}, {"added_studies": 1}, {"added_studies": 0}])
    (text,) = [text for text in caveat_sentences(compare([run])) if "added" in text]
    assert text.startswith("2, then 1 studies were added after the results of others could be looked at: ")
    assert text.endswith("wrong in up to 15 % of comparisons.")


def test_what_would_decide_an_open_contrast(runs: dict[int, Run], tmp_path: Path) -> None:
    run = copied(runs[5], tmp_path / "run")
    edit_seeds(run, lambda row: row | ({"test_loss": str(float(row["test_loss"]) + 0.085)}
                                       if row["optimizer"] == "diag_hessian" else {}))  # fmt: skip
    found = compare([run])
    (task,) = found.tasks
    decisive = task.decisive("diag_hessian")
    assert decisive is not None and decisive.difference.units is not None and decisive.cheapest is not None
    text = verdict(task, "diag_hessian")
    assert f"some {decisive.difference.units} studies would show a difference of this size" in text
    entry = document(found)["tasks"][0]["optimizers"]
    assert next(e for e in entry if e["optimizer"] == "diag_hessian")["would_decide"]["difference"] == {
        "units": decisive.difference.units, "seeds": 4.0,
    }  # fmt: skip
    assert task.decisive("adam") is None
    contrast = task.contrast("diag_hessian")
    assert contrast is not None
    course = Course(np.arange(5.0), np.arange(5), 5, Looks((5, 10)), 0.05, "study")
    for other in (replace(contrast, test="wilcoxon"), replace(contrast, course=course)):
        assert evidence.decisive(task.comparison, other) is None  # planned by the t-test of a fixed number
