from __future__ import annotations

import math
import string
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.support.examples import examples
from tests.support.plain_configs import Content, config, one_line, refusal
from tuner.config.layers import from_yaml
from tuner.config.schema import Config
from tuner.config.space import Dimension, OptimizerConfig
from tuner.errors import UserError

# Values.


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("search.trials", [0, -1, 1.5, "many", None]),
        ("search.seed", [-1, 2**32, None]),
        ("search.sampler", ["cmaes", None]),
        ("search.scheduler", ["pbt"]),
        ("retrain.keep_weights", [1, "true", None]),
        ("train", [5, None]),
        ("train.epochs", [0, -1]),
        ("train.batch_size", [0]),
        ("train.evaluations", [0]),
        ("retrain.epochs", [0]),
        ("task.metric", ["loss", "test_loss", "val_", "val_a b"]),
        ("task.mode", ["least"]),
        ("task.target", [math.nan, math.inf]),
        ("task.datasets", ["d", None]),
        ("resources.cpus_per_trial", [0, -1, math.nan, math.inf]),
        ("resources.gpus_per_trial", [-1, math.nan, math.inf, 1.5, 1e-5]),
        ("resources.max_concurrent", [0, -1]),
        ("resources.cohort", [0, -1, 2.5, 4.0, "4", "Auto", True, None]),
        ("optimizers", [None, 5]),
        ("optimizers.adam", [None, 5]),
        ("optimizers.adam.space", [None, 5]),
        ("optimizers.adam.space.lr", [None, 5]),
        ("schema_version", [0, 2, "one"]),
    ],
)
def test_a_value_that_is_not_valid_is_named(key: str, values: list[Any]) -> None:
    for value in values:
        text = refusal(**{key.replace(".", "__"): value})
        assert text.startswith(f"{key}: ")
        assert f"got {value!r}" in text


@pytest.mark.parametrize("name", ["../a", "a/b", "/a", "..", ".a", "-a", "", "a b", "a\n", "ä"])
def test_a_run_name_is_one_plain_word(name: str) -> None:
    assert repr(name) in refusal(name=name)


@pytest.mark.parametrize("name", ["a", "1", "2024-01-01_run.b"])
def test_a_plain_run_name_is_taken(name: str) -> None:
    assert config(name=name).name == name


@pytest.mark.parametrize(("own", "epochs"), [(7, 7), (None, 10)])
def test_retraining_takes_the_trials_epochs_unless_it_has_its_own(own: int | None, epochs: int) -> None:
    assert config(retrain__epochs=own).retrain_epochs == epochs


def test_a_configuration_does_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        config().train.epochs = 3


# Dimensions.


@pytest.mark.parametrize(
    ("dimension", "said"),
    [
        ({"low": 1.0, "high": 0.1}, "low 1 must be below high 0.1"),
        ({"low": 1.0, "high": 1.0}, "low 1 must be below high 1"),
        ({"low": 0.0, "high": 1.0, "log": True}, "low must be above 0 where log is true, got 0"),
        ({"low": -1.0, "high": 1.0, "log": True}, "low must be above 0 where log is true, got -1"),
        ({"low": 1.5, "high": 3.0, "integer": True}, "must be whole numbers where integer is true"),
        ({"low": 1.0, "high": 3.5, "integer": True}, "must be whole numbers where integer is true"),
        ({"low": 1.0}, "low and high (or choices) are needed"),
        ({}, "low and high (or choices) are needed"),
        ({"low": -1e308, "high": 1e308}, "low -1e+308 and high 1e+308 must be within -1e+100 and 1e+100"),
        ({"low": 1e-308, "high": 1.0, "log": True}, "low must be above 1e-100 where log is true, got 1e-308"),
        (
            {"low": 0, "high": 1e15, "integer": True},
            "low 0 to high 1e+15: at most 1,000,000 whole numbers are searched",
        ),
        ({"low": 2.0**53, "high": 2.0**53 + 4, "integer": True}, "must differ by more, by 1e-09 of the larger"),
        ({"low": 1.0, "high": math.nextafter(1.0, 2)}, "low 1.0 and high 1.0000000000000002 must differ by more"),
        ({"low": 0.0, "high": 5e-324}, "low 0.0 and high 5e-324 must differ by more"),
        ({"choices": []}, "choices must be different values, at least one"),
        ({"choices": ["a", "b", "a"]}, "choices must be different values, at least one"),
        ({"choices": [1], "low": 0.0, "high": 1.0}, "give either choices, or low and high"),
        ({"choices": [1, 2], "log": True}, "give either choices, or low and high"),
        ({"low": math.nan, "high": 1.0}, "finite number"),
        ({"low": 0.0, "high": math.inf}, "finite number"),
        ({"low": "a", "high": 1.0}, "valid number"),
    ],
)
def test_a_dimension_that_is_not_valid_is_named(dimension: Content, said: str) -> None:
    text = refusal(optimizers__adam__space={"width": dimension})
    assert text.startswith("optimizers.adam.space.width")
    assert said in text


@examples(50)
@given(st.floats(-2, 2), st.floats(-2, 2), st.floats(-3, 3))
def test_an_interval_contains_what_lies_between_its_ends(low: float, high: float, value: float) -> None:
    assume(high - low > 1e-6)
    dim = Dimension(low=low, high=high)
    assert dim.contains(low) and dim.contains(high)
    assert dim.contains(value) is (low <= value <= high)
    assert not dim.contains("0") and not dim.contains(None) and not dim.contains(math.nan)


def test_choices_contain_themselves() -> None:
    dim = Dimension(choices=["a", 0.5])
    assert dim.contains("a") and dim.contains(0.5)
    assert not dim.contains("b") and not dim.contains(0.4)


@pytest.mark.parametrize(
    ("dim", "value", "position"),
    [
        (Dimension(low=2, high=4), 2.5, 0.25),
        (Dimension(low=-1, high=1), 0.0, 0.5),
        (Dimension(low=1, high=5, integer=True), 2, 0.25),
        (Dimension(low=1e-4, high=1.0, log=True), 1e-3, 0.25),
        (Dimension(low=1, high=16, log=True, integer=True), 8, 0.75),
        (Dimension(low=0.3, high=7.0, log=True), 0.3, 0.0),
        (Dimension(low=0.3, high=7.0, log=True), 7.0, 1.0),
    ],
)
def test_the_position_is_the_share_of_the_range_on_the_searched_scale(
    dim: Dimension, value: float, position: float
) -> None:
    assert dim.position(value) == pytest.approx(position, abs=1e-12)


def test_choices_have_no_position() -> None:
    assert Dimension(choices=[1, 2]).position(1) is None


# Optimizers.


def test_only_defaults_within_the_space_are_enqueued() -> None:
    space = {"lr": Dimension(low=1e-3, high=1.0, log=True), "kind": Dimension(choices=["x", "y"])}
    inside = [{"lr": 1e-3, "kind": "x"}, {"lr": 1.0}, {"kind": "y"}]
    outside = [{"lr": 9e-4, "kind": "x"}, {"lr": 0.1, "kind": "z"}, {"lr": 1.01}]
    mixed = [point for pair in zip(outside, inside, strict=True) for point in pair]
    assert OptimizerConfig(class_="pkg.Opt", space=space, defaults=mixed).enqueued() == inside


def test_a_default_of_an_unknown_hyperparameter_is_refused_with_the_nearest() -> None:
    text = refusal(optimizers__adam__defaults=[{"lr": 1e-3, "rl": 1}])
    assert text.startswith("optimizers.adam: defaults: unknown hyperparameter 'rl'; did you mean 'lr'?")


def test_fixed_arguments_are_those_not_searched_with_tuples_for_lists() -> None:
    spec = OptimizerConfig(
        class_="pkg.Opt", args={"a": [1, 2], "b": None, "c": 3}, space={"c": Dimension(low=0, high=1)}
    )
    assert spec.fixed() == {"a": (1, 2), "b": None}


def test_hyperparameters_of_all_optimizers_are_named_once_in_order() -> None:
    one, two = {"lr": {"low": 0, "high": 1}, "a": {"choices": [1]}}, {"b": {"choices": [1]}, "lr": {"choices": [1]}}
    both = {"one": {"class": "pkg.One", "space": one}, "two": {"class": "pkg.Two", "space": two}}
    content = config().model_dump(by_alias=True) | {"optimizers": both}
    content["search"]["optimizers"] = list(both)
    assert Config.model_validate(content).hyperparameters == ["lr", "a", "b"]


# Round trips.

words = st.text(string.ascii_letters + string.digits + "_", min_size=1, max_size=8)
names = words.map("r{}".format)
anything = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]) | st.sampled_from("\n\t\r\0"), max_size=8)
finite = st.floats(allow_nan=False, allow_infinity=False)
values = st.none() | st.booleans() | st.integers() | finite | anything
arguments = st.recursive(
    values, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(anything, inner, max_size=2)
)


printable = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=8)
scalars = st.booleans() | st.integers(-(2**63), 2**63 - 1) | finite | printable


@st.composite
def dimensions(draw: st.DrawFn) -> Content:
    if draw(st.booleans()):
        choice = scalars | st.lists(scalars, max_size=3)
        choices = draw(st.lists(choice, min_size=1, max_size=4, unique_by=str))
        assume(all(one != other for i, one in enumerate(choices) for other in choices[:i]))
        return {"choices": choices}
    integer, log = draw(st.booleans()), draw(st.booleans())
    numbers = st.integers(-500_000, 499_999) if integer else st.floats(-1e100, 1e100)
    low, high = sorted(draw(st.lists(numbers, min_size=2, max_size=2, unique=True)))
    assume(low >= 1e-100 or not log)
    assume(high - low >= max(1e-9 * max(-low, high), 1e-100))
    return {"low": low, "high": high, "log": log, "integer": integer}


@st.composite
def contents(draw: st.DrawFn) -> Content:
    maybe = st.none() | anything
    count = st.integers(1, 10**6)
    args, space = st.dictionaries(anything, arguments, max_size=3), st.dictionaries(names, dimensions(), max_size=2)
    optimizer = st.fixed_dictionaries({"class": anything, "args": args, "space": space})
    optimizers = draw(st.dictionaries(names, optimizer, min_size=1, max_size=2))
    seeds = draw(st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=4, unique=True))
    seed = draw(st.integers(0, 2**32 - 1).filter(lambda seed: seed not in seeds))
    scheduler = draw(st.sampled_from(["fifo", "asha"]))
    cohort = draw(st.sampled_from(["auto", 1]) if scheduler == "asha" else st.just("auto") | count)
    return {
        "preset": draw(anything), "out": draw(anything), "name": draw(st.none() | names),
        "task": {"name": draw(names), "class": draw(anything), "args": draw(args), "metric": "val_" + draw(words),
                 "mode": draw(st.sampled_from(["min", "max"])), "target": draw(st.none() | finite),
                 "dataset": draw(anything), "datasets": draw(st.lists(anything, max_size=2)), "data_dir": draw(maybe),
                 "check": draw(maybe)},
        "optimizers": optimizers,
        "train": {key: draw(count) for key in ("epochs", "batch_size", "evaluations")},
        "search": {"optimizers": list(optimizers), "trials": draw(count), "seed": seed,
                   "sampler": draw(st.sampled_from(["tpe", "gp", "random", "qmc"])),
                   "scheduler": scheduler},
        "retrain": {"seeds": seeds, "epochs": draw(st.none() | count)},
        "resources": {"cpus_per_trial": draw(st.floats(0.01, 64)), "address": draw(maybe),
                      "gpus_per_trial": draw(st.none() | st.floats(1e-4, 1)),
                      "max_concurrent": draw(st.none() | count), "cohort": cohort},
    }  # fmt: skip


@examples(50)
@given(contents())
def test_a_configuration_survives_its_yaml(content: Content) -> None:
    before = Config.model_validate(content)
    assert from_yaml(before.to_yaml()) == before


def test_asha_takes_trials_one_at_a_time() -> None:
    text = refusal(search__scheduler="asha", resources__cohort=4)
    assert text.startswith("resources.cohort: asha") and "--cohort 1" in text and "--scheduler fifo" in text
    for cohort in ("auto", 1):
        assert config(search__scheduler="asha", resources__cohort=cohort).resources.cohort == cohort


def test_a_configuration_without_cohorts_lets_them_be_chosen() -> None:
    """As the config.yaml of a run that is older than they are."""
    content = config(resources__cohort=4).model_dump(by_alias=True)
    assert from_yaml(Config.model_validate(content).to_yaml()).resources.cohort == 4
    del content["resources"]["cohort"]
    assert Config.model_validate(content).resources.cohort == "auto"


def test_a_low_of_zero_survives_its_yaml() -> None:
    text = config(optimizers__adam__space__lr={"low": 0.0, "high": 1.0, "log": False}).to_yaml()
    assert from_yaml(text).optimizers["adam"].space["lr"].low == 0.0


def test_choices_keep_their_types_in_yaml() -> None:
    choices = [True, 2, 2.5, "true", "1e-3", 1e-3, 0]
    text = config(optimizers__adam__space={"kind": {"choices": choices}}).to_yaml()
    kept = from_yaml(text).optimizers["adam"].space["kind"].choices
    assert list(map(repr, kept or [])) == list(map(repr, choices))


@pytest.mark.parametrize("choices", [[1, "1"], [0.001, 1e-3], ["True", True], [True, 1], [0, False], [2, 2.0], []])
def test_choices_that_read_alike_in_a_table_are_refused(choices: list[Any]) -> None:
    assert "choices must be different values" in refusal(optimizers__adam__space={"kind": {"choices": choices}})


@pytest.mark.parametrize(
    "choice",
    [None, "", "a\r", "a\nb", "\t", "\x00", "\ud800", "a" * 201, math.nan, math.inf, 2**63, {"a": 1}, [None], [""],
     [[1]], [math.inf]],
)  # fmt: skip
def test_a_choice_that_a_table_cannot_hold_is_refused(choice: Any) -> None:
    text = refusal(optimizers__adam__space={"kind": {"choices": ["b", choice]}})
    assert text.startswith(
        "optimizers.adam.space.kind.choices: a choice must be a number (a whole one of 64 bits), true, "
    )
    assert f"or a list of these, got {'null' if choice is None else repr(choice)}" in text


@pytest.mark.parametrize("name", ["", "a\r", "a\nb", "\ud800", "a" * 201])
def test_a_hyperparameter_whose_name_a_table_cannot_hold_is_refused(name: str) -> None:
    text = refusal(optimizers__adam__space={name: {"choices": [1]}})
    assert text.startswith("optimizers.adam.space: a name must be 1 to 200 printable characters, got ")


@pytest.mark.parametrize("choices", [[[1, 2], "[1, 2]"], [[1, 2], [1.0, 2.0]], [[0.9], [0.9]], [[True], [1]]])
def test_lists_that_read_alike_are_refused(choices: list[Any]) -> None:
    assert "choices must be different values" in refusal(optimizers__adam__space={"betas": {"choices": choices}})


def test_an_optimizer_gets_whole_numbers_and_tuples() -> None:
    space = {"n": Dimension(low=1, high=9, integer=True), "betas": Dimension(choices=[[0.9, 0.99], "auto"]),
             "lr": Dimension(low=0, high=9)}  # fmt: skip
    spec = OptimizerConfig(class_="pkg.Opt", space=space, args={"eps": [1, 2]})
    given = spec.arguments({"n": 3.0, "betas": [0.9, 0.99], "lr": 3.0})
    assert list(map(repr, given.values())) == ["(1, 2)", "3", "(0.9, 0.99)", "3.0"]
    assert repr(spec.arguments(spec.first_point())) == "{'eps': (1, 2), 'n': 1, 'betas': (0.9, 0.99), 'lr': 0.0}"
    assert spec.arguments({"betas": "auto"})["betas"] == "auto"


@pytest.mark.parametrize("text", ["", "5", "- a", "a: [", "preset: smoke", "\x00", "!!python/object:os.system {}"])
def test_a_text_that_is_no_configuration_is_refused(text: str) -> None:
    with pytest.raises(UserError) as caught:
        from_yaml(text)
    one_line(caught.value)


def test_a_configuration_of_another_schema_version_is_refused() -> None:
    with pytest.raises(UserError, match=r"schema_version: .*1, got 2"):
        from_yaml(config().to_yaml().replace("schema_version: 1", "schema_version: 2"))
