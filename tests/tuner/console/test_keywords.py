"""Keywords of a call are the flags of the command: what argparse makes of them is what it makes of the typed words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tuner import retrain, search
from tuner.config.layers import settings_layer
from tuner.console.keywords import NOT_KEYWORDS, keywords_to_flags
from tuner.console.parsing import Parser
from tuner.errors import UserError

PARSERS = {"search": search.make_parser, "retrain": retrain.make_parser}
BOTH: dict[str, tuple[Any, list[str]]] = {
    "studies": (5, ["--studies", "5"]),
    "until": ("decided", ["--until", "decided"]),
    "seeds": (5, ["--seeds", "5"]),
    "max_concurrent": (2, ["--max-concurrent", "2"]),
    "cohort": ("auto", ["--cohort", "auto"]),
    "analyze_curvature": (3, ["--analyze-curvature", "every=3"]),
    "keep_weights": (True, ["--keep-weights"]),
    "allow_changed_code": (True, ["--allow-changed-code"]),
    "no_report": (True, ["--no-report"]),
    "verbose": (True, ["--verbose"]),
}
SEARCH = BOTH | {
    "task": ("mnist1d", ["--task", "mnist1d"]),
    "suite": ("core", ["--suite", "core"]),
    "only": (["mnist1d"], ["--only", "mnist1d"]),
    "add_optimizer": (["sgd"], ["--add-optimizer", "sgd"]),
    "against": (Path("runs/other"), ["--against", "runs/other"]),
    "optimizers": (["adam", "sgd"], ["--optimizers", "adam", "sgd"]),
    "trials": (7, ["--trials", "7"]),
    "preset": ("smoke", ["--preset", "smoke"]),
    "gpus_per_trial": (0.5, ["--gpus-per-trial", "0.5"]),
    "cpus_per_trial": (2, ["--cpus-per-trial", "2"]),
    "address": ("auto", ["--address", "auto"]),
    "sampler": ("tpe", ["--sampler", "tpe"]),
    "scheduler": ("asha", ["--scheduler", "asha"]),
    "data_dir": (Path("a b"), ["--data-dir", "a b"]),
    "dataset": ("digits", ["--dataset", "digits"]),
    "tracker": ("mlflow", ["--tracker", "mlflow"]),
    "resume": (Path("runs/mine"), ["--resume", "runs/mine"]),
    "out": (Path("runs"), ["--out", "runs"]),
    "name": ("-mine", ["--name=-mine"]),
    "configs": (Path("own"), ["--configs", "own"]),
    "set": (["train.epochs=3", "out=x"], ["--set", "train.epochs=3", "out=x"]),
    "dry_run": (True, ["--dry-run"]),
}
FLAGS = {"search": SEARCH, "retrain": BOTH}
CASES = [(command, name) for command, flags in FLAGS.items() for name in flags]


def parse(command: str, argv: list[str]) -> dict[str, Any]:
    return vars(PARSERS[command]().parse(["run", *argv] if command == "retrain" else argv))


def flags(command: str, **keywords: Any) -> dict[str, Any]:
    return parse(command, keywords_to_flags(PARSERS[command](), keywords))


def refusal(command: str = "search", **keywords: Any) -> str:
    with pytest.raises(UserError) as caught:
        flags(command, **keywords)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("command", PARSERS)
def test_every_flag_is_tried_here(command: str) -> None:
    parser: Parser = PARSERS[command]()
    names = {action.dest for action in parser._actions if action.option_strings}
    assert names - set(NOT_KEYWORDS) == set(FLAGS[command])


@pytest.mark.parametrize(("command", "name"), CASES)
def test_a_keyword_is_the_typed_flag(command: str, name: str) -> None:
    value, words = FLAGS[command][name]
    assert flags(command, **{name: value}) == parse(command, words) != parse(command, [])


@pytest.mark.parametrize("command", PARSERS)
def test_all_of_them_at_once(command: str) -> None:
    keywords = {name: value for name, (value, _) in FLAGS[command].items()}
    words = [word for _, given in FLAGS[command].values() for word in given]
    assert flags(command, **keywords) == parse(command, words)


@pytest.mark.parametrize(("command", "name"), CASES)
@pytest.mark.parametrize("nothing", [None, False])
def test_none_and_false_say_nothing(command: str, name: str, nothing: bool | None) -> None:
    assert keywords_to_flags(PARSERS[command](), {name: nothing}) == []


@pytest.mark.parametrize(
    ("seeds", "text"),
    [
        (0, "0"), (-1, "-1"), ("4", "4"), ("3,5", "3,5"), (np.int64(3), "3"), (np.array(3), "3"),
        ([7], "7,"), ((1, 2), "1,2"), (range(3), "0,1,2"), (np.arange(2), "0,1"), (np.array([5]), "5,"),
        ((n * n for n in range(3)), "0,1,4"), ({6}, "6,"), ([], ","), ([np.int32(1), 2], "1,2"),
    ],
)  # fmt: skip
def test_seeds_are_a_number_or_a_list(seeds: Any, text: str) -> None:
    assert flags("search", seeds=seeds)["seeds"] == text


@pytest.mark.parametrize(
    ("keywords", "name", "value"),
    [
        ({"trials": np.int64(4)}, "trials", 4), ({"trials": 0}, "trials", 0),
        ({"gpus_per_trial": np.float32(0.5)}, "gpus_per_trial", 0.5), ({"gpus_per_trial": 0}, "gpus_per_trial", 0.0),
        ({"name": "two words"}, "name", "two words"), ({"name": ""}, "name", ""), ({"out": "-out"}, "out", "-out"),
        ({"optimizers": "adam"}, "optimizers", ["adam"]), ({"optimizers": ("a", "b c")}, "optimizers", ["a", "b c"]),
        ({"analyze_curvature": "every=2"}, "analyze_curvature", 2),
        ({"analyze_curvature": np.int64(2)}, "analyze_curvature", 2),
    ],
)  # fmt: skip
def test_odd_values(keywords: dict[str, Any], name: str, value: Any) -> None:
    assert flags("search", **keywords)[name] == value


@pytest.mark.parametrize(
    "value",
    [
        3, -3, 0.5, 1e-7, -2.5e30, 10**15, True, False, None, [], [1, [2.5, "x"]], {"a": {"b": [1]}},
        "text", "two words", "a=b: c, d", "[1, 2]", "on", "3", "null", "1e-4", "", " ", "ä \U0001f600",
        'a "b" \'c\' \\', "line\nbreak", "#no comment", "--flag", "% & * ! | > @ `",
    ],
)  # fmt: skip
def test_settings_keep_their_values_and_texts_stay_texts(value: Any) -> None:
    (setting,) = flags("search", set={"train.x": value})["set"]
    assert settings_layer([setting], []) == {"train": {"x": value}}


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (np.int64(3), 3), (np.float64(0.25), 0.25), (np.float32(0.5), 0.5), (np.bool_(True), True), ((1, 2), [1, 2]),
        (np.arange(3), [0, 1, 2]), (range(2), [0, 1]), (Path("a/b"), "a/b"), ({"b": np.float32(2)}, {"b": 2.0}),
        ([np.int8(1), (2,)], [1, [2]]),
    ],
)  # fmt: skip
def test_settings_of_other_types_are_plain(value: Any, plain: Any) -> None:
    (setting,) = flags("search", set={"train.x": value})["set"]
    assert settings_layer([setting], []) == {"train": {"x": plain}}


def test_several_settings_nested_ones_among_them() -> None:
    given = flags("search", set={"train.epochs": 3, "retrain": {"epochs": 4, "seeds": [1, 2]}})["set"]
    assert settings_layer(given, []) == {"train": {"epochs": 3}, "retrain": {"epochs": 4, "seeds": [1, 2]}}


@pytest.mark.parametrize(
    ("keywords", "said"),
    [
        ({"trails": 3}, "unknown argument 'trails'; did you mean 'trials'? (valid: task, suite, only, optimizers, "),
        ({"gpus-per-trial": 1}, "unknown argument 'gpus-per-trial'; did you mean 'gpus_per_trial'? (valid: "),
        ({"json": True}, "unknown argument 'json'"),
        ({"help": True}, "unknown argument 'help' (valid: "),
        ({"keep_weights": 1}, "keep_weights: must be True or False, got 1"),
        ({"name": ["a", "b"]}, "name: must be one value, got ['a', 'b']"),
        ({"seeds": {"a": 1}}, "seeds: must be one value, got {'a': 1}"),
        ({"name": object}, "name: must be text, a number, true, false, null, a list or a mapping, got type <class "),
        ({"set": {"a": {1}}}, "set: a: must be text, a number, true, false, null, a list or a mapping, got set {1}"),
        ({"set": {"a": {"b": print}}}, "set: a.b: must be text, a number, true, false, null, a list or a mapping, "),
        ({"trials": "many"}, "argument --trials: invalid int value: 'many'"),
        ({"optimizers": []}, "argument --optimizers: expected at least one argument"),
        ({"analyze_curvature": 0}, "argument --analyze-curvature: expected every=K, K a whole number of at least 1, "),
    ],
)  # fmt: skip
def test_bad_keywords_and_values_are_one_line(keywords: dict[str, Any], said: str) -> None:
    assert refusal(**keywords).startswith(said)


def test_a_retraining_has_its_own_flags() -> None:
    assert refusal("retrain", trials=3).startswith("unknown argument 'trials'; did you mean 'until'? (valid: seeds, ")
