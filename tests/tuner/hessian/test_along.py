"""`python -m tuner.curvature`: what it says of a network is so, and what it is asked for wrongly is said in a line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from optimizers.curvature.output_hessian import UNKNOWN
from tests.support.members import Small, perceptron
from tuner import curvature
from tuner.errors import UserError
from tuner.hessian import along
from tuner.hessian.along import HESSIAN, Seen, see


def small(network=perceptron) -> tuple[Small, nn.Module]:
    task = Small(network)
    task.setup(None, torch.device("cpu"))
    return task, task.build(0).train()


def deep() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))


def by_name(seen: Seen) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for row in seen.rows:
        found.setdefault(row.name, []).append(row.scores[HESSIAN][0])
    return found


def test_the_exact_diagonal_is_met_by_what_is_exact_and_gauss_newton_misses_some() -> None:
    task, model = small(deep)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    seen = see(task, model, "now", rounds=1)
    errors = by_name(seen)
    assert errors["ggn_exact, residual carried"][0] < 1e-6
    assert seen.missed == pytest.approx(errors["ggn_exact"][0], rel=1e-4)
    assert seen.missed is not None and seen.missed > 0.05
    assert seen.parameters == seen.entries == sum(p.numel() for p in model.parameters())
    assert model.training and all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(param.grad is None for param in model.parameters())


def test_of_a_larger_network_entries_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    task, model = small(deep)
    monkeypatch.setattr(along, "EXACT_UP_TO", 10)
    monkeypatch.setattr(along, "ENTRIES", 40)
    seen = see(task, model, "now", rounds=1)
    assert seen.entries == 40
    assert by_name(seen)["ggn_exact, residual carried"][0] < 1e-6


def test_a_loss_without_a_gauss_newton_matrix_has_hutchinson_and_says_why() -> None:
    class Cubes(Small):
        def criterion(self, outputs, targets):
            return (outputs * outputs.roll(1, 1)).square().mean()

    task = Cubes(perceptron)
    task.setup(None, torch.device("cpu"))
    seen = see(task, task.build(0), "now", rounds=1)
    assert seen.missed is None and seen.why == UNKNOWN
    assert {row.name for row in seen.rows} <= {"hutchinson"}


def test_along_a_training_and_at_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--task", "mnist1d", "--preset", "smoke", "--set", "train.batch_size=16"]
    assert curvature.main([*asked, "--epochs", "2", "--looks", "2", "--json"]) == 0
    told = capsys.readouterr()
    looks = json.loads(told.out)["looks"]
    assert [look["when"] for look in looks] == ["after the first step", "after 2 epochs"]
    assert all(look["parameters"] == 5110 and look["entries"] == along.ENTRIES for look in looks)
    assert {"hessian_mc", "hesscale", "ggn_exact"} <= {row["name"] for row in looks[0]["rows"]}
    assert told.err.count("compared") == 2

    network = nn.Sequential(nn.Linear(40, 100), nn.ReLU(), nn.Linear(100, 10))
    weights = dict(zip(names_of("mnist1d"), network.state_dict().values(), strict=True))
    save_file(weights, tmp_path / "of.safetensors")
    torch.save({"state_dict": weights}, tmp_path / "of.pt")
    for name in ("of.safetensors", "of.pt"):
        assert curvature.main([*asked, "--checkpoint", str(tmp_path / name), "--out", str(tmp_path / "page.md")]) == 0
        text = capsys.readouterr().out
        assert "Gauss-Newton misses 0.0% of the diagonal" in text  # of a piecewise linear network
        assert (tmp_path / "page.md").read_text() == text


def names_of(task: str) -> list[str]:
    from tuner.training import build

    args = curvature.make_parser().parse(["--task", task, "--epochs", "1"])
    made = build.make_task(curvature.configuration(args))
    made.setup(None, torch.device("cpu"))
    return list(made.build(0).state_dict())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--epochs", "1"], "--task"),
        (["--task", "mnist1d"], "--checkpoint --epochs is required"),
        (["--task", "mnist1", "--epochs", "1"], "unknown task 'mnist1'; did you mean 'mnist1d'?"),
        (["--task", "mnist1d", "--epochs", "0"], "--epochs 0: expected at least 1"),
        (["--task", "mnist1d", "--epochs", "1", "--looks", "1"], "--looks 1: expected at least 2"),
        (["--task", "mnist1d", "--checkpoint", "none.pt"], "--checkpoint none.pt: no such file"),
        (["--task", "mnist1d", "--epochs", "1", "--optimizer", "adm"], "unknown optimizer 'adm'; did you mean 'adam'?"),
        (["--task", "mnist1d", "--epochs", "1", "--out", "no/where.md"], "--out no/where.md: no such folder no"),
        (["--task", "mnist1d", "--epochs", "1", "--data-dir", "none"], "--data-dir none: no such folder or file"),
    ],
)
def test_what_is_asked_for_wrongly_is_said_in_a_line(words: list[str], said: str) -> None:
    with pytest.raises(UserError) as error:
        curvature.main(words)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_weights_of_another_network_and_no_weights_are_said_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("no weights")
    (tmp_path / "text.safetensors").write_text("no weights")
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "other.pt")
    said = {
        "text.pt": "cannot be read as weights",
        "text.safetensors": "cannot be read as safetensors",
        "other.pt": "is not of the network that the task builds",
    }
    for name, what in said.items():
        with pytest.raises(UserError, match=what) as error:
            curvature.main(["--task", "mnist1d", "--checkpoint", str(tmp_path / name)])
        assert "\n" not in str(error.value)
