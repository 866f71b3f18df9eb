"""Replays: a function traced once gives, on inputs it has not seen, what the function itself gives."""

import pytest
import torch
from torch import nn

from optimizers.stacking.replay import Traced, signature

CALLS = 6  # more than it takes until a function is replayed


def draw(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def noted(function):
    """It, traced; and a list that grows when the function itself runs."""
    runs = []

    def noting(*inputs):
        runs.append(len(inputs))
        return function(*inputs)

    return Traced(noting), runs


def assert_replayed(function, inputs, calls=CALLS, rtol=1e-12):
    """It gives the function's own outputs at every call, and no longer runs it at the last ones."""
    traced, runs = noted(function)
    for call in range(calls):
        given = inputs(call)
        before = len(runs)
        found, expected = traced(*given), function(*given)
        assert len(found) == len(expected)
        for output, own in zip(found, expected, strict=True):
            assert (output is None) == (own is None)
            if own is not None:
                torch.testing.assert_close(output, own, rtol=rtol, atol=1e-12, check_stride=False)
    assert len(runs) == before < calls
    return found


def two(call):
    return draw(3, 4, seed=call), draw(4, seed=100 + call)


PLAIN = {
    "arithmetic": lambda a, b: [a * b + 1.0, (a - b).exp(), a.sum()],
    "products": lambda a, b: [a @ b, torch.outer(b, b), torch.einsum("ij,j->i", a, b)],
    "views": lambda a, b: [
        a.view(2, 6),
        a.t().reshape(-1),
        a[1:],
        a.expand(2, 3, 4),
        b[None].expand(3, 4).contiguous(),
    ],
    "several outputs": lambda a, b: [*a.topk(2), *a.split(2), *torch.linalg.qr(a)],
    "an output twice, an input, and none": lambda a, b: [a, None, (c := a * 2), c, None, b.detach()],
    "numbers of many kinds": lambda a, b: [
        a.clamp(min=-float("inf"), max=0.5),
        a.to(torch.float32),
        a.sum(dtype=torch.float64),
    ],
    "indices": lambda a, b: [a[:, torch.tensor([2, 0])], torch.where(a > 0, a, b), a.gather(1, a.argsort())],
    "constants": lambda a, b: [
        a + torch.arange(4),
        torch.ones(3, 2).cumsum(0),
        torch.eye(4).double() @ b,
        torch.zeros(2),
    ],
    "conditions": lambda a, b: [torch.maximum(a, b), a.isnan(), (a > b).any(), a.amax(1)],
}


@pytest.mark.parametrize("function", PLAIN)
def test_a_replay_equals_the_function_on_new_inputs(function):
    assert_replayed(PLAIN[function], two)


def test_gradients_are_replayed():
    """Of an input; ``None`` for one that is not used; without a graph of their own."""

    def gradients(a, b, unused):
        return torch.autograd.grad((a @ b).cos().sum(), [a, b, unused], allow_unused=True)

    def inputs(call):
        return [tensor.requires_grad_() for tensor in (*two(call), draw(2))]

    *_, nothing = found = assert_replayed(gradients, inputs)
    assert nothing is None and not any(grad.requires_grad for grad in found[:2])


def test_hessian_vector_products_of_a_stack_are_replayed():
    """Against the closed form: of sum cos(x) it is -cos(x) v."""

    def products(x, v):
        losses = torch.vmap(lambda own: own.cos().sum())(x)
        (grad,) = torch.autograd.grad(losses.sum(), x, create_graph=True)
        return [grad, *torch.autograd.grad(grad, x, v)]

    traced = Traced(products)
    for call in range(CALLS):
        x, v = draw(3, 5, seed=call).requires_grad_(), draw(3, 5, seed=100 + call)
        grad, product = traced(x, v)
        torch.testing.assert_close(grad, -x.sin())
        torch.testing.assert_close(product, -x.cos() * v)
    assert not product.requires_grad and not grad.requires_grad


def test_attention_and_convolutions_are_replayed():
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(4, 2, batch_first=True).double()
    convolution = nn.Conv1d(5, 2, 3).double()

    def network(x):
        y, weights = attention(x, x, x)
        return [convolution(y), weights]

    assert_replayed(network, lambda call: [draw(2, 5, 4, seed=call)])


def test_changes_in_place_of_an_input_happen_at_each_call():
    """BatchNorm's running mean and count, against its definition."""
    count, mean = torch.zeros((), dtype=torch.int64), torch.zeros(4, dtype=torch.float64)

    def normalised(x, mean, count):
        count.add_(1)
        return [nn.functional.batch_norm(x, mean, torch.ones(4, dtype=torch.float64), training=True, momentum=0.1)]

    traced, runs = noted(normalised)
    expected = torch.zeros(4, dtype=torch.float64)
    for call in range(CALLS):
        x = draw(6, 4, seed=call)
        (found,) = traced(x, mean, count)
        expected = 0.9 * expected + 0.1 * x.mean(0)
        torch.testing.assert_close(mean, expected)
        deviation = (x.var(0, unbiased=False) + 1e-5).sqrt()
        torch.testing.assert_close(found, (x - x.mean(0)) / deviation)
        assert count == call + 1
    assert len(runs) < CALLS


def test_batch_norm_of_a_stack_changes_each_members_buffers():
    """With the first dimension that of three members."""
    network = nn.BatchNorm1d(4).double()

    def member(mean, variance, count, x):
        state = {"running_mean": mean, "running_var": variance, "num_batches_tracked": count}
        return torch.func.functional_call(network, state, (x,))

    traced, runs = noted(lambda *given: [torch.vmap(member)(*given)])
    mean, variance = torch.zeros(3, 4, dtype=torch.float64), torch.ones(3, 4, dtype=torch.float64)
    count = torch.zeros(3, dtype=torch.int64)
    alone = [nn.BatchNorm1d(4).double() for _ in range(3)]
    for call in range(CALLS):
        x = draw(3, 6, 4, seed=call)
        (found,) = traced(mean, variance, count, x)
        torch.testing.assert_close(found, torch.stack([own(rows) for own, rows in zip(alone, x, strict=True)]))
        torch.testing.assert_close(mean, torch.stack([own.running_mean for own in alone]))
        torch.testing.assert_close(variance, torch.stack([own.running_var for own in alone]))
        assert count.tolist() == [call + 1] * 3
    assert len(runs) < CALLS


INSIDE = {
    "a new tensor": lambda a, b: [torch.zeros(4, dtype=a.dtype).add_(b)],
    "a view of a new tensor": lambda a, b: [fill(torch.zeros(3, 4, dtype=a.dtype), lambda new: new[1].add_(b))],
    "a reshaped new tensor": lambda a, b: [fill(torch.zeros(12, dtype=a.dtype), lambda new: new.view(3, 4).add_(a))],
    "an alias of a new tensor": lambda a, b: [fill(torch.zeros(4, dtype=a.dtype), lambda new: new.detach().add_(b))],
    "a new tensor, twice": lambda a, b: [fill(torch.ones(4, dtype=a.dtype), lambda new: new.mul_(b).mul_(b))],
    "by index": lambda a, b: [fill(torch.zeros(4, dtype=a.dtype), lambda new: new.index_add_(0, torch.arange(4), b))],
    "a copy": lambda a, b: [fill(a.clone(), lambda new: new.t().mul_(2)), a],
    "what is not returned": lambda a, b: [a * fill(torch.zeros(4, dtype=a.dtype), lambda new: new[2:].add_(b[2:]))],
}


def fill(new, change):
    change(new)
    return new


@pytest.mark.parametrize("function", INSIDE)
def test_changes_in_place_of_what_is_made_inside_start_anew(function):
    assert_replayed(INSIDE[function], two)


def test_outputs_of_one_call_are_not_changed_by_the_next():
    traced, outputs, copies = Traced(lambda a: [a * 2, torch.zeros(3).add_(1), a.cumsum(0)]), [], []
    for call in range(CALLS):
        found = traced(draw(3, seed=call))
        outputs += found
        copies += [output.clone() for output in found]
    assert all(map(torch.equal, outputs, copies))


def test_random_operations_draw_anew_at_each_call():
    traced, runs = noted(
        lambda x: [nn.functional.dropout(x, 0.5), torch.randn(8), torch.rand_like(x), x.bernoulli(0.3)]
    )
    torch.manual_seed(3)
    found = [traced(torch.ones(64)) for _ in range(20)]
    assert len(runs) < 20
    for outputs in zip(*found, strict=True):
        assert len({tuple(output.tolist()) for output in outputs}) == 20
    assert {value for dropped, *_ in found for value in dropped.tolist()} == {0.0, 2.0}
    kept = torch.stack([dropped for dropped, *_ in found]).count_nonzero().item()
    assert abs(kept - 640) < 4 * (1280 / 4) ** 0.5  # of 1280 fair coins


def test_random_operations_draw_as_the_function_itself_would():
    """Tracing takes nothing from the stream."""

    def function(x):
        return [nn.functional.dropout(x, 0.5), torch.randn(5)]

    torch.manual_seed(3)
    expected = [function(torch.ones(16)) for _ in range(CALLS)]
    torch.manual_seed(3)
    traced, runs = noted(function)
    found = [traced(torch.ones(16)) for _ in range(CALLS)]
    assert len(runs) < CALLS
    assert all(
        torch.equal(a, b) for one, other in zip(found, expected, strict=True) for a, b in zip(one, other, strict=True)
    )


def test_random_operations_draw_for_each_member():
    def drops(x):
        return [torch.vmap(lambda own: nn.functional.dropout(own, 0.5), randomness="different")(x)]

    traced, runs = noted(drops)
    for call in range(CALLS):
        torch.manual_seed(call)
        (found,) = traced(torch.ones(10, 64))
        assert len({tuple(row.tolist()) for row in found}) == 10
    assert len(runs) < CALLS


def test_a_dropped_entry_has_no_gradient_in_a_replay():
    """Forward and backward pass of one call see the same draw."""

    def function(w):
        dropped = nn.functional.dropout(w, 0.5)
        return [dropped, *torch.autograd.grad(dropped.square().sum(), w)]

    traced = Traced(function)
    for call in range(CALLS):
        w = draw(32, seed=call).requires_grad_()
        dropped, grad = traced(w)
        torch.testing.assert_close(grad, 4 * dropped)


def test_constants_are_captured():
    """A tensor that is no input, and what is worked out of it alone, once."""
    weights = draw(4, seed=50)
    worked_out = []

    def function(a, b):
        worked_out.append(weights.exp().sum())
        return [a * worked_out[-1] + weights, a @ weights]

    assert_replayed(function, two)


def test_a_function_of_other_things_than_its_inputs_is_not_replayed():
    """What the first replay would come to is compared with the function."""
    state = {"step": 0}

    def function(x):
        state["step"] += 1
        return [x * state["step"]]

    traced = Traced(function)
    for call in range(CALLS):
        x = draw(3, seed=call)
        (found,) = traced(x)
        torch.testing.assert_close(found, x * (call + 1))


def test_a_function_that_reads_a_number_is_not_replayed_with_it():
    traced = Traced(lambda x: [x * x.sum().item()])
    for call in range(CALLS):
        x = draw(3, seed=call)
        torch.testing.assert_close(traced(x)[0], x * x.sum())


def test_numbers_that_are_not_finite_stay_so():
    """In a member whose losses have diverged; also at the call that is compared."""

    def function(a):
        return [a.exp(), a.sum(1), a * float("inf"), a + float("nan")]

    def inputs(call):
        a = draw(3, 4, seed=call)
        a[1] = [float("inf"), float("nan"), -float("inf")][call % 3]
        return [a]

    traced, runs = noted(function)
    for call in range(CALLS):
        for output, own in zip(traced(*inputs(call)), function(*inputs(call)), strict=True):
            torch.testing.assert_close(output, own, equal_nan=True)
    assert len(runs) < CALLS


def test_inputs_of_other_strides():
    """Where nothing in the function depends on them."""
    traced = Traced(lambda x: [x * 2, x.sum(0), x.t() @ x])
    for call in range(2 * CALLS):
        x = draw(3, 4, seed=call) if call % 2 else draw(4, 3, seed=call).t()
        for output, own in zip(traced(x), [x * 2, x.sum(0), x.t() @ x], strict=True):
            torch.testing.assert_close(output, own)


def test_an_error_of_the_function_is_raised():
    def broken(x):
        raise ArithmeticError("as it is")

    for _ in range(3):
        with pytest.raises(ArithmeticError, match="as it is"):
            Traced(broken)(torch.ones(1))


@pytest.mark.parametrize(
    "other",
    [
        lambda x: x[:2],
        lambda x: x.float(),
        lambda x: x.clone().requires_grad_(),
        lambda x: x[None],
        lambda x: x.t().contiguous().t(),
    ],
    ids=["shape", "dtype", "gradient", "dimensions", "strides"],
)
def test_kind_tells_inputs_apart(other):
    x = draw(3, 4)
    assert signature([x, x]) == signature([draw(3, 4, seed=1), draw(3, 4, seed=2)])
    assert len({signature([x]), signature([other(x)]), signature([x, x])}) == 3
