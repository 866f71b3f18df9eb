"""What limits an answer: each caveat can appear and does not otherwise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
import yaml
from statsmodels.stats.power import TTestPower

from tests.support.edited_runs import (
    LOST,
    Row,
    copied,
    edit_config,
    edit_env,
    edit_seeds,
    edit_trials,
    where,
    without,
)
from tests.support.made_runs import make_run, make_tasks
from tuner.comparison.caveats import Kind
from tuner.comparison.results import Results, compare
from tuner.reporting.caveats import WORDS, caveat_sentences, grouped
from tuner.store.run import Run

EFFECTS = {"diag_hessian": -0.05, "adam": 0.0, "sgdm": 0.05}


@pytest.fixture(scope="module")
def clean_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Nothing limits its answer."""
    folder = tmp_path_factory.mktemp("runs")
    run = make_run(folder / "clean", effects=EFFECTS, seeds=12, trials=20, settings=["retrain.epochs=10"])
    edit_trials(run, lambda row: row | {"state": "complete"})
    return run


@pytest.fixture
def run(clean_run: Run, tmp_path: Path) -> Run:
    return copied(clean_run, tmp_path / "clean")


def caveats(*runs: Run) -> list[str]:
    return caveat_sentences(compare(list(runs)))


def test_a_run_that_nothing_limits_has_no_caveat(clean_run: Run) -> None:
    assert caveats(clean_run) == []


MISSING = "seeds that have no partner do not count in their contrast: {} of sgdm or adam."
DIVERGED = "retraining runs that diverged count as worse than all others, at the cost of a whole run: "
BOUNDARY = "best values at the boundary of what was searched, where a wider range may do better: "


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (without("sgdm"), ["not retrained: sgdm."]),
        (where("sgdm", "0 1", **LOST), ["retraining runs that failed are left out: sgdm 2 of 12.", MISSING.format(2)]),
        (without("sgdm", "0 1"), ["the retraining is not complete: sgdm.", MISSING.format(2)]),
        (where("sgdm", "0 1", status="diverged"), [DIVERGED + "sgdm 2 of 12."]),
        (where("sgdm", status="odd"), ["seeds.csv: status odd is not known; these runs count as complete."]),
        (where("adam", "3", cohort="2"), ["retraining runs trained as stacks: their seconds and ms per step are shares "
                                          "of a stack's, and comparable between optimizers only with --cohort 1: "
                                          "diag_hessian alone, adam 2 at once, sgdm alone."]),
    ],
)  # fmt: skip
def test_caveats_of_the_retraining(run: Run, change: Callable[[Row], Row | None], expected: list[str]) -> None:
    edit_seeds(run, change)
    assert caveats(run) == expected


def test_complete_runs_without_a_finite_value_count_as_diverged(run: Run) -> None:
    edit_seeds(run, where("diag_hessian", "0 1", test_loss="inf"))
    assert caveats(run) == ["test_loss: 2 runs have no finite value and count as diverged."]
    edit_seeds(run, where("diag_hessian", "0 1", test_loss="nan", status="diverged"))
    (found,) = caveats(run)
    assert found == DIVERGED + "diag_hessian 2 of 12."


def test_few_seeds_that_are_compared_by_ranks_since_one_diverged(run: Run) -> None:
    edit_seeds(run, lambda row: row if int(row["seed"]) < 5 else None)
    edit_seeds(run, where("sgdm", "1", status="diverged"))
    assert ("too few for the test to find anything, whatever there is: the least p-value of the Wilcoxon signed-rank "
            "test over 5 seeds, corrected for 2 contrasts, is 0.12.") in caveats(run)  # fmt: skip


@pytest.mark.parametrize(
    ("added", "expected"),
    [
        ([], []),
        ([[]], []),
        ([[12, 13]], ["2 seeds were added after the results of others could be looked at: what a test at 5 % says at a "
                      "further look is wrong in up to 10 % of comparisons."]),
        ([[12], [], [13, 14]], ["1, then 2 seeds were added after the results of others could be looked at: what a "
                                "test at 5 % says at a further look is wrong in up to 15 % of comparisons."]),
    ],
)  # fmt: skip
def test_a_second_look(run: Run, added: list[list[int]], expected: list[str]) -> None:
    edit_env(run, resumed=[{"added_seeds": seeds} for seeds in added])
    assert [text for text in caveats(run) if "look" in text] == expected


@pytest.mark.parametrize(
    ("uncounted", "named"),
    [
        ({}, []),
        ({"adam": "0 1"}, []),
        ({"diag_hessian": "0 1"}, ["diag_hessian"]),
        ({"diag_hessian": None}, ["diag_hessian"]),
        (dict.fromkeys(EFFECTS), []),
    ],
)
def test_nominal_costs_beside_counted_ones(run: Run, uncounted: dict[str, str | None], named: list[str]) -> None:
    """Nothing is said of adam, which costs the same either way, nor where all are nominal, as in an old run."""
    edit_seeds(run, lambda row: row | {"nominal_grad_equivalents": row["grad_equivalents"]})
    for optimizer, seeds in uncounted.items():
        edit_seeds(run, where(optimizer, seeds, nominal_grad_equivalents=""))
    assert caveats(run) == [
        f"gradient-equivalents by nominal costs, beside those of other runs by counted FLOPs: {name}." for name in named
    ]


FEW = "few studies or seeds: how often a true difference of one standard deviation is found: "


@pytest.mark.parametrize("n", [5, 9])
def test_few_seeds_say_what_they_can_find(run: Run, n: int) -> None:
    edit_config(run, "seeds:\n" + "".join(f"  - {seed}\n" for seed in range(12)),
                "seeds:\n" + "".join(f"  - {seed}\n" for seed in range(n)))  # fmt: skip
    edit_seeds(run, lambda row: row if int(row["seed"]) < n else None)
    found = 100 * TTestPower().power(1.0, n, 0.05 / 2)
    assert caveats(run) == [
        f"{FEW}in {found:.0f} % of comparisons by a t-test over {n} seeds, corrected for 2 contrasts."
    ]


@pytest.mark.parametrize("n", [3, 4])
def test_a_verdict_of_three_or_four_is_marked(run: Run, n: int) -> None:
    edit_seeds(run, lambda row: row if row["optimizer"] != "sgdm" or int(row["seed"]) < n else None)
    marked = [text for text in caveats(run) if text.startswith("a verdict of three or four studies or seeds")]
    assert [text.rpartition(": ")[2] for text in marked] == [f"sgdm ({n} seeds)."]


def test_few_seeds_are_said_beside_a_contrast_that_has_none(run: Run) -> None:
    edit_seeds(run, lambda row: row if int(row["seed"]) < (2 if row["optimizer"] == "sgdm" else 5) else None)
    assert any("over 5 seeds" in text for text in caveats(run))
    assert any(text.startswith("without 3 studies") and text.endswith(": sgdm has 2 seeds.") for text in caveats(run))


@pytest.mark.parametrize("test", ["wilcoxon", "sign_flip"])
def test_few_seeds_of_a_test_that_cannot_find_anything(run: Run, test: str) -> None:
    edit_config(run, "  test: t\n", f"  test: {test}\n")
    edit_seeds(run, lambda row: row if int(row["seed"]) < 5 else None)  # 2 / 2^5 is above 0.05
    assert any(text.startswith("too few for the test") for text in caveats(run))
    assert not any(text.startswith(FEW) for text in caveats(run))


def trials_of_sgdm(numbers: range, **change: str) -> Callable[[Row], Row]:
    return lambda row: row | change if row["optimizer"] == "sgdm" and int(row["trial"]) in numbers else row


def test_diverged_trials(run: Run) -> None:
    edit_trials(run, trials_of_sgdm(range(3), state="diverged"))
    assert caveats(run) == ["trials of the search that diverged: sgdm 3 of 20."]


def test_a_search_that_was_cut_off(run: Run) -> None:
    edit_trials(run, lambda row: None if row["optimizer"] == "sgdm" and row["trial"] == "19" else row)
    assert caveats(run)[:2] == [
        "the search is not complete: sgdm.",
        "the numbers of trials are not equal: diag_hessian 20, adam 20, sgdm 19.",
    ]


def test_best_values_at_the_boundary(run: Run) -> None:
    at_the_boundary(run, "sgdm")
    assert caveats(run) == [BOUNDARY + "sgdm (lr)."]


def at_the_boundary(run: Run, optimizer: str) -> None:
    high = run.config().optimizers[optimizer].space["lr"].high
    best = run.best()
    for entry in best["optimizers"][optimizer]["studies"]:
        entry["hp"]["lr"] = high
    run.write_best({key: value for key, value in best.items() if key != "schema_version"})


def test_a_baseline_at_the_boundary_is_the_first_caveat(run: Run) -> None:
    at_the_boundary(run, "adam")
    edit_seeds(run, where("sgdm", "0 1", status="diverged"))
    first, *others = caveats(run)
    assert first.startswith("the baseline's own best value lies at the boundary") and first.endswith(": adam (lr).")
    assert others == [DIVERGED + "sgdm 2 of 12."]


def test_training_that_is_tuned_for_some_or_otherwise(run: Run) -> None:
    said = "the searches did not set the same of training"

    for tuned, each in [
        ({"diag_hessian": ["constant", "wsd"]}, "train.schedule for diag_hessian; nothing for adam, sgdm"),
        (dict.fromkeys(EFFECTS, ("constant", "wsd")), ""),
        ({"sgdm": ["constant", "cosine"]}, "train.schedule for diag_hessian, adam, sgdm"),
    ]:
        content = yaml.safe_load((run.path / "config.yaml").read_text())
        for name, choices in tuned.items():
            content["optimizers"][name]["space"]["train.schedule"] = {"choices": list(choices)}
        (run.path / "config.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        found = [text.rpartition(": ")[2] for text in caveats(run) if text.startswith(said)]
        assert found == [f"{each}."] * bool(each)


def test_few_trials(run: Run) -> None:
    edit_config(run, "  trials: 20\n", "  trials: 19\n")
    edit_trials(run, lambda row: None if row["trial"] == "19" else row)
    assert caveats(run) == [
        "fewer than 20 trials per search: the optimizers are not well tuned, and the importances of hyperparameters "
        "are guesses."
    ]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("  scheduler: fifo\n", "  scheduler: asha\n", "ASHA stopped trials early, which favours optimizers that start "
                                                       "fast."),
        ("  epochs: 10\n  analyze", "  epochs: 20\n  analyze", "hyperparameters were chosen by trials of another "
                                                                "length than the retraining: 10 epochs, then 20; no "),
        ("  metric: null\n", "  metric: val_loss\n", "val_loss is what the hyperparameters were chosen by; a test "
                                                     "split would say more."),
        ("  cpus_per_trial: 1.0\n", "  cpus_per_trial: 0.5\n", "runs shared their device"),
        ("  gpus_per_trial: null\n", "  gpus_per_trial: 0.25\n", "runs shared their device"),
    ],
)  # fmt: skip
def test_caveats_of_the_configuration(run: Run, old: str, new: str, expected: str) -> None:
    edit_config(run, old, new)
    (found,) = caveats(run)
    assert found.startswith(expected)


def test_a_run_that_went_on(run: Run) -> None:
    edit_env(run, resumed=[{"started": "2026-01-03T00:00:00+00:00"}])
    (found,) = caveats(run)
    assert "env.json" in found


def pair(run: Run) -> tuple[Run, Run]:
    """The run, and another whose optimizers have its numbers."""
    return run, copied(run, run.path.with_name("second"))


def test_two_runs_made_alike_have_no_caveat(run: Run) -> None:
    assert caveats(*pair(run)) == []


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("  trials: 20\n", "  trials: 10\n", "the runs were searched with different trials, studies, samplers, "
                                             "seeds or schedulers: budgets are not equal."),
        ("  sampler: tpe\n", "  sampler: random\n", "the runs were searched with different trials, studies, samplers, "
                                                    "seeds or schedulers: budgets are not equal."),
        ("  alpha: 0.05\n", "  alpha: 0.1\n", "the runs declare different comparisons; that of the first is used."),
    ],
)  # fmt: skip
def test_caveats_of_two_runs(run: Run, old: str, new: str, expected: str) -> None:
    first, second = pair(run)
    edit_config(second, old, new)
    assert caveats(first, second) == [expected]


def test_two_runs_on_different_machines(run: Run) -> None:
    first, second = pair(run)
    edit_env(second, hardware=run.env()["hardware"] | {"cpu": "another one"})
    assert caveats(first, second) == ["the runs were made on different hardware: seconds are not comparable."]


def test_two_runs_by_different_code(run: Run) -> None:
    first, second = pair(run)
    torch = run.env()["code"]["torch"]
    edit_env(second, code=run.env()["code"] | {"torch": torch | {"version": "0.1"}})
    assert caveats(first, second) == [
        f"the runs were made by different code: torch: torch {torch['version']} in one run, torch 0.1 in another."
    ]
    edit_env(second, code={})
    unknown = "by which code some of the runs were made is not known, so not whether it was the same."
    assert caveats(first, second) == [unknown] and caveats(second) == []


def test_rows_by_other_code_than_the_runs(run: Run) -> None:
    edit_seeds(run, where("sgdm", "0 1", code="123e45678901"))
    edit_trials(run, lambda row: row | {"code": "0" * 12} if row["trial"] == "19" else row)
    assert caveats(run) == [
        "trials made by other code than their run was begun with: diag_hessian 1, adam 1, sgdm 1; env.json has both.",
        "retraining runs made by other code than their run was begun with: sgdm 2; env.json has both.",
    ]


def test_a_run_that_does_not_know_its_hardware(run: Run) -> None:
    edit_env(run, hardware=None)
    assert caveats(run) == []


# One and many.


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (where("sgdm", "1", **LOST), "do not count in their contrast: 1 of sgdm or adam."),
        (where("sgdm", "1", **LOST), "retraining runs that failed are left out: sgdm 1 of 12."),
        (where("sgdm", "1", status="diverged"), "sgdm 1 of 12."),
        (where("sgdm", "1", test_loss="inf"), "1 run has no finite value and counts as"),
    ],
)
def test_one_is_not_many(run: Run, change: Callable[[Row], Row], expected: str) -> None:
    edit_seeds(run, change)
    assert any(expected in text for text in caveats(run)), caveats(run)


# Over tasks.


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    return make_tasks(tmp_path_factory.mktemp("tasks"), 8)


def few_tasks(found: Results) -> list[str]:
    return [text for text in caveat_sentences(found) if "with all optimizers" in text]


def test_few_tasks_are_a_caveat_and_enough_are_none(tasks: list[Run]) -> None:
    assert few_tasks(compare(tasks)) == []
    assert few_tasks(compare(tasks[:1])) == []
    (text,) = few_tasks(compare(tasks[:7]))
    assert text.startswith("7 tasks with all optimizers are too few")


def test_every_kind_of_caveat_has_a_sentence() -> None:
    assert list(WORDS) == list(get_args(Kind))


def test_each_kind_is_there_once_with_its_tasks(tasks: list[Run]) -> None:
    found = compare(tasks[:3])
    names = [task.comparison.task for task in found.tasks]
    kinds = [group.kind for group in grouped(found)]
    assert len(kinds) == len(set(kinds))
    assert kinds == [kind for kind in get_args(Kind) if kind in kinds]
    (few,) = [group for group in grouped(found) if group.kind == "few_trials"]
    assert (few.tasks, few.items) == (names, {})
    assert few.sentence(several=True).endswith(f"are guesses ({', '.join(names)}).")
    (marked,) = [group for group in grouped(found) if group.kind == "few_units"]
    assert marked.listed(several=True) == [f"diag_hessian (3 seeds) on {', '.join(names)}"]
    assert caveat_sentences(found) == [group.sentence(several=True) for group in grouped(found)]
