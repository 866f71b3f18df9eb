"""Arithmetic on a TensorList is, to the bit, the same arithmetic on each of its tensors."""

import operator

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from optimizers import tensor_list
from optimizers.tensor_list import TensorList

SHAPES = {"matrices": [(3, 4), (2, 5), (70,)], "with 0-dim": [(), (3,), (2, 1, 2)], "0-dim": [(), ()], "one": [(4,)]}
each_shapes = pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)


def draw(shapes, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    tensors = [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]
    return [t.t() if t.ndim == 2 else t for t in tensors]


def positive(tensors):
    return [t.abs() + 0.1 for t in tensors]


def assert_same(found, expected):
    assert isinstance(found, TensorList) and len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
        assert torch.equal(ours, theirs)


OPERATORS = [operator.add, operator.sub, operator.mul, operator.truediv]
each_operator = pytest.mark.parametrize("act", OPERATORS, ids=lambda act: act.__name__)


@each_dtype
@each_shapes
@each_operator
def test_operators_between_lists(act, shapes, dtype):
    first, second = draw(shapes, 0, dtype), positive(draw(shapes, 1, dtype))
    assert_same(act(TensorList(first), TensorList(second)), [act(a, b) for a, b in zip(first, second, strict=True)])


OTHERS = {
    "number": 0.3,
    "whole number": 3,
    "0-dim": torch.tensor(0.3),
    "0-dim float64": torch.tensor(0.3, dtype=torch.float64),
}


@each_dtype
@each_shapes
@each_operator
@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_operators_with_one_operand_for_all(act, other, shapes, dtype):
    if isinstance(other, torch.Tensor) and () in shapes:
        other = other.to(dtype)  # of two tensors without dimensions the wider dtype would win
    tensors = positive(draw(shapes, 0, dtype))
    assert_same(act(TensorList(tensors), other), [act(t, other) for t in tensors])
    assert_same(act(other, TensorList(tensors)), [act(other, t) for t in tensors])


@each_dtype
@each_shapes
def test_negation(shapes, dtype):
    tensors = draw(shapes, 0, dtype)
    assert_same(-TensorList(tensors), [-t for t in tensors])


METHODS = {
    "abs": lambda x: x.abs(),
    "sign": lambda x: x.sign(),
    "sqrt": lambda x: x.abs().sqrt(),
    "square": lambda x: x.square(),
    "neg": lambda x: x.neg(),
    "expm1": lambda x: x.expm1(),
    "torch.expm1": lambda x: torch.expm1(x),
    "torch.abs": lambda x: torch.abs(x),
    "torch.zeros_like": lambda x: torch.zeros_like(x),
    "torch.nan_to_num": lambda x: torch.nan_to_num(x, 0.0, 0.0, 0.0),
    "amin": lambda x: x.amin(),
    "norm": lambda x: x.norm(p=1, dtype=torch.float64),
    "clamp min": lambda x: x.clamp(min=-0.2),
    "clamp max": lambda x: x.clamp(max=0.2),
    "clamp both": lambda x: x.clamp(min=-0.2, max=0.2),
    "clamp by position": lambda x: x.clamp(-0.2, 0.2),
    "clamp reversed": lambda x: x.clamp(min=0.2, max=-0.2),
    "clamp by tensors": lambda x: x.clamp(min=torch.tensor(-0.2, dtype=x.dtype), max=torch.tensor(0.2, dtype=x.dtype)),
    "lerp number": lambda x: x.lerp(x.square(), 0.3),
    "lerp tensor": lambda x: x.lerp(x.square(), torch.tensor(0.3, dtype=x.dtype)),
    "where": lambda x: torch.where(x > 0, x, -x) if isinstance(x, torch.Tensor) else abs_by_where(x),
    "add alpha": lambda x: x.add(x.square(), alpha=2.0),
    "reshape": lambda x: x.reshape(-1),
    "chain": lambda x: (1 - 0.5 * x.square()) / (x.abs().sqrt() + 1e-3) - 2 / (x.abs() + 1),
}


def abs_by_where(x):
    return torch.where(x.gt(0), x, -x)


@each_dtype
@each_shapes
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_methods_and_functions(method, shapes, dtype):
    tensors = draw(shapes, 0, dtype)
    assert_same(method(TensorList(tensors)), [method(t) for t in tensors])


@pytest.mark.parametrize("shapes", [SHAPES["matrices"], SHAPES["with 0-dim"]])
def test_an_operand_may_be_a_list_of_0_dim_tensors(shapes):
    tensors, factors = draw(shapes), [torch.tensor(1.0 + i) for i in range(len(shapes))]
    for act in OPERATORS:
        expected = [act(t, f) for t, f in zip(tensors, factors, strict=True)]
        assert_same(act(TensorList(tensors), TensorList(factors)), expected)
        expected = [act(f, t) for t, f in zip(tensors, factors, strict=True)]
        assert_same(act(TensorList(factors), TensorList(tensors)), expected)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), -0.0, 0.0])
@pytest.mark.parametrize("name", ["clamp min", "clamp max", "clamp both", "sign", "abs", "sqrt", "torch.nan_to_num"])
def test_special_values(name, value):
    tensors = [torch.tensor([value, 1.0]), torch.tensor(value)]
    found, expected = METHODS[name](TensorList(tensors)), [METHODS[name](t) for t in tensors]
    torch.testing.assert_close(list(found), expected, rtol=0, atol=0, equal_nan=True)


@each_shapes
def test_nothing_changes_its_operands(shapes):
    tensors = draw(shapes)
    before = [t.clone() for t in tensors]
    for method in METHODS.values():
        method(TensorList(tensors))
    for act in OPERATORS:
        act(TensorList(tensors), TensorList(positive(tensors)))
        act(TensorList(tensors), 2.0)
    assert all(torch.equal(t, b) for t, b in zip(tensors, before, strict=True))


class Calls(TorchDispatchMode):
    """Notes the names of the operations of the backend."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_what_works_entry_by_entry_is_done_once_for_all_tensors():
    x = TensorList(draw(SHAPES["with 0-dim"]))
    with Calls() as calls:
        y = (x.abs() + 1).sqrt() / 2 * x.sign() - x.square()
        torch.nan_to_num(y.clamp(min=0.0).lerp(x, 0.1), 0.0)
    names = [name for name in calls.names if name not in ("view", "permute", "as_strided")]
    assert names == ["cat", "abs", "add", "sqrt", "div", "sign", "mul", "pow", "sub", "clamp", "lerp", "nan_to_num"]


def test_what_was_computed_side_by_side_is_found_so_again():
    x = TensorList(draw(SHAPES["matrices"])) * 2
    again = TensorList(x.tensors)
    assert again.flat.data_ptr() == x.flat.data_ptr() and torch.equal(again.flat, x.flat)


def test_tensors_side_by_side_by_chance_are_not_taken_for_one():
    whole = torch.arange(6.0)
    out_of_order = TensorList([whole[3:], whole[:3]])
    assert torch.equal(out_of_order.flat, torch.tensor([3.0, 4, 5, 0, 1, 2]))


def test_tensors_keep_their_order_in_memory():
    image = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    both = TensorList([image, torch.ones(3)])
    doubled = (both * 2)[0]
    assert torch.equal(doubled, 2 * image) and doubled.stride() == image.stride()
    assert torch.equal(both.flat[: image.numel()], image.permute(0, 2, 3, 1).flatten())


def test_what_is_changed_in_place_is_seen_by_what_follows():
    x = TensorList(draw(SHAPES["matrices"]))
    expected = [2 * (t.clone() + 1) for t in x.tensors]
    x + x
    assert_same(x.add_(1) * 2, expected)
    assert_same(x * 2, expected)


def test_it_is_a_sequence_of_its_tensors():
    tensors = draw(SHAPES["matrices"])
    together = TensorList(tensors)
    assert (
        len(together) == 3 and together[1] is tensors[1] and all(a is b for a, b in zip(together, tensors, strict=True))
    )
    assert together.dtype == torch.float32 and together.device == torch.device("cpu")
    assert_same(TensorList(iter(tensors)), tensors)


def test_a_name_that_tensors_do_not_have_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_method"):
        TensorList(draw(SHAPES["one"])).no_such_method()


def test_lists_of_unequal_length_are_refused():
    with pytest.raises((RuntimeError, ValueError, IndexError)):
        TensorList(draw([(2,), (3,)])) + TensorList(draw([(2,)]))


@pytest.mark.parametrize("largest", [2, 5, 2**15])
def test_the_least_entries_are_those_of_each_tensor_or_the_bound(monkeypatch, largest):
    monkeypatch.setattr(tensor_list, "LARGEST_SEGMENT", largest)
    tensors = [*draw([(3, 4), (7,), (), (1,), (40,)]), torch.full((6,), 3.0), torch.tensor([1.0, torch.nan, -1.0])]
    expected = torch.stack([t.amin().clamp(max=0.5) for t in tensors])
    places = tensor_list.Places(tensors)
    found = tensor_list.least_of_each(places.together(tensors), places.sizes, 0.5)
    assert torch.equal(found.nan_to_num(7.0), expected.nan_to_num(7.0)) and found[-1].isnan()
    assert_same(TensorList(tensors[:-1]).least(0.5), list(expected[:-1]))


def test_what_a_rule_returns_lies_side_by_side_if_it_was_once():
    tensors = draw([(3, 4), (7,)])
    given, flat = TensorList(tensors), TensorList(tensors)
    assert all(ours is theirs for ours, theirs in zip(given.side_by_side(), tensors, strict=True))
    whole = flat.flat
    views = flat.side_by_side()
    assert views[0].data_ptr() == whole.data_ptr() == TensorList(views).flat.data_ptr()
    assert_same(TensorList(views), tensors)
