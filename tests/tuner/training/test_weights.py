"""Weights of complete runs: those of a plain loop, those that the last evaluation saw, and what bytes give back."""

import json
import struct

import pytest
import torch
from safetensors.torch import load
from torch import nn

from tests.support.members import RTOL, Embedded, Small, alone, convolutional, normalised, of, perceptron
from tuner.training import checkpoint, stack
from tuner.training.engine import Engine
from tuner.training.loop import drained
from tuner.training.records import Budget, Saving, Snapshot
from tuner.training.single import train
from tuner.training.stack import Member
from tuner.training.weights import ABOUT, pack, unpack, weights_of

BUDGET = Budget(epochs=2, evaluations=3, test=True, keep_weights=True)
ADAM = of(torch.optim.Adam)


def kept(task, make=ADAM, member=Member({"lr": 1e-2}, 3), engine=Engine()):  # noqa: B008  (both are frozen)
    result = train(task, make, member.hp, member.seed, BUDGET, engine=engine)
    return result, result.weights


def assert_same(weights, others):
    assert list(weights) == list(others)
    assert all(
        weights[name].dtype == others[name].dtype and torch.equal(weights[name], others[name]) for name in others
    )


@pytest.mark.parametrize("network", [perceptron, normalised, convolutional, Embedded])
def test_they_are_those_of_a_plain_loop_to_the_bit(network):
    task = Small(network)
    torch.manual_seed(3)
    model = task.build(3)
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for epoch in range(BUDGET.epochs):
        for inputs, targets in task.batches(3, epoch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
    result, weights = kept(task)
    assert result.status == "complete"
    assert_same(weights, model.state_dict())
    assert any(not torch.equal(weights[name], start[name]) for name in start)
    buffers = dict(model.named_buffers())
    assert all(not torch.equal(weights[name], start[name]) for name in buffers) and buffers.keys() <= weights.keys()


@pytest.mark.parametrize("network", [perceptron, normalised, Embedded])
def test_those_of_a_stacks_members_are_those_of_each_alone(network):
    task = Small(network)
    members = [Member({"lr": lr}, seed) for lr, seed in ((1e-2, 3), (3e-2, 0), (1e-2, 4))]
    results = stack.train(task, ADAM, members, BUDGET)
    assert [result.cohort for result in results] == [3, 3, 3]
    for member, result in zip(members, results, strict=True):
        _, expected = kept(task, ADAM, member)
        assert list(result.weights) == list(expected)
        for name, tensor in expected.items():
            torch.testing.assert_close(result.weights[name], tensor, rtol=RTOL, atol=1e-12)
    first, second = (results[place].weights for place in (0, 1))
    assert all(first[name].data_ptr() != second[name].data_ptr() for name in first)
    assert any(not torch.equal(first[name], second[name]) for name in first)


def test_a_member_that_diverged_has_none_and_the_others_have_theirs():
    task = Small()
    make, members = of(torch.optim.SGD), [Member({"lr": lr}, 3) for lr in (1e-2, 1e9, 1e-1)]
    results = stack.train(task, make, members, BUDGET)
    assert [result.status for result in results] == ["complete", "diverged", "complete"]
    assert results[1].weights is None
    for place in (0, 2):
        expected = kept(task, make, members[place])[1]
        for name, tensor in expected.items():
            torch.testing.assert_close(results[place].weights[name], tensor, rtol=RTOL, atol=1e-12)


def test_a_run_that_is_not_asked_to_keep_them_does_not():
    result, _ = alone(Small(), ADAM, Member({"lr": 1e-2}, 3))
    assert result.status == "complete" and result.weights is None


def evaluated_again(task, weights, result):
    """What a new network with these weights comes to, and what the run's last evaluation did."""
    model = task.build(11)
    model.load_state_dict(weights)
    return task.evaluate(model, "test"), {name: result.metrics[f"test_{name}"] for name in ("loss", "errors")}


class TwoPlaces(torch.optim.SGD):
    """Trains one unit away from the weights that it wants to be evaluated."""

    at = 0.0

    def train(self):
        self._move(1.0)

    def eval(self):
        self._move(0.0)

    @torch.no_grad()
    def _move(self, to):
        for param in self.param_groups[0]["params"]:
            param += to - self.at
        self.at = to


def test_of_an_optimizer_with_modes_they_are_those_of_evaluation():
    task = Small()
    _, weights = kept(task, of(TwoPlaces), Member({"lr": 0.0}, 3))
    for name, tensor in task.build(3).state_dict().items():  # a learning rate of zero leaves them there
        torch.testing.assert_close(weights[name], tensor, rtol=0, atol=1e-14)


def test_of_schedule_free_they_are_its_average():
    pytorch_optimizer = pytest.importorskip("pytorch_optimizer")
    made = []

    def make(params, hp):
        made.append(pytorch_optimizer.ScheduleFreeAdamW(params, **hp))
        return made[-1]

    task = Small(normalised)
    result, weights = kept(task, make, Member({"lr": 3e-2}, 3))
    found, expected = evaluated_again(task, weights, result)
    assert found == expected
    params = [param for group in made[0].param_groups for param in group["params"]]
    averaged = [param.detach().clone() for param in params]
    made[0].train()
    names = [name for name, _ in task.build(3).named_parameters()]
    for name, average, trained in zip(names, averaged, params, strict=True):
        assert torch.equal(weights[name], average) and not torch.equal(weights[name], trained)


def test_a_run_that_goes_on_from_a_snapshot_has_the_same():
    task, members = Small(normalised), [Member({"lr": 1e-2}, 3), Member({"lr": 3e-2}, 4)]
    expected = stack.train(task, ADAM, members, BUDGET)
    states = []

    def note(yielded):
        if isinstance(yielded, Snapshot):
            states.append(checkpoint.pack(yielded.state))

    drained(stack.training(task, ADAM, members, BUDGET, saving=Saving(every_s=0.0)), note)
    state = checkpoint.unpack(states[len(states) // 2])
    again = drained(stack.training(task, ADAM, members, BUDGET, saving=Saving(state)), lambda yielded: None)
    for result, other in zip(again, expected, strict=True):
        assert_same(result.weights, other.weights)


@pytest.mark.parametrize("engine", [Engine(), Engine(channels_last=True), Engine(schedule="cosine")], ids=str)
@pytest.mark.parametrize("network", [convolutional, Embedded])
def test_a_new_network_with_them_is_evaluated_as_the_run_was(network, engine):
    task = Small(network)
    result, weights = kept(task, engine=engine)
    assert all(tensor.is_contiguous() for tensor in weights.values())
    found, expected = evaluated_again(task, unpack(pack(weights, {})), result)
    assert found == pytest.approx(expected, rel=1e-12)


# Bytes.


def test_bytes_give_back_each_tensor_to_the_bit_whatever_its_type_and_layout():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            whole = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
            self.upper, self.lower = nn.Parameter(whole[:3]), nn.Parameter(whole[3:])  # of one memory
            self.turned, self.tied = nn.Parameter(whole.T), self.upper
            self.register_buffer("brief", whole.to(torch.bfloat16))
            self.register_buffer("count", torch.tensor(2**60 + 1))
            self.register_buffer("flag", torch.tensor([True, False]))
            self.register_buffer("none", torch.zeros(0, 3, dtype=torch.float64))
            self.register_buffer("spread", torch.ones(1).expand(5))
            self.register_buffer("passing", torch.ones(1), persistent=False)

    model = Odd()
    weights = weights_of(model)
    found = unpack(pack(weights, {}))
    assert found.keys() == model.state_dict().keys() == weights.keys() and "passing" not in found
    assert_same({name: found[name] for name in weights}, model.state_dict())
    with torch.no_grad():
        model.upper.zero_()
    assert weights["tied"].abs().sum() > 0  # a copy


def test_the_same_weights_are_the_same_bytes_and_say_what_they_are():
    weights = {"b": torch.ones(2), "a": torch.zeros(3)}
    about = {"optimizer": "x.y", "seed": 3, "hp": {"lr": 1e-3, "betas": [0.9, 0.99]}}
    contents = {pack(weights, about) for _ in range(20)}
    assert len(contents) == 1
    (content,) = contents
    length = struct.unpack("<Q", content[:8])[0]  # as the format's specification has it
    header = json.loads(content[8 : 8 + length])
    assert json.loads(header["__metadata__"][ABOUT]) == about
    assert header["b"]["shape"] == [2] and load(content)["b"].tolist() == [1, 1]


def test_a_network_whose_state_holds_more_than_tensors_is_refused():
    class Telling(nn.Linear):
        def get_extra_state(self):
            return {"a": 1}

    with pytest.raises(TypeError, match=r"^0\._extra_state is no tensor but a dict$"):
        weights_of(nn.Sequential(Telling(1, 1)))
