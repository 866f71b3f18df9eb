"""A run that goes on may have one more optimizer, and stays what it was else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tuner.config.changes import add_optimizers
from tuner.config.layers import resolve
from tuner.config.schema import Config
from tuner.errors import UserError

SHARED = "search.space={train.warmup_epochs: {low: 0.5, high: 2.0}}"


def config(settings: Any = (), optimizers: Any = ("adam", "sgdm"), **flags: Any) -> Config:
    asked = {"task.name": "tabular_mlp", "preset": "smoke", "search.optimizers": list(optimizers)}
    return resolve(asked | flags, settings)


def added(before: Config, names: Any, settings: Any = (), configs: Path | None = None) -> Config:
    return add_optimizers(before, names, settings, configs)[0]


def test_the_new_stands_behind_those_of_before_and_is_as_its_file_says() -> None:
    before = config()
    after = added(before, ["sgd", "nesterov"])
    assert after.search.optimizers == list(after.optimizers) == ["adam", "sgdm", "sgd", "nesterov"]
    assert after.optimizers["sgd"] == config(optimizers=["sgd"]).optimizers["sgd"]
    assert {name: after.optimizers[name] for name in before.optimizers} == before.optimizers


def test_all_else_stays() -> None:
    before = config(["train.epochs=7", "retrain.seeds=2"])
    after = added(before, ["sgd"])
    changed = {"optimizers": after.optimizers, "search": after.search, "report": after.report}
    assert after == before.model_copy(update=changed)
    assert after.search.model_copy(update={"optimizers": before.search.optimizers}) == before.search
    assert after.report.model_copy(update={"baseline": before.report.baseline}) == before.report


@pytest.mark.parametrize(("optimizers", "baseline"), [(["sgd", "nesterov"], "sgd"), (["sgd", "adam"], "adam")])
def test_the_baseline_stays_what_it_was(optimizers: list[str], baseline: str) -> None:
    """A run without adam has its first for a baseline; adam, added, does not become it."""
    before = config(optimizers=optimizers)
    new = "sgdm" if "adam" in optimizers else "adam"
    assert (before.baseline, added(before, [new]).baseline) == (baseline, baseline)


def test_the_shared_space_is_the_news_too() -> None:
    before = config([SHARED])
    after = added(before, ["sgd"])
    dims = {name: after.optimizers[name].space["train.warmup_epochs"] for name in after.optimizers}
    assert len(set(map(repr, dims.values()))) == 1 and len(dims) == 3
    assert after.search.space == before.search.space


def test_the_schedule_of_the_run_is_the_news_too() -> None:
    """What a file of an optimizer sets of training does not change what the run has."""
    before = config(["train.schedule=cosine"])
    assert added(before, ["sgd"]).train == before.train


def test_settings_of_the_new_are_taken_and_the_others_come_back() -> None:
    settings = ["optimizers.sgd.space.lr.high=0.125", "search.trials=99", "optimizers.adam.args.eps=0.5"]
    after, others = add_optimizers(config(), ["sgd"], settings)
    high = after.optimizers["sgd"].space["lr"].high
    assert (high, others) == (0.125, settings[1:])


def test_a_setting_of_the_new_that_is_wrong_is_refused() -> None:
    with pytest.raises(UserError, match=r"^optimizers\.sgd\.space: unknown hyperparameter 'rl'; did you mean 'lr'"):
        added(config(), ["sgd"], ["optimizers.sgd.space.rl.high=0.125"])


def test_an_optimizer_that_the_run_has_is_refused() -> None:
    with pytest.raises(UserError, match=r"^--add-optimizer: the run has sgdm already$"):
        added(config(), ["sgd", "sgdm"])


def test_one_named_twice_is_refused() -> None:
    with pytest.raises(UserError, match="'sgd' is named twice"):
        added(config(), ["sgd", "sgd"])


def test_an_unknown_one_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"^unknown optimizer 'sgdd'; did you mean 'sgd'"):
        added(config(), ["sgdd"])


def test_a_run_that_is_decided_at_looks_stays_as_it_was_declared() -> None:
    with pytest.raises(UserError, match=r"^--add-optimizer: this run is decided at looks, declared before it began"):
        added(config(["report.until=decided"], **{"search.studies": 9}), ["sgd"])


def test_an_optimizer_of_ones_own_folder_is_found_and_so_is_its_module(tmp_path: Path) -> None:
    (tmp_path / "optimizers").mkdir()
    (tmp_path / "my_rules.py").write_text("import torch\n\n\nclass Mine(torch.optim.SGD):\n    pass\n")
    content = {"class": "my_rules.Mine", "space": {"lr": {"low": 0.001, "high": 1.0, "log": True}}}
    (tmp_path / "optimizers" / "mine.yaml").write_text(yaml.safe_dump(content))
    before = config()
    after = added(before, ["mine"], configs=tmp_path)
    assert after.optimizers["mine"].class_ == "my_rules.Mine"
    assert (after.configs, after.python_path) == (before.configs, [*before.python_path, str(tmp_path)])
    with pytest.raises(UserError, match=r"^unknown optimizer 'mine'"):
        added(before, ["mine"])
