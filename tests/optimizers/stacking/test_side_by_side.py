"""A joined optimizer has one tensor for those of a group, and is what it was when it is taken apart."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optimizers.stacking.as_one import NotAsOneError
from optimizers.stacking.direct import Stacked
from optimizers.stacking.entries import Entries, EntriesAlone
from optimizers.stacking.flat import Places
from optimizers.stacking.joining import join, part
from optimizers.stacking.member_numbers import MemberNumbers
from optimizers.stacking.side_by_side import SideBySide

SHAPES = [torch.Size([2, 3]), torch.Size([3]), torch.Size([4, 2])]
RATES = [0.1, 0.2, 0.3]
MEMBERS = len(RATES)


def draw(shape: torch.Size, generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


class Case:
    """Members' optimizers after two steps, joined over parameters that lie in a buffer."""

    def __init__(self, make: Any) -> None:
        generator = torch.Generator().manual_seed(0)
        self.own = [[nn.Parameter(draw(shape, generator)) for shape in SHAPES] for _ in RATES]
        self.members = [make(own, lr=rate) for own, rate in zip(self.own, RATES, strict=True)]
        self.generator = generator
        self.step(2)
        self.places = Places(SHAPES)
        self.buffer = self.places.buffer([torch.stack([p.detach() for p in e]) for e in zip(*self.own, strict=True)])
        self.params = [view.as_subclass(Stacked) for view in self.places.views(self.buffer)]
        self.joined = join(self.members, self.own, self.params)

    def step(self, steps: int) -> list[list[Tensor]]:
        """Of each member; their gradients at the last one."""
        grads: list[list[Tensor]] = []
        for _ in range(steps):
            grads = [[draw(shape, self.generator) for shape in SHAPES] for _ in RATES]
            for own, given, member in zip(self.own, grads, self.members, strict=True):
                for param, grad in zip(own, given, strict=True):
                    param.grad = grad.clone()
                member.step()
        return grads


def two_groups(params: list[nn.Parameter], lr: float) -> torch.optim.Optimizer:
    return torch.optim.RMSprop([{"params": params[:2]}, {"params": params[2:], "lr": lr / 2}], lr)


class Counting(torch.optim.RMSprop):
    """Keeps numbers and containers of tensors, too."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        super().step()
        for param in (param for group in self.param_groups for param in group["params"]):
            kept = self.state[param].setdefault("kept", {"count": 0, "last": [None], "rate": 0.5})
            kept["count"] += 1
            kept["last"] = [param.grad * kept["count"]]
            param.sub_(kept["last"][0], alpha=kept["rate"])


@pytest.mark.parametrize("make", [torch.optim.RMSprop, torch.optim.Adagrad, two_groups, Counting])
def test_a_step_for_tensors_side_by_side_is_each_tensors_own(make: Any) -> None:
    case = Case(make)
    beside = SideBySide(case.joined, case.params, case.buffer)
    assert [group["params"] for group in case.joined.param_groups] == [[group.param] for group in beside.groups]
    grads = [torch.stack(each) for each in zip(*case.step(1), strict=True)]
    for group, whole in zip(beside.groups, beside.grads(grads), strict=True):
        group.param.grad = whole
    with torch.no_grad(), EntriesAlone(MEMBERS):
        case.joined.step()
    for param, each in zip(case.params, zip(*case.own, strict=True), strict=True):
        torch.testing.assert_close(param.as_subclass(Tensor), torch.stack([p.detach() for p in each]))
    others = [object.__new__(type(case.joined)) for _ in RATES]
    for row, (other, own, member) in enumerate(zip(others, case.own, case.members, strict=True)):
        part(beside.apart(), other, row, own, case.params)
        torch.testing.assert_close(other.state_dict(), member.state_dict())


def test_gradients_that_are_kept_are_not_written_over() -> None:
    case = Case(torch.optim.RMSprop)
    beside = SideBySide(case.joined, case.params, case.buffer)
    kept = beside.grads([torch.ones(MEMBERS, *shape) for shape in SHAPES])[0].detach()
    for value in (2.0, 3.0, 4.0):
        (whole,) = beside.grads([torch.full((MEMBERS, *shape), value) for shape in SHAPES])
        assert case.places.views(whole.as_subclass(Tensor))[2].unique().tolist() == [value]
    assert case.places.views(kept)[2].unique().tolist() == [1.0]
    with pytest.raises(NotAsOneError, match="no gradient"):
        beside.grads([torch.ones(MEMBERS, *SHAPES[0]), None, None])


def matrices_first(params: list[nn.Parameter], lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([{"params": [params[0], params[2]]}, {"params": params[1:2]}], lr)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda o, s: vars(o).update(kept=s[0]), "beside its state"),
        (lambda o, s: vars(o).update(kept=[{"m": torch.ones(MEMBERS, 3).as_subclass(Stacked)}]), "beside its state"),
        (lambda o, s: vars(o).update(same=o.param_groups), "beside its state"),
        (lambda o, s: o.state[s[0]].update(square_avg=s[0].as_subclass(Tensor)[:, 0]), "share memory"),
        (lambda o, s: o.state[s[1]].update(step=torch.tensor(7.0)), "something else"),
        (lambda o, s: o.state[s[1]].update(square_avg=torch.ones(MEMBERS, 1).as_subclass(Stacked)), "something else"),
        (lambda o, s: o.state[s[1]].update(rate=MemberNumbers(RATES)), "something else"),
        (lambda o, s: o.state.pop(s[1]), "some parameters only"),
    ],
)
def test_what_is_not_kept_for_each_entry_alone_stays_apart(change: Any, message: str) -> None:
    case = Case(torch.optim.RMSprop)
    change(case.joined, case.params)
    before = [*case.joined.param_groups[0]["params"]]
    with pytest.raises(NotAsOneError, match=message):
        SideBySide(case.joined, case.params, case.buffer)
    assert [*map(id, case.joined.param_groups[0]["params"])] == [*map(id, before)]


def test_groups_that_do_not_lie_side_by_side_stay_apart() -> None:
    case = Case(matrices_first)
    with pytest.raises(NotAsOneError, match="do not lie"):
        SideBySide(case.joined, case.params, case.buffer)
    case = Case(torch.optim.SGD)
    with pytest.raises(NotAsOneError, match="in a buffer"):
        SideBySide(case.joined, case.params, case.buffer.clone())


@pytest.mark.parametrize(
    "act",
    [
        lambda x: x.sum(),
        lambda x: x.shape[0],
        lambda x: [*x.shape],
        lambda x: x.shape == (4,),
        lambda x: torch.zeros(*x.shape),
        lambda x: x.new_zeros(4),
        lambda x: len(x.shape) > 1,
        lambda x: x.ndim,
        lambda x: len(x),
        lambda x: x.view(-1),
        lambda x: x.norm(),
        lambda x: x[0],
        lambda x: torch.zeros(3),
        lambda x: torch.randn_like(x),
        lambda x: x.tolist(),
        lambda x: x @ x,
    ],
)
def test_what_is_not_of_each_entry_alone_is_an_error(act: Any) -> None:
    x = torch.ones(MEMBERS, 4).as_subclass(Entries)
    with EntriesAlone(MEMBERS), pytest.raises(NotAsOneError):
        act(x)


def test_tensors_of_the_same_shape_can_be_made() -> None:
    x = torch.ones(MEMBERS, 4).as_subclass(Entries)
    with EntriesAlone(MEMBERS):
        made = [torch.zeros(x.shape), x.new_ones(x.shape), torch.full(x.shape, 2.0, dtype=x.dtype)]
        results = [x + other for other in made]
    assert [result.as_subclass(Tensor).unique().tolist() for result in results] == [[1.0], [2.0], [3.0]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda optimizer, param: vars(optimizer).update(kept=[param]), "beside its state"),
        (lambda optimizer, param: optimizer.state.update(kept=1), "not of a parameter"),
        (lambda optimizer, param: optimizer.state[param].update(kept=deque([param])), "deque"),
        (lambda optimizer, param: optimizer.state[param].update(kept=OrderedDict(a=param)), "OrderedDict"),
    ],
)
def test_what_was_put_somewhere_else_later_cannot_be_taken_apart(change: Any, message: str) -> None:
    case = Case(torch.optim.RMSprop)
    beside = SideBySide(case.joined, case.params, case.buffer)
    assert beside.apart() is not None
    change(case.joined, beside.groups[0].param)
    with pytest.raises(NotAsOneError, match=message):
        beside.apart()
