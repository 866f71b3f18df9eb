"""The base class of curvature optimizers: everything about an update rule that is not the rule."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from optimizers.curvature import Estimator, find_estimator

State = dict[str, Tensor]
Hyperparameters = dict[str, Any]
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
        estimator: a name in ``optimizers.curvature.ESTIMATORS``, or an ``Estimator``.
        update_period: steps from one curvature estimate to the next, at least 1.
        maximize: ascend instead of descend.

    Raises:
        ValueError: an unknown estimator, or an ``update_period`` below 1.
    """

    def __init__(
        self,
        params: Iterable[Any],
        defaults: Hyperparameters,
        *,
        estimator: str | Estimator = "hutchinson",
        update_period: int = 1,
        maximize: bool = False,
    ) -> None:
        if update_period < 1 or update_period != int(update_period):
            raise ValueError(f"update_period must be a whole number of at least 1, got {update_period}")
        self.estimator = find_estimator(estimator)
        self.update_period = int(update_period)
        self.grad_equivalents = 0.0
        """Cost so far in gradients (one forward and one backward pass), by the estimators' nominal costs."""
        self._steps = 0
        self._seed = torch.initial_seed()
        self._generator: torch.Generator | None = None
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
            state: what the last call returned; empty at first. Tensors of the parameter's shape, or 0-dim.
            hp: the parameter group's hyperparameters, numbers or 0-dim tensors.

        Returns:
            The new parameter and the new state.
        """
        raise NotImplementedError

    @torch.no_grad()
    def step(self, closure: Closure, *, curvature: Sequence[Tensor] | None = None) -> Tensor:
        """One step. Returns the loss at the parameters before it, detached.

        Args:
            closure: returns the loss, or ``(loss, outputs)``, with its graph; see the class.
            curvature: injects the curvature instead of estimating it: one tensor per parameter, in the order of
                the parameter groups. Such a step counts as a refresh.

        Raises:
            RuntimeError: the closure returned no loss to differentiate, or a parameter or gradient is complex
                or sparse.
            ValueError: the injected curvature does not match the parameters.
        """
        params = [p for group in self.param_groups for p in group["params"]]
        refresh = curvature is None and self._steps % self.update_period == 0
        loss, outputs = self._forward(closure, double_backward=refresh and self.estimator.double_backward)
        grads = self._gradients(loss, params, refresh)
        if curvature is not None:
            curvatures: Sequence[Tensor | None] = _checked(curvature, params)
        elif refresh:
            curvatures = self._estimate(loss, outputs, params, grads)
        else:
            curvatures = [None] * len(params)
        self._apply(grads, curvatures)
        self._steps += 1
        self.grad_equivalents += 1.0
        return loss.detach()

    def _forward(self, closure: Closure, *, double_backward: bool) -> tuple[Tensor, Any]:
        # Fused attention kernels have no double backward.
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH) if double_backward else nullcontext():
            returned = closure()
        loss, outputs = returned if isinstance(returned, tuple) else (returned, None)
        if not isinstance(loss, Tensor) or not loss.requires_grad:
            raise RuntimeError(
                "the closure must return the loss, a tensor with its graph (and must not call backward), "
                f"but returned {'a tensor without one' if isinstance(loss, Tensor) else type(loss).__name__}"
            )
        return loss, outputs

    def _gradients(self, loss: Tensor, params: list[Tensor], refresh: bool) -> list[Tensor | None]:
        for param in params:
            if param.is_complex():
                raise RuntimeError(f"{type(self).__name__} does not support complex parameters")
        needed = [p for p in params if p.requires_grad]
        if not needed:
            return [None] * len(params)
        self.zero_grad()
        with torch.enable_grad():
            if refresh and self.estimator.double_backward:
                found = iter(torch.autograd.grad(loss, needed, create_graph=True, allow_unused=True))
                grads = [next(found) if p.requires_grad else None for p in params]
                for param, grad in zip(params, grads, strict=True):
                    # A copy: autograd may return one tensor for two parameters, or an expanded one.
                    param.grad = None if grad is None else grad.detach().clone()
            else:
                loss.backward(inputs=needed, retain_graph=refresh)
                grads = [p.grad for p in params]
        if any(grad is not None and grad.is_sparse for grad in grads):
            raise RuntimeError(f"{type(self).__name__} does not support sparse gradients")
        return grads

    def _estimate(
        self, loss: Tensor, outputs: Any, params: list[Tensor], grads: list[Tensor | None]
    ) -> list[Tensor | None]:
        used = [i for i, grad in enumerate(grads) if grad is not None]
        if not used:
            return [None] * len(params)
        used_params = [params[i] for i in used]
        with torch.enable_grad():
            estimates = self.estimator(loss, outputs, used_params, [grads[i] for i in used], self._probes(used_params))
        self.grad_equivalents += self.estimator.cost(used_params)
        curvatures: list[Tensor | None] = [None] * len(params)
        for i, estimate in zip(used, estimates, strict=True):
            curvatures[i] = estimate.detach()
        return curvatures

    def _probes(self, params: list[Tensor]) -> torch.Generator:
        """The probes' own generator: drawing from it leaves dropout and data order as they were."""
        if self._generator is None:
            # Not the seed itself: weights drawn after manual_seed(seed) would be the first Gaussian probe.
            self._generator = torch.Generator(params[0].device).manual_seed(self._seed ^ PROBE_SALT)
        return self._generator

    def _apply(self, grads: list[Tensor | None], curvatures: Sequence[Tensor | None]) -> None:
        seen = iter(zip(grads, curvatures, strict=True))
        for group in self.param_groups:
            for param in group["params"]:
                grad, curvature = next(seen)
                if grad is None or not param.numel():
                    continue
                grad = grad.detach()
                if group["maximize"]:
                    grad, curvature = -grad, None if curvature is None else -curvature
                new_param, self.state[param] = self.update(param, grad, curvature, self.state[param], group)
                param.copy_(new_param)

    def state_dict(self) -> dict[str, Any]:
        """As in PyTorch, with the step count, the cost so far and the probes' generator beside it."""
        generator = None if self._generator is None else self._generator.get_state()
        return super().state_dict() | {
            CURVATURE_KEY: {
                "steps": self._steps,
                "grad_equivalents": self.grad_equivalents,
                "seed": self._seed,
                "generator": generator,
            }
        }

    def __getstate__(self) -> dict[str, Any]:
        """What copying and pickling keep: ``torch.optim.Optimizer`` names its own attributes only."""
        own = ("estimator", "update_period", "grad_equivalents", "_steps", "_seed", "_generator")
        return super().__getstate__() | {name: getattr(self, name) for name in own}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned; the next steps equal those of the original to the bit."""
        if CURVATURE_KEY not in state_dict:
            raise ValueError(f"not the state_dict of a {type(self).__name__}: it has no {CURVATURE_KEY!r}")
        own = state_dict[CURVATURE_KEY]
        super().load_state_dict({k: v for k, v in state_dict.items() if k != CURVATURE_KEY})
        self._steps = own["steps"]
        self.grad_equivalents = own["grad_equivalents"]
        self._seed = own["seed"]
        self._generator = None
        if own["generator"] is not None:
            params = [p for group in self.param_groups for p in group["params"]]
            self._probes(params).set_state(own["generator"].cpu())


def _checked(curvature: Sequence[Tensor], params: list[Tensor]) -> Sequence[Tensor]:
    if len(curvature) != len(params) or any(c.shape != p.shape for c, p in zip(curvature, params, strict=True)):
        raise ValueError(
            "curvature must be one tensor per parameter and of its shape: "
            f"expected {[tuple(p.shape) for p in params]}, got {[tuple(c.shape) for c in curvature]}"
        )
    return [c.to(p, copy=True) for c, p in zip(curvature, params, strict=True)]
