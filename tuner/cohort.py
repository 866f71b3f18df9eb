"""Several training runs of one task and one optimizer in lockstep, as one stacked model: what ``tuner.train`` does for
one run, for a list of members. No Ray, no Optuna."""

from __future__ import annotations

import gc
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from optimizers import CurvatureOptimizer, tracing
from optimizers.base import Closure
from optimizers.stacked import Finish, StackedOptimizer, kind
from tasks.base import Task
from tuner.engine import Engine, Runner
from tuner.train import (
    DEFAULTS,
    Budget,
    Evaluation,
    Hyperparameters,
    Lockstep,
    MakeOptimizer,
    Result,
    Trainer,
    all_batches,
    evaluate,
    in_lockstep,
)

WORTH_DROPPING = 1 / 2
"""The share of a stack that must have diverged for the rest to go on as a smaller one: that one is traced anew."""


@dataclass(frozen=True)
class Member:
    """One training run of a cohort."""

    hp: Hyperparameters
    seed: int


def train(
    task: Task,
    make_optimizer: MakeOptimizer,
    members: Sequence[Member],
    budget: Budget,
    on_eval: Callable[[int, Evaluation], object] = lambda member, evaluation: None,
    engine: Engine = DEFAULTS,
) -> list[Result]:
    """Train each member as ``tuner.train.train`` would; ``on_eval`` is told of every evaluation and whose it is.

    Members that can be stacked train in lockstep, all others one at a time. So do those of a stack that fails, for
    want of memory, say, or of an operation's batching rule: their evaluations then begin again, with step 0.
    """
    results: dict[int, Result] = {}

    def run(places: list[int]) -> None:
        steps = training(task, make_optimizer, [members[place] for place in places], budget, engine)
        while True:
            try:
                evaluations = next(steps)
            except StopIteration as stop:
                results.update(zip(places, stop.value, strict=True))
                return
            except Exception:
                if len(places) == 1:
                    raise
                break
            for member, evaluation in evaluations.items():
                on_eval(places[member], evaluation)
        release_memory(task.device)
        for place in places:
            run([place])

    for places in stacks(task, make_optimizer, members, engine):
        run(places)
    return [results[place] for place in range(len(members))]


def training(
    task: Task, make_optimizer: MakeOptimizer, members: Sequence[Member], budget: Budget, engine: Engine = DEFAULTS
) -> Generator[dict[int, Evaluation], None, list[Result]]:
    """One stack as a generator that pauses after each evaluation, of each member that goes on, and returns the results.

    Args:
        members: as ``stacks`` put them together; a single one trains as ever.
    """
    with engine.settings():
        run: Lockstep
        if len(members) == 1:
            run = Trainer(task, make_optimizer, members[0].hp, members[0].seed, engine, budget.epochs)
        else:
            run = Stack(task, make_optimizer, members, engine, budget.epochs)
        return (yield from in_lockstep(run, budget))


def stacks(task: Task, make_optimizer: MakeOptimizer, members: Sequence[Member], engine: Engine) -> list[list[int]]:
    """Which members can train as one stack, by their places; one that cannot is alone."""
    if engine.compile or engine.channels_last or not members:
        return [[place] for place in range(len(members))]
    params = list(task.build(members[0].seed).parameters())
    found: dict[Hashable, list[int]] = {}
    for place, member in enumerate(members):
        try:
            optimizer = make_optimizer(params, member.hp)
        except Exception:  # it will be raised again where this member trains
            of_kind = None
        else:
            group = optimizer.param_groups[0]
            stackable = list(map(id, group["params"])) == list(map(id, params)) and (
                "lr" in group or not engine.scheduled
            )
            of_kind = kind(optimizer) if stackable else None
        found.setdefault(("alone", place) if of_kind is None else of_kind, []).append(place)
    return list(found.values())


class Stack(Lockstep):
    """Members as one stacked model."""

    def __init__(
        self, task: Task, make_optimizer: MakeOptimizer, members: Sequence[Member], engine: Engine, epochs: int
    ) -> None:
        super().__init__(task, len(members))
        self.engine = engine
        self.total_steps = epochs * task.steps_per_epoch
        self.seeds = [member.seed for member in members]
        self.stacked = list(range(len(members)))
        self.model = StackedModel(task, engine, self.seeds)
        optimizers = []
        for member in members:
            torch.default_generator.manual_seed(member.seed)  # of the probes; torch.manual_seed takes a millisecond
            optimizers.append(make_optimizer(self.model.own_params, member.hp))
        torch.manual_seed(members[0].seed)  # dropout
        self.optimizer = StackedOptimizer(optimizers, self.model.params, scheduled=engine.scheduled)
        self._first_looks: dict[tuple[int, tuple[str, ...]], dict[str, float]] = {}

    def batches(self, epochs: int) -> Iterator[StackBatch]:
        """Members of the same seed see the same rows."""
        seeds = list(dict.fromkeys(self.seeds))
        each = [all_batches(self.task, seed, epochs) for seed in seeds]
        if len(seeds) == 1:
            yield from (StackBatch(tuple(batch), shared=True) for batch in each[0])
            return
        for batches in zip(*each, strict=True):
            places = [seeds.index(self.seeds[member]) for member in self.stacked]
            own = (batches[place] for place in places)
            yield StackBatch(tuple(map(torch.stack, zip(*own, strict=True))), shared=False)

    def step(self, batch: StackBatch) -> Tensor:
        factor = 1.0
        if self.engine.scheduled:
            warm_up = self.engine.warmup_epochs * self.task.steps_per_epoch
            factor = self.engine.lr_factor(self.optimizer.steps, self.total_steps, warm_up)
        losses = self.optimizer.step(AtBatch(self.model, batch), factor, self.engine.clip_grad_norm)
        self.grad_equivalents = self.optimizer.grad_equivalents
        if len(self.live) < len(self.stacked):
            losses = losses[[self.stacked.index(member) for member in self.live]]
        return losses

    def look(self, member: int, splits: tuple[str, ...]) -> tuple[dict[str, float], dict[str, float]]:
        place = self.stacked.index(member)
        first = (self.seeds[member], splits)
        if self.steps == 0 and first in self._first_looks:
            return self._first_looks[first], {}
        self.model.load(place)
        metrics = evaluate(self.task, self.model.runner.evaluated, splits)
        if self.steps == 0:
            self._first_looks[first] = metrics
            return metrics, {}
        if not isinstance(self.optimizer.members[place], CurvatureOptimizer):
            return metrics, {}
        own = cast(CurvatureOptimizer, self.optimizer.lend(place))
        return metrics, {name: float(value) for name, value in own.diagnostics().items()}

    def part(self, members: Iterable[int]) -> None:
        """Those that part stay in the stack, and are looked at no more, until enough have."""
        super().part(members)
        if self.live and len(self.live) <= WORTH_DROPPING * len(self.stacked):
            places = torch.tensor([self.stacked.index(member) for member in self.live], device=self.task.device)
            self.model.keep(places)
            self.optimizer.keep(places, self.model.params)
            self.stacked = list(self.live)


class StackBatch(NamedTuple):
    """A batch for each member of a stack.

    Attributes:
        tensors: with the members as first dimension; or, if shared, those of one batch for all.
    """

    tensors: tuple[Tensor, ...]
    shared: bool


class StackedModel:
    """A task's network with the parameters and buffers of all members, (members, ...) each.

    Attributes:
        own_params: of an ordinary network, which ``load`` makes that of one member.
        runner: of that one.
    """

    def __init__(self, task: Task, engine: Engine, seeds: Sequence[int]) -> None:
        self.task = task
        built = {seed: task.build(seed).train() for seed in dict.fromkeys(seeds)}
        first, *others = (_other_tensors(network) for network in built.values())
        if not all(torch.equal(a, b) for other in others for a, b in zip(first, other, strict=True)):
            raise ValueError("the network holds tensors that are neither parameters nor buffers and differ by seed")
        networks = [built[seed] for seed in seeds]
        self.params = [
            torch.stack([p.detach() for p in params]).requires_grad_(params[0].requires_grad)
            for params in zip(*(network.parameters() for network in networks), strict=True)
        ]
        self.buffers = [torch.stack(list(b)) for b in zip(*(network.buffers() for network in networks), strict=True)]
        network = networks[0]
        self.runner = Runner(engine, network)
        self.own_params, self.own_buffers = list(network.parameters()), list(network.buffers())
        self._graphs: dict[Any, tracing.Traced] = {}

    def load(self, place: int) -> None:
        """Make the ordinary network a view of a member."""
        for own, stack in zip([*self.own_params, *self.own_buffers], [*self.params, *self.buffers], strict=True):
            own.data = stack.data[place]

    def keep(self, places: Tensor) -> None:
        self.params = [p.detach()[places].requires_grad_(p.requires_grad) for p in self.params]
        self.buffers = [buffer[places] for buffer in self.buffers]
        self._graphs.clear()

    def losses(self, batch: StackBatch) -> Tensor:
        """(members,), in full precision and with their graph."""
        return stacked_losses(self.task, self.runner.exact, self.params, self.buffers, batch)

    def replay(
        self, batch: StackBatch, name: Hashable, finish: Finish, further: list[Tensor], *, exact: bool
    ) -> list[Tensor | None]:
        """See ``optimizers.stacked.Problem``."""
        inputs = [*self.params, *self.buffers, *batch.tensors, *further]
        key = name, batch.shared, tuple((tensor.shape, tensor.stride()) for tensor in batch.tensors)
        if key not in self._graphs:
            graphs = vars(self.task).setdefault(GRAPHS, {})
            whole = name, batch.shared, self.runner.engine, tracing.kind(inputs)
            if whole not in graphs:
                model = self.runner.exact if exact else self.runner.trained
                graphs[whole] = self._traced(model, batch, finish)
            self._graphs[key] = graphs[whole]
        return list(self._graphs[key](*inputs))

    def _traced(self, model: nn.Module, batch: StackBatch, finish: Finish) -> tracing.Traced:
        # Nothing of this stack's tensors is to be held: what is traced stays with the task.
        task, shared = self.task, batch.shared
        ends = list(accumulate(map(len, (self.params, self.buffers, batch.tensors))))

        def flat(*tensors: Tensor) -> list[Tensor | None]:
            params, buffers, own, further = (
                list(tensors[start:end]) for start, end in pairwise([0, *ends, len(tensors)])
            )
            losses = stacked_losses(task, model, params, buffers, StackBatch(tuple(own), shared))
            return finish(losses, params, further)

        return tracing.Traced(flat)


GRAPHS = "_graphs of stacks"
"""The attribute of a task that holds what was traced of it, for its next cohorts."""


def stacked_losses(
    task: Task, model: nn.Module, params: list[Tensor], buffers: list[Tensor], batch: StackBatch
) -> Tensor:
    """The losses of a stack's members, (members,), with their graph.

    Args:
        params, buffers: (members, ...) each, in the order of the model's own.
    """
    names = [name for name, _ in model.named_parameters()], [name for name, _ in model.named_buffers()]

    def member(params: list[Tensor], buffers: list[Tensor], tensors: tuple[Tensor, ...]) -> Tensor:
        state = dict(zip(names[0], params, strict=True)), dict(zip(names[1], buffers, strict=True))
        return task.loss(Bound(model, state), tensors)[0]

    in_dims = (0, 0, None if batch.shared else 0)
    # Fused attention has neither a batching rule nor, on refresh steps, a double backward.
    with sdpa_kernel(SDPBackend.MATH):
        return torch.vmap(member, in_dims=in_dims, randomness="different")(params, buffers, batch.tensors)


def _other_tensors(network: nn.Module) -> list[Tensor]:
    """What a network's modules hold as plain attributes."""
    return [value for module in network.modules() for value in vars(module).values() if isinstance(value, Tensor)]


class Bound:
    """A network with given parameters and buffers, to call."""

    def __init__(self, model: nn.Module, state: tuple[dict[str, Tensor], dict[str, Tensor]]) -> None:
        self.model = model
        self.state = state

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        return functional_call(self.model, self.state, inputs, named)


class AtBatch(NamedTuple):
    """What a stack minimises at one step: see ``optimizers.stacked.Problem``."""

    model: StackedModel
    batch: StackBatch

    def replay(self, name: Hashable, finish: Finish, further: list[Tensor], *, exact: bool) -> list[Tensor | None]:
        return self.model.replay(self.batch, name, finish, further, exact=exact)

    def losses(self) -> Tensor:
        return self.model.losses(self.batch)

    def closure(self, place: int) -> Closure:
        self.model.load(place)
        own = self.batch.tensors if self.batch.shared else tuple(tensor[place] for tensor in self.batch.tensors)
        return lambda: self.model.task.loss(self.model.runner.exact, own)


def release_memory(device: torch.device) -> None:
    """Give back what a stack that failed held."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
