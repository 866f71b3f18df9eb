"""The base class of curvature optimizers does everything about an update rule that is not the rule."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from optimizers import apply
from optimizers.apply import Hyperparameters, State
from optimizers.closures import loss_and_outputs
from optimizers.curvature.interface import Estimator, Refresh
from optimizers.curvature.registry import find_estimator
from optimizers.gradients import clip_to_norm, copied
from optimizers.side_by_side import SideBySide

Closure = Callable[[], "Tensor | tuple[Tensor, Any]"]

CURVATURE_KEY = "curvature"
PROBE_SALT = 0x9E3779B97F4A7C15


class CurvatureOptimizer(torch.optim.Optimizer):
    """A ``torch.optim.Optimizer`` whose rule also sees an estimate of the Hessian's diagonal.

    A subclass is one pure function, ``update``; this class does the rest: parameter groups, state and its
    ``state_dict`` round trip (the probes' generator included), the choice of estimator and when to run it.

    ``loss = optimizer.step(closure)``: the closure runs the forward pass and returns the loss, or
    ``(loss, outputs)`` for estimators that sample labels. It does NOT call ``backward``. On a refresh step
    (``step % update_period == 0``) that one forward pass serves gradient and curvature; on every other step the
    gradient is a plain one, without a double-backward graph. ``p.grad`` holds the gradient and never a graph.

    Args:
        params: parameters or parameter groups, as for any ``torch.optim.Optimizer``.
        defaults: the rule's hyperparameters with their default values.
        estimator: a name in ``curvature.registry.ESTIMATORS``, ``{"name": ..., **arguments}``, or an ``Estimator``.
        update_period: steps from one curvature estimate to the next, at least 1.
        maximize: ascend instead of descend; estimators then see the negated loss.
        foreach: run the rule on lists of tensors; ``None``: where it pays.
        compile: run the rule over all tensors as one graph of ``torch.compile``; the first steps then compile it.

    Raises:
        ValueError: an unknown estimator, an ``update_period`` below 1, or both ``foreach`` and ``compile``.
    """

    def __init__(
        self,
        params: Iterable[Any],
        defaults: Hyperparameters,
        *,
        estimator: str | Mapping[str, Any] | Estimator = "hutchinson",
        update_period: int = 1,
        maximize: bool = False,
        foreach: bool | None = None,
        compile: bool = False,
    ) -> None:
        if foreach and compile:
            raise ValueError("foreach and compile exclude each other")
        if not isinstance(update_period, int | float) or update_period < 1 or update_period % 1:
            raise ValueError(f"update_period must be a whole number of at least 1, got {update_period!r}")
        self.estimator = find_estimator(estimator)
        self.update_period = int(update_period)
        self.grad_equivalents = 0.0
        """Cost so far in gradients (one forward and one backward pass), by the estimators' nominal costs."""
        self.refreshing = False
        """Whether the step under way estimates curvature: a closure then neither compiles nor uses autocast."""
        self.foreach = foreach
        self.compile = compile
        self._steps = 0
        self._seed = torch.initial_seed()
        self._generator: torch.Generator | None = None
        self._previous: dict[int, Tensor] = {}
        self._memory: dict[str, Any] = {}
        self._beside: dict[int, SideBySide] = defaultdict(SideBySide)
        super().__init__(params, {**defaults, "maximize": maximize})

    @staticmethod
    def update(
        param: Tensor, grad: Tensor, curvature: Tensor | None, state: State, hp: Hyperparameters
    ) -> tuple[Tensor, State]:
        """The rule, a pure function of one tensor, elementwise or reducing over the whole tensor.

        Args:
            param: the parameter, any shape.
            grad: its gradient, same shape.
            curvature: its estimated Hessian diagonal, same shape; ``None`` on a step without refresh.
            state: what the last call returned; empty at first, where the curvature may be ``None`` too, for a parameter
                first used between refreshes. Tensors of the parameter's shape, or 0-dim.
            hp: the parameter group's hyperparameters, numbers or 0-dim tensors.

        Returns:
            The new parameter and the new state.
        """
        raise NotImplementedError

    @staticmethod
    def direction(grad: Tensor, state: State, hp: Hyperparameters) -> Tensor:
        """The vector that the estimator ``hvp`` multiplies the Hessian with: ``-rho sign(m)``.

        m is the momentum with this step's gradient in it, or the gradient where the rule has no momentum (yet).
        """
        momentum = state["momentum"].lerp(grad, 1 - hp["betas"][0]) if "momentum" in state else grad
        return -hp.get("rho", 1.0) * momentum.sign()

    def diagnostics(self) -> dict[str, Tensor]:
        """Quantities of the last step that are worth a curve, 0-dim tensors: reading one waits for the device."""
        return {}

    @torch.no_grad()
    def step(
        self,
        closure: Closure,
        *,
        curvature: Sequence[Tensor | None] | None = None,
        max_grad_norm: float | None = None,
    ) -> Tensor:
        """One step. Returns the loss at the parameters before it, detached.

        Args:
            closure: returns the loss, or ``(loss, outputs)``, with its graph; see the class.
            curvature: injects the loss's curvature instead of estimating it: one tensor per parameter, in the order of
                the parameter groups; ``None`` in place of a tensor for none. Such a step counts as a refresh.
            max_grad_norm: scales the gradient that the rule sees, and ``p.grad``, down to this norm over all
                parameters; the curvature stays that of the loss.

        Raises:
            RuntimeError: the closure returned no loss to differentiate, or a parameter or gradient is complex
                or sparse.
            ValueError: the injected curvature does not match the parameters, or the estimator needs outputs that
                the closure did not return, or a loss of another kind.
        """
        loss, applied, curvatures = self.differentiate(closure, curvature=curvature, max_grad_norm=max_grad_norm)
        self._apply(applied, curvatures)
        return loss

    def differentiate(
        self,
        closure: Closure,
        *,
        curvature: Sequence[Tensor | None] | None = None,
        max_grad_norm: float | None = None,
    ) -> tuple[Tensor, list[Tensor | None], Sequence[Tensor | None]]:
        """A step up to its rule: arguments and errors are those of ``step``. Counts as a step.

        Returns:
            The loss; and what the rule is to see, for each parameter: gradient and curvature, or ``None``.
        """
        if torch.is_grad_enabled():  # not within a step, which should not pay for it twice
            with torch.no_grad():
                return CurvatureOptimizer.differentiate(self, closure, curvature=curvature, max_grad_norm=max_grad_norm)
        params = [p for group in self.param_groups for p in group["params"]]
        refresh = curvature is None and self._refreshes(params)
        self.refreshing = refresh and self.estimator.differentiates
        # Nothing may keep a reference to the graph beyond this function.
        loss, outputs, record = self._forward(closure, params, refresh)
        minimised = torch.enable_grad()(torch.neg)(loss) if self._maximize else loss
        grads = self._gradients(minimised, params, refresh)
        applied = clip_to_norm(grads, max_grad_norm)
        if max_grad_norm is not None:
            self._set_grads(params, applied)
        curvatures: Sequence[Tensor | None] = [None] * len(params)
        if curvature is not None:
            curvatures = self._injected(curvature, params)
        elif refresh:
            curvatures = self._estimate(minimised, outputs, record, params, grads, applied)
        if self.estimator.previous_gradients:
            self._previous |= {i: g for i, g in enumerate(copied(grads, params)) if g is not None}
        self._steps += 1
        self.grad_equivalents += 1.0
        return loss.detach(), applied, curvatures

    def refresh_always(self) -> None:
        """From now on estimate, at every step, all curvature that the rule ever asks for: to see what that costs."""
        self.update_period = 1

    def _refreshes(self, params: Sequence[Tensor]) -> bool:
        return self._steps % self.update_period == 0

    @property
    def _maximize(self) -> bool:
        return bool(self.param_groups[0]["maximize"])

    def _forward(self, closure: Closure, params: Sequence[Tensor], refresh: bool) -> tuple[Tensor, Any, Any]:
        with torch.enable_grad():
            if not refresh:
                return loss_and_outputs(closure())[0], None, None
            with self.estimator.watch(params) as record:
                loss, outputs = loss_and_outputs(closure())
        self.estimator.follow(record, outputs, params, self._memory)
        return loss, outputs, record

    def _gradients(self, minimised: Tensor, params: list[Tensor], refresh: bool) -> list[Tensor | None]:
        """The gradients of what is minimised, on a refresh with a graph if need be; sets ``p.grad``, without one."""
        if any(map(torch.is_complex, params)):
            raise RuntimeError(f"{type(self).__name__} does not support complex parameters")
        needed = [p for p in params if p.requires_grad]
        if not needed:
            return [None] * len(params)
        for param in params:
            param.grad = None
        graph = refresh and self.estimator.double_backward
        if graph:
            gradients = iter(torch.autograd.grad(minimised, needed, create_graph=True, allow_unused=True))
            grads = [next(gradients) if p.requires_grad else None for p in params]
        else:
            minimised.backward(inputs=needed, retain_graph=refresh)
            grads = [p.grad for p in params]
        if any(grad is not None and grad.is_sparse for grad in grads):
            raise RuntimeError(f"{type(self).__name__} does not support sparse gradients")
        if graph or self._maximize:
            self._set_grads(params, copied(grads, params) if graph else grads)
        return grads

    def _set_grads(self, params: list[Tensor], minimised: Sequence[Tensor | None]) -> None:
        """Make ``p.grad`` the gradients of the loss, given those of what is minimised."""
        for param, grad in zip(params, minimised, strict=True):
            param.grad = -grad if self._maximize and grad is not None else grad

    def _estimate(
        self,
        minimised: Tensor,
        outputs: Any,
        record: Any,
        params: list[Tensor],
        grads: list[Tensor | None],
        applied: list[Tensor | None],
    ) -> list[Tensor | None]:
        curvatures: list[Tensor | None] = [None] * len(params)
        used = [i for i, grad in enumerate(grads) if grad is not None]
        if not used:
            return curvatures
        refresh = Refresh(
            loss=minimised,
            outputs=outputs,
            params=[params[i] for i in used],
            indices=used,
            grads=[grads[i] for i in used],
            previous_grads=[self._previous.get(i) for i in used],
            directions=lambda: self._directions(applied),
            generator=self._probes(params),
            record=record,
            memory=self._memory,
        )
        with torch.enable_grad():
            estimates = self.estimator(refresh)
        self.grad_equivalents += self.estimator.cost(refresh)
        for i, estimate in zip(used, estimates, strict=True):
            curvatures[i] = None if estimate is None else estimate.detach()
        return curvatures

    def _directions(self, grads: list[Tensor | None]) -> list[Tensor]:
        each, found = iter(grads), list[Tensor]()
        for group in self.param_groups:
            given = [(param, next(each)) for param in group["params"]]
            members = [(param, grad, None, self.state[param]) for param, grad in given if grad is not None]
            found += apply.directions(self.direction, members, group)
        return found

    def _probes(self, params: list[Tensor]) -> torch.Generator:
        """The probes' own generator: drawing from it leaves dropout and data order as they were."""
        if self._generator is None:
            # Not the seed itself: weights drawn after manual_seed(seed) would be the first Gaussian probe.
            self._generator = torch.Generator(params[0].device).manual_seed(self._seed ^ PROBE_SALT)
        return self._generator

    def _injected(self, curvature: Sequence[Tensor | None], params: list[Tensor]) -> list[Tensor | None]:
        expected = [self.curvature_shape(p) for p in params]
        given = [None if c is None else tuple(c.shape) for c in curvature]
        if len(given) != len(expected) or any(g not in (None, e) for g, e in zip(given, expected, strict=True)):
            raise ValueError(
                f"curvature must be one tensor per parameter and of its shape: expected {expected}, got {given}"
            )
        sign = -1.0 if self._maximize else 1.0
        return [None if c is None else sign * c.to(p, copy=True) for c, p in zip(curvature, params, strict=True)]

    @staticmethod
    def curvature_shape(param: Tensor) -> tuple[int, ...]:
        """Shape of a parameter's curvature."""
        return tuple(param.shape)

    def _apply(self, grads: Sequence[Tensor | None], curvatures: Sequence[Tensor | None]) -> None:
        start, chosen = 0, self.foreach is not None or self.compile
        for number, group in enumerate(self.param_groups):
            params, stop = group["params"], start + len(group["params"])
            given = params, list(grads[start:stop]), curvatures[start:stop], self.state
            hp = {name: value for name, value in group.items() if name != "params"}
            if chosen or not self._beside[number].step(self.update, *given, hp):
                apply.take(self._run(), self.update, *given, hp)
            start = stop

    def _run(self) -> Callable[..., apply.Applied]:
        if self.compile:
            return apply.compiled
        return {True: apply.as_lists, False: apply.one_by_one, None: apply.where_it_pays}[self.foreach]

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As in PyTorch.

        Raises:
            ValueError: the group's ``maximize`` is not that of the others: estimators see one loss.
        """
        super().add_param_group(param_group)
        if len({bool(group["maximize"]) for group in self.param_groups}) > 1:
            raise ValueError("maximize must be the same in all parameter groups")

    def state_dict(self) -> dict[str, Any]:
        """As in PyTorch, with the step count, the cost so far and the probes' generator beside it."""
        return super().state_dict() | {
            CURVATURE_KEY: {
                "steps": self._steps,
                "grad_equivalents": self.grad_equivalents,
                "seed": self._seed,
                "generator": None if self._generator is None else self._generator.get_state(),
                "previous": dict(self._previous),
                "memory": deepcopy(self._memory),
            }
        }

    def __getstate__(self) -> dict[str, Any]:
        """What copying and pickling keep: ``torch.optim.Optimizer`` names its own attributes only."""
        public = "estimator update_period foreach compile grad_equivalents refreshing"
        names = f"{public} _steps _seed _generator _previous _memory".split()
        kept = {name: getattr(self, name) for name in names}
        return super().__getstate__() | kept | {"_beside": defaultdict(SideBySide)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned; the next steps equal those of the original to the bit."""
        if CURVATURE_KEY not in state_dict:
            raise ValueError(f"not the state_dict of a {type(self).__name__}: it has no {CURVATURE_KEY!r}")
        saved = state_dict[CURVATURE_KEY]
        # A copy: states change in place. What lies side by side does so in it.
        super().load_state_dict(deepcopy({k: v for k, v in state_dict.items() if k != CURVATURE_KEY}))
        self._steps = saved["steps"]
        self.grad_equivalents = saved["grad_equivalents"]
        self._seed = saved["seed"]
        self._generator = None
        params = [p for group in self.param_groups for p in group["params"]]
        indices = [i for group in state_dict["param_groups"] for i in group["params"]]
        numbers = apply.numbers_of([state_dict["state"].get(i, {}) for i in indices], params)
        for param, own in zip(params, numbers, strict=True):
            self.state[param].update(own)
        self._previous = {i: grad.to(params[i], copy=True) for i, grad in saved["previous"].items()}
        self._memory = deepcopy(saved["memory"])
        if saved["generator"] is not None:
            self._probes(params).set_state(saved["generator"].cpu())
