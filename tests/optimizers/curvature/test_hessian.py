"""The whole diagonal: its mean over all random signs, to rounding, and over draws, against brute force."""

import warnings

import pytest
import torch

from optimizers.curvature import hessian, output_hessian
from optimizers.curvature.hessian import HessianMC
from tests.support.networks import Once, flat
from tests.support.smooth_networks import ACTIVATIONS, LOSSES, NETWORKS, hessian_diagonal, smooth


def mean_over_signs(given, monkeypatch, **options):
    """The estimate is a quadratic form of its signs: its mean is the form's trace, found by one sign at a time."""
    once = Once(HessianMC(**options), given, given.params)
    place = {"next": 0, "one": -1}

    def signs(like, generator):
        count = sum(t.numel() for t in like)
        drawn = torch.zeros(count, dtype=like[0].dtype)
        if 0 <= place["one"] - place["next"] < count:
            drawn[place["one"] - place["next"]] = 1
        place["next"] += count
        return [part.view(t.shape) for part, t in zip(drawn.split([t.numel() for t in like]), like, strict=True)]

    for module in (hessian, output_hessian):
        monkeypatch.setattr(module, "random_signs", signs)

    def of(one):
        place.update(next=0, one=one)
        return flat(once())

    constant = of(-1)
    signs_drawn = place["next"]
    return constant + sum(of(one) - constant for one in range(signs_drawn)), once


@pytest.mark.parametrize("name", [*NETWORKS, *ACTIVATIONS])
def test_the_mean_over_all_signs_is_the_hessians_diagonal(name, monkeypatch):
    given = smooth(name)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*knows no layer")
        found, once = mean_over_signs(given, monkeypatch)
    expected = hessian_diagonal(given)
    assert not once.refresh.record.lost
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-12 * expected.abs().max().item())


@pytest.mark.parametrize("loss", LOSSES)
def test_of_other_losses_too(loss, monkeypatch):
    given = smooth("2 hidden, tanh", LOSSES[loss])
    found, _ = mean_over_signs(given, monkeypatch)
    torch.testing.assert_close(found, hessian_diagonal(given), rtol=1e-8, atol=1e-12)
