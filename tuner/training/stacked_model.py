"""A stacked model is a task's network for many members: parameters and buffers have them as their first dimension."""

from __future__ import annotations

import operator
from collections.abc import Callable, Hashable, Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_leaves

from optimizers.base import Closure
from optimizers.stacking.capture import Captures, Held
from optimizers.stacking.flat import Places
from optimizers.stacking.problem import Finish
from optimizers.stacking.recording import Flat, Program
from optimizers.stacking.replay import Traced, signature
from tasks.base import Task
from tuner.training.captures import captures_of
from tuner.training.engine import Engine, Runner
from tuner.training.stack_batches import StackBatch


class StackedModel:
    """A task's network with the parameters and buffers of all members, (members, ...) each.

    Attributes:
        buffer: in which the parameters lie side by side, (members, width), if they do.
        own_params: of an ordinary network, which ``load`` makes that of one member.
        runner: of that one.
        captures: its CUDA graphs, and those of its optimizer, if anything is captured.
    """

    def __init__(self, task: Task, engine: Engine, seeds: Sequence[int]) -> None:
        self.task = task
        built = {seed: task.build(seed).train() for seed in dict.fromkeys(seeds)}
        _check(list(built.values()))
        networks = [built[seed] for seed in seeds]
        of_members = list(zip(*(network.parameters() for network in networks), strict=True))
        self._trained = [params[0].requires_grad for params in of_members]
        self._lay([torch.stack([param.detach() for param in params]) for params in of_members])
        self.buffers = [torch.stack(list(b)) for b in zip(*(network.buffers() for network in networks), strict=True)]
        network = networks[0]
        self.runner = Runner(engine, network)
        self.own_params, self.own_buffers = list(network.parameters()), list(network.buffers())
        self._traced: dict[Any, Traced] = {}
        self.captures = captures_of(task, engine)

    def _lay(self, tensors: Sequence[Tensor]) -> None:
        """Take these as the parameters, side by side where they are of one type."""
        one_type = len({(tensor.dtype, tensor.device) for tensor in tensors}) == 1
        places = Places([tensor.shape[1:] for tensor in tensors])
        self.buffer = places.buffer(tensors) if one_type else None
        parts = tensors if self.buffer is None else places.views(self.buffer)
        self.params = [part.detach().requires_grad_(own) for part, own in zip(parts, self._trained, strict=True)]

    def load(self, row: int, params: Sequence[Tensor] | None = None) -> None:
        """Make the ordinary network a view of a member.

        Args:
            params: what to take in place of the stack's own, (members, ...) each.

        Raises:
            ValueError: it has replaced a buffer.
        """
        if [*map(id, self.runner.exact.buffers())] != [*map(id, self.own_buffers)]:
            raise ValueError("the network replaces a buffer instead of changing it in row")
        stacked = [*(self.params if params is None else params), *self.buffers]
        for own, stack in zip([*self.own_params, *self.own_buffers], stacked, strict=True):
            own.data = stack.data[row]

    def member_params(self, row: int) -> list[nn.Parameter]:
        """Parameters that are views of a member's."""
        return [nn.Parameter(param.detach()[row], requires_grad=param.requires_grad) for param in self.params]

    def keep(self, rows: Tensor) -> None:
        self._lay([param.detach()[rows] for param in self.params])
        self.buffers = [buffer[rows] for buffer in self.buffers]
        self._traced.clear()
        if self.captures is not None:
            self.captures.clear()

    def losses(self, batch: StackBatch) -> Tensor:
        """(members,), in full precision and with their graph."""
        return stacked_losses(self.task, self.runner.exact, self.params, self.buffers, batch)

    def replay(
        self, batch: StackBatch, name: Hashable, finish: Finish, further: list[Tensor], *, exact: bool
    ) -> list[Tensor | None]:
        """See ``optimizers.stacking.problem.Problem``."""
        inputs = [*self.params, *self.buffers, *batch.tensors, *further]
        key = name, batch.shared, tuple((tensor.shape, tensor.stride()) for tensor in batch.tensors)
        if key not in self._traced:
            programs = PROGRAMS.setdefault(self.task, {})
            whole = name, batch.shared, self.runner.engine, signature(inputs)
            model = self.runner.exact if exact else self.runner.trained
            self._traced[key] = Traced(self._flat(model, batch, finish), programs, whole)
        settled = self._traced[key].settled
        if settled is None or self.captures is None:
            return list(self._traced[key](*inputs))
        return self._captured(self.captures, key, settled, [*batch.tensors, *further])

    def _captured(self, captures: Captures, key: tuple[Any, ...], replay: Flat, inputs: Sequence[Tensor]) -> list[Any]:
        """What a replay comes to, by its CUDA graph once there is one."""
        held = [*self.params, *self.buffers]

        def with_own(*inputs: Tensor) -> Sequence[Tensor | None]:
            with torch.no_grad():
                return replay(*held, *inputs)

        name = "the gradient of stacks" if key[0] == "gradients" else "the refresh of stacks"
        return list(captures.call(name, key, with_own, inputs, Held(held, self.buffers)))

    def recheck_next_replay(self) -> None:
        """See ``Traced.recheck_next_replay``."""
        for traced in self._traced.values():
            traced.recheck_next_replay()

    def _flat(self, model: nn.Module, batch: StackBatch, finish: Finish) -> Flat:
        task, shared = self.task, batch.shared
        ends = list(accumulate(map(len, (self.params, self.buffers, batch.tensors))))

        def flat(*tensors: Tensor) -> list[Tensor | None]:
            params, buffers, own, further = (
                list(tensors[start:end]) for start, end in pairwise([0, *ends, len(tensors)])
            )
            losses = stacked_losses(task, model, params, buffers, StackBatch(tuple(own), shared))
            return finish(losses, params, further)

        return flat


PROGRAMS: WeakKeyDictionary[Task, dict[Any, Program]] = WeakKeyDictionary()
"""What was recorded of a task, for its next cohorts."""


def stacked_losses(
    task: Task, model: nn.Module, params: list[Tensor], buffers: list[Tensor], batch: StackBatch
) -> Tensor:
    """The losses of a stack's members, (members,), with their graph.

    Args:
        params, buffers: (members, ...) each, in the order of the model's own.
    """
    names = [name for name, _ in model.named_parameters()], [name for name, _ in model.named_buffers()]

    def member(params: list[Tensor], buffers: list[Tensor], tensors: tuple[Tensor, ...]) -> Tensor:
        state = dict(zip([*names[0], *names[1]], [*params, *buffers], strict=True))
        loss, _ = task.loss(Bound(model, state), tensors)
        if any(state[name] is not buffer for name, buffer in zip(names[1], buffers, strict=True)):
            raise ValueError("the network replaces a buffer instead of changing it in row")
        return loss

    in_dims = (0, 0, None if batch.shared else 0)
    # Fused attention has neither a batching rule nor, on refresh steps, a double backward.
    with sdpa_kernel(SDPBackend.MATH):
        return torch.vmap(member, in_dims=in_dims, randomness="different")(params, buffers, batch.tensors)


def stacked_losses_and_outputs(
    task: Task, model: nn.Module, params: list[Tensor], buffers: list[Tensor], batch: StackBatch
) -> tuple[Tensor, Tensor] | None:
    """The losses of a stack's members, (members,), and the outputs that they are computed from, with their graph.

    The outputs are those of all members one after the other, (members * samples, ...). ``None`` where the task's loss
    is not of one call of the network, whose outputs it returns.
    """
    found: list[bool] = []

    def outputs_of(model: Any, tensors: tuple[Tensor, ...]) -> Tensor:
        returned: list[Any] = []

        def called(*inputs: Any, **named: Any) -> Any:
            returned.append(model(*inputs, **named))
            return returned[-1]

        _, outputs = task.loss(called, tensors)
        found.append(len(returned) == 1 and outputs is returned[0] and isinstance(outputs, Tensor))
        return outputs

    names = [name for name, _ in model.named_parameters()] + [name for name, _ in model.named_buffers()]

    def member_outputs(params: list[Tensor], buffers: list[Tensor], tensors: tuple[Tensor, ...]) -> Tensor:
        return outputs_of(Bound(model, dict(zip(names, [*params, *buffers], strict=True))), tensors)

    def member_loss(outputs: Tensor, tensors: tuple[Tensor, ...]) -> Tensor:
        return task.loss(lambda *_, **__: outputs, tensors)[0]

    shared = None if batch.shared else 0
    with sdpa_kernel(SDPBackend.MATH):
        run = torch.vmap(member_outputs, in_dims=(0, 0, shared), randomness="different")
        outputs = run(params, buffers, batch.tensors)
        if not all(found) or outputs.dim() < 2:
            return None
        flat = outputs.flatten(0, 1)
        again = torch.vmap(member_loss, in_dims=(0, shared), randomness="different")
        return again(flat.unflatten(0, outputs.shape[:2]), batch.tensors), flat


def _check(networks: Sequence[nn.Module]) -> None:
    """
    Args:
        networks: one for each seed.

    Raises:
        ValueError: a stack would not do what they do.
    """
    first, *others = (list(_other_tensors(network)) for network in networks)
    if not all(len(first) == len(other) and all(map(torch.equal, first, other)) for other in others):
        raise ValueError("the network holds tensors that are neither parameters nor buffers and differ by seed")
    if any(p._backward_hooks or p._post_accumulate_grad_hooks for p in networks[0].parameters()):
        raise ValueError("a parameter has hooks")
    padded = (isinstance(module, nn.Embedding) and module.padding_idx is not None for module in networks[0].modules())
    if others and any(padded):  # the batching rule for weights and indices forgets it
        raise ValueError("an embedding with padding_idx")


def _other_tensors(network: nn.Module) -> Iterator[Tensor]:
    """What a network's modules hold that is neither parameter nor buffer."""
    for module in network.modules():
        for name, value in vars(module).items():
            if name not in ("_parameters", "_buffers", "_modules"):
                yield from (leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor))


class Bound:
    """A network with given parameters and buffers, to call."""

    def __init__(self, model: nn.Module, state: dict[str, Tensor]) -> None:
        self.model = model
        self.state = state

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        return functional_call(self.model, self.state, inputs, named)


class AtBatch(NamedTuple):
    """What a stack minimises at one step: see ``optimizers.stacking.problem.Problem``."""

    model: StackedModel
    batch: StackBatch

    def replay(self, name: Hashable, finish: Finish, further: list[Tensor], *, exact: bool) -> list[Tensor | None]:
        return self.model.replay(self.batch, name, finish, further, exact=exact)

    def losses(self) -> Tensor:
        return self.model.losses(self.batch)

    def losses_and_outputs(self) -> tuple[Tensor, Tensor] | None:
        model = self.model
        return stacked_losses_and_outputs(model.task, model.runner.exact, model.params, model.buffers, self.batch)

    def closure(self, row: int, params: Sequence[Tensor], exact: Callable[[], bool]) -> Closure:
        runner = self.model.runner
        names = [name for name, _ in runner.exact.named_parameters()]
        self.model.load(row)
        own = self.batch.tensors if self.batch.shared else tuple(tensor[row] for tensor in self.batch.tensors)

        def closure() -> tuple[Tensor, Any]:
            model = runner.exact if exact() else runner.trained
            if all(map(operator.is_, params, self.model.own_params)):
                return self.model.task.loss(model, own)
            return self.model.task.loss(Bound(model, dict(zip(names, params, strict=True))), own)

        return closure

    def buffers(self) -> list[Tensor]:
        return self.model.buffers
