"""What is searched and what is not, as layers and ``--set`` say it; what would do nothing is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.tuner.config.test_layers import ADAM, blobs, refusal, small, write  # noqa: F401  (small is a fixture)
from tuner.config.changes import extend
from tuner.config.layers import from_yaml, resolve
from tuner.config.registry import available
from tuner.config.space import OptimizerConfig
from tuner.errors import UserError

LR = {"low": 1e-5, "high": 0.1, "log": True}
TWO = {"class": "pkg.Two", "args": {"eps": 1e-8}, "space": {"lr": LR, "decay": {"low": 0.0, "high": 1.0}},
       "defaults": [{"lr": 1e-3, "decay": 0.1}, {"lr": 1e-2, "decay": 0.1}, {"lr": 1e-4}]}  # fmt: skip


def two(tmp_path: Path, *sets: str, **more: Any) -> OptimizerConfig:
    own = write(tmp_path, {"optimizers/two": TWO, **more})
    return blobs(*sets, configs=own, search__optimizers=["two"]).optimizers["two"]


# Fixed in place of searched.


def test_a_fixed_value_takes_a_hyperparameter_out_of_the_search(tmp_path: Path) -> None:
    spec = two(tmp_path, "optimizers.two.args.lr=0.02")
    assert list(spec.space) == ["decay"]
    assert spec.arguments({"decay": 0.5}) == {"eps": 1e-8, "lr": 0.02, "decay": 0.5}
    assert spec.defaults == [{"decay": 0.1}]  # which were three with a learning rate, one of them of nothing else


def test_null_takes_a_hyperparameter_out_of_the_search_and_leaves_the_class_its_default(tmp_path: Path) -> None:
    spec = two(tmp_path, "optimizers.two.space.lr=null")
    assert list(spec.space) == ["decay"]
    assert spec.arguments({"decay": 0.5}) == {"eps": 1e-8, "decay": 0.5}


@pytest.mark.parametrize(
    "sets",
    [
        ["optimizers.adam.args.lr=0.01"],
        ["optimizers.adam.space.lr=null"],
        ["optimizers.adam.space={}"],
        ["optimizers.adam.space.lr=null", "optimizers.adam.args.lr=0.01"],
    ],
)
def test_what_has_nothing_left_to_search_is_one_trial(sets: list[str]) -> None:
    config = blobs(*sets, search__optimizers=["adam", "sgd"], search__trials=9)
    adam = config.optimizers["adam"]
    assert (adam.space, adam.defaults, adam.enqueued(), adam.first_point()) == ({}, [], [], {})
    assert [config.trials(name) for name in ("adam", "sgd")] == [1, 9]
    assert from_yaml(config.to_yaml()) == config


def test_of_two_layers_the_later_says_whether_it_is_searched(tmp_path: Path) -> None:
    fixed = {"defaults": {"optimizers": {"two": {"args": {"lr": 0.5}}}}}  # a layer before the optimizer's own
    task = {"tasks/blobs": {"optimizers": {"two": {"args": {"lr": 0.5}}}}}  # one after it
    assert set(two(tmp_path / "a", **fixed).space) == {"lr", "decay"}
    assert list(two(tmp_path / "b", **task).space) == ["decay"]
    assert set(two(tmp_path / "c", "optimizers.two.space.lr.low=1e-5", **task).space) == {"lr", "decay"}
    own = {"optimizers/two": TWO | {"args": {"lr": 0.5}}}  # one that says both
    assert set(two(tmp_path / "d", **own).space) == {"lr", "decay"}


def test_both_at_once_is_refused() -> None:
    text = refusal("optimizers.adam.args.lr=0.1", "optimizers.adam.space.lr.low=0.001")
    assert text == "optimizers.adam: 'lr' is both fixed (args) and searched (space)"


def test_a_run_goes_on_with_what_it_fixed(tmp_path: Path) -> None:
    run = blobs("optimizers.adam.args.lr=0.01", search__optimizers=["adam", "sgd"])
    assert extend(run, {"search.trials": 9}).optimizers == run.optimizers
    with pytest.raises(UserError, match=r"made with another configuration: optimizers\.sgd\.args"):
        extend(run, {}, ["optimizers.sgd.args.lr=0.01"])


# What would do nothing.


@pytest.mark.parametrize("key", ["args.eps=1", "args.nonsense=1", "argz.eps=1", "space.lr=null", "class=a.B"])
def test_a_setting_of_an_optimizer_that_is_not_searched_is_refused(key: str) -> None:
    text = refusal(f"optimizers.adamw.{key}", search__optimizers=["sgd", "adam"])
    assert text == "--set optimizers.adamw: has no effect, since adamw is not searched (but sgd, adam)"


@pytest.mark.parametrize("key", ["train", "task", "optimizers", "optimizers.adam", "optimizers.adam.space.lr"])
def test_an_empty_mapping_that_would_empty_nothing_is_refused(key: str) -> None:
    assert refusal(f"{key}={{}}").startswith(f"--set {key}={{}}: has no effect; set the keys below it: ")
    assert blobs("report={}") == blobs()  # nothing is there either


def test_an_optimizer_whose_name_has_dots_is_set_by_its_name(tmp_path: Path) -> None:
    names = ["adam", "adam.v2", "adam.v2.x"]
    own = write(tmp_path, {f"optimizers/{name}": ADAM for name in names})
    sets = [f"optimizers.{name}.args.eps={place}" for place, name in enumerate(names)]
    config = blobs(*sets, configs=own, search__optimizers=names)
    assert [spec.args["eps"] for spec in config.optimizers.values()] == [0, 1, 2]
    quoted = blobs("optimizers[adam.v2].args.eps=7", configs=own, search__optimizers=names)
    assert quoted.optimizers["adam.v2"].args["eps"] == 7
    for name in ("adam", "adam.v2"):
        text = refusal(f"optimizers.{name}.args.esp=1", configs=own, search__optimizers=names)
        assert text.startswith(f"optimizers.{name}.args: unknown hyperparameter 'esp'; did you mean 'eps'?")
    text = refusal("optimizers.adam.v2.args.eps=1", configs=own, search__optimizers=["adam"])
    assert text.startswith("--set optimizers.adam.v2: has no effect")
    with pytest.raises(UserError, match=r"optimizers\.adam\.v2\.args\.eps is 1e-08 in the run, 3 asked"):
        extend(blobs(configs=own, search__optimizers=names), {}, ["optimizers.adam.v2.args.eps=3"])


def test_a_hyperparameter_elsewhere_is_told_where_it_belongs(tmp_path: Path) -> None:
    assert (
        refusal("train.lr=0.1")
        == "unknown key 'train.lr' (from --set); it is a hyperparameter: optimizers.adam.space.lr"
    )
    text = refusal("train.betas=[0.9,0.99]", search__optimizers=["adam", "sgd"])
    assert text.endswith("; it is a hyperparameter: optimizers.adam.args.betas or optimizers.sgd.args.betas")
    assert "did you mean" not in refusal("train.qqq=1") and "valid: epochs, " in refusal("train.qqq=1")


# Published defaults.


@pytest.mark.parametrize(
    ("default", "said"),
    [
        ("{lr: 0.5}", "optimizers.adam.defaults: lr: 0.5 is not in its space, 1e-05 to 0.1 (numbers, log-uniform); "),
        ("{lr: 9.0e-6}", "optimizers.adam.defaults: lr: 9e-06 is not in its space, "),
        ("{lr: true}", "optimizers.adam.defaults: lr: True is not in its space, "),
        ("{lr: null}", "optimizers.adam.defaults: lr: None is not in its space, "),
        ("{lr: '0.01'}", "optimizers.adam.defaults: lr: '0.01' is not in its space, "),
        ("{lr: '1e-2'}", "lr: '1e-2' is a text, as YAML 1.1 reads it; write 1.0e-2, without quotes"),
        ("{lr: '1E5'}", "write 1.0e+5, without quotes"),
        ("{lr: '-2.5e3'}", "write -2.5e+3, without quotes"),
    ],
)
def test_a_default_outside_its_space_is_refused(default: str, said: str) -> None:
    assert said in refusal(f"optimizers.adam.defaults=[{default}]")


@pytest.mark.parametrize("default", ["n: 2.5", "n: 0", "kind: b", "kind: [1, 3]", "kind: null"])
def test_a_default_of_another_kind_is_refused(tmp_path: Path, default: str) -> None:
    space = {"n": {"low": 1, "high": 9, "integer": True}, "kind": {"choices": ["a", [1, 2]]}}
    own = write(tmp_path, {"optimizers/two": TWO | {"space": space, "defaults": [{"n": 9, "kind": [1, 2]}]}})
    assert blobs(configs=own, search__optimizers=["two"]).optimizers["two"].enqueued() == [{"n": 9, "kind": [1, 2]}]
    text = refusal(f"optimizers.two.defaults=[{{{default}}}]", configs=own, search__optimizers=["two"])
    assert "is not in its space, " in text


def test_a_space_that_one_narrowed_leaves_out_no_default_in_silence() -> None:
    text = refusal("optimizers.adam.space.lr.low=0.005")
    assert text == (
        "optimizers.adam.defaults: lr: 0.001 is not in its space, 0.005 to 0.1 (numbers, log-uniform); widen the "
        "space, or leave the published defaults out: --set optimizers.adam.defaults=[]"
    )
    config = blobs("optimizers.adam.space.lr.low=0.005", "optimizers.adam.defaults=[]")
    assert config.optimizers["adam"].defaults == []


def test_an_older_run_whose_defaults_were_left_out_still_opens() -> None:
    text = blobs().to_yaml().replace("lr: 0.01\n", "lr: 0.5\n")
    adam = from_yaml(text).optimizers["adam"]
    assert adam.defaults == [{"lr": 0.001}, {"lr": 0.5}]
    assert adam.enqueued() == [{"lr": 0.001}]


def test_the_shipped_defaults_lie_in_their_spaces(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.tuner.config.test_layers import SHIPPED

    monkeypatch.setattr("tuner.config.registry.SHIPPED", SHIPPED)
    for name in available("optimizers"):
        spec = resolve({"task.name": "mnist1d", "search.optimizers": [name]}).optimizers[name]
        assert spec.enqueued() == spec.defaults != []
