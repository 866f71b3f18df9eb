"""Captured functions come to what they come to uncaptured, and their results are the caller's."""

from __future__ import annotations

import gc
import random
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from optimizers.stacking.capture import (
    COMPARED,
    DIFFERS,
    DRAWS_ON_HOST,
    MOST_GRAPHS,
    MOVES,
    SPARSE,
    WARM,
    Captures,
    Held,
)
from optimizers.stacking.replay import ChangedError, Results
from tests.support.graphs import StandIn

CPU = torch.device("cpu")
WEIGHT = torch.tensor([2.0, 3.0])
BEFORE_REPLAYS = WARM + COMPARED
CALLS = BEFORE_REPLAYS + 4


@pytest.fixture(autouse=True)
def _new() -> Iterator[None]:
    StandIn.made.clear()
    yield
    StandIn.made.clear()


def captures(why_not: dict[str, str] | None = None, graph: Any = StandIn) -> Captures:
    return Captures("a network", CPU, {} if why_not is None else why_not, graph)


def called(
    own: Captures, function: Callable[..., Results], inputs: Sequence[Sequence[Tensor]], held: Held | None = None
) -> list[Results]:
    given = Held([WEIGHT]) if held is None else held
    return [own.call("it", tuple(x.shape for x in each), function, each, given) for each in inputs]


def batches(count: int = CALLS) -> list[list[Tensor]]:
    return [[torch.full((2,), float(i))] for i in range(count)]


def double(x: Tensor) -> Results:
    return [x * WEIGHT, None, x.sum()]


def test_results_are_those_of_the_function_and_stay_so_after_later_calls() -> None:
    results = called(captures(), double, batches())
    for i, (product, nothing, total) in enumerate(results):
        assert product is not None and total is not None and nothing is None
        assert product.tolist() == [2.0 * i, 3.0 * i]
        assert total.item() == 2.0 * i
    (graph,) = StandIn.made
    assert graph.replays == CALLS - WARM


def test_results_lie_as_the_function_lays_them_out() -> None:
    def turned(x: Tensor) -> Results:
        return [x.t() * 1.0, x.expand(3, 2, 4), x.long()]

    inputs = [[torch.arange(8.0).view(2, 4) + i] for i in range(CALLS)]
    for i, results in enumerate(called(captures(), turned, inputs)):
        for result, expected in zip(results, turned(*inputs[i]), strict=True):
            assert result is not None and expected is not None
            assert torch.equal(result, expected)
            assert result.dtype == expected.dtype
            if 0 not in expected.stride():
                assert result.stride() == expected.stride()


def test_inputs_that_repeat_their_entries_are_taken() -> None:
    inputs = [[torch.full((1, 2), float(i)).expand(3, 2)] for i in range(CALLS)]
    results = called(captures(), lambda x: [x.sum(0)], inputs)
    assert [result[0].tolist() for result in results if result[0] is not None] == [[3.0 * i] * 2 for i in range(CALLS)]


def test_what_is_changed_in_place_changes_once_a_call() -> None:
    count = torch.zeros(1)
    results = called(captures(), lambda x: [x + count.add_(1)], batches(), Held([count], [count]))
    assert count.item() == CALLS
    assert [result[0].tolist() for result in results if result[0] is not None] == [
        [2.0 * i + 1] * 2 for i in range(CALLS)
    ]


def test_a_stream_is_drawn_from_as_without_capture() -> None:
    own = torch.Generator().manual_seed(5)

    def noisy(x: Tensor) -> Results:
        return [x + torch.rand(2, generator=own)]

    expected = [noisy(*batch)[0] for batch in batches()]
    own.manual_seed(5)
    results = called(captures(), noisy, batches(), Held([WEIGHT], generators=[own]))
    assert all(torch.equal(result[0], of_each) for result, of_each in zip(results, expected, strict=True))  # type: ignore[arg-type]


def test_shapes_that_alternate_have_a_graph_each_up_to_a_number() -> None:
    sizes = range(1, MOST_GRAPHS + 2)
    inputs = [[torch.ones(size)] for _ in range(CALLS) for size in sizes]
    with pytest.warns(UserWarning, match=f"beyond the first {MOST_GRAPHS}"):
        results = called(captures(), lambda x: [x.sum()], inputs)
    assert [result[0].item() for result in results if result[0] is not None] == [*sizes] * CALLS
    assert len(StandIn.made) == MOST_GRAPHS


class Counting:
    """Comes to something else from a call on."""

    def __init__(self, since: int) -> None:
        self.calls = 0
        self.since = since

    def __call__(self, x: Tensor) -> Results:
        self.calls += 1
        return [x + (self.calls > self.since)]


def refuse(*_: Any) -> Any:
    raise RuntimeError("operation not permitted\nwhen stream is capturing")


class Refusing(StandIn):
    capture = refuse


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (lambda x: [x * random.random()], DRAWS_ON_HOST),
        (lambda x: [x * torch.rand(())], DRAWS_ON_HOST),
        (lambda x: [x.to_sparse()], SPARSE),
        (Counting(WARM + 2), DIFFERS),
    ],
)
def test_what_cannot_be_captured_goes_on_as_it_is_and_that_is_said_once(function: Any, why: str) -> None:
    why_not: dict[str, str] = {}
    with pytest.warns(UserWarning, match=f"it of a network: no CUDA graph, since {why}") as said:
        called(captures(why_not), function, batches())
    assert (len(said), why_not) == (1, {"it": why})
    called(captures(why_not), function, batches())  # of which no warning would be an error


def test_a_capture_that_fails_is_said_and_others_are_captured_anew() -> None:
    graphs = iter([StandIn, Refusing, StandIn])

    def next_of(*arguments: Any) -> Any:
        return next(graphs)(*arguments)

    own = captures(graph=next_of)
    called(own, double, batches())
    with pytest.warns(UserWarning, match="the other of a network: no CUDA graph, since RuntimeError: operation not"):
        others = [own.call("the other", 0, double, batch, Held([WEIGHT]))[2] for batch in batches()]
    assert [total.item() for total in others if total is not None] == [2.0 * i for i in range(CALLS)]
    results = called(own, double, batches())
    assert [total.item() for *_, total in results if total is not None] == [2.0 * i for i in range(CALLS)]
    assert [graph.replays for graph in StandIn.made] == [CALLS - WARM, 0, CALLS - WARM]


def test_what_changes_later_is_found_when_it_is_compared_again() -> None:
    why_not: dict[str, str] = {}
    own, function = captures(why_not), Counting(10**6)
    called(own, function, batches())
    function.since = 0
    called(own, lambda x: [x], batches(1))  # not looked at
    own.recheck_next_replays()
    with pytest.warns(UserWarning, match="no CUDA graph"), pytest.raises(ChangedError, match="something else"):
        called(own, lambda x: [x + 5], batches(1))
    assert called(own, lambda x: [x + 5], batches(1))[0][0] is not None
    assert list(why_not) == ["it"]


def test_weights_that_lie_elsewhere_are_noticed() -> None:
    weight = torch.ones(2)
    held, why_not = Held([weight]), dict[str, str]()
    own = captures(why_not)
    called(own, lambda x: [x * weight], batches(), held)
    weight.data = torch.full((2,), 4.0)
    with pytest.warns(UserWarning, match=MOVES):
        ((result,),) = called(own, lambda x: [x * weight], [[torch.ones(2)]], held)
    assert result is not None
    assert result.tolist() == [4.0, 4.0]
    assert called(own, lambda x: [x * weight], [[torch.ones(2)]], held)
    assert not why_not  # of other optimizers' runs


def test_a_graph_is_gone_with_the_run_at_once() -> None:
    own = captures()
    called(own, double, batches())
    graph = weakref.ref(StandIn.made.pop())
    gc.disable()
    try:
        assert graph() is not None
        del own
        assert graph() is None
    finally:
        gc.enable()
