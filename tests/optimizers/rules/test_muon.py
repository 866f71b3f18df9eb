"""MuonWithAdamW against its two parts, each on its own."""

import copy
import io

import pytest
import torch
from torch import nn

from optimizers import MuonWithAdamW


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(18, 5), nn.Linear(5, 2, bias=False))


def backward(model):
    model.zero_grad()
    x = torch.randn(6, 1, 5, 5, generator=torch.Generator().manual_seed(1))
    loss = model(x).square().mean()
    loss.backward()
    return loss


def assert_equal(first, second):
    for p, q in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(p, q)


def test_matrices_are_muons_and_the_rest_adamws():
    model, other = network(), network()
    both = MuonWithAdamW(model.parameters(), lr=0.01, momentum=0.9, betas=(0.8, 0.99), weight_decay=0.1)
    params = list(other.parameters())
    muon = torch.optim.Muon(
        [p for p in params if p.ndim == 2], lr=0.01, momentum=0.9, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"
    )
    adamw = torch.optim.AdamW([p for p in params if p.ndim != 2], lr=0.01, betas=(0.8, 0.99), weight_decay=0.1)
    for _ in range(5):
        loss = both.step(lambda: backward(model))
        assert loss == backward(other)
        muon.step()
        adamw.step()
        assert_equal(model, other)


@pytest.mark.parametrize("shape", [(3, 2), (3,)])
def test_either_part_may_be_empty(shape):
    param = nn.Parameter(torch.ones(shape))
    optimizer = MuonWithAdamW([param])
    optimizer.step(lambda: param.square().sum().backward())
    assert (param < 1).all()


def test_a_clone_from_a_saved_state_dict_goes_on_to_the_bit():
    model = network()
    optimizer = MuonWithAdamW(model.parameters(), lr=0.01)
    for _ in range(3):
        optimizer.step(lambda: backward(model))
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    clone = copy.deepcopy(model)
    other = MuonWithAdamW(clone.parameters(), lr=1.0)
    other.load_state_dict(torch.load(file, weights_only=True))
    for _ in range(10):
        optimizer.step(lambda: backward(model))
        other.step(lambda: backward(clone))
    assert_equal(model, clone)
    assert {group["lr"] for group in other.param_groups} == {0.01}


def test_schedulers_set_the_lr_of_both():
    model = network()
    optimizer = MuonWithAdamW(model.parameters(), lr=0.5)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    optimizer.step(lambda: backward(model))
    schedule.step()
    assert [group["lr"] for part in optimizer.parts for group in part.param_groups] == [0.25, 0.25]


def test_parameter_groups_are_refused():
    with pytest.raises(ValueError, match="not parameter groups"):
        MuonWithAdamW([{"params": [nn.Parameter(torch.ones(2, 2))]}])
