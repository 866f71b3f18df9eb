"""Layers whose rows are not samples x positions: masks leave padding out, experts get routed rows. By brute force."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from optimizers import GGNMC, GGNExact
from tests.support.networks import Mean, Once, Problem, draw, flat, gauss_newton, per_sample
from tests.support.thinned import thinned

SAMPLES, POSITIONS, WIDTH = 4, 4, 3
STEPS, DRAWS = 50, 20
Lengths = Callable[[int], Tensor]


class Masked(nn.Module):
    """Two linear layers on the positions that count, scattered into zeros, tanh, summed."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(WIDTH, 4), nn.Linear(4, 3)
        self.lengths = torch.full((SAMPLES,), POSITIONS)

    @property
    def mask(self) -> Tensor:
        return torch.arange(POSITIONS) < self.lengths[:, None]

    def forward(self, x: Tensor) -> Tensor:
        rows = self.last(self.first(x[self.mask]).tanh())
        outputs = x.new_zeros(SAMPLES, POSITIONS, 3)
        outputs[self.mask] = rows
        return outputs.tanh().sum(1)


class Joined(Masked):
    """The same by slices: no tensor is indexed by another."""

    def forward(self, x: Tensor) -> Tensor:
        lengths = self.lengths.tolist()
        rows = self.last(self.first(torch.cat([row[:n] for row, n in zip(x, lengths, strict=True)])).tanh())
        return torch.stack([part.tanh().sum(0) for part in rows.split(lengths)])


class Packed(Masked):
    """The same by PyTorch's packed sequences."""

    def forward(self, x: Tensor) -> Tensor:
        packed = pack_padded_sequence(x, self.lengths, batch_first=True, enforce_sorted=False)
        rows = self.last(self.first(packed.data).tanh())
        return pad_packed_sequence(packed._replace(data=rows.tanh()), batch_first=True)[0].sum(1)


class Experts(Masked):
    """The first positions of each sample go to one expert, the others to another."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(SAMPLES, POSITIONS, 4)
        h[self.mask] = self.first(x[self.mask])
        h[~self.mask] = self.other(x[~self.mask])
        return self.last(h.tanh()).sum(1)


def any_lengths(step: int) -> Tensor:
    """All positions at first."""
    stream = torch.Generator().manual_seed(step)
    return torch.randint(1, POSITIONS + 1, (SAMPLES,), generator=stream) if step else torch.full((SAMPLES,), POSITIONS)


def as_many_rows(step: int) -> Tensor:
    """Two of a sample's positions at first; then as many altogether."""
    choices = [c for c in itertools.product(range(1, 5), repeat=SAMPLES) if sum(c) == 8]
    return torch.tensor(choices[7 * step % len(choices)] if step else (2, 2, 2, 2))


def problems(network: type[Masked], lengths: Lengths) -> Iterator[Problem]:
    torch.manual_seed(1)
    given = Problem(network().double(), draw(SAMPLES, POSITIONS, WIDTH), per_sample)
    for step in range(STEPS):
        given.x = draw(SAMPLES, POSITIONS, WIDTH, seed=step)
        given.model.lengths = lengths(step)
        yield given


def expected_of(given: Problem) -> Tensor:
    if isinstance(given.model, Packed):  # which jacrev cannot differentiate
        twin = Masked().double()
        twin.load_state_dict(given.model.state_dict())
        twin.lengths = given.model.lengths
        given = Problem(twin, given.x, given.loss)
    return flat(gauss_newton(given))


@pytest.mark.parametrize("lengths", [any_lengths, as_many_rows])
@pytest.mark.parametrize("network", thinned([Masked, Joined, Packed, Experts], 2))
@pytest.mark.parametrize("estimator", [GGNExact(), GGNMC()], ids=["ggn_exact", "ggn_mc"])
def test_estimates_are_unbiased_whatever_rows_a_batch_has(estimator, network: type[Masked], lengths: Lengths) -> None:
    memory: dict[str, object] = {}
    misses, sizes, scatter = [], [], []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for step, given in enumerate(problems(network, lengths)):
            once = Once(estimator, given, given.params, seed=step, memory=memory)
            drawn, expected = torch.stack([flat(once()) for _ in range(DRAWS)]), expected_of(given)
            misses.append(drawn.mean(0) - expected)
            scatter.append(drawn.var(0) / len(drawn))
            sizes.append(expected)
    assert len(caught) <= 1 and all("finds its samples mixed" in str(w.message) for w in caught)
    miss, error = torch.stack(misses).sum(0), torch.stack(scatter).sum(0).sqrt()
    exact = torch.stack(misses).norm() < 1e-9 * torch.stack(sizes).norm()
    assert exact or (miss.abs() < 5 * error + 1e-12).all()
    assert miss.norm() < 0.15 * torch.stack(sizes).sum(0).norm()


@pytest.mark.parametrize("estimator", [GGNExact, partial(GGNMC, samples=4000)], ids=["ggn_exact", "ggn_mc"])
def test_a_first_batch_that_is_full_does_not_settle_what_follows(estimator) -> None:
    """The case that was 0.54 wrong."""
    given, memory = next(problems(Masked, any_lengths)), {}
    Once(GGNExact(), given, given.params, memory=memory)()
    given.model.lengths = torch.tensor([1, 2, 4, 1])
    once = Once(estimator(), given, given.params, memory=memory)
    with pytest.warns(UserWarning, match="finds its samples mixed"):
        found = flat(once())
    if isinstance(once.estimator, GGNExact):
        found = sum(flat(once()) for _ in range(4000)) / 4000
    expected = flat(gauss_newton(given))
    assert (found - expected).norm() < 0.06 * expected.norm()


@pytest.mark.parametrize("network", [Masked, Experts])
def test_full_batches_are_exact(network: type[Masked]) -> None:
    given = next(problems(network, any_lengths))
    found, expected = Once(GGNExact(), given, given.params)(), gauss_newton(given)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-14)


def test_sequences_as_long_as_their_batch_stay_exact_without_a_word() -> None:
    """Rows per sample change, in a way that is understood."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(WIDTH, 4), nn.Tanh(), nn.Linear(4, 3), Mean()).double()
    given, memory = Problem(model, draw(1), per_sample), {}
    for positions in (2, 5, 3, 2):
        given.x = draw(SAMPLES, positions, WIDTH, seed=positions)
        found = Once(GGNExact(), given, given.params, memory=memory)()
        torch.testing.assert_close(found, gauss_newton(given), rtol=1e-9, atol=1e-14)


def test_looks_at_every_refresh_are_paid_for() -> None:
    given = next(problems(Masked, any_lengths))
    plain = Problem(nn.Sequential(nn.Linear(WIDTH, 3), Mean()).double(), given.x, per_sample)
    costs = [(once := Once(GGNMC(), p, p.params)).estimator.cost(once.refresh) for p in (plain, given)]
    assert costs == [2 / 3, 3 * 2 / 3]
