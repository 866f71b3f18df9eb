"""What classes say of themselves, against what training makes of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from optimizers.curvature.registry import ESTIMATORS
from tests.support.members import Small
from tuner.config.registry import available
from tuner.config.sources import optimizer, optimizer_layers
from tuner.config.space import OptimizerConfig
from tuner.errors import UserError
from tuner.training.build import optimizer_maker
from tuner.training.described import describe, describe_estimators
from tuner.training.single import DEFAULTS
from tuner.training.stack import Member, stacks

OWN = """
import torch
from optimizers import Sophia

print("imported")


class Adam(torch.optim.Adam):
    pass


class Refusing(torch.optim.SGD):
    def __init__(self, params, lr):
        raise RuntimeError("never\\nagain")


class Mine(Sophia):
    '''A rule of mine, with :math:`x` and ``code``
    over two lines.

    More.
    '''
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of a user's, under a name of its own."""
    name = f"own_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    return name


def spec(path: str) -> OptimizerConfig:
    return OptimizerConfig.model_validate({"class": path, "space": {"lr": {"low": 0.1, "high": 0.2}}})


@pytest.mark.parametrize("name", available("optimizers"))
def test_an_optimizer_stacks_where_two_runs_of_it_are_one_stack(name: str) -> None:
    config = optimizer(name, optimizer_layers(name, None))
    if config.class_.startswith("pytorch_optimizer."):
        pytest.importorskip("pytorch_optimizer")
    members = [Member(config.first_point(), seed) for seed in (0, 1)]
    together = stacks(Small(), optimizer_maker(name, config), members, DEFAULTS)
    assert describe(name, config).stacks == (len(together) == 1)


def test_curvature_is_told_as_the_object_has_it() -> None:
    args = {"estimator": {"name": "ggn_mc", "samples": 2}, "update_period": 7}
    config = spec("optimizers.Sophia").model_copy(update={"args": args})
    curvature = describe("sophia", config).curvature
    assert curvature is not None
    assert (curvature.estimator, curvature.costs, curvature.period) == ("ggn_mc", ESTIMATORS["ggn_mc"].costs, 7)
    assert curvature.needs == ["the graph of the forward pass", "a closure that returns (loss, outputs)"]
    assert describe("adam", spec("torch.optim.Adam")).curvature is None


def test_the_own_block_of_an_optimizer_is_called_by_its_class() -> None:
    curvature = describe("newton", spec("optimizers.SubsampledNewton")).curvature
    assert curvature is not None and curvature.estimator == "HessianBlocks"


def test_importing_a_class_does_not_print_into_the_document(own: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert describe("mine", spec(f"{own}.Adam")).stacks
    assert capsys.readouterr() == ("", "imported\n")  # stdout is the document's


def test_a_docstring_is_cut_to_its_first_paragraph(own: str) -> None:
    assert describe("mine", spec(f"{own}.Mine")).doc == "A rule of mine, with x and code over two lines."
    assert describe("newton", spec("optimizers.adapt_learning_rate")).doc.startswith("Divides each gradient by")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("{own}.Refusing", "optimizer mine: RuntimeError: never again"),
        ("{own}.Adm", "{own}.Adm: {own} has no 'Adm'; did you mean 'Adam'?"),
        ("no_such_module.Adam", "no_such_module.Adam: no_such_module cannot be imported"),
    ],
)
def test_a_class_that_cannot_be_made_is_refused_in_a_line(own: str, path: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        describe("mine", spec(path.format(own=own)))
    assert str(caught.value).startswith(message.format(own=own)) and "\n" not in str(caught.value)


def test_every_registered_estimator_is_described() -> None:
    described = {entry["name"]: entry for entry in describe_estimators()}
    assert list(described) == list(ESTIMATORS)
    assert all(entry["estimates"] and entry["costs"] for entry in described.values())
    assert described["hutchinson"]["needs"] == ["the graph of the gradient (double backward)"]
    assert described["secant"]["needs"] == ["the gradient of the step before"]
    assert described["none"]["needs"] == []
