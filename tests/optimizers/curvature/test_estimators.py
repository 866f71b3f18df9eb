"""Estimators against Hessians known by hand, from torch.func, or from the Gauss-Newton formula."""

import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call, jacrev
from torch.nn.attention import SDPBackend, sdpa_kernel

from optimizers.curvature.estimators import Exact, HessianVector, Hutchinson, NoCurvature, Secant
from optimizers.curvature.probes import random_signs
from optimizers.curvature.products import hessian_rows, hessian_vector_product
from optimizers.curvature.registry import ESTIMATORS, find_estimator
from tests.support.examples import examples
from tests.support.networks import Keep, Once, problem


def estimate(estimator, loss_function, params, generator=None, **given):
    return Once(estimator, loss_function, params, generator=generator or torch.Generator().manual_seed(0), **given)()


def parameter(*values):
    return nn.Parameter(torch.tensor(values, dtype=torch.float64))


def draw(shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def rosenbrock(x, y):
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


def as_vector(param):
    return [param], lambda: rosenbrock(param[0], param[1])


def as_scalars(x, y):
    return [x, y], lambda: rosenbrock(x, y)


ROSENBROCK = {
    "one vector": lambda: as_vector(parameter(1.5, 1.5)),
    "two scalars": lambda: as_scalars(
        nn.Parameter(torch.tensor(1.5).double()), nn.Parameter(torch.tensor(1.5).double())
    ),
}


def flat(tensors):
    return torch.cat([t.detach().reshape(-1) for t in tensors]).tolist()


@pytest.mark.parametrize("make", ROSENBROCK.values(), ids=ROSENBROCK)
def test_rosenbrock_gradient_and_exact_diagonal(make):
    params, loss = make()
    assert flat(torch.autograd.grad(loss(), params)) == pytest.approx([451, -150])
    assert flat(estimate(Exact(), loss, params)) == pytest.approx([2102, 200])


@pytest.mark.parametrize("make", ROSENBROCK.values(), ids=ROSENBROCK)
def test_rosenbrock_has_two_rademacher_samples_and_both_occur(make):
    params, loss = make()
    generator = torch.Generator().manual_seed(0)
    samples = {tuple(map(round, flat(estimate(Hutchinson(), loss, params, generator)))) for _ in range(20)}
    assert samples == {(1502, -400), (2702, 800)}


def test_rademacher_probes_are_plus_and_minus_one_alike():
    probe = Hutchinson().draw([torch.empty(100, 100)], torch.Generator().manual_seed(0))[0]
    assert set(probe.unique().tolist()) == {-1.0, 1.0}
    assert abs(probe.mean()) < 0.04  # four standard deviations


def test_gaussian_probes_are_standard_normal():
    probe = Hutchinson(probe="gaussian").draw([torch.empty(100, 100)], torch.Generator().manual_seed(0))[0]
    assert abs(probe.mean()) < 0.04 and abs(probe.var() - 1) < 0.06


@pytest.mark.parametrize("probe", ["rademacher", "gaussian"])
@pytest.mark.parametrize("like", [torch.ones(3, 2).t(), torch.tensor(1.0), torch.ones(4, dtype=torch.float64)])
def test_probes_come_from_the_generator_in_the_parameters_shape_and_type(probe, like):
    estimator, generator = Hutchinson(probe=probe), torch.Generator()
    first, second = (estimator.draw([like], generator.manual_seed(4))[0] for _ in range(2))
    assert torch.equal(first, second)
    assert (first.shape, first.dtype) == (like.shape, like.dtype)


@examples(40)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=8), st.integers(0, 2**32))
def test_one_rademacher_probe_is_exact_for_a_diagonal_hessian(diagonal, seed):
    vector, scalar = nn.Parameter(draw((len(diagonal),))), nn.Parameter(draw(()))
    scales = torch.tensor(diagonal, dtype=torch.float64)
    found = estimate(
        Hutchinson(),
        lambda: 0.5 * (scales * vector.square()).sum() + scalar.pow(3),
        [vector, scalar],
        torch.Generator().manual_seed(seed),
    )
    torch.testing.assert_close(found, [scales, 6 * scalar.detach()])


@pytest.mark.parametrize("contiguous", [True, False])
def test_linear_model_with_summed_squares_has_hessian_2_I_kron_XtX(contiguous):
    X, Y, V = draw((10, 4), 1), draw((10, 3), 2), draw((3, 4), 3)
    W = nn.Parameter(draw((3, 4)) if contiguous else draw((4, 3)).t())
    gram = X.T @ X

    def loss():
        return (X @ W.T - Y).square().sum()

    grads = torch.autograd.grad(loss(), [W], create_graph=True)
    torch.testing.assert_close(hessian_vector_product(grads, [W], [V])[0], 2 * V @ gram)
    torch.testing.assert_close(estimate(Exact(), loss, [W])[0], 2 * gram.diagonal().expand(3, 4).contiguous())


def network(activation, seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 6), activation, nn.Linear(6, 3)).double()
    return model, draw((8, 4), 1), torch.arange(8) % 3


def hessian_diagonal(model, loss_of_outputs, x):
    """By torch.func, parameter by parameter."""
    params = {name: p.detach() for name, p in model.named_parameters()}
    blocks = jacrev(jacrev(lambda p: loss_of_outputs(functional_call(model, p, (x,)))))(params)
    return [blocks[n][n].reshape(p.numel(), p.numel()).diagonal().reshape(p.shape) for n, p in params.items()]


def gauss_newton_diagonal(model, x):
    """J^T (diag(p) - p p^T) J / rows, for the mean cross-entropy."""
    params = {name: p.detach() for name, p in model.named_parameters()}
    jacobians = jacrev(lambda p: functional_call(model, p, (x,)))(params)
    prob = model(x).detach().softmax(dim=1)
    inner = torch.diag_embed(prob) - prob[:, :, None] * prob[:, None, :]
    return [
        torch.einsum("ncp,ncd,ndp->p", J, inner, J).reshape(p.shape) / len(x)
        for J, p in ((jacobians[n].flatten(2), p) for n, p in params.items())
    ]


def test_exact_diagonal_of_a_relu_network_is_gauss_newtons_and_not_negative():
    model, x, y = network(nn.ReLU())
    found = estimate(Exact(), lambda: nn.functional.cross_entropy(model(x), y), list(model.parameters()))
    torch.testing.assert_close(found, gauss_newton_diagonal(model, x))
    assert all((h >= -1e-15).all() for h in found) and any((h > 1e-3).any() for h in found)


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.Tanh()])
def test_exact_diagonal_of_a_network_is_torch_funcs(activation):
    model, x, y = network(activation)
    found = estimate(Exact(), lambda: nn.functional.cross_entropy(model(x), y), list(model.parameters()))
    torch.testing.assert_close(found, hessian_diagonal(model, lambda out: nn.functional.cross_entropy(out, y), x))


@pytest.mark.parametrize(("probe", "own_share"), [("rademacher", 0.0), ("gaussian", 2.0)])
def test_hutchinson_is_unbiased_with_the_known_variance(probe, own_share):
    H = draw((4, 4)) + draw((4, 4)).T
    param, n = nn.Parameter(draw((4,), 1)), 1500
    generator = torch.Generator().manual_seed(0)
    estimator = Hutchinson(probe=probe)
    samples = torch.stack(
        [estimate(estimator, lambda: 0.5 * param @ H @ param, [param], generator)[0] for _ in range(n)]
    )
    diagonal = H.diagonal()
    variance = H.square().sum(dim=1) - diagonal.square() + own_share * diagonal.square()
    assert ((samples.mean(dim=0) - diagonal).abs() < 4 * (variance / n).sqrt()).all()
    torch.testing.assert_close(samples.var(dim=0), variance, rtol=0.25, atol=0)


@pytest.mark.parametrize("probe", ["rademacher", "gaussian"])
def test_hutchinson_error_falls_with_the_root_of_the_samples(probe):
    H = draw((30, 30)) + draw((30, 30)).T
    param = nn.Parameter(draw((30,), 1))

    def error(samples):
        found = estimate(Hutchinson(samples, probe), lambda: 0.5 * param @ H @ param, [param])[0]
        return (found - H.diagonal()).square().mean().sqrt().item()

    assert error(4) / error(400) == pytest.approx(10, rel=0.4)


DIFFERENTIATING = ["hutchinson", "exact", "hvp"]


@pytest.mark.parametrize("estimator", [*DIFFERENTIATING, "none"])
def test_a_loss_linear_in_a_parameter_has_zero_curvature_there(estimator):
    linear, bent = parameter(1.0, 2.0), parameter(3.0)
    found = estimate(find_estimator(estimator), lambda: 3 * linear.sum() + bent.pow(2).sum(), [linear, bent])
    assert found[0].tolist() == [0, 0]
    assert found[1].tolist() == ([0] if estimator == "none" else [2])
    assert estimate(find_estimator(estimator), lambda: linear.sum(), [linear])[0].tolist() == [0, 0]


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_estimates_have_the_parameters_shapes_and_dtypes(estimator):
    params = [nn.Parameter(torch.ones(3, 2).t()), nn.Parameter(torch.tensor(2.0))]

    def closure():
        outputs = (params[0].pow(3) * params[1]).sum(0)
        return outputs.square().sum(), outputs

    optimizer = Keep(params, estimator)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # no layer uses these parameters
        optimizer.step(closure)
    assert [(h.shape, h.dtype) for h in optimizer.curvatures] == [(p.shape, p.dtype) for p in params]


@pytest.mark.parametrize(("name", "kind"), [("hutchinson", Hutchinson), ("exact", Exact), ("none", NoCurvature)])
def test_estimators_are_found_by_name(name, kind):
    assert type(find_estimator(name)) is kind


def test_an_estimator_is_taken_as_it_is():
    estimator = Hutchinson(samples=3)
    assert find_estimator(estimator) is estimator


@pytest.mark.parametrize(("name", "nearest"), [("hutchison", "hutchinson"), ("exakt", "exact"), ("None", "none")])
def test_an_unknown_name_is_refused_with_the_nearest(name, nearest):
    with pytest.raises(ValueError, match=f"'{name}'.*did you mean '{nearest}'"):
        find_estimator(name)


@pytest.mark.parametrize("arguments", [{"samples": 0}, {"probe": "uniform"}])
def test_hutchinson_refuses_arguments_out_of_range(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        Hutchinson(**arguments)


def test_nominal_costs_are_two_gradients_per_hessian_vector_product():
    params = [nn.Parameter(torch.ones(3, 2)), nn.Parameter(torch.ones(()))]

    def cost(estimator):
        return estimator.cost(Once(estimator, lambda: params[0].sum() + params[1], params).refresh)

    assert cost(Hutchinson(samples=5)) == 10
    assert cost(Exact()) == 14
    assert cost(HessianVector()) == 2
    assert cost(Secant()) == cost(NoCurvature()) == 0


@pytest.mark.parametrize("wrong", [None, Hutchinson, 3])
def test_what_is_neither_a_name_nor_an_estimator_is_refused(wrong):
    with pytest.raises(ValueError, match=r"estimator must be one of hutchinson, .*, none, or an Estimator"):
        find_estimator(wrong)


@pytest.mark.parametrize("probe", ["gaussian", "rademacher"])
def test_a_mapping_gives_the_arguments(probe):
    found = find_estimator({"name": "hutchinson", "samples": 2, "probe": probe})
    assert (type(found), found.samples, found.probe) == (Hutchinson, 2, probe)


def test_gaussian_probes_by_a_mapping_in_an_optimizer():
    """A Gaussian probe of a diagonal Hessian 2 I gives 2 v^2: two Rademacher probes would give 2."""
    param = parameter(*[0.5] * 4000)
    optimizer = Keep([param], {"name": "hutchinson", "probe": "gaussian"})
    optimizer.step(lambda: param.square().sum())
    found = optimizer.curvatures[0]
    assert found.mean() == pytest.approx(2, abs=0.2) and found.var() == pytest.approx(8, rel=0.25)


@pytest.mark.parametrize("arguments", [{"probes": 3}, {"samples": 2, "sign": 1}])
def test_an_unknown_argument_is_refused(arguments):
    with pytest.raises(ValueError, match=r"estimator hutchinson: .*unexpected keyword"):
        find_estimator({"name": "hutchinson", **arguments})


class Momentum(Keep):
    """Keeps a momentum, as the clipped rules do."""

    def __init__(self, params, **options):
        super().__init__(params, "hvp", **options)
        self.param_groups[0] |= {"betas": (0.75, 0.9), "rho": 0.5}

    @staticmethod
    def update(param, grad, curvature, state, hp):
        momentum = state.get("momentum", torch.zeros_like(grad)).lerp(grad, 1 - hp["betas"][0])
        return param - hp["lr"] * grad, {"momentum": momentum, "curvature": curvature}


def test_hvp_multiplies_the_hessian_with_the_sign_of_the_momentum_with_this_steps_gradient_in_it():
    H = draw((5, 5)) + draw((5, 5)).T
    param = nn.Parameter(draw((5,), 1))
    optimizer = Momentum([param], lr=0.3)
    momentum, directions = torch.zeros(5).double(), set()
    for _ in range(12):
        grad = H @ param.detach()
        direction = -0.5 * (0.75 * momentum + 0.25 * grad).sign()
        # With last step's momentum, or with the gradient alone, the product would be another one.
        directions |= {torch.equal(direction, -0.5 * m.sign()) for m in (momentum, grad)}
        momentum = 0.75 * momentum + 0.25 * grad
        optimizer.step(lambda: 0.5 * param @ H @ param)
        torch.testing.assert_close(optimizer.curvatures[0], H @ direction)
    assert directions == {True, False}


@pytest.mark.parametrize("period", [1, 3])
def test_secant_is_the_squared_difference_of_consecutive_gradients(period):
    param, curvatures, gradients = parameter(1.0, -2.0), [], []
    optimizer = Keep([param], "secant", lr=1e-4, update_period=period)
    for _ in range(7):
        x, y = param.tolist()
        gradients.append(torch.tensor([-2 * (1 - x) - 400 * x * (y - x**2), 200 * (y - x**2)]).double())
        optimizer.step(lambda: rosenbrock(param[0], param[1]) * 1.0)
        curvatures.append(optimizer.curvatures[0])
    torch.testing.assert_close(curvatures[0], torch.zeros(2).double())
    for step in range(period, 7, period):
        torch.testing.assert_close(
            curvatures[step], (gradients[step] - gradients[step - 1]).square(), rtol=1e-5, atol=0
        )


NETWORKS = ["linear", "relu", "convolution", "batch norm", "attention"]


def hessian_blocks(given):
    """By torch.func, all at once."""
    params = {name: p.detach() for name, p in given.model.named_parameters()}
    buffers = {name: b.clone() for name, b in given.model.named_buffers()}

    def loss(values):
        return given.loss(
            functional_call(given.model, (values, {n: b.clone() for n, b in buffers.items()}), (given.x,))
        )

    with sdpa_kernel(SDPBackend.MATH):
        blocks = jacrev(jacrev(loss))(params)
    return [blocks[name][name].reshape(p.numel(), p.numel()) for name, p in params.items()]


@pytest.mark.parametrize("name", NETWORKS)
def test_rows_of_the_hessian_and_its_exact_diagonal_on_every_kind_of_network(name):
    given = problem(name)
    expected = hessian_blocks(given)
    once = Once(Exact(), given, given.params)
    torch.testing.assert_close(
        once(), [H.diagonal().reshape(p.shape) for H, p in zip(expected, given.params, strict=True)]
    )
    for param, grad, H in zip(given.params, once.refresh.grads, expected, strict=True):
        start, stop = len(H) // 3, len(H) // 3 + 2
        torch.testing.assert_close(hessian_rows(param, grad, start, min(stop, len(H))), H[start:stop])
        torch.testing.assert_close(hessian_rows(param, grad, 0, len(H)), H)


def test_the_exact_diagonal_does_not_depend_on_how_many_rows_come_at_once(monkeypatch):
    given = problem("convolution")
    expected = Once(Exact(), given, given.params)()
    monkeypatch.setattr("optimizers.curvature.estimators.ROWS_AT_ONCE", 7)
    torch.testing.assert_close(Once(Exact(), given, given.params)(), expected)


def test_random_signs_of_several_tensors_are_independent_and_fair():
    like = [torch.empty(40, 50), torch.empty((), dtype=torch.float64), torch.empty(0, 3), torch.empty(7)]
    draws = [random_signs(like, generator) for generator in [torch.Generator().manual_seed(5)] for _ in range(200)]
    assert [(s.shape, s.dtype) for s in draws[0]] == [(t.shape, t.dtype) for t in like]
    flat = torch.stack([torch.cat([s.double().reshape(-1) for s in signs]) for signs in draws])
    assert flat.abs().eq(1).all()
    n, entries = flat.shape
    assert abs(flat.mean()) < 4 / (n * entries) ** 0.5
    assert flat.mean(dim=0).abs().max() < 5 / n**0.5
    neighbours = (flat[:, 1:] * flat[:, :-1]).mean()
    word_apart = (flat[:, 64:] * flat[:, :-64]).mean()
    assert max(abs(neighbours), abs(word_apart)) < 4 / (n * entries) ** 0.5
