"""The spectrum of a loss's Hessian is exact for small networks and estimated for large ones; so is its diagonal."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from tasks.base import Batch, Task
from tuner.hessian.hessian import Hessian, fixed_batches, in_double, undisturbed
from tuner.training.records import Finding

EXACT_UP_TO = 2000
"""Parameters up to which the whole Hessian is computed."""
ENDS, PROBES, LANCZOS_STEPS, LANCZOS_RUNS, GRID = 5, 20, 40, 2, 256
TOLERANCE = 1e-4
"""Of extreme eigenvalues, relative to the largest magnitude."""
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


@dataclass(frozen=True)
class Spectrum:
    """What is known of a Hessian.

    Attributes:
        parameters: its rows.
        rows: of the data that the loss is the mean over.
        eigenvalues: in descending order, (known,): all of them, or both ends.
        ranks: of these eigenvalues among all, the largest being 0.
        trace, trace_error: the latter is the standard error of an estimate, 0 where it is exact.
        diagonal: (parameters,); ``None`` where it is not known.
        density: a grid of eigenvalues and the density there, with an integral of 1; ``None`` where all are known, and
            where the iteration broke down.
    """

    parameters: int
    rows: int
    eigenvalues: np.ndarray
    ranks: np.ndarray
    trace: float
    trace_error: float
    diagonal: np.ndarray | None = None
    density: tuple[np.ndarray, np.ndarray] | None = None

    def findings(self) -> list[Finding]:
        """The same in long form, with the diagonal as quantiles and the share of positive entries."""
        findings: list[Finding] = [("parameters", 0, float(self.parameters), None), ("rows", 0, float(self.rows), None)]
        findings += [("trace", 0, self.trace, None), ("trace_error", 0, self.trace_error, None)]
        values = zip(self.ranks.tolist(), self.eigenvalues.tolist(), strict=True)
        findings += [("eigenvalue", rank, value, None) for rank, value in values]
        if self.density is not None:
            points = zip(*(axis.tolist() for axis in self.density), strict=True)
            findings += [("density", index, value, x) for index, (x, value) in enumerate(points)]
        if self.diagonal is not None:
            quantiles = zip(QUANTILES, np.quantile(self.diagonal, QUANTILES).tolist(), strict=True)
            findings += [("diagonal_quantile", index, value, q) for index, (q, value) in enumerate(quantiles)]
            findings.append(("positive_share", 0, float((self.diagonal > 0).mean()), None))
        return findings


def analyze(
    task: Task,
    model: nn.Module,
    batches: Sequence[Batch] | None = None,
    *,
    exact_up_to: int = EXACT_UP_TO,
    ends: int = ENDS,
    probes: int = PROBES,
    lanczos_steps: int = LANCZOS_STEPS,
    seed: int = 0,
) -> Spectrum:
    """The spectrum of the Hessian of the mean loss over some rows, in the parameters that require a gradient.

    The network is in evaluation mode, as where the loss is reported: without dropout, and with the running statistics
    of BatchNorm, the loss is one function of the parameters, in which rows do not depend on each other. Nothing of
    model, task or random streams is changed. Small networks are analysed in float64, where the task's loss can be
    computed in it.

    Args:
        batches: what the loss is the mean over, each weighted by its rows; ``None``: ``fixed_batches``.
        exact_up_to: parameters up to which all eigenvalues and the diagonal are computed; else the ends of the
            spectrum by ARPACK, the trace by Hutchinson's estimator, the density by stochastic Lanczos quadrature.
        ends: how many of the largest and of the smallest eigenvalues.
        probes: of the trace.
        lanczos_steps: of each quadrature.
        seed: of all that is drawn.

    Raises:
        RuntimeError: the loss cannot be differentiated twice.
        ValueError: no parameter requires a gradient, or a curvature is not finite.
    """
    with undisturbed(model, task.device, seed):
        names = [name for name, param in model.named_parameters() if param.requires_grad]
        parameters = sum(model.get_parameter(name).numel() for name in names)
        batches = fixed_batches(task, parameters) if batches is None else list(batches)
        if parameters <= exact_up_to:
            return exact_spectrum(in_double(task, model, names, batches))
        hessian = Hessian(task, model, names, batches, None)
        return estimated_spectrum(hessian, min(ends, (parameters - 1) // 2), probes, lanczos_steps, seed)


def exact_spectrum(hessian: Hessian) -> Spectrum:
    matrix = hessian.matrix()
    if not matrix.isfinite().all():
        raise ValueError("the Hessian is not finite")
    eigenvalues = torch.linalg.eigvalsh(matrix).flip(0).cpu().numpy()
    ranks = np.arange(len(eigenvalues))
    diagonal = matrix.diagonal().cpu().numpy()
    trace = float(diagonal.sum(dtype=np.float64))
    return Spectrum(len(ranks), hessian.rows, eigenvalues, ranks, trace, 0.0, diagonal=diagonal)


def estimated_spectrum(hessian: Hessian, ends: int, probes: int, lanczos_steps: int, seed: int) -> Spectrum:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated names in what it imports
        from curvlinops import hutchinson_trace, lanczos_approximate_spectrum

    size = hessian.shape[0]
    eigenvalues = extreme_eigenvalues(hessian, ends, seed)
    samples: Any = hessian
    traces = np.array([float(hutchinson_trace(samples, num_matvecs=1)) for _ in range(probes)])
    error = float(traces.std(ddof=1) / np.sqrt(probes)) if probes > 1 else float("nan")
    boundaries = float(eigenvalues[-1]), float(eigenvalues[0])
    steps = min(lanczos_steps, size)
    grid, density = lanczos_approximate_spectrum(
        samples, steps, num_points=GRID, num_repeats=LANCZOS_RUNS, boundaries=boundaries
    )
    known = bool(density.isfinite().all() and grid.isfinite().all())
    ranks = np.concatenate([np.arange(ends), np.arange(size - ends, size)])
    return Spectrum(
        size, hessian.rows, eigenvalues, ranks, float(traces.mean()), error,
        density=(grid.double().cpu().numpy(), density.double().cpu().numpy()) if known else None,
    )  # fmt: skip


def extreme_eigenvalues(hessian: Hessian, ends: int, seed: int) -> np.ndarray:
    """The largest and the smallest, ``ends`` of each, in descending order.

    ARPACK's tolerance is relative to each eigenvalue, and most of a Hessian's are about zero. So they are shifted away
    from it, by twice the largest magnitude.
    """
    from scipy.sparse.linalg import LinearOperator, eigsh

    plain = hessian.to_scipy()
    size = hessian.shape[0]
    start = np.random.default_rng(seed).standard_normal(size)
    if not np.isfinite(plain.matvec(start)).all():
        raise ValueError("the Hessian is not finite")
    (largest,) = eigsh(plain, k=1, which="LM", tol=1e-2, v0=start, return_eigenvectors=False)
    shift = 2 * abs(float(largest))
    shifted = LinearOperator(hessian.shape, matvec=lambda v: plain.matvec(v) + shift * v, dtype=np.float64)
    krylov = min(size, max(8 * ends, 20))
    extremes = eigsh(shifted, k=2 * ends, which="BE", ncv=krylov, tol=TOLERANCE, v0=start, return_eigenvectors=False)
    return np.sort(extremes - shift)[::-1]
