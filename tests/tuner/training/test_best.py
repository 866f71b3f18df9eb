"""A search's winner as an optimizer and as pasted lines, against the optimizer with which training would train."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.support.commands import python
from tests.support.run_configs import run_config
from tuner import report
from tuner.config.carried import pack
from tuner.config.layers import resolve
from tuner.config.registry import available
from tuner.errors import UserError
from tuner.store.run import Run
from tuner.training.best import Best, best_of
from tuner.training.build import optimizer_maker

SHIPPED = available("optimizers")
STEPS = 3
WITHOUT_CURVATURE = {"adam_full", "hessian_lr_adaptation", "muon", "nadamw"}
"""Of ours, those that step with gradients that there are."""
MODES = "# optimizer.train() before training, optimizer.eval() before each evaluation"


def run_of(folder: Path, config: Any, **entries: dict[str, Any]) -> Run:
    """A run whose optimizers' best trials have these hyperparameters."""
    run = Run.create(folder / "run", config)
    counts = {"value": 0.25, "trial": 7, "n_trials": 9, "n_diverged": 2, "at_boundary": []}
    run.write_best({"optimizers": {name: counts | entry for name, entry in entries.items()}})
    return run


def best(folder: Path, spec: dict[str, Any], hp: dict[str, Any], **engine: Any) -> Best:
    """Of an optimizer "mine"."""
    config = run_config({"mine": spec})
    config = config.model_copy(update={"train": config.train.model_copy(update=engine), "configs": str(folder)})
    return best_of(run_of(folder, config, mine={"hp": hp}), "mine")


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Every shipped optimizer, at the first point of its space."""
    config = resolve({"task.name": "mnist1d", "search.optimizers": SHIPPED}, [])
    points = {name: {"hp": spec.first_point()} for name, spec in config.optimizers.items()}
    return run_of(tmp_path_factory.mktemp("shipped"), config, **points)


def make_network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))


def weights(make: Callable[[nn.Module], Any], step: Callable[[Any, nn.Module, Tensor], object]) -> list[Tensor]:
    model = make_network()
    optimizer = make(model)
    if hasattr(optimizer, "train"):
        optimizer.train()
    for inputs in torch.randn(STEPS, 6, 5):
        step(optimizer, model, inputs)
    return [param.detach().clone() for param in model.parameters()]


def loss_of(model: nn.Module, inputs: Tensor) -> Tensor:
    return nn.functional.cross_entropy(model(inputs), torch.arange(6) % 3)


def with_backward(optimizer: Any, model: nn.Module, inputs: Tensor) -> None:
    optimizer.zero_grad()
    loss_of(model, inputs).backward()
    optimizer.step()


def without_backward(optimizer: Any, model: nn.Module, inputs: Tensor) -> None:
    optimizer.step(lambda: loss_of(model, inputs))


def gradient_and_closure(optimizer: Any, model: nn.Module, inputs: Tensor) -> None:
    @torch.enable_grad()
    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(model, inputs)
        loss.backward()
        return loss

    closure()
    optimizer.step(closure)


def pasted(code: str) -> list[Tensor]:
    """What comes of the pasted lines, and of steps as the third says, where the closure is as it says."""
    statements, closure = re.search(r"^# each step: (.*?)(?:, where closure\(\) (.*))?$", code, re.M).groups()

    def make(model: nn.Module) -> Any:
        space = {"model": model}
        exec(code, space)
        return space["optimizer"]

    def step(optimizer: Any, model: nn.Module, inputs: Tensor) -> None:
        def with_backward() -> Tensor:
            optimizer.zero_grad()
            loss = loss_of(model, inputs)
            loss.backward()
            return loss

        backward = closure is None or "never calls backward()" not in closure
        space = {"torch": torch, "optimizer": optimizer, "loss": loss_of(model, inputs)}
        exec(statements, space | {"closure": with_backward if backward else lambda: loss_of(model, inputs)})

    return weights(make, step)


def equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_optimizer_pasted_or_made_steps_as_in_training(shipped: Run, name: str) -> None:
    spec = shipped.config().optimizers[name]
    if spec.class_.startswith("pytorch_optimizer."):
        pytest.importorskip("pytorch_optimizer")
    curvature = spec.class_.startswith("optimizers.") and name not in WITHOUT_CURVATURE
    step = without_backward if curvature else with_backward
    make = optimizer_maker(name, spec)
    found = best_of(shipped, name)

    expected = weights(lambda model: make(list(model.parameters()), spec.first_point()), step)
    assert all(weight.isfinite().all() for weight in expected)
    assert not equal(expected, [param.detach() for param in make_network().parameters()])
    assert equal(pasted(found.code()), expected)
    assert equal(weights(lambda model: found.make(model.parameters()), step), expected)
    assert (MODES in found.code().splitlines()) == name.startswith("schedule_free")


def test_the_lines_of_two_are_these(shipped: Run) -> None:
    assert best_of(shipped, "adam").code().splitlines() == [
        "from torch.optim import Adam",
        "optimizer = Adam(model.parameters(), betas=(0.9, 0.999), eps=1e-08, weight_decay=0.0, amsgrad=False, "
        "lr=0.001)",
        "# each step: optimizer.zero_grad(); loss.backward(); optimizer.step()",
    ]
    assert best_of(shipped, "sophia").code().splitlines() == [
        "from optimizers import Sophia",
        "optimizer = Sophia(model.parameters(), betas=(0.96, 0.99), eps=1e-12, weight_decay=0.0, "
        "estimator={'name': 'hutchinson', 'probe': 'gaussian'}, update_period=10, lr=0.06, rho=0.01)",
        "# each step: loss = optimizer.step(closure), where closure() returns the loss, or (loss, outputs), with its "
        "graph, and never calls backward()",
    ]


def test_what_a_best_says_of_its_trial(shipped: Run) -> None:
    found = best_of(shipped, "adam")
    assert (found.task, found.optimizer, found.value, found.trial) == ("mnist1d", "adam", 0.25, 7)


def test_groups_of_parameters_keep_their_own_settings(shipped: Run) -> None:
    weight, bias = nn.Linear(2, 2).parameters()
    made = best_of(shipped, "adam").make([{"params": [weight]}, {"params": [bias], "lr": 0.5}])
    assert [group["lr"] for group in made.param_groups] == [1e-3, 0.5]


# Optimizers of one's own.

OWN = """
import torch

class Perturbing(torch.optim.SGD):
    # needs a closure, and that it turns on gradients
    @torch.no_grad()
    def step(self, closure=None):
        for param in self.param_groups[0]["params"]:
            param += 0.25
        closure()
        super().step()

class Polyak(torch.optim.SGD):
    # a closure is optional, but counts
    def step(self, closure=None):
        if closure is not None:
            for group in self.param_groups:
                group["lr"] = float(closure().detach())
        super().step()

def no_decay_of_biases(params, **options):
    split = [[p for p in params if p.ndim > 1], [p for p in params if p.ndim < 2]]
    return torch.optim.AdamW([{"params": split[0], "weight_decay": 0.5}, {"params": split[1]}], **options)

class Odd(torch.optim.SGD):
    def __init__(self, params, lr, width, **options):
        assert type(width) is int and options["lambda"] == 0.1 and options["kind"] is True
        super().__init__(params, lr=lr)
"""
LR = {"lr": {"low": 0.0, "high": 1.0}}


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of --configs with a module of its own."""
    (tmp_path / "my_own_rules.py").write_text(OWN, encoding="utf-8")
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "my_own_rules", raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("path", "hp", "step", "statements"),
    [
        ("torch.optim.LBFGS", {"lr": 0.1}, gradient_and_closure, "optimizer.step(closure)"),
        ("my_own_rules.Polyak", {"lr": 0.1}, gradient_and_closure, "optimizer.step(closure)"),
        ("my_own_rules.Perturbing", {"lr": 0.1}, gradient_and_closure,
         "closure(); optimizer.step(torch.enable_grad()(closure))"),
        ("my_own_rules.no_decay_of_biases", {"lr": 0.1}, with_backward,
         "optimizer.zero_grad(); loss.backward(); optimizer.step()"),
    ],
)  # fmt: skip
def test_an_optimizer_of_ones_own_steps_as_in_training(
    own: Path, path: str, hp: dict[str, Any], step: Any, statements: str
) -> None:
    found = best(own, {"class": path, "space": LR}, hp)
    code = found.code()
    assert f"# each step: {statements}" in code
    assert (f"# in {own}" in code) == path.startswith("my_own_rules.")
    assert equal(pasted(code), weights(lambda model: found.make(model.parameters()), step))


def test_numbers_are_equal_to_the_bit_and_odd_names_are_given(own: Path) -> None:
    lr = 0.1 + 0.2
    spec = {"class": "my_own_rules.Odd", "args": {"lambda": 0.1, "kind": True},
            "space": LR | {"width": {"low": 1, "high": 9, "integer": True}}}  # fmt: skip
    code = best(own, spec, {"lr": lr, "width": 3.0}).code()
    space = {"model": make_network()}
    exec(code, space)
    assert space["optimizer"].param_groups[0]["lr"] == lr != 0.3


def test_what_the_lines_do_not_do_is_said_where_it_is_not_the_default(own: Path) -> None:
    spec = {"class": "torch.optim.SGD", "space": LR}
    engine = {"schedule": "cosine", "final_lr": 0.1, "warmup_epochs": 0.5, "clip_grad_norm": 1.0, "ema": 0.99}
    last = best(own, spec, {"lr": 0.1}, **engine).code().splitlines()[-1]
    assert last == (
        "# trained with: warm-up over 0.5 epochs, cosine schedule to 0.1 of the learning rate, gradient norm at most "
        "1.0, moving average of the weights with decay 0.99, which was evaluated"
    )


def test_what_the_search_set_of_training_is_no_argument_of_the_optimizer_and_said(own: Path) -> None:
    tuned = {"train.schedule": {"choices": ["constant", "wsd"]}, "train.clip_grad_norm": {"low": 0.1, "high": 9.0}}
    spec = {"class": "optimizers.AdaHessian", "space": LR | tuned | {"train.warmup_epochs": {"choices": ["5%", "9%"]}}}
    hp = {"lr": 0.1, "train.schedule": "wsd", "train.clip_grad_norm": 1e-3, "train.warmup_epochs": "5%"}
    found = best(own, spec, hp, schedule="cosine", final_lr=0.0)
    _, call, each, said = found.code().splitlines()
    assert call == "optimizer = AdaHessian(model.parameters(), lr=0.1)"
    assert each.startswith("# each step: loss = optimizer.step(closure, max_grad_norm=0.001)")
    assert said == (
        "# trained with: warm-up over 5% of the run, schedule constant but for the last fifth of the run, then linear, "
        "to 0.0 of the learning rate, gradient norm at most 0.001"
    )
    assert found.make(make_network().parameters()).param_groups[0]["lr"] == 0.1


def test_a_bound_on_the_gradient_is_given_to_a_step_that_takes_it_itself(own: Path) -> None:
    bound = 1e-3

    def clipped(optimizer: Any, model: nn.Module, inputs: Tensor) -> None:
        optimizer.step(lambda: loss_of(model, inputs), max_grad_norm=bound)

    found = best(own, {"class": "optimizers.AdaHessian", "space": LR}, {"lr": 0.1}, clip_grad_norm=bound)
    with_bound, without = (
        weights(lambda model: found.make(model.parameters()), s) for s in (clipped, without_backward)
    )
    assert equal(pasted(found.code()), with_bound)
    assert not equal(with_bound, without)


def test_a_class_of_a_notebook_has_no_import_and_is_tried_with_what_the_run_carries(own: Path) -> None:
    found = best(own, {"class": "__main__.MySGD", "space": LR}, {"lr": 0.1})
    first, call, each = found.code().splitlines()
    assert first == "# MySGD: defined in the notebook or script that searched"
    assert call == "optimizer = MySGD(list(model.parameters()), lr=0.1)"
    assert each.startswith("# each step: as __main__.MySGD wants it, which cannot be tried here (UserError: ")
    (found.run.path / "objects.pkl").write_bytes(pack({"__main__.MySGD": torch.optim.SGD}))
    assert found.code().splitlines()[1:] == [
        "optimizer = MySGD(model.parameters(), lr=0.1)",
        "# each step: optimizer.zero_grad(); loss.backward(); optimizer.step()",
    ]


# Errors, and the command.


def test_errors_are_one_sentence(tmp_path: Path) -> None:
    config = resolve({"task.name": "mnist1d", "search.optimizers": ["adam", "sgd", "sgdm"]}, [])
    nothing = {"hp": None, "value": None, "trial": None, "n_trials": 3, "n_diverged": 2, "n_failed": 1}
    run = run_of(tmp_path, config, adam=nothing, sgd={"hp": {"lr": 0.1}})
    for name, sentence in {
        "adma": "unknown optimizer 'adma'; did you mean 'adam'? (valid: adam, sgd, sgdm)",
        "adam": "adam has no valid trial: of 3, 2 diverged, 1 failed",
        "sgdm": "no trial of sgdm has ended",
    }.items():
        with pytest.raises(UserError, match=f"^{re.escape(f'{run.path}: {sentence}')}$"):
            best_of(run, name)


def test_the_command_prints_the_lines_of_one_run(shipped: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main([str(shipped.path), "--code", "sophia"]) == 0
    assert capsys.readouterr().out == best_of(shipped, "sophia").code() + "\n"
    with pytest.raises(UserError, match=r"^--code: of one run, got 2$"):
        report.main([str(shipped.path), str(shipped.path), "--code", "sophia"])
    with pytest.raises(UserError, match="not allowed with argument"):
        report.main([str(shipped.path), "--code", "sophia", "--json"])


def test_an_error_of_the_command_imports_no_torch(shipped: Run) -> None:
    code = (
        "import sys\nfrom tuner import report\nfrom tuner.errors import UserError\n"
        "try:\n    report.main([sys.argv[1], '--code', 'sofia'])\n"
        "except UserError as error:\n    print(error)\nprint('torch' in sys.modules)"
    )
    said, loaded = python(code, shipped.path).out.splitlines()
    assert "did you mean 'sophia'?" in said
    assert loaded == "False"
