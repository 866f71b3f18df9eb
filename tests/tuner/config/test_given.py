"""What a program gives has names, contents as YAML files would hold them, and a pickle of what others cannot import."""

from __future__ import annotations

import functools
import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import optimizers
from tasks.mnist1d import MNIST1D
from tests.support.given import in_a_notebook, refusal, searched
from tuner.config.given import gather
from tuner.config.program import Program
from tuner.errors import UserError

SPACE = {"lr": {"low": 0.01, "high": 1.0, "log": True}}
LR_ALONE = "{}: no space given, so lr alone is searched, from 1e-05 to 1 (log-uniform)"


class Beside(torch.optim.SGD):
    """Of a module that other processes can import."""


def function(params: Any, lr: float = 0.25, momentum: float = 0.0) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=lr, momentum=momentum)


def with_lr(lr: Any) -> type:
    def init(self: Any, params: Any, lr: Any = lr) -> None:
        torch.optim.SGD.__init__(self, params, lr=lr)

    return in_a_notebook(__init__=init)


def without_lr() -> type:
    def init(self: Any, params: Any, width: int = 3) -> None:
        torch.optim.SGD.__init__(self, params, lr=1 / width)

    return in_a_notebook("NoLr", __init__=init)


# Names.


@pytest.mark.parametrize("given", [["adam", "sgd"], ("adam", "sgd"), iter(["adam", "sgd"])])
def test_names_stay_names(given: Any) -> None:
    assert gather("mnist1d", given, None) == ("mnist1d", ["adam", "sgd"], Program({"tasks": {}, "optimizers": {}}))


def test_one_needs_no_list() -> None:
    assert gather(None, "adam", None)[1] == ["adam"]
    assert gather(None, torch.optim.Adam, None)[1] == ["adam"]
    assert gather(None, {"name": "mine", "class": Beside}, None)[1] == ["mine"]


def test_a_run_that_goes_on_names_nothing() -> None:
    assert gather(None, None, None)[:2] == (None, None)


@pytest.mark.parametrize(
    ("cls", "name"),
    [
        (torch.optim.Adam, "adam"), (torch.optim.SGD, "sgd"), (torch.optim.AdamW, "adamw"),
        (optimizers.DiagHessian, "diag_hessian"), (optimizers.Sophia, "sophia"),
    ],
)  # fmt: skip
def test_a_class_that_a_file_is_about_goes_by_the_name_of_that_file(cls: type, name: str) -> None:
    _, names, program = gather("mnist1d", [cls], None)
    assert (names, program.objects, program.remarks, program.python_path) == ([name], b"", [], [])


def test_a_class_of_ones_own_files(tmp_path: Path) -> None:
    (tmp_path / "optimizers").mkdir()
    (tmp_path / "optimizers/quick.yaml").write_text("class: torch.optim.Adadelta\nspace: {}\n")
    assert gather("mnist1d", [torch.optim.Adadelta], tmp_path)[1] == ["quick"]
    assert gather("mnist1d", [torch.optim.Adadelta], None)[1] == ["Adadelta"]


# Classes and functions.


def test_a_class_without_a_space_has_its_lr_searched() -> None:
    config, program = searched(torch.optim.Adadelta)
    spec = config.optimizers["Adadelta"]
    assert (spec.class_, list(spec.space), spec.defaults) == ("torch.optim.adadelta.Adadelta", ["lr"], [{"lr": 1.0}])
    assert (spec.space["lr"].low, spec.space["lr"].high, spec.space["lr"].log) == (1e-5, 1.0, True)
    assert program.remarks == [LR_ALONE.format("Adadelta")]


@pytest.mark.parametrize(
    ("lr", "points"),
    [(0.5, [{"lr": 0.5}]), (7.0, []), (1e-9, []), (None, []), (torch.tensor(0.1), []), (float("nan"), [])],
)
def test_the_default_lr_is_tried_first_where_it_is_in_the_space(lr: Any, points: list[Any]) -> None:
    config, _ = searched(with_lr(lr))
    assert config.optimizers["Mine"].defaults == points


def test_a_class_without_lr_wants_a_space() -> None:
    said = refusal([without_lr()])
    assert said.startswith(
        "NoLr: has no space, and no lr that could be searched: say what is, {'class': NoLr, 'space': "
    )
    fixed = refusal([{"name": "mine", "class": Beside, "args": {"lr": 0.1}}])
    assert fixed.startswith("mine: has no space, and no lr that could be searched: ")


def test_a_function() -> None:
    config, program = searched(function)
    spec = config.optimizers["function"]
    assert spec.class_ == f"{__name__}.function" and spec.defaults == [{"lr": 0.25}]
    assert program.objects == b""


@pytest.mark.parametrize("made", [lambda params, lr: None, functools.partial(torch.optim.SGD, momentum=0.9)])
def test_what_has_no_name_wants_one(made: Any) -> None:
    assert wants_a_name(refusal([made]))
    assert wants_a_name(refusal([{"class": made, "space": SPACE}]))
    config, program = searched({"name": "mine", "class": made, "space": SPACE})
    assert config.optimizers["mine"].class_ == "__main__.mine"
    assert list(pickle.loads(program.objects)) == ["__main__.mine"]


def wants_a_name(said: str) -> bool:
    return said.startswith("optimizer ") and said.endswith(": give it a name, {'name': 'mine', ...}")


# Mappings.


def test_a_mapping_is_the_content_of_a_file() -> None:
    content = {"args": {"momentum": 0.9}, "space": SPACE, "defaults": [{"lr": 0.1}]}
    by_class, _ = searched({"name": "mine", "class": torch.optim.SGD, **content})
    by_path, _ = searched({"name": "mine", "class": "torch.optim.sgd.SGD", **content})
    assert by_class == by_path
    spec = by_class.optimizers["mine"]
    assert (spec.args, spec.defaults, spec.space["lr"].high) == ({"momentum": 0.9}, [{"lr": 0.1}], 1.0)


def test_what_is_given_is_left_as_it_was() -> None:
    given = {"name": "mine", "class": Beside, "args": {"momentum": 0.9}, "space": None}
    before = dict(given)
    config, _ = searched(given)
    assert given == before and list(config.optimizers["mine"].space) == ["lr"]


def test_points_that_are_given_without_a_space_are_kept() -> None:
    config, _ = searched({"name": "mine", "class": Beside, "defaults": [{"lr": 0.5}, {"lr": 0.25}]})
    assert config.optimizers["mine"].defaults == [{"lr": 0.5}, {"lr": 0.25}]


def test_a_mapping_without_a_class_adjusts_what_there_is() -> None:
    config, program = searched({"name": "adam", "args": {"eps": 1e-6}})
    assert config.optimizers["adam"].args["eps"] == 1e-6
    assert config.optimizers["adam"].class_ == "torch.optim.Adam"
    assert program.remarks == []


def test_numbers_of_numpy_are_numbers() -> None:
    space = {"lr": {"low": np.float32(0.25), "high": np.float64(1)}, "momentum": {"choices": np.array([0.0, 0.5])}}
    config, _ = searched({"name": "mine", "class": Beside, "space": space, "args": {"weight_decay": np.float64(0.1)}})
    spec = config.optimizers["mine"]
    assert (spec.space["lr"].low, spec.space["lr"].high) == (0.25, 1.0)
    assert (spec.space["momentum"].choices, spec.args["weight_decay"]) == ([0.0, 0.5], 0.1)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            {"args": {"inner": Beside}},
            "mine.args.inner: must be text, a number, true, false, null, a list or a mapping, ",
        ),
        (
            {"args": {"inner": [{1}]}},
            "mine.args.inner: must be text, a number, true, false, null, a list or a mapping, ",
        ),
        ({"name": 7}, "optimizer 7: give it a name, "),
        ({"name": "a b"}, "optimizer 'a b': give it a name, "),
        ({"name": ""}, "optimizer '': give it a name, "),
        ({"name": "adam"}, "adam: there is optimizer adam already; give yours another name, "),
    ],
)
def test_mappings_of_no_use(content: dict[str, Any], said: str) -> None:
    assert refusal([{"name": "mine", "class": Beside, "space": SPACE, **content}]).startswith(said)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"name": "mine", "class": "torch.optim.SGD"}, "optimizers.mine.space is missing"),
        ({"name": "mine", "space": SPACE}, "optimizers.mine.class is missing"),
        ({"name": "mine", "class": 5, "space": SPACE}, "optimizers.mine.class: input should be a valid string, got 5 "),
        (
            {"name": "mine", "class": Beside, "spcae": {}},
            "unknown key 'optimizers.mine.spcae' (from mine as given); did ",
        ),
        ({"name": "mine", "class": Beside, "space": {"lr": (1, 2)}}, "optimizers.mine.space.lr: must be a mapping of "),
    ],
)
def test_contents_are_checked_as_those_of_files_are(entry: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        searched(entry)
    assert str(caught.value).startswith(said)


# Names that are taken.


def test_two_of_one_name() -> None:
    other = "two optimizers are called Beside; give one another name, {'name': 'other', 'class': ...}"
    assert refusal([Beside, Beside]) == other
    assert refusal([Beside, {"name": "Beside", "class": torch.optim.SGD}]) == other
    assert "are called Mine" in refusal([in_a_notebook(), in_a_notebook()])
    assert "are called Mine" in refusal([in_a_notebook()], task=in_a_notebook(base=MNIST1D))


def test_one_class_twice_by_two_names() -> None:
    mine = in_a_notebook()
    config, _ = searched(*({"name": name, "class": mine, "space": SPACE} for name in ("one", "two")))
    assert [spec.class_ for spec in config.optimizers.values()] == ["__main__.Mine", "__main__.Mine"]


def test_two_classes_of_one_name_by_two_names() -> None:
    """As of a notebook's cell that was run again."""
    first, again = in_a_notebook(), in_a_notebook()
    config, program = searched(
        {"name": "one", "class": first, "space": SPACE}, {"name": "two", "class": again, "space": SPACE}
    )
    assert [spec.class_ for spec in config.optimizers.values()] == ["__main__.Mine", "__main__.two"]
    assert list(pickle.loads(program.objects)) == ["__main__.Mine", "__main__.two"]


def test_what_has_no_name_of_its_own_goes_by_an_identifier() -> None:
    """Or lines of code could not name it."""
    names = ("sgd-0.9", "9th", "plain")
    config, _ = searched(*({"name": name, "class": lambda params, lr: None, "space": SPACE} for name in names))
    assert list(config.optimizers) == list(names)
    paths = [spec.class_ for spec in config.optimizers.values()]
    assert paths == ["__main__.sgd_0_9", "__main__._9th", "__main__.plain"]


# Nonsense.


@pytest.mark.parametrize(
    "entry", [5, None, 1.5, ["adam"], [], b"adam", torch.optim, torch.optim.SGD([torch.zeros(1)], lr=0.1)]
)
def test_what_is_no_optimizer(entry: Any) -> None:
    said = "an optimizer must be a name, a class, a function or a mapping, got "
    assert refusal([entry]).startswith(said) and refusal(["adam", entry]).startswith(said)


@pytest.mark.parametrize("entry", [5, 1.5, torch.optim.SGD([torch.zeros(1)], lr=0.1)])
def test_nor_several(entry: Any) -> None:
    assert refusal(entry).startswith("an optimizer must be a name, a class, a function or a mapping, got ")


@pytest.mark.parametrize("entry", [5, ["mnist1d"], torch.zeros(2)])
def test_what_is_no_task(entry: Any) -> None:
    assert refusal(task=entry).startswith("task: must be a name, a task, a class, a function or a mapping, got ")


def test_what_cannot_be_pickled() -> None:
    said = refusal([in_a_notebook(lock=threading.Lock())])
    assert said.startswith("Mine: cannot be sent to other processes (TypeError: cannot pickle '_thread.lock' object); ")
