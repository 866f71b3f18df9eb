"""--analyze-curvature every=K: when a run is analysed, that it is the same run, and where what was found ends up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from optimizers import AdaHessian, DiagHessian
from tests.support.members import NETWORKS, Small
from tests.support.run_configs import OPTIMIZERS, run_config
from tuner import retrain, search
from tuner.config.layers import from_yaml
from tuner.errors import UserError
from tuner.hessian import analysis, spectrum
from tuner.hessian.analysis import analyze_curvature
from tuner.jobs import EvaluationRecord, Job, Outcome
from tuner.planning.cohorts import CohortSizes
from tuner.planning.plan import retrain_plan
from tuner.store.run import Run
from tuner.training import checkpoint, stack
from tuner.training.engine import Engine
from tuner.training.records import Budget, Evaluation, Saving, Snapshot
from tuner.training.single import train, training
from tuner.training.stack import Member

BUDGET = Budget(epochs=5, evaluations=5, test=True)  # 20 steps
ANALYZED = replace(BUDGET, analyze_every=2, analyze=analyze_curvature)


class Switching(torch.optim.SGD):
    """Keeps other weights to evaluate than to train, and rounds as it switches."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, lr=lr)
        self.switches = 0

    def _turn(self, factor: float) -> None:
        self.switches += 1
        with torch.no_grad():
            for param in self.param_groups[0]["params"]:
                param.mul_(factor)

    def train(self) -> None:
        self._turn(1.1)

    def eval(self) -> None:
        self._turn(1 / 1.1)


def diag_hessian(params: Any, hp: dict[str, Any]) -> torch.optim.Optimizer:
    return DiagHessian(params, diff=0.5, square=2.0, damping=0.1, eps=0.1, **hp)


MAKERS: dict[str, Callable[[Any, dict[str, Any]], torch.optim.Optimizer]] = {
    "adam": lambda params, hp: torch.optim.Adam(params, **hp),
    "diag_hessian": diag_hessian,
    "switching": lambda params, hp: Switching(params, **hp),
}


def dropping() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 9), nn.BatchNorm1d(9), nn.Tanh(), nn.Dropout(0.3), nn.Linear(9, 3))


def looks_of(make: Any, budget: Budget, task: Any = None, seed: int = 3, lr: float = 1e-2) -> list[Evaluation]:
    looks: list[Evaluation] = []
    train(task or Small(dropping), make, {"lr": lr}, seed, budget, looks.append)
    return looks


def without_analysis(look: Evaluation) -> Evaluation:
    return replace(look, seconds=0.0, curvature=[], unanalyzed="")


def largest(look: Evaluation) -> float:
    return next(value for quantity, index, value, _ in look.curvature if (quantity, index) == ("eigenvalue", 0))


# When.


@pytest.mark.parametrize(
    ("every", "evaluations", "analyzed"),
    [(1, 5, [0, 1, 2, 3, 4, 5]), (2, 5, [0, 2, 4, 5]), (3, 5, [0, 3, 5]), (100, 5, [0, 5]), (2, 1, [0, 1]),
     (None, 5, [])],
)  # fmt: skip
def test_evaluations_0_k_2k_and_the_last_are_analysed(every: Any, evaluations: int, analyzed: list[int]) -> None:
    looks = looks_of(MAKERS["adam"], Budget(5, evaluations, analyze_every=every, analyze=analyze_curvature))
    assert [number for number, look in enumerate(looks) if look.curvature] == analyzed
    assert [look.unanalyzed for look in looks] == [""] * (evaluations + 1)


# That it is the same run.


@pytest.mark.parametrize("optimizer", MAKERS)
def test_a_run_with_analysis_is_the_same_run_to_the_bit(optimizer: str) -> None:
    plain, analyzed = (looks_of(MAKERS[optimizer], budget) for budget in (BUDGET, ANALYZED))
    assert [*map(without_analysis, analyzed)] == [*map(without_analysis, plain)]
    assert any(look.curvature for look in analyzed)


def test_what_is_found_is_of_the_weights_that_are_evaluated() -> None:
    task, seen = Small(), []

    def make(params: Any, hp: dict[str, Any]) -> torch.optim.Optimizer:
        seen.append(list(params))
        return Switching(seen[-1], **hp)

    looks = looks_of(make, Budget(1, 1, analyze_every=1, analyze=analyze_curvature), task, lr=0.0)
    model = task.build(3)  # after train() and eval() each: the weights times 1.1 / 1.1
    assert largest(looks[0]) == pytest.approx(float(spectrum.analyze(task, model).eigenvalues[0]), rel=1e-9)


@pytest.mark.parametrize("optimizer", ["adam", "diag_hessian"])
@pytest.mark.parametrize("network", ["perceptron", "normalised"])
def test_members_of_a_stack_are_found_to_be_what_they_are_alone(optimizer: str, network: str) -> None:
    task, make = Small(NETWORKS[network]), MAKERS[optimizer]
    members = [Member({"lr": 1e-2}, seed) for seed in (1, 2, 1)]
    curves: list[list[Evaluation]] = [[], [], []]
    results = stack.train(task, make, members, ANALYZED, lambda member, look: curves[member].append(look))
    assert [result.cohort for result in results] == [3, 3, 3]
    for member, curve in zip(members, curves, strict=True):
        alone = looks_of(make, ANALYZED, task, member.seed)
        for look, expected in zip(curve, alone, strict=True):
            assert [found[:2] for found in look.curvature] == [found[:2] for found in expected.curvature]
            np.testing.assert_allclose(
                [found[2] for found in look.curvature], [found[2] for found in expected.curvature], atol=1e-9
            )
    assert "estimate_cosine" in {quantity for quantity, *_ in curves[0][0].curvature} or optimizer == "adam"


def test_a_stack_with_analysis_is_the_same_stack_to_the_bit() -> None:
    members = [Member({"lr": 1e-2}, seed) for seed in (1, 2)]
    runs = []
    for budget in (BUDGET, ANALYZED):
        curves: list[Evaluation] = []
        stack.train(Small(dropping), diag_hessian, members, budget, lambda _, look, to=curves: to.append(look))
        runs.append([without_analysis(look) for look in curves])
    assert runs[0] == runs[1]


def test_the_peak_of_memory_is_that_of_training(monkeypatch: Any) -> None:
    peak = [100.0]
    monkeypatch.setattr("tuner.machine.memory.peak_mb", lambda device: peak[0])
    monkeypatch.setattr("tuner.machine.memory.forget_peak", lambda device: peak.__setitem__(0, 50.0))

    def hungry(task: Any, model: Any, optimizer: Any) -> tuple[list[Any], str]:
        peak[0] = 9000.0
        return [], ""

    result = train(Small(), MAKERS["adam"], {"lr": 1e-2}, 0, replace(ANALYZED, analyze=hungry))
    assert result.clocks.peak_mem_mb == 50.0


def test_a_failed_analysis_is_noted_and_the_run_goes_on(monkeypatch: Any) -> None:
    def fails(*args: Any, **named: Any) -> None:
        raise RuntimeError("out of\nmemory")

    plain = looks_of(MAKERS["adam"], BUDGET)
    monkeypatch.setattr(analysis, "analyze", fails)
    looks = looks_of(MAKERS["adam"], ANALYZED)
    assert [*map(without_analysis, looks)] == [*map(without_analysis, plain)]
    noted = "RuntimeError: out of memory"
    assert [look.unanalyzed for look in looks] == [noted, "", noted, "", noted, noted]


def test_a_run_that_diverges_is_not_analysed_where_it_has() -> None:
    seen = []

    def analyze(task: Any, model: Any, _: object) -> tuple[list[Any], str]:
        seen.append(model[0].weight.sum().item())
        return [], ""

    result = train(
        Small(),
        lambda params, hp: torch.optim.SGD(params, lr=1e30),
        {},
        0,
        replace(ANALYZED, analyze_every=1, analyze=analyze),
    )
    assert result.status == "diverged"
    assert np.isfinite(seen).all()
    assert len(seen) == 1


def test_what_was_found_before_a_checkpoint_is_part_of_a_curve_that_it_can_hold() -> None:
    task = Small()
    saving = Saving(every_s=0.0)
    run = training(task, diag_hessian, {"lr": 1e-2}, 0, ANALYZED, Engine(), saving)
    curve: list[Any] = []
    for told in run:
        if isinstance(told, Snapshot) and len(curve) == 3:
            data = checkpoint.pack({"curve": [asdict(look) for look in curve], "state": told.state})
            break
        if not isinstance(told, Snapshot):
            curve.append(told)
    assert data is not None
    kept = checkpoint.unpack(data)
    assert kept["curve"] == [asdict(look) for look in curve]
    rest = [
        told
        for told in training(task, diag_hessian, {"lr": 1e-2}, 0, ANALYZED, Engine(), Saving(kept["state"]))
        if not isinstance(told, Snapshot)
    ]
    whole = looks_of(diag_hessian, ANALYZED, task, seed=0)
    assert [look.curvature for look in [*curve, *rest]] == [look.curvature for look in whole]


# Where it ends up.


def evaluation(step: int, curvature: Any = (), unanalyzed: str = "") -> dict[str, Any]:
    look = Evaluation(step, step / 4, 0.1, float(step), {"val_loss": 1.0}, {}, list(curvature), unanalyzed)
    return asdict(look)


def outcome(*evaluations: dict[str, Any], state: Any = "complete") -> Outcome:
    records = [EvaluationRecord(**values) for values in evaluations]
    return Outcome(state, {"val_loss": 1.0}, {"steps": 4}, records)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = Run.create(tmp_path / "run", run_config(OPTIMIZERS))
    entry = {"hp": {"lr": 0.5}, "value": 1.0, "trial": 0, "n_trials": 4, "n_diverged": 0, "at_boundary": []}
    run.write_best({"task": "blobs", "metric": "val_loss", "optimizers": {"one": entry}})
    return run


def plan_of(run: Run) -> Any:
    config = run.config()
    return retrain_plan(config, run, CohortSizes(config, {}, 2))


FOUND = [("eigenvalue", 0, 2.5, None), ("eigenvalue", 1, -1.0, None), ("density", 3, 0.25, 0.1)]


def records(run: Run) -> list[tuple[Any, ...]]:
    table = run.curvature()
    assert list(table) == [
        "task", "optimizer", "study", "seed", "step", "epoch", "quantity", "index", "value", "x",
    ]  # fmt: skip
    return [
        tuple(None if value != value else value for value in row)
        for row in table.fillna(np.nan).itertuples(index=False)
    ]


def test_what_was_found_is_a_long_table_before_and_after_the_end(run: Run) -> None:
    assert records(run) == []
    plan = plan_of(run)
    (job,) = plan.next_jobs()
    plan.record([(job, outcome(evaluation(0, FOUND), evaluation(4), evaluation(8, FOUND[:1])))])
    expected = [
        ("blobs", "one", 0, 0, 0, 0.0, "eigenvalue", 0, 2.5, None),
        ("blobs", "one", 0, 0, 0, 0.0, "eigenvalue", 1, -1.0, None),
        ("blobs", "one", 0, 0, 0, 0.0, "density", 3, 0.25, 0.1),
        ("blobs", "one", 0, 0, 8, 2.0, "eigenvalue", 0, 2.5, None),
    ]
    assert records(run) == records(Run(run.path)) == expected  # a command that is killed now has lost nothing
    plan.close()
    assert records(run) == expected
    assert (run.path / "curvature.parquet").exists()
    assert not (run.logs / "curvature.csv").exists()


def test_a_run_without_analysis_has_no_such_file(run: Run) -> None:
    plan = plan_of(run)
    (job,) = plan.next_jobs()
    plan.record([(job, outcome(evaluation(0), evaluation(4)))])
    plan.close()
    assert "curvature.parquet" not in run.files()
    assert len(run.curves()) == 2
    assert records(run) == []


def test_it_is_written_before_the_row_that_says_the_run_is_done(run: Run, monkeypatch: Any) -> None:
    def killed(*args: Any) -> None:
        raise KeyboardInterrupt

    plan = plan_of(run)
    (job,) = plan.next_jobs()
    monkeypatch.setattr(Run, "write_seeds", killed)
    with pytest.raises(KeyboardInterrupt):
        plan.record([(job, outcome(evaluation(0, FOUND)))])
    assert len(records(run)) == 3
    monkeypatch.undo()
    plan = plan_of(run)  # it is done again; its rows are not there twice
    (job,) = plan.next_jobs()
    plan.record([(job, outcome(evaluation(0, [("eigenvalue", 0, 7.0, None), *FOUND[1:]])))])
    assert sorted(row[8] for row in records(run)) == [-1.0, 0.25, 7.0]


def test_curvature_goes_with_the_curves_of_hyperparameters_that_are_no_longer_the_best(run: Run) -> None:
    rows = [
        {"task": "blobs", "optimizer": name, "study": study, "seed": 10_000 * study, "step": 0, "epoch": 0.0,
         "quantity": "trace", "index": 0, "value": 1.0}
        for name, study in (("one", 0), ("one", 1), ("two", 0))
    ]  # fmt: skip
    run.append_curvature(rows)
    run.forget_retrained("one", 0, [0])
    assert [row[1:3] for row in records(run)] == [("one", 1), ("two", 0)]


def test_a_failed_analysis_is_a_line_in_the_logs(run: Run) -> None:
    plan = plan_of(run)
    (job,) = plan.next_jobs()
    plan.record(
        [(job, outcome(evaluation(0, [], "RuntimeError: no"), evaluation(4, FOUND), evaluation(8, [], "Oh: dear")))]
    )
    lines = (run.logs / "one-seed-0-curvature.log").read_text().splitlines()
    assert lines == [
        "step 0: curvature not analysed: RuntimeError: no",
        "step 8: curvature not analysed: Oh: dear",
    ]
    assert plan.unanalyzed == [(job, "RuntimeError: no")]
    assert plan.failures == []


def test_what_an_earlier_version_kept_of_a_run_can_be_recorded(run: Run) -> None:
    plan = plan_of(run)
    (job,) = plan.next_jobs()
    old = {key: value for key, value in evaluation(0).items() if key not in ("curvature", "unanalyzed")}
    plan.record([(job, outcome(old))])
    assert records(run) == []
    assert len(run.curves()) == 1


# The option.


def test_only_retraining_is_analysed() -> None:
    from tuner.workers.workbench import Workbench

    config = run_config(OPTIMIZERS)
    asked = config.model_copy(update={"retrain": config.retrain.model_copy(update={"analyze_curvature": 3})})
    bench = object.__new__(Workbench)
    bench.config = asked
    job = Job("retrain", "one", 0, 0, {})
    assert bench._budget(job).analyze_every == 3
    assert bench._budget(replace(job, phase="search")).analyze_every is None


@pytest.mark.parametrize(
    "text",
    ["5", "every", "every=", "every=0", "every=-1", "every=1.5", "every=x", "each=2", "every=²", "every=" + "9" * 5000],
)
@pytest.mark.parametrize("parser", [search.make_parser, retrain.make_parser])
def test_bad_text_is_refused_in_a_line_that_says_what_was_expected(parser: Any, text: str) -> None:
    argv = ["--task", "mnist1d"] if parser is search.make_parser else ["run"]
    with pytest.raises(UserError) as caught:
        parser().parse([*argv, "--analyze-curvature", text])
    assert "expected every=K, K a whole number of at least 1, got" in str(caught.value)
    assert "--analyze-curvature" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_flag_is_a_key_of_the_configuration() -> None:
    argv = ["--task", "mnist1d", "--gpus-per-trial", "0"]
    args = search.make_parser().parse([*argv, "--analyze-curvature", "every=4"])
    assert search.prepare(args, None).retrain.analyze_curvature == 4
    assert search.prepare(search.make_parser().parse(argv), None).retrain.analyze_curvature is None


def test_a_run_made_before_there_was_the_key_is_read_and_may_be_analysed_as_it_goes_on(run: Run) -> None:
    text = (run.path / "config.yaml").read_text()
    assert "analyze_curvature: null" in text
    old = from_yaml("".join(line for line in text.splitlines(keepends=True) if "analyze_curvature" not in line))
    assert old.retrain.analyze_curvature is None
    (run.path / "config.yaml").write_text(old.to_yaml())
    args = search.make_parser().parse(["--resume", str(run.path), "--analyze-curvature", "every=2"])
    assert search.prepare(args, run).retrain.analyze_curvature == 2


def test_the_estimate_beside_the_exact_diagonal_is_found_in_training() -> None:
    looks = looks_of(lambda params, hp: AdaHessian(params, estimator="exact", **hp), ANALYZED, Small())
    found = {quantity: value for quantity, _, value, _ in looks[2].curvature}
    assert found["estimate_cosine"] == pytest.approx(1.0)
    assert found["estimate_relative_error"] < 1e-9
