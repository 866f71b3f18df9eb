"""A few timed steps: how they are weighed, by a clock that only steps move; and that tasks come out of it unharmed."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tasks import images
from tasks.image_data import Images
from tuner.config.layers import resolve
from tuner.config.schema import Config
from tuner.errors import UserError
from tuner.training import build
from tuner.training.tried import Tried, tried
from tuner.workers import timing
from tuner.workers.timing import measure, seconds_per_step


def config(task: str, optimizers: list[str], *settings: str, **flags: Any) -> Config:
    flags = {key.replace("__", "."): value for key, value in flags.items()}
    return resolve({"task.name": task, "search.optimizers": optimizers} | flags, settings)


def loaded(settled: Config) -> Any:
    task = build.make_task(settled)
    task.setup(None, torch.device("cpu"))
    return task


# The clock is moved by steps alone.


class Clock:
    now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(timing, "time", made)
    return made


def trainer(clock: Clock, period: int | None, plain: Any, refresh: float = 0.0, warm_up: float = 0.0) -> Any:
    """A trainer whose steps take so long, refreshes dearer by 2 gradients; the first is slower by ``warm_up``."""
    made: list[Any] = []

    class Fake:
        def __init__(self, task: Any, *_: Any, **__: Any) -> None:
            self.task = task
            self.nominal_grad_equivalents = [0.0]
            self.unsettled = 1
            self.optimizer = SimpleNamespace() if period is None else SimpleNamespace(update_period=period)
            self.steps = 0
            made.append(self)

        def batches(self, epochs: int) -> Any:
            assert epochs == 1
            return iter(self.task.batches(0, 0))

        def step(self, batch: Any) -> torch.Tensor:
            refreshes = period is not None and self.steps % period == 0
            seconds = refresh if refreshes else plain(batch) if callable(plain) else plain
            clock.now += seconds + (warm_up if self.steps == 0 else 0)
            self.nominal_grad_equivalents[0] += 3 if refreshes else 1
            self.steps += 1
            return torch.zeros(())

    Fake.made = made  # type: ignore[attr-defined]
    return Fake


def timed(monkeypatch: pytest.MonkeyPatch, fake: Any) -> float:
    monkeypatch.setattr(timing, "Trainer", fake)
    task: Any = SimpleNamespace(batches=lambda seed, epoch: iter([epoch] * 3), device=torch.device("cpu"))
    return seconds_per_step(task, None, {}, None).whole  # type: ignore[arg-type]


def test_a_plain_step_is_the_median_after_the_first(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = trainer(clock, None, 0.002, warm_up=0.7)
    assert timed(monkeypatch, fake) == pytest.approx(0.002)
    assert fake.made[0].steps == timing.STEPS


@pytest.mark.parametrize("period", [2, 5, 10])
def test_refreshes_count_as_often_as_they_come(clock: Clock, monkeypatch: pytest.MonkeyPatch, period: int) -> None:
    found = timed(monkeypatch, trainer(clock, period, 0.001, refresh=0.005, warm_up=0.5))
    assert found == pytest.approx((0.005 + (period - 1) * 0.001) / period)


def test_a_refresh_at_every_step_is_a_step(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    assert timed(monkeypatch, trainer(clock, 1, 0.001, refresh=0.005, warm_up=0.5)) == pytest.approx(0.005)


def test_slow_steps_are_few(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = trainer(clock, None, 5.0)
    assert timed(monkeypatch, fake) == pytest.approx(5.0)
    assert fake.made[0].steps == 2


# A whole batch, or a sixteenth of one.


def measured(monkeypatch: pytest.MonkeyPatch, clock: Clock, seconds_per_row: float, *settings: str) -> tuple[Any, Any]:
    settled = config("mnist1d", ["adam"], "resources.cohort=1", *settings)
    monkeypatch.setattr(timing, "Trainer", trainer(clock, None, lambda batch: seconds_per_row * len(batch[0])))
    task = loaded(settled)
    return task, measure(settled, task)


def test_a_quick_step_is_timed_whole(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    task, found = measured(monkeypatch, clock, 1e-4)
    assert found.step_s == {"adam": pytest.approx(32e-4)}
    rows = sum(len(task.splits[split][0]) for split in ("train", "val"))
    assert found.evaluation_s == pytest.approx(rows * 1e-4 / 3)  # a forward pass is a third of a gradient
    assert found.steps_per_epoch == -(-len(task.splits["train"][0]) // 32) and task.batch_size == 32


def test_a_long_step_is_timed_by_a_part_of_it(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    task, found = measured(monkeypatch, clock, 0.1)
    assert found.step_s == {"adam": pytest.approx(3.2)}
    rows = sum(len(task.splits[split][0]) for split in ("train", "val"))
    assert found.evaluation_s == pytest.approx(rows * 0.1 / 3)
    assert found.steps_per_epoch == -(-len(task.splits["train"][0]) // 32)  # of whole batches


@pytest.mark.parametrize("seconds_per_row", [1e-5, 1e-3])
def test_a_batch_larger_than_the_data_is_the_data(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, seconds_per_row: float
) -> None:
    settled = config(
        "tabular_mlp", ["adam"], "resources.cohort=1"
    )  # iris: 90 rows train, 30 validate, a batch is of 2,048
    monkeypatch.setattr(timing, "Trainer", trainer(clock, None, lambda batch: seconds_per_row * len(batch[0])))
    found = measure(settled, loaded(settled))
    assert found.steps_per_epoch == 1
    assert found.step_s == {"adam": pytest.approx(90 * seconds_per_row)}
    assert found.evaluation_s == pytest.approx(120 * seconds_per_row / 3)


# Stacks of increasing size.


def stacks(monkeypatch: pytest.MonkeyPatch, clock: Clock, seconds: Callable[[int], float], **more: Any) -> Any:
    """What is found of stacks whose steps take so long, and of which sizes there were any."""
    built: list[int] = []

    def stack(task: Any, make: Any, members: Any, *_: Any, **__: Any) -> Any:
        built.append(len(members))
        return trainer(clock, None, seconds(len(members)), warm_up=more.get("warm_up", 0.0))(task)

    monkeypatch.setattr(timing.stack, "Stack", stack)
    monkeypatch.setattr(timing, "tried", more.get("tried", lambda *_: Tried("", "")))
    settled = config("tabular_mlp", [more.get("optimizer", "adam")], *more.get("settings", []))
    (name,) = settled.optimizers
    found, _ = timing.stacks(settled, loaded(settled), name, more.get("alone", 0.01), more.get("sizes", [2, 8, 32]))
    return {size: seconds.whole for size, seconds in found.items()}, built


def test_a_members_share_of_a_stacks_step_is_found_for_each_size(clock: Clock, monkeypatch: Any) -> None:
    found, built = stacks(monkeypatch, clock, lambda size: 0.01 + 0.001 * size, warm_up=0.5)
    assert found == {2: pytest.approx(0.006), 8: pytest.approx(0.018 / 8), 32: pytest.approx(0.042 / 32)}
    assert built == [2, 8, 32]


def test_larger_stacks_than_one_that_is_slower_are_not_tried(clock: Clock, monkeypatch: Any) -> None:
    found, built = stacks(monkeypatch, clock, lambda size: 0.001 * size**2)
    assert built == [2, 8, 8] and found == {2: pytest.approx(0.002), 8: pytest.approx(0.008)}  # looked at twice
    found, built = stacks(monkeypatch, clock, lambda size: 0.013 * size)  # slower than one at a time
    assert built == [2, 2] and found == {2: pytest.approx(0.013)}


def test_a_size_that_was_slow_once_is_taken_as_it_is_the_second_time(clock: Clock, monkeypatch: Any) -> None:
    slow = iter([1.0, 5.0, 1.0, 1.0])
    found, built = stacks(monkeypatch, clock, lambda size: 0.01 * next(slow))
    assert built == [2, 8, 8, 32] and list(found) == [2, 8, 32]


@pytest.mark.parametrize(("alone", "tried"), [(0.029, [2, 8, 32]), (0.031, [])])
def test_a_long_step_has_nothing_to_save(clock: Clock, monkeypatch: Any, alone: float, tried: list[int]) -> None:
    found, built = stacks(monkeypatch, clock, lambda size: 0.001, alone=alone)
    assert built == list(found) == tried


@pytest.mark.parametrize("setting", ["train.compile=true", "train.channels_last=true"])
def test_what_does_not_stack_has_no_sizes(clock: Clock, monkeypatch: Any, setting: str) -> None:
    assert stacks(monkeypatch, clock, lambda size: 0.001, tried=tried, settings=[setting]) == ({}, [])


def test_it_is_said_why_runs_train_one_at_a_time_and_what_is_to_be_known_of_a_stack(monkeypatch: Any) -> None:
    settled = config("tabular_mlp", ["adam", "sgd"], "resources.cohort=8")
    answers = iter([Tried("it draws lots", ""), Tried("", "it is loud")])
    monkeypatch.setattr(timing, "tried", lambda *_: next(answers))
    found = measure(settled, loaded(settled))
    assert found.remarks == {"adam": "trains one at a time: it draws lots", "sgd": "it is loud"}
    assert list(found.member_s["adam"]) == [1]


def test_a_stack_that_breaks_is_the_end(clock: Clock, monkeypatch: Any) -> None:
    def seconds(size: int) -> float:
        if size == 8:
            raise torch.OutOfMemoryError("out of memory")
        return 0.001

    found, built = stacks(monkeypatch, clock, seconds)
    assert list(found) == [2] and built == [2, 8]


@pytest.mark.parametrize(("allowed", "tried"), [(1000.0, [2, 8, 32]), (50.0, [2, 8]), (10.0, [2])])
def test_no_stack_is_tried_that_would_want_more_memory_than_there_is(
    clock: Clock, monkeypatch: Any, allowed: float, tried: list[int]
) -> None:
    peaks = iter([100.0, 104.0, 116.0, 164.0])  # 2 MB for each member
    monkeypatch.setattr(timing.memory, "reset_peak", lambda device: None)
    monkeypatch.setattr(timing.memory, "peak_mb", lambda device: next(peaks))
    monkeypatch.setattr(timing.memory, "allowance_mb", lambda *_: allowed)
    assert stacks(monkeypatch, clock, lambda size: 0.001)[1] == tried


def test_a_step_that_was_timed_in_part_is_not_stacked(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing.stack, "Stack", lambda *_, **__: pytest.fail("a step of seconds"))
    settled = config("mnist1d", ["adam"])
    monkeypatch.setattr(timing, "Trainer", trainer(clock, None, lambda batch: 0.1 * len(batch[0])))
    assert measure(settled, loaded(settled)).member_s == {"adam": {1: pytest.approx(3.2)}}


def test_sizes_are_measured_for_each_optimizer_with_real_stacks() -> None:
    once = {"search__studies": 1, "retrain__seeds": 10}
    settled = config("tabular_mlp", ["adam", "ssvp", "rmsprop"], search__trials=48, resources__max_concurrent=3, **once)
    found = measure(settled, loaded(settled)).member_s
    assert {1, 8} <= set(found["rmsprop"]) <= {1, 8, 10, 12}
    for name in ("adam", "ssvp"):  # 12, a quarter of the trials, of one worker on each; 10 seeds
        assert {1, 8} <= set(found[name]) <= {1, 8, 10, 12}
        assert found[name][8] < 0.9 * found[name][1]


# With real steps.


@pytest.mark.parametrize(("task", "steps"), [("tabular_mlp", 1), ("quadratic_deep", 7), ("mnist1d", None)])
def test_each_optimizer_is_timed_and_the_task_can_still_be_trained(task: str, steps: int | None) -> None:
    settled = config(task, ["adam", "diag_hessian", "ssvp"], "optimizers.diag_hessian.args.update_period=10")
    made = loaded(settled)
    found = measure(settled, made)
    assert set(found.step_s) == {"adam", "diag_hessian", "ssvp"} and not found.untimed
    assert all(0 < seconds < 1 for seconds in found.step_s.values()) and found.evaluation_s > 0
    assert found.steps_per_epoch == (steps or made.steps_per_epoch)
    assert len(list(made.batches(0, 0))) == found.steps_per_epoch
    assert made.batch_size == settled.train.batch_size


def test_what_fails_in_its_first_steps_is_named_and_the_others_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    settled = config("tabular_mlp", ["adam", "sgd"])

    def failing(*_: Any, **__: Any) -> None:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr(torch.optim.Adam, "step", failing)
    found = measure(settled, loaded(settled))
    assert found.untimed == {"adam": "RuntimeError: two lines"} and list(found.step_s) == ["sgd"]


@pytest.mark.parametrize("stacked", [False, True])
def test_an_optimizer_after_which_a_gpu_does_nothing_more_ends_the_check(
    monkeypatch: pytest.MonkeyPatch, stacked: bool
) -> None:
    settled = config("tabular_mlp", ["adam", "sgd"])

    def failing(*_: Any, **__: Any) -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(*(timing.stack.Stack, "step", failing) if stacked else (torch.optim.Adam, "step", failing))
    with pytest.raises(UserError, match=r"^optimizer adam: the GPU failed it in its first steps, .*illegal memory"):
        measure(settled, loaded(settled))


def test_the_engines_settings_are_put_back() -> None:
    before = torch.backends.cudnn.deterministic
    settled = config("tabular_mlp", ["adam"], "train.deterministic=true")
    measure(settled, loaded(settled))
    assert (torch.backends.cudnn.deterministic, torch.are_deterministic_algorithms_enabled()) == (before, False)


def test_a_part_of_a_batch_is_never_a_single_image(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)  # of 45 images 41 train: batches of 4, or of 2, would leave one
    rows = rng.integers(0, 256, (45, 3, 32, 32), np.uint8), np.arange(45) % 2
    monkeypatch.setattr(images, "read_images", lambda *_: Images("random", "here", 2, rows, rows))
    settled = config("cifar_cnn", ["adam"], "train.batch_size=64", "task.args.width=2", "task.args.dense=4")
    made = loaded(settled)
    assert len(made.splits["train"][0]) == 41
    assert not measure(settled, made).untimed
