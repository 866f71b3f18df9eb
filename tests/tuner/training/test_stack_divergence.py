"""Members of a cohort that diverge: they end as alone, and the others go on as alone."""

import math
from types import SimpleNamespace

import pytest
import torch

import tuner.training.loop
from optimizers import SSVP, DiagHessian, Sophia
from tests.support.members import CONSTANT, GAUSSIAN, Small, alone, assert_equal, normalised, of, perceptron, together
from tuner.training import stack as cohort
from tuner.training.engine import Engine
from tuner.training.records import Budget
from tuner.training.stack import Member, Stack

BUDGET = Budget(epochs=25, evaluations=5, test=True)
CLIPPED = Engine(clip_grad_norm=0.3)
WORST = {
    "train_loss": 1e3, "train_errors": 1.0, "val_loss": 1e3, "val_errors": 1.0, "test_loss": 1e3, "test_errors": 1.0,
}  # fmt: skip


NETWORKS = {"perceptron": perceptron, "normalised": normalised}
DIAG = {"diff": 0.5, "square": 2.0, "damping": 0.1, "eps": 0.1}

# A learning rate, and what it times the weight decay is where weights grow by a seventh a step or so: losses are beyond
# the bound after some fifty. They are not finite after a few where weights grow a millionfold.
RULES = {
    "sgd": (of(torch.optim.SGD), 0.1, 2.15),
    "momentum": (of(torch.optim.SGD, momentum=0.9), 0.01, 3.82),
    "adamw": (of(torch.optim.AdamW), 0.01, 2.15),
    "diag_hutchinson": (of(DiagHessian, update_period=3, **DIAG), 0.01, 2.15),
    "diag_gaussian": (of(DiagHessian, estimator=GAUSSIAN, **DIAG), 0.01, 2.15),
    "diag_secant": (of(DiagHessian, estimator="secant", **DIAG), 0.01, 2.15),
    "ssvp": (of(SSVP, eps=0.1, rho=0.3, update_period=2), 0.02, 2.15),
    "sophia_gnb": (of(Sophia, estimator="gnb", eps=0.1, rho=0.3, update_period=3), 0.02, 2.15),
}
SOON = 1e6


def members_of(rule, pattern, seeds=None):
    """g: does not diverge; !: diverges soon; ~: diverges later. Learning rates differ a little."""
    _, lr, later = RULES[rule]
    growth = {"g": 0.0, "!": SOON, "~": later}
    lrs = [lr * (1 - 0.01 * i) for i in range(len(pattern))]
    hps = [{"lr": lr, "weight_decay": growth[c] / lr} for lr, c in zip(lrs, pattern, strict=True)]
    return [Member(hp, seed) for hp, seed in zip(hps, seeds or range(len(pattern)), strict=True)]


@pytest.fixture
def made_smaller(monkeypatch):
    """The sizes that stacks are made smaller to."""
    sizes = []
    keep = cohort.StackedModel.keep

    def noting(self, places):
        sizes.append(len(places))
        keep(self, places)

    monkeypatch.setattr(cohort.StackedModel, "keep", noting)
    return sizes


def assert_as_alone(task, make, members, budget=BUDGET, engine=CONSTANT):
    runs = together(task, make, members, budget, engine)
    assert [result.cohort for result, _ in runs] == [len(members)] * len(members)
    for member, run in zip(members, runs, strict=True):
        assert_equal(run, alone(task, make, member, budget, engine), rtol=1e-8)
    return [result for result, _ in runs]


PATTERNS = ["g!gg", "!g!g", "~!g~g", "!!~g", "!g!!"]


def cases():
    """Every rule with every network; patterns, engines and seeds take turns."""
    for i, rule in enumerate(RULES):
        for j, network in enumerate(NETWORKS):
            pattern, engine = PATTERNS[(2 * i + j) % len(PATTERNS)], (CONSTANT, CLIPPED)[(i // 2 + j) % 2]
            yield rule, network, pattern, engine, i % 3 == 2


@pytest.mark.parametrize(("rule", "network", "pattern", "engine", "same_seed"), list(cases()))
def test_a_diverging_member_ends_as_alone_and_others_go_on_as_alone(
    rule, network, pattern, engine, same_seed, made_smaller
):
    members = members_of(rule, pattern, [4] * len(pattern) if same_seed else None)
    results = assert_as_alone(Small(NETWORKS[network]), RULES[rule][0], members, engine=engine)
    assert [result.status for result in results] == ["complete" if c == "g" else "diverged" for c in pattern]
    for result, c in zip(results, pattern, strict=True):
        assert c == "g" or result.metrics == WORST
        assert {"g": result.clocks.steps == 100, "!": result.clocks.steps == 20, "~": result.clocks.steps < 100}[c]
    assert made_smaller == sorted(set(made_smaller), reverse=True)
    assert made_smaller[0] < len(pattern) and made_smaller[-1] == pattern.count("g")


@pytest.mark.parametrize("rule", ["momentum", "diag_hutchinson", "sophia_gnb"])
@pytest.mark.parametrize("pattern", ["!!!", "!~~"])
def test_all_diverge(rule, pattern):
    results = assert_as_alone(Small(), RULES[rule][0], members_of(rule, pattern))
    assert all(result.status == "diverged" and result.metrics == WORST for result in results)


@pytest.mark.parametrize("rule", ["adamw", "diag_hutchinson", "sophia_gnb"])
def test_divergence_that_only_an_evaluation_sees(rule):
    """Evaluated after every step: the loss of that step was taken before its change, and was fine."""
    members = members_of(rule, "g!gg!")
    budget = Budget(epochs=2, evaluations=8, test=True)
    results = assert_as_alone(Small(), RULES[rule][0], members, budget)
    assert [(result.status, result.clocks.steps) for result in results] == [
        ("complete", 8), ("diverged", 1), ("complete", 8), ("complete", 8), ("diverged", 1)
    ]  # fmt: skip


def test_divergence_at_the_last_evaluation():
    members = members_of("adamw", "g!")
    results = assert_as_alone(Small(), RULES["adamw"][0], members, Budget(epochs=1, evaluations=4))
    assert [result.status for result in results] == ["complete", "diverged"]
    only_last = Budget(epochs=25, evaluations=1)
    results = assert_as_alone(Small(), RULES["adamw"][0], members_of("adamw", "~g~"), only_last)
    assert [result.status for result in results] == ["diverged", "complete", "diverged"]


def test_a_finite_loss_beyond_the_bound_is_divergence_of_that_member_only():
    task = Small()
    task.worst["loss"] = 1.15
    members = [Member({"lr": 0.01}, seed) for seed in range(8)]
    starts = [alone(task, RULES["sgd"][0], member, Budget(1, 1))[1][0].metrics["train_loss"] for member in members]
    assert any(start > 1.2 for start in starts) and any(start < 1.1 for start in starts)
    results = assert_as_alone(task, RULES["sgd"][0], members)
    assert len({result.status for result in results}) == 2


@pytest.mark.parametrize("engine", [CONSTANT, CLIPPED], ids=["constant", "clipped"])
@pytest.mark.parametrize("rule", ["sgd", "adamw", "diag_hutchinson", "diag_secant"])
def test_not_a_number_does_not_spread(rule, engine):
    """To the last bit but rounding, whether a neighbour's learning rate is infinite or not."""
    task, make = Small(normalised), RULES[rule][0]
    ends = []
    for lr in (math.inf, 0.01):
        members = members_of(rule, "ggg")
        members[1] = Member({"lr": lr, "weight_decay": 0.0}, 1)
        stack = Stack(task, make, members, engine, epochs=10)
        losses = torch.stack([stack.step(batch) for batch in stack.batches(10)])
        ends.append((losses, stack.model.params, stack.model.buffers))
    (losses, params, buffers), (others, other_params, other_buffers) = ends
    assert not losses[2:, 1].isfinite().any() and losses[:, [0, 2]].isfinite().all() and others.isfinite().all()
    torch.testing.assert_close(losses[:, [0, 2]], others[:, [0, 2]], rtol=1e-9, atol=0)
    for stack, other in zip([*params, *buffers], [*other_params, *other_buffers], strict=True):
        torch.testing.assert_close(stack[[0, 2]], other[[0, 2]], rtol=1e-7, atol=1e-9)


def test_clocks_stop_when_a_member_diverges(monkeypatch):
    """Each look at the losses comes after twenty steps and, here, a second, which those still training share."""
    readings = iter(range(1000))
    monkeypatch.setattr(
        tuner.training.loop, "time", SimpleNamespace(perf_counter=lambda: next(readings), monotonic=lambda: 0)
    )
    pattern = "g!~g"
    runs = together(Small(), RULES["diag_hutchinson"][0], members_of("diag_hutchinson", pattern), BUDGET)
    expected = {"g": 1 / 4 + 2 / 3 + 2 / 2, "!": 1 / 4, "~": 1 / 4 + 2 / 3}
    assert [result.clocks.seconds for result, _ in runs] == pytest.approx([expected[c] for c in pattern])
    assert sum(result.clocks.seconds for result, _ in runs) == pytest.approx(5)
    # A step is a gradient, and a refresh, every third step, two more.
    steps = {"g": 100, "!": 20, "~": 60}
    for (result, _), c in zip(runs, pattern, strict=True):
        assert result.clocks.grad_equivalents == steps[c] + 2 * math.ceil(steps[c] / 3)


def test_nothing_is_told_of_a_member_that_has_diverged():
    told = []
    members = members_of("sgd", "!g~")
    cohort.train(Small(), RULES["sgd"][0], members, BUDGET, lambda member, look: told.append((look.step, member)))
    at_first, later = [(0, 0), (0, 1), (0, 2)], [(20, 1), (20, 2), (40, 1), (40, 2), (60, 1), (80, 1), (100, 1)]
    assert told == at_first + later


def test_a_smaller_stack_goes_on_with_its_own_states_and_clipped_fractions():
    """Curves with diagnostics, before and after; the stack is made smaller twice."""
    task, (make, *_) = Small(), RULES["ssvp"]
    members = members_of("ssvp", "!g!~", seeds=[5, 6, 7, 8])
    runs = together(task, make, members, BUDGET)
    expected = alone(task, make, members[1], BUDGET)
    assert_equal(runs[1], expected)
    fractions = [look.diagnostics["clipped_fraction"] for look in runs[1][1][1:]]
    assert len(fractions) == 5 and len(set(fractions)) > 1


def test_a_large_stack_goes_on_with_one_that_has_diverged(made_smaller):
    assert_as_alone(
        Small(), RULES["momentum"][0], members_of("momentum", "g" * 19 + "!"), Budget(epochs=6, evaluations=2)
    )
    assert made_smaller == []
