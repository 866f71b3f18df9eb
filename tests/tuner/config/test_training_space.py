"""What belongs to training is searched like a hyperparameter, by one optimizer or by all; what contains what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.tuner.config.test_layers import blobs, refusal, small, write  # noqa: F401  (small is a fixture)
from tuner.config.boundary import at_boundary
from tuner.config.layers import from_yaml
from tuner.config.schema import Config
from tuner.config.space import Dimension

LR = {"low": 1e-5, "high": 0.1, "log": True}
WARM = {"low": 0.0, "high": 2.0}
SCHEDULES = ["constant", "wsd"]
SHARED = "search.space.train.schedule.choices=[constant, wsd]"
BOTH = ["adam", "sgd"]


def spaces(config: Config) -> dict[str, list[str]]:
    return {name: list(spec.space) for name, spec in config.optimizers.items()}


def dump(dim: Dimension) -> dict[str, Any]:
    return dim.model_dump()


# What a space may hold.


def test_what_belongs_to_training_is_no_argument() -> None:
    spec = blobs("optimizers.adam.space.train.schedule.choices=[constant, wsd]").optimizers["adam"]
    assert list(spec.of_training) == ["train.schedule"]
    assert list(spec.space) == ["lr", "train.schedule"]
    given = spec.arguments({"lr": 0.1, "train.schedule": "wsd"})
    assert given["lr"] == 0.1 and not any(name.startswith("train") for name in given)


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("train.batch_size.choices=[1,2]", "train.batch_size cannot be searched, of training only some can; did you"),
        ("train.epochs={low: 1, high: 9}", "train.epochs cannot be searched, of training only some can"),
        ("train.shedule.choices=[cosine]", "did you mean 'train.schedule'? (valid: train.schedule, train.warmup_ep"),
        ("train.schedule.choices=[cosin]", "train.schedule: input should be 'constant', 'cosine', 'linear' or 'wsd', "),
        ("train.schedule={low: 0, high: 1}", "train.schedule: input should be 'constant', 'cosine', 'linear' or 'wsd"),
        ("train.final_lr={low: 0, high: 2}", "train.final_lr: input should be less than or equal to 1, got 2.0"),
        ("train.clip_grad_norm={low: 0, high: 2}", "train.clip_grad_norm: input should be greater than 0, got 0.0"),
        ("train.warmup_epochs.choices=['5%', '500%']", "or a share of the run, say 5%, got '500%'"),
        ("train.warmup_epochs={low: -1, high: 2}", "train.warmup_epochs: must be a number of epochs of at least 0"),
    ],
)
@pytest.mark.parametrize("where", ["search", "optimizers.adam"])
def test_what_cannot_be_searched_is_refused_in_a_line_where_it_stands(where: str, setting: str, expected: str) -> None:
    said = refusal(f"{where}.space.{setting}")
    assert said.startswith(f"{where}.space: ") and expected in said and "(from --set)" in said


def test_training_is_not_fixed_for_one_optimizer(tmp_path: Path) -> None:
    own = {"optimizers/mine": {"class": "pkg.Mine", "args": {"train.schedule": "wsd"}, "space": {"lr": LR}}}
    said = refusal(configs=write(tmp_path, own), search__optimizers=["mine"])
    assert "args: train.schedule is of training, the same for all: set train.schedule, or search it" in said


# A space for all.


def test_a_shared_space_is_in_each_optimizers_own_and_config_yaml_shows_both() -> None:
    config = blobs(SHARED, "search.space.train.warmup_epochs={low: 0, high: 2}", search__optimizers=BOTH)
    assert spaces(config) == {name: ["lr", "train.schedule", "train.warmup_epochs"] for name in BOTH}
    assert {name: dump(dim) for name, dim in config.search.space.items()} == {
        "train.schedule": {"choices": SCHEDULES}, "train.warmup_epochs": WARM,
    }  # fmt: skip
    assert from_yaml(config.to_yaml()) == config


def test_a_shared_space_may_hold_any_hyperparameter() -> None:
    config = blobs("search.space.eps={low: 1.0e-9, high: 1.0e-3, log: true}", search__optimizers=BOTH)
    assert spaces(config) == {name: ["lr", "eps"] for name in BOTH}
    assert "eps" not in config.optimizers["adam"].fixed()


def test_of_two_layers_the_later_has_the_last_word_and_of_one_the_optimizers_own(tmp_path: Path) -> None:
    mine = {"class": "pkg.Mine", "space": {"lr": LR, "train.warmup_epochs": {"choices": ["5%"]}}, "defaults": []}
    own = write(tmp_path, {"optimizers/mine": mine})
    asked = {"configs": own, "search__optimizers": ["mine", "adam"]}
    shared = "search.space.train.warmup_epochs={low: 0, high: 2}"
    own_too = ["optimizers.mine.space.train.warmup_epochs={choices: null, low: 1, high: 3}", shared]
    for sets, expected in [([shared], WARM), (own_too, {"low": 1.0, "high": 3.0})]:
        config = blobs(*sets, **asked)
        assert dump(config.optimizers["mine"].space["train.warmup_epochs"]) == expected
        assert dump(config.optimizers["adam"].space["train.warmup_epochs"]) == WARM


def test_one_optimizer_may_be_left_out_and_a_dimension_taken_back(tmp_path: Path) -> None:
    config = blobs(SHARED, "optimizers.sgd.space.train.schedule=null", search__optimizers=BOTH)
    assert spaces(config) == {"adam": ["lr", "train.schedule"], "sgd": ["lr"]}
    own = write(tmp_path, {"defaults": {"search": {"space": {"train.schedule": {"choices": SCHEDULES}}}}})
    taken = blobs("search.space.train.schedule=null", configs=own, search__optimizers=BOTH)
    assert spaces(taken) == {name: ["lr"] for name in BOTH} and taken.search.space == {}


def test_what_a_later_layer_fixes_is_not_searched_though_all_share_it(tmp_path: Path) -> None:
    own = write(tmp_path, {"defaults": {"search": {"space": {"eps": {"low": 0.0, "high": 1.0}}}}})
    config = blobs("optimizers.adam.args.eps=0.5", configs=own, search__optimizers=BOTH)
    assert spaces(config) == {"adam": ["lr"], "sgd": ["lr", "eps"]}


def test_published_defaults_are_tried_as_the_task_trains() -> None:
    config = blobs(SHARED, "search.space.train.clip_grad_norm={low: 0.1, high: 9}", search__optimizers=BOTH)
    points = {name: spec.enqueued() for name, spec in config.optimizers.items()}
    each = [{"lr": 1e-3, "train.schedule": "constant"}, {"lr": 1e-2, "train.schedule": "constant"}]
    assert points == dict.fromkeys(BOTH, each)
    other = blobs(SHARED, "train.schedule=cosine", search__optimizers=BOTH)
    assert other.optimizers["adam"].enqueued() == [{"lr": 1e-3}, {"lr": 1e-2}]  # which the search cannot come to
    whole = blobs("search.space.train.warmup_epochs.choices=[0, 1]").optimizers["adam"].enqueued()
    assert str(whole[0]) == "{'lr': 0.001, 'train.warmup_epochs': 0}"  # as the choice has it, for study.db


# At a boundary.


@pytest.mark.parametrize(
    ("name", "dim", "value", "expected"),
    [
        ("train.final_lr", {"low": 0.0, "high": 1.0}, 0.01, False),
        ("train.final_lr", {"low": 0.0, "high": 0.5}, 0.49, True),
        ("train.warmup_epochs", {"low": 0.0, "high": 2.0}, 0.0, False),
        ("train.warmup_epochs", {"low": 1.0, "high": 2.0}, 1.0, True),
        ("train.clip_grad_norm", {"low": 0.1, "high": 10.0, "log": True}, 0.1, True),
        ("momentum", {"low": 0.0, "high": 1.0}, 0.01, True),
    ],
)
def test_a_range_that_cannot_be_wider_has_no_boundary(name: str, dim: Any, value: float, expected: bool) -> None:
    assert at_boundary({name: Dimension(**dim)}, {name: value}) == [name] * expected


def test_what_has_no_effect_is_at_no_boundary() -> None:
    space = {"train.schedule": Dimension(choices=SCHEDULES), "train.final_lr": Dimension(low=0.1, high=0.9)}
    assert at_boundary(space, {"train.schedule": "constant", "train.final_lr": 0.1}) == []
    assert at_boundary(space, {"train.schedule": "wsd", "train.final_lr": 0.1}) == ["train.final_lr"]


# What an optimizer contains.


def test_what_an_optimizer_contains_is_a_known_name(tmp_path: Path) -> None:
    assert blobs("optimizers.adam.contains=[sgd]").optimizers["adam"].contains == ["sgd"]
    said = refusal("optimizers.adam.contains=[sgm]")
    assert said.startswith("optimizers.adam.contains: unknown optimizer 'sgm'; did you mean 'sgd'?")
    assert "'sgd' is named twice" in refusal("optimizers.adam.contains=[sgd, sgd]")


def test_a_run_from_elsewhere_may_contain_what_is_not_known_here() -> None:
    config = blobs()
    written = config.to_yaml().replace("contains: []", "contains: [theirs]")
    assert from_yaml(written).optimizers["adam"].contains == ["theirs"]


def test_a_run_from_before_knows_of_none() -> None:
    written = blobs().to_yaml()
    old = written.replace("    contains: []\n", "").replace("  space: {}\n", "")
    assert from_yaml(old) == from_yaml(written)
