"""Which configuration a run may go on with: more of it, elsewhere, but no other."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.support.run_configs import OPTIMIZERS, SEED, run_config
from tuner.config.changes import MAY_CHANGE, extend, keep_seeds
from tuner.config.schema import Config
from tuner.errors import UserError
from tuner.store.run import Run


def config(**changes: Any) -> Config:
    return run_config(OPTIMIZERS, **{"trials": 6, "cohort": 1} | changes)


CHANGES: dict[str, Any] = {
    "preset": "smoke", "out": "elsewhere", "name": "other", "task.name": "other", "task.class": "pkg.Other",
    "task.args": {"a": 1}, "task.metric": "val_acc", "task.mode": "max", "task.target": 0.5, "task.dataset": "e",
    "task.datasets": ["d", "e"], "task.check": "pkg.check", "optimizers.one.class": "pkg.Other",
    "optimizers.one.args": {"eps": 0.5}, "optimizers.one.space.lr.low": 0.125, "optimizers.one.space.lr.high": 0.5,
    "optimizers.one.defaults": [], "optimizers.two.class": "pkg.Other", "optimizers.two.args": {"eps": 0.5},
    "optimizers.two.space.lr.low": 0.5, "optimizers.two.space.lr.high": 0.5, "optimizers.two.space.lr.log": False,
    "optimizers.two.space.n.low": 2, "optimizers.two.space.n.high": 8, "optimizers.two.space.n.integer": False,
    "optimizers.two.defaults": [{"lr": 0.5}], "train.epochs": 2, "train.batch_size": 4, "train.evaluations": 2,
    "train.schedule": "cosine", "train.final_lr": 0.5, "train.warmup_epochs": 1.0, "train.clip_grad_norm": 1.0,
    "train.ema": 0.9, "train.precision": "bf16", "train.channels_last": True, "train.compile": True,
    "train.deterministic": True, "search.seed": SEED + 1, "search.sampler": "tpe", "search.draws": "shared",
    "search.scheduler": "asha", "retrain.epochs": 3,
    "optimizers.one.contains": ["two"], "optimizers.two.contains": ["one"],
    "search.space": {"n": {"low": 0.0, "high": 1.0}},
    "report.baseline": "one", "report.metric": "test_loss", "report.test": "wilcoxon", "report.alpha": 0.01,
    "report.margin": {"loss": 0.5}, "report.spending": "pocock", "report.rho": 1.0,
}  # fmt: skip
FIXED = {
    "schema_version",
    "configs",
    "search.optimizers",
    "report.until",
    "report.looks",
}  # no other value is valid beside the rest


def leaves(content: dict[str, Any], path: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in content.items():
        nested = isinstance(value, dict) and value and f"{path}{key}" not in CHANGES
        found |= leaves(value, f"{path}{key}.") if nested else {f"{path}{key}": value}
    return found


def may_change(key: str) -> bool:
    return any(key == free or key.startswith(f"{free}.") for free in MAY_CHANGE)


def test_every_key_is_either_free_to_change_or_tried_below() -> None:
    keys = {key for key in leaves(config().model_dump(by_alias=True)) if not may_change(key)}
    assert keys - CHANGES.keys() == FIXED
    assert CHANGES.keys() <= keys


@pytest.mark.parametrize("key", CHANGES)
def test_a_configuration_that_contradicts_the_runs_is_refused_with_the_difference(key: str) -> None:
    asked = config()
    before = leaves(asked.model_dump(by_alias=True))[key]
    with pytest.raises(UserError) as caught:
        extend(asked, {key: CHANGES[key]})
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("the run was made with another configuration: ")
    named = f"{key}." if isinstance(CHANGES[key], dict) else f"{key} is {before!r} in the run, "
    assert named in str(caught.value) and str(caught.value).endswith(" asked")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("search.trials", 7), ("search.trials", 6), ("retrain.seeds", 5), ("retrain.seeds", [7]),
        ("task.data_dir", "there"), ("resources.max_concurrent", 9), ("resources.cohort", 8),
        ("resources.gpus_per_trial", 0.5), ("resources.address", "auto"), ("faults.retries", 0),
        ("python_path", ["there"]), ("faults.trial_limit_s", 1.5), ("tracker", "mlflow"),
        ("train.capture", "off"),
    ],
)  # fmt: skip
def test_how_much_where_and_how_a_run_is_carried_out_may_change(key: str, value: Any) -> None:
    asked = config()
    changed = extend(asked, {key: value})
    before, after = (leaves(c.model_dump(by_alias=True)) for c in (asked, changed))
    assert after[key] == (list(range(value)) if key == "retrain.seeds" and isinstance(value, int) else value)
    assert {other: after[other] for other in after if other != key} == {o: before[o] for o in before if o != key}


def test_a_setting_counts_as_a_flag_does() -> None:
    assert extend(config(), {}, ["search.trials=9"]).search.trials == 9
    assert extend(config(), {"search.trials": 8}, ["search.trials=9"]).search.trials == 8
    with pytest.raises(UserError, match=r"train\.epochs is 1 in the run, 5 asked; search\.sampler is"):
        extend(config(), {"search.sampler": "tpe"}, ["train.epochs=5"])


def test_the_same_values_named_again_are_no_contradiction() -> None:
    asked = config()
    flags = {"task.name": "blobs", "search.optimizers": ["one", "two"], "train.epochs": 1}
    assert extend(asked, flags, ["optimizers.one.space.lr.high=1"]) == asked


def test_a_run_is_extended_and_not_cut() -> None:
    with pytest.raises(UserError, match=r"search\.trials: 5 asked, but the run has 6"):
        extend(config(), {"search.trials": 5})


def test_studies_are_added_and_not_taken_away() -> None:
    assert extend(config(), {"search.studies": 3}).search.studies == 3
    with pytest.raises(
        UserError, match=r"^search\.studies: 2 asked, but the run has 3; a run can be extended, not cut$"
    ):
        extend(config(studies=3), {"search.studies": 2})


def test_seeds_of_later_studies_are_those_that_were_declared(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", config(studies=3))
    same = {"task": "blobs", "status": "complete", "optimizer": "one"}
    rows = [same | {"study": study, "seed": 10_000 * study + seed} for study, seed in ((0, 7), (2, 7), (2, 5))]
    run.write_seeds(rows, [])
    assert keep_seeds(config(studies=3, seeds=[4]), run.retrained_seeds()).retrain.seeds == [7, 5, 4]


def test_seeds_that_a_run_has_come_before_those_that_it_gets(tmp_path: Path) -> None:
    asked = config()
    run = Run.create(tmp_path / "run", asked)
    assert keep_seeds(asked, run.retrained_seeds()) == asked
    rows = [("one", 7), ("one", 3), ("two", 7), ("two", 11)]
    same = {"task": "blobs", "status": "complete"}
    run.write_seeds([same | {"optimizer": name, "study": 0, "seed": seed} for name, seed in rows], [])
    assert keep_seeds(config(seeds=[0, 11, 4]), run.retrained_seeds()).retrain.seeds == [7, 3, 11, 0, 4]
    counts = Counter(keep_seeds(config(seeds=12), run.retrained_seeds()).retrain.seeds)
    assert counts == dict.fromkeys(range(12), 1)
