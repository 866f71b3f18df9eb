"""What is said beside the figure of how much tuning an optimizer needs."""

from __future__ import annotations

import re
from dataclasses import replace

import pandas as pd
import pytest

from tests.support.made_runs import make_run
from tuner.analysis.tuning_curves import Lead, leads
from tuner.comparison.comparison import Comparison
from tuner.comparison.results import compare
from tuner.reporting import tuning

EFFECTS = {"diag_hessian": -0.3, "adam": 0.0}


@pytest.fixture(scope="module")
def random_search(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """Two hundred trials of each optimizer."""
    path = tmp_path_factory.mktemp("runs") / "random"
    run = make_run(path, effects=EFFECTS, seeds=3, trials=200, settings=["search.sampler=random"])
    return compare([run]).tasks[0].comparison


@pytest.fixture(scope="module")
def learning_search(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    run = make_run(tmp_path_factory.mktemp("runs") / "tpe", effects=EFFECTS, seeds=3, trials=10)
    return compare([run]).tasks[0].comparison


def test_studies_that_one_optimizer_alone_has_give_no_interval(learning_search: Comparison) -> None:
    trials = of_studies(learning_search, 5).trials
    uneven = replace(learning_search, trials=trials[(trials["optimizer"] == "adam") | (trials["study"] == 0)])
    curves = tuning.curves_of(uneven)
    assert curves.kind == "single" and curves.table[["low", "high"]].isna().all(axis=None)
    assert "one study, no interval. " in tuning.caption(curves, uneven)


def of_studies(comparison: Comparison, count: int) -> Comparison:
    """Its trials as those of so many studies, each a little better than the one before."""
    trials = comparison.trials
    parts = [trials.assign(study=study, value=trials["value"] - 0.01 * study) for study in range(count)]
    return replace(comparison, trials=pd.concat(parts, ignore_index=True))


def test_a_random_search_says_who_leads_and_from_when_on(random_search: Comparison) -> None:
    curves = tuning.curves_of(random_search)
    said = tuning.caption(curves, random_search)
    found = leads(curves.table, "diag_hessian", "adam", "min")
    assert said.startswith(
        "Best val_loss of n random trials: the median, with a 95 % band for all n and all optimizers"
    )
    assert [lead.optimizer for lead in found] == ["diag_hessian"]
    assert f"diag_hessian is better than adam from {found[0].first} to {found[0].last} trials. Beyond n = " in said


def test_published_defaults_are_no_draws(random_search: Comparison) -> None:
    given = len(random_search.config.optimizers["adam"].enqueued())
    table = tuning.curves_of(random_search).table
    assert given > 0 and table[table["optimizer"] == "adam"]["n"].max() == 200 - given


def test_where_no_lead_is_shown_it_is_said(random_search: Comparison) -> None:
    few = replace(random_search, trials=random_search.trials[random_search.trials["trial"] < 6])
    assert "diag_hessian and adam are not told apart at any n" in tuning.caption(tuning.curves_of(few), few)


def test_a_lead_of_one_number_of_trials_is_in_the_singular() -> None:
    assert tuning.lead(Lead("adamw", 1, 1), "adam") == "adamw is better than adam with 1 trial"
    assert tuning.lead(Lead("adamw", 4, 4), "adam") == "adamw is better than adam with 4 trials"


def test_an_optimizer_alone_has_nobody_to_lead(random_search: Comparison) -> None:
    alone = replace(random_search, trials=random_search.trials[random_search.trials["optimizer"] == "adam"])
    said = tuning.caption(tuning.curves_of(alone), alone)
    assert "better than" not in said and re.search(r"Beyond n = \d+ the trials do not say", said)


@pytest.mark.parametrize(
    ("studies", "said"),
    [
        (1, "one study, no interval. Trials of the sampler tpe are not independent draws; of one study nothing says"),
        (2, "mean over studies, no interval. Trials of the sampler tpe are not independent draws; an interval of 2"),
        (
            3,
            "mean over studies, with a 95 % t interval at each n. Trials of the sampler tpe are not independent draws.",
        ),
    ],
)
def test_studies_of_a_sampler_that_learns(learning_search: Comparison, studies: int, said: str) -> None:
    comparison = of_studies(learning_search, studies)
    caption = tuning.caption(tuning.curves_of(comparison), comparison)
    assert caption.startswith(f"Best val_loss of the first n trials: {said}")
