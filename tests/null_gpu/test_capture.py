"""Steps captured as CUDA graphs: how many launches are left, what is not captured, and that memory is given back."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optimizers.stacking.capture import COMPARED, WARM, Captures, Held
from tests.null_gpu.counting import counting, memory_of
from tests.null_gpu.runs import EPOCHS, run_of, steps_of, task_on
from tuner.training import captures as training_captures
from tuner.training.captures import UNSETTLED_RUN, UNSETTLED_STACK
from tuner.training.engine import Engine
from tuner.training.stack import Stack

CUDA = torch.device("cuda")
UNTIL_REPLAYS = WARM + COMPARED


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    yield
    training_captures.WHY_NOT.clear()


@pytest.mark.parametrize("task", ["mnist1d", "cifar_cnn", "resnet18"])
def test_a_plain_step_of_adam_is_two_graphs(task: str) -> None:
    plain = steps_of(task, "adam", engine=Engine(), warm=UNSETTLED_RUN).plain
    assert (plain.graphs, plain.synchronisations) == (2, 0)
    assert plain.launches <= 8


OF_THREE = ("sgdm", "amsgrad", "rmsprop", "hessian_lr_adaptation", "muon", "nadamw")


@pytest.mark.parametrize("engine", [Engine(), Engine(schedule="cosine")], ids=["constant", "cosine"])
@pytest.mark.parametrize("optimizer", OF_THREE)
def test_a_step_of_any_pure_rule_is_two_graphs(optimizer: str, engine: Engine) -> None:
    waits = optimizer == "muon" and engine.scheduled  # PyTorch's reads its learning rate on the host
    with pytest.warns(UserWarning, match="waits") if waits else nullcontext():
        plain = steps_of("mnist1d", optimizer, engine=engine, warm=UNSETTLED_RUN).plain
    assert (plain.graphs, plain.synchronisations) == (2 - waits, 0)
    assert waits or plain.launches <= 7


@pytest.mark.parametrize("optimizer", ["sophia", "diag_hessian"])
@pytest.mark.parametrize("estimator", ["hutchinson", "gnb", "ggn_mc"])
def test_plain_step_and_refresh_are_two_graphs(optimizer: str, estimator: str) -> None:
    arguments = {"estimator": estimator, "update_period": 2}
    steps = steps_of("mnist1d", optimizer, arguments, Engine(), warm=UNSETTLED_RUN)
    for kind in (steps.plain, steps.refresh):
        assert (kind.graphs, kind.synchronisations) == (2, 0)
    assert steps.plain.launches <= 6
    assert steps.refresh.launches <= 8


def test_dropout_is_captured_with_its_stream() -> None:
    steps = steps_of("transformer", "adam", engine=Engine(), warm=UNSETTLED_RUN)
    assert (steps.plain.graphs, steps.plain.synchronisations) == (2, 0)


def test_a_captured_run_draws_as_many_random_numbers_as_another() -> None:
    offsets = []
    for engine in (Engine(), Engine(capture="off")):
        torch.manual_seed(0)
        run = run_of("mnist1d", "sophia", {"estimator": "hutchinson", "update_period": 1}, engine)
        for batch in itertools.islice(run.batches(EPOCHS), UNTIL_REPLAYS + 5):
            run.step(batch)
        offsets.append(run.optimizer._generator.get_state().tolist())
    assert offsets[0] == offsets[1]


@pytest.mark.parametrize("optimizer", ["adam", "sophia"])
def test_a_step_of_a_stack_is_a_graph_of_its_gradient_and_one_of_its_rule(optimizer: str) -> None:
    steps = steps_of("mnist1d", optimizer, {}, Engine(), members=32, warm=UNSETTLED_STACK)
    assert steps.plain.launches <= 12
    for kind in (steps.plain, steps.refresh):
        assert (kind.graphs, kind.synchronisations) == (2, 0)


class Waiting(nn.Module):
    """Reads a number on the host."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.model(x)
        return outputs * (1.0 + outputs.detach().sum().item())


def test_a_network_that_waits_is_trained_as_it_is_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    task = task_on("mnist1d")
    build = task.build
    monkeypatch.setattr(task, "build", lambda seed: Waiting(build(seed)))
    with pytest.warns(UserWarning, match="the gradient of MNIST1D: no CUDA graph, since an operation waits") as said:
        plain = steps_of("mnist1d", "adam", engine=Engine(), warm=UNSETTLED_RUN).plain
    assert len(said) == 1
    assert (plain.graphs, plain.synchronisations) == (1, 1)


def test_gradients_of_batches_of_two_sizes_have_a_graph_each() -> None:
    run = run_of("mnist1d", "adam", {}, Engine())
    batches = run.batches(EPOCHS)
    for batch in itertools.islice(batches, UNTIL_REPLAYS + 1):
        run.step(batch)
        run.step(tuple(tensor[:5] for tensor in batch))
    for size in (3, None, 5):
        batch = tuple(tensor[:size] for tensor in next(batches))
        with counting() as counted:
            run.step(batch)
        assert counted.graphs == 1 + (size != 3)


def test_gradients_lie_elsewhere_at_each_step() -> None:
    run = run_of("mnist1d", "adam", {}, Engine())
    kept: list[Tensor] = []
    for batch in itertools.islice(run.batches(EPOCHS), UNTIL_REPLAYS + 4):
        run.step(batch)
        kept += [param.grad for param in run.runner.exact.parameters()]  # type: ignore[attr-defined]
    assert len({grad.data_ptr() for grad in kept}) == len(kept)


def captured(why_not: dict[str, str], function: Any, calls: int) -> Captures:
    own, weight = Captures("it", CUDA, why_not), torch.zeros(4, device=CUDA)
    for _ in range(calls):
        own.call("a function", 0, function, [torch.zeros(4, device=CUDA)], Held([weight]))
    return own


def reserved() -> int:
    torch.cuda.empty_cache()
    return torch.cuda.memory_reserved()


def test_memory_is_given_back_with_the_run() -> None:
    gc.collect()
    before = reserved()
    own = captured({}, lambda x: [torch.zeros(10**7, device=CUDA) + x.sum()], UNTIL_REPLAYS + 1)
    assert reserved() > before + 10**7
    del own
    assert reserved() <= before + 2**21


def test_memory_that_a_capture_does_not_get_is_given_back() -> None:
    gc.collect()
    before, why_not, calls = reserved(), dict[str, str](), itertools.count()

    def growing(x: Tensor) -> list[Tensor]:
        large = next(calls) == WARM  # in the capture
        return [x + 1, *(torch.zeros(10**7, device=CUDA) for _ in range(100 if large else 1))]

    with memory_of(10**9), pytest.warns(UserWarning, match="no CUDA graph, since OutOfMemoryError"):
        captured(why_not, growing, WARM + 2)
    assert list(why_not) == ["a function"]
    assert reserved() <= before + 2**21


def test_what_cannot_be_in_a_graph_leaves_stream_and_random_numbers_as_they_were() -> None:
    calls = itertools.count()

    def waiting(x: Tensor) -> list[Tensor]:
        if next(calls) == WARM:
            x.sum().item()
        return [x + torch.rand(4, device=CUDA)]

    with pytest.warns(UserWarning, match="no CUDA graph, since AcceleratorError"):
        captured({}, waiting, WARM + 2)
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    torch.rand(4, device=CUDA)


def test_a_stack_that_shrinks_lets_go_of_its_graphs() -> None:
    run = run_of("mnist1d", "adam", {}, Engine(), members=4)
    assert isinstance(run, Stack)
    batches = run.batches(EPOCHS)
    for batch in itertools.islice(batches, UNSETTLED_STACK + 1):
        run.step(batch)
    assert run.model.captures is not None
    assert run.model.captures._captured
    run.retire({0: "for a test"})
    assert not run.model.captures._captured
    for batch in itertools.islice(batches, UNSETTLED_STACK):
        run.step(batch)
    assert run.model.captures._captured
