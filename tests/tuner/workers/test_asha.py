"""Successive halving: trials compete with those of their own study, and retraining runs with none."""

from __future__ import annotations

from types import SimpleNamespace

from tests.support.run_configs import OPTIMIZERS, run_config
from tuner.jobs import Job
from tuner.planning.messages import Request
from tuner.workers.tune import SearchASHA


def test_each_study_of_each_optimizer_has_a_bracket_of_its_own() -> None:
    asha = SearchASHA({"": run_config(OPTIMIZERS, studies=3, scheduler="asha")})

    def of(job: Job) -> int:
        return id(asha._of(SimpleNamespace(config=Request([job]).to_dict())))

    brackets = {
        (name, study): {of(Job("search", name, trial, 0, {}, study)) for trial in range(4)}
        for name in OPTIMIZERS
        for study in range(3)
    }
    assert all(len(own) == 1 for own in brackets.values())
    assert len(set.union(*brackets.values())) == 6
    retrained = {of(Job("retrain", name, 0, study, {}, study)) for name in OPTIMIZERS for study in range(3)}
    assert retrained == {id(asha.never)}
