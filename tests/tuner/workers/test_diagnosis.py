"""What an optimizer wants that it does not get: one sentence, from how classes of others really fail."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch

from tuner.config.space import OptimizerConfig
from tuner.errors import UserError
from tuner.training.build import optimizer_maker
from tuner.workers.diagnosis import diagnose
from tuner.workers.preflight import try_optimizer

LR = {"lr": {"low": 1e-3, "high": 1.0, "log": True}}


def spec(cls: str, **args: Any) -> OptimizerConfig:
    return OptimizerConfig.model_validate({"class": cls, "args": args, "space": LR})


def wanted(of: OptimizerConfig) -> str:
    """As the check says it, or, of one that can be made, of its first step."""
    try:
        try_optimizer("mine", of)
    except UserError as error:
        return str(error).removeprefix("optimizer mine: ")
    param = torch.nn.Parameter(torch.ones(2, 2))
    optimizer = optimizer_maker("mine", of)([param], of.first_point())
    param.square().sum().backward()
    with pytest.raises(Exception) as caught:  # noqa: PT011  (whatever it raises)
        optimizer.step()
    return diagnose(caught.value, of)


def test_a_class_in_place_of_its_name() -> None:
    pytest.importorskip("pytorch_optimizer")
    text = wanted(spec("pytorch_optimizer.SAM", base_optimizer="torch.optim.SGD"))
    assert text.startswith("SAM wants a class where it was given a text (base_optimizer: torch.optim.SGD); ")


@pytest.mark.parametrize("cls", ["Muon", "AdaMuon"])
def test_parameter_groups(cls: str) -> None:
    pytest.importorskip("pytorch_optimizer")
    text = wanted(spec(f"pytorch_optimizer.{cls}"))
    assert text.startswith(f"{cls} wants parameter groups (mappings), not the list of all parameters; ")


@pytest.mark.parametrize("cls", ["AdamMini", "LOMO"])
def test_the_model(cls: str) -> None:
    pytest.importorskip("pytorch_optimizer")
    assert wanted(spec(f"pytorch_optimizer.{cls}")).startswith(f"{cls} wants the model itself, not its parameters")


def test_a_model_with_modules() -> None:
    error = AttributeError("'list' object has no attribute 'modules'")
    assert diagnose(error, spec("a.KFAC")).startswith("KFAC wants the model itself")


@pytest.mark.parametrize("cls", ["AdaHessian", "SophiaH"])
def test_gradients_that_can_be_differentiated(cls: str) -> None:
    pytest.importorskip("pytorch_optimizer")
    text = wanted(spec(f"pytorch_optimizer.{cls}"))
    assert text.startswith(f"{cls} wants loss.backward(create_graph=True)")


def test_what_it_asserts_without_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = """
        class Strict:
            def __init__(self, params, lr):
                assert lr > 1.5
    """
    (tmp_path / "asserts.py").write_text(textwrap.dedent(source))
    monkeypatch.syspath_prepend(tmp_path)
    said = f"Strict wants what line 4 of {tmp_path / 'asserts.py'} asserts: assert lr > 1.5"
    assert wanted(spec("asserts.Strict")) == said


@pytest.mark.parametrize("error", [ValueError("lr must be below 1"), AssertionError("lr > 1"), TypeError("takes no x")])
def test_an_error_that_says_it_itself_is_left_as_it_is(error: Exception) -> None:
    assert diagnose(error, spec("torch.optim.SGD")) == ""
