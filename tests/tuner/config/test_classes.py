from __future__ import annotations

import math
import os
import sys
import textwrap
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from optimizers import CurvatureOptimizer
from tuner.config.classes import check_dataset, find
from tuner.config.layers import resolve
from tuner.config.registry import available
from tuner.config.schema import Config, TaskConfig
from tuner.config.space import Dimension, OptimizerConfig
from tuner.errors import UserError
from tuner.training.build import make_engine, make_task, optimizer_maker, set_up
from tuner.workers.preflight import try_optimizer


@cache
def config(task: str = "mnist1d") -> Config:
    return resolve({"task.name": task})


def with_task(task: str = "mnist1d", **changes: Any) -> Config:
    """The shipped task with other values."""
    changed = TaskConfig.model_validate(config(task).task.model_dump(by_alias=True) | changes)
    return config(task).model_copy(update={"task": changed})


def refusal(call: Any, *args: Any) -> str:
    with pytest.raises(UserError) as caught:
        call(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Dotted paths.


@pytest.mark.parametrize(
    ("path", "found"),
    [("math.sqrt", math.sqrt), ("os.path.join", os.path.join), ("torch.optim.Adam", torch.optim.Adam)],
)
def test_a_dotted_path_is_what_python_imports(path: str, found: object) -> None:
    assert find(path) is found


@pytest.mark.parametrize("path", ["Adam", "", ".Adam", "a..b", "math."])
def test_a_path_without_module_is_refused(path: str) -> None:
    assert refusal(find, path) == f"{path!r} is not a dotted path such as torch.optim.Adam"


@pytest.mark.parametrize("path", ["no_such_package.Adam", "math.no.such", "os.path.join.x"])
def test_a_module_that_cannot_be_imported_is_named(path: str) -> None:
    text = refusal(find, path)
    assert text.startswith(f"{path}: {path.rpartition('.')[0]} cannot be imported (")


def test_a_module_whose_own_import_fails_is_named_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "needs_something.py").write_text("import something_not_installed\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert "No module named 'something_not_installed'" in refusal(find, "needs_something.Opt")


@pytest.mark.parametrize(
    ("path", "nearest"),
    [("torch.optim.Adm", "Adam"), ("torch.optim.adamw", "AdamW"), ("math.squrt", "sqrt")],
)
def test_a_name_that_a_module_has_not_is_refused_with_the_nearest(path: str, nearest: str) -> None:
    module, _, name = path.rpartition(".")
    text = refusal(find, path)
    assert text.startswith(f"{path}: {module} has no {name!r}; did you mean ")
    assert text.endswith(f"did you mean {nearest!r}?")


# Optimizers.


def spec(cls: str, args: dict[str, Any], *searched: str) -> OptimizerConfig:
    return OptimizerConfig(class_=cls, args=args, space={name: Dimension(low=0, high=1) for name in searched})


def test_an_optimizer_gets_its_fixed_arguments_and_hyperparameters() -> None:
    make = optimizer_maker("adam", spec("torch.optim.Adam", {"betas": [0.5, 0.6], "lr": 9.0}, "lr"))
    optimizer = make([torch.nn.Parameter(torch.zeros(2))], {"lr": 0.25})
    assert type(optimizer) is torch.optim.Adam
    (group,) = optimizer.param_groups
    assert (group["betas"], group["lr"]) == ((0.5, 0.6), 0.25)


@pytest.mark.parametrize(("args", "searched"), [({"momentun": 0.9}, ["lr"]), ({}, ["lr", "momentun"])])
def test_an_argument_that_an_optimizer_does_not_take_is_refused_with_the_nearest(
    args: dict[str, Any], searched: list[str]
) -> None:
    text = refusal(optimizer_maker, "mine", spec("torch.optim.SGD", args, *searched))
    assert text.startswith("optimizer mine: SGD takes no argument 'momentun'; did you mean 'momentum'?")


def test_the_parameters_are_no_argument_of_ones_own() -> None:
    assert "takes no argument 'params'" in refusal(
        optimizer_maker, "mine", spec("torch.optim.SGD", {"params": []}, "lr")
    )


def test_a_class_that_takes_anything_is_not_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = """
        import torch
        class Any(torch.optim.SGD):
            def __init__(self, params, **kwargs):
                super().__init__(params, kwargs["rate"])
    """
    (tmp_path / "takes_anything.py").write_text(textwrap.dedent(source))
    monkeypatch.syspath_prepend(tmp_path)
    make = optimizer_maker("mine", spec("takes_anything.Any", {}, "rate"))
    assert make([torch.nn.Parameter(torch.zeros(1))], {"rate": 0.5}).param_groups[0]["lr"] == 0.5


@pytest.mark.parametrize("name", available("optimizers"))
def test_every_shipped_optimizer_can_be_made_from_its_published_defaults(name: str) -> None:
    shipped = resolve({"task.name": "mnist1d", "search.optimizers": [name]}).optimizers[name]
    make = optimizer_maker(name, shipped)
    assert shipped.defaults
    for point in shipped.defaults:
        (group,) = make([torch.nn.Parameter(torch.zeros(2))], point).param_groups
        given = {
            f"one_minus_beta{i}": pytest.approx(1 - beta, rel=1e-12) for i, beta in enumerate(group.get("betas", ()), 1)
        }
        own = {key: value for key, value in point.items() if key not in shipped.of_training}
        assert {key: (group | given)[key] for key in own} == own


@pytest.mark.parametrize("size", [5, 5.0])
def test_whole_numbers_reach_the_class_as_such_whatever_they_were_read_as(size: float) -> None:
    """LBFGS's first steps failed with a history of 5.0."""
    space = {"history_size": Dimension(low=5, high=20, integer=True)}
    lbfgs = OptimizerConfig(class_="torch.optim.LBFGS", args={"lr": 0.1}, space=space)
    try_optimizer("mine", lbfgs)
    param = torch.nn.Parameter(torch.ones(2))
    for hp in (lbfgs.first_point(), {"history_size": size}):
        optimizer = optimizer_maker("mine", lbfgs)([param], hp)
        assert repr(optimizer.param_groups[0]["history_size"]) == "5"

        def closure() -> torch.Tensor:
            optimizer.zero_grad()  # noqa: B023
            loss = param.square().sum()
            loss.backward()
            return loss

        optimizer.step(closure)


def test_a_choice_that_is_a_list_reaches_the_class_as_a_tuple() -> None:
    space = {"betas": Dimension(choices=[[0.5, 0.6], [0.9, 0.999]])}
    adam = OptimizerConfig(class_="torch.optim.Adam", space=space)
    assert optimizer_maker("mine", adam)([torch.nn.Parameter(torch.ones(2))], {"betas": [0.9, 0.999]}).param_groups[0][
        "betas"
    ] == (0.9, 0.999)


# Tasks.


@pytest.mark.parametrize("name", available("tasks"))
def test_every_shipped_task_can_be_made(name: str) -> None:
    task, settled = make_task(config(name)), config(name)
    assert (task.metric, task.mode, task.target) == (settled.task.metric, settled.task.mode, settled.task.target)
    assert (task.batch_size, task.dataset) == (settled.train.batch_size, settled.task.dataset)


def test_a_task_gets_its_own_arguments() -> None:
    assert vars(make_task(with_task("rahimi_recht", args={"data_seed": 7})))["data_seed"] == 7


def test_an_argument_that_a_task_does_not_take_is_refused_with_the_nearest() -> None:
    text = refusal(make_task, with_task(args={"targets": 1}))
    assert text.startswith("task mnist1d: MNIST1D takes no argument 'targets'; did you mean 'target'?")


def test_a_task_class_that_is_not_there_is_refused_with_the_nearest() -> None:
    assert "did you mean 'MNIST1D'?" in refusal(make_task, with_task(**{"class": "tasks.mnist1d.MNIST1"}))


@pytest.mark.parametrize(("data_dir", "given"), [("a/b", Path("a/b")), (None, None)])
def test_a_task_is_set_up_from_the_data_folder_on_the_trials_device(data_dir: str | None, given: Path | None) -> None:
    seen: list[Any] = []
    threads = torch.get_num_threads()
    task: Any = SimpleNamespace(setup=lambda *args: seen.append((*args, torch.get_num_threads())))
    for cpus, expected in ((2, 2), (0.5, 1), (1.5, 1)):
        settled = with_task(data_dir=data_dir)
        resources = settled.resources.model_copy(update={"cpus_per_trial": cpus})
        try:
            set_up(task, settled.model_copy(update={"resources": resources}))
        finally:
            torch.set_num_threads(threads)
        assert seen.pop() == (given, torch.device("cpu"), expected)


def test_data_that_cannot_be_used_is_one_line_that_names_the_task() -> None:
    def setup(*_: Any) -> None:
        raise ValueError("data/x.jpg cannot be read")

    threads = torch.get_num_threads()
    task: Any = SimpleNamespace(setup=setup)
    assert refusal(set_up, task, with_task()) == "task mnist1d: data/x.jpg cannot be read"
    torch.set_num_threads(threads)


def test_the_engine_is_what_the_train_section_says() -> None:
    said = {"schedule": "cosine", "final_lr": 0.5, "warmup_epochs": 1.5, "clip_grad_norm": 2.0, "ema": 0.99,
            "precision": "bf16", "channels_last": True, "compile": True, "capture": "off",
            "deterministic": True}  # fmt: skip
    settled = resolve({"task.name": "mnist1d"}, [f"train.{key}={value}" for key, value in said.items()])
    assert make_engine(settled).model_dump() == said


# Data sets.


@pytest.mark.parametrize(("dataset", "near"), [("mnst1d", True), ("", False), ("MNIST1D", True), ("a\nb", False)])
def test_an_unknown_dataset_is_refused_with_the_nearest_if_one_is_near(dataset: str, near: bool) -> None:
    text = refusal(check_dataset, with_task(dataset=dataset))
    meant = "; did you mean 'mnist1d'?" if near else ""
    assert text == f"unknown dataset {dataset!r} of mnist1d{meant} (valid: mnist1d, mnist1d_4000)"


def test_an_unknown_dataset_is_refused_by_name_before_the_tasks_own_check() -> None:
    text = refusal(check_dataset, with_task("resnet18", dataset="cifar", check="no.such.check"))
    assert text.startswith("unknown dataset 'cifar' of resnet18; did you mean 'cifar10'? (valid: cifar10, ")


@pytest.mark.parametrize("dataset", ["cond29", "cond15099", "cond1.5", "cond1e6"])
def test_a_task_with_a_check_of_its_own_is_asked(dataset: str) -> None:
    check_dataset(with_task("rahimi_recht", dataset=dataset))


@pytest.mark.parametrize("dataset", ["cond", "cond0.5", "cond1e13", "mnist1d", "none.npz"])
def test_what_a_tasks_own_check_says_names_task_and_dataset(dataset: str) -> None:
    text = refusal(check_dataset, with_task("rahimi_recht", dataset=dataset))
    assert text.startswith("rahimi_recht: ")
    assert dataset in text


def test_an_npz_file_is_a_dataset(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    matrix, inputs = rng.normal(size=(14, 12)), rng.normal(size=(20, 12))
    np.savez(tmp_path / "own.npz", A=matrix, X=inputs, Y=inputs @ matrix.T)
    check_dataset(with_task("rahimi_recht", dataset=str(tmp_path / "own.npz")))


# Arguments that a base class takes.


def test_an_argument_that_a_base_class_takes_is_accepted() -> None:
    spec = OptimizerConfig.model_validate(
        {"class": "optimizers.Sophia", "args": {"estimator": "gnb", "foreach": True, "update_period": 5}, "space": {}}
    )
    optimizer: Any = optimizer_maker("mine", spec)([torch.nn.Parameter(torch.ones(2))], {})
    assert (optimizer.update_period, optimizer.foreach, type(optimizer.estimator).__name__) == (5, True, "GNB")


@pytest.mark.parametrize("cls", ["Sophia", "SSVP", "DiagHessian", "AdaHessian"])
def test_an_argument_that_no_base_class_takes_is_refused_with_the_nearest(cls: str) -> None:
    spec = OptimizerConfig.model_validate(
        {"class": f"optimizers.{cls}", "args": {"updat_period": 5}, "space": {"lr": {"low": 0.1, "high": 1.0}}}
    )
    text = refusal(try_optimizer, "mine", spec)
    assert text.startswith("optimizer mine: ")
    assert "'updat_period'; did you mean 'update_period'?" in text


def test_an_unknown_estimator_is_refused_with_the_nearest() -> None:
    spec = OptimizerConfig.model_validate(
        {"class": "optimizers.Sophia", "args": {"estimator": "ggn_cm"}, "space": {"lr": {"low": 0.1, "high": 1.0}}}
    )
    assert "unknown estimator 'ggn_cm'; did you mean 'ggn_mc'?" in refusal(try_optimizer, "mine", spec)


def test_an_estimator_with_arguments_is_a_mapping() -> None:
    estimator = {"name": "hutchinson", "probe": "gaussian", "samples": 3}
    spec = OptimizerConfig.model_validate(
        {"class": "optimizers.Sophia", "args": {"estimator": estimator}, "space": {"lr": {"low": 0.1, "high": 1.0}}}
    )
    made: Any = optimizer_maker("mine", spec)([torch.nn.Parameter(torch.ones(2))], {"lr": 0.1})
    assert (made.estimator.probe, made.estimator.samples) == ("gaussian", 3)


def test_an_optional_package_that_is_missing_is_said_to_be_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)
    text = refusal(find, "pytorch_optimizer.SOAP")
    assert text.startswith("pytorch_optimizer.SOAP: pytorch_optimizer cannot be imported (")
    assert text.endswith("; pip install pytorch_optimizer")


# Every optimizer of the folder.


@pytest.mark.parametrize("name", available("optimizers"))
def test_every_shipped_optimizer_trains_a_small_network_from_its_yaml(name: str) -> None:
    spec = resolve({"task.name": "mnist1d", "search.optimizers": [name]}).optimizers[name]
    if spec.class_.startswith("pytorch_optimizer."):
        pytest.importorskip("pytorch_optimizer")
    try_optimizer(name, spec)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    x = torch.randn(32, 4)
    y = x[:, :1] * x[:, 1:2]
    made: Any = optimizer_maker(name, spec)(model.parameters(), spec.enqueued()[-1])

    def loss(backward: bool = not isinstance(made, CurvatureOptimizer)) -> torch.Tensor:
        made.zero_grad()
        value = torch.nn.functional.mse_loss(model(x), y)
        if backward:
            value.backward()
        return value

    if hasattr(made, "train"):
        made.train()
    before = [p.detach().clone() for p in model.parameters()]
    first = loss(backward=False).item()
    for _ in range(30):
        made.step(loss)
    assert loss(backward=False).item() < first
    assert all((p != b).any() for p, b in zip(model.parameters(), before, strict=True))
