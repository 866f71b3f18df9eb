"""A retrained network that is loaded does what its row of seeds.csv says; what there is none of is said in a line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from tuner.config.changes import revise
from tuner.config.layers import resolve
from tuner.errors import UserError
from tuner.jobs import Job, Phase
from tuner.planning.cohorts import CohortSizes
from tuner.planning.looking import Looking
from tuner.planning.messages import Request
from tuner.planning.phases import Retrain
from tuner.store.run import Run
from tuner.training import build
from tuner.training.saved_model import load_model
from tuner.training.weights import pack
from tuner.workers.workbench import Workbench

SEEDS = [4, 0, 9]
WINNERS = {
    "adam": {"hp": {"lr": 1e-2}, "trial": 3},
    "sgd": {"hp": {"lr": 1e9}, "trial": 0},
    "rmsprop": {"hp": None, "trial": None},
}


@pytest.fixture(autouse=True, scope="module")
def threads() -> Iterator[None]:
    """A workbench keeps its process within a trial's CPUs."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def retrained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """adam as a stack, sgd diverging, rmsprop without a winner."""
    flags = {"task.name": "tabular_mlp", "search.optimizers": list(WINNERS), "resources.gpus_per_trial": 0.0}
    settings = ["search.studies=1", "retrain.epochs=4", "retrain.keep_weights=true", "resources.cohort=3"]
    config = resolve(flags | {"retrain.seeds": SEEDS}, settings)
    run = Run.create(tmp_path_factory.mktemp("runs") / "run", config)
    sizes = CohortSizes(config, {}, len(SEEDS))
    retrain = Retrain(config, run, lambda name, study: WINNERS[name], sizes, Looking(config, None, run.path))
    bench = Workbench(config)
    while jobs := retrain.next_jobs():
        for report in bench.reports(Request(jobs), every_evaluation=False):
            retrain.record([(jobs[index], outcome) for index, outcome in report.outcomes.items()])
    return run


@pytest.fixture
def run(retrained: Run, tmp_path: Path) -> Run:
    """One's own copy, to spoil."""
    return Run(shutil.copytree(retrained.path, tmp_path / "run"))


def test_a_loaded_network_comes_to_the_losses_of_its_row(retrained: Run) -> None:
    config = retrained.config()
    task = build.make_task(config)
    build.load_data(task, config, torch.device("cpu"))
    threads = torch.get_num_threads()
    rows = retrained.seeds().query("optimizer == 'adam'").set_index("seed")
    assert rows["cohort"].tolist() == [3] * 3 and rows["test_loss"].nunique() == 3
    for seed in SEEDS:
        model = load_model(retrained, "adam", seed)
        assert not any(module.training for module in model.modules())
        for split in ("train", "val", "test"):
            assert task.evaluate(model, split)["loss"] == pytest.approx(rows[f"{split}_loss"][seed], rel=1e-6)
    assert torch.get_num_threads() == threads


def test_the_files_are_safetensors_that_say_what_they_are(retrained: Run) -> None:
    files = sorted((retrained.path / "weights").iterdir())
    assert [file.name for file in files] == [f"adam-{seed}.safetensors" for seed in sorted(SEEDS)]
    model = load_model(retrained, "adam", 4)
    with safe_open(files[1], "pt") as file:
        assert json.loads(file.metadata()["tuner"]) == {
            "task": "tabular_mlp", "class": retrained.config().task.class_, "phase": "retrain", "optimizer": "adam",
            "study": 0, "trial": 3, "seed": 4, "hp": {"lr": 1e-2},
        }  # fmt: skip
        assert all(torch.equal(file.get_tensor(name), tensor) for name, tensor in model.state_dict().items())


def test_trials_of_a_search_and_runs_without_the_flag_keep_none(retrained: Run) -> None:
    config = retrained.config()
    phase: Phase
    for phase, keep in (("retrain", True), ("retrain", False), ("search", True)):
        bench = Workbench(revise(config, {"retrain.keep_weights": keep}))
        (report,) = bench.reports(Request([Job(phase, "adam", 3, 0, {"lr": 1e-2})]), every_evaluation=False)
        assert report.outcomes[0].state == "complete"
        assert (report.outcomes[0].weights is not None) == ((phase, keep) == ("retrain", True))


@pytest.mark.parametrize(
    ("optimizer", "seed", "said"),
    [
        ("adma", 0, r"has no optimizer 'adma'; did you mean 'adam'\? \(valid: adam, sgd, rmsprop\)"),
        ("adam", 1, r"adam was not retrained on seed 1 \(valid: 0, 4, 9\)"),
        ("rmsprop", 0, "rmsprop has not been retrained"),
        ("sgd", 9, r"sgd seed 9 diverged \(train_loss is .*, at step 1\); only complete runs have weights"),
    ],
)
def test_what_was_not_retrained_or_came_to_nothing_is_said(
    retrained: Run, optimizer: str, seed: int, said: str
) -> None:
    with pytest.raises(UserError, match=f"^{retrained.path}: {said}$"):
        load_model(retrained, optimizer, seed)


def test_weights_that_were_not_kept_are_said_with_how_others_are(run: Run) -> None:
    run.weights.write("adam", 4, None)
    with pytest.raises(UserError) as caught:
        load_model(run, "adam", 4)
    assert str(caught.value) == (
        f"{run.path}: adam seed 4 was retrained without --keep-weights; python -m tuner.retrain {run.path} --seeds N "
        "--keep-weights keeps the weights of new seeds only"
    )
    assert load_model(run, "adam", 9)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"no safetensors", "cannot be read as safetensors: "),
        (pack({"0.weight": torch.zeros(2, 2)}, {}), r"is of another network than tasks\.\S+ builds now$"),
    ],
)
def test_a_file_that_is_damaged_or_of_another_network_is_named(run: Run, content: bytes, said: str) -> None:
    run.weights.write("adam", 4, content)
    with pytest.raises(UserError, match=rf"^{run.path}/weights/adam-4\.safetensors: {said}") as caught:
        load_model(run, "adam", 4)
    assert "\n" not in str(caught.value)
