"""A physics-informed network solves Poisson's equation on a square, where the solution is known.

Source: Raissi, Perdikaris and Karniadakis, "Physics-informed neural networks", Journal of Computational Physics 378,
2019. The solution is chosen, and the right-hand side made of it, as in the method of manufactured solutions.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from tasks.base import Data, Task
from tasks.forward_laplacian import TanhJets

HIDDEN = 32
POINTS = {"train": (1024, 256), "val": (512, 128), "test": (512, 128)}
"""Inside the square and on its boundary."""

POINTS_SEED = 0
WAVES = ((1.0, 1, 1), (0.25, 2, 3))
"""The solution is the sum over (size, k, l) of size sin(k pi x) sin(l pi y)."""

BOUND = 10.0  # times the loss of u = 0


class PoissonPINN(Task):
    """A 2-32-32-1 tanh perceptron u (1,185 parameters) for -Laplacian u = f in the unit square, u = 0 on its boundary.

    The solution is sin(pi x) sin(pi y) + sin(2 pi x) sin(3 pi y) / 4. The loss, which does not know it, is the mean
    square over points of (Laplacian u + f) / rms(f) inside and of u on the boundary. 1,024 points inside and 256 on the
    boundary train, 512 and 128 validate, as many test: drawn uniformly, once for all seeds. Outputs are u and its
    Laplacian, see ``tasks.forward_laplacian``. Metrics: loss, l2 (the norm of u less the solution over the split's
    points, relative to the solution's).
    """

    def load(self, data_dir: Path | None) -> Data:
        stream = np.random.RandomState(POINTS_SEED)
        splits = {split: points(stream, *numbers) for split, numbers in POINTS.items()}
        inside, _ = POINTS["train"]
        force = splits["train"][1][:inside, 1]
        self.scale = float(np.sqrt(np.mean(force**2)))
        self.worst = {"loss": BOUND, "l2": BOUND}
        return Data("Poisson's equation", splits)

    def network(self) -> nn.Module:
        return TanhJets(2, HIDDEN, HIDDEN, 1)

    def criterion(self, outputs: Tensor, targets: Tensor) -> Tensor:
        (value, laplacian), (solution, force, edge) = outputs.unbind(1), targets.unbind(1)
        residual = torch.where(edge == 1, value - solution, (laplacian + force) / self.scale)
        return residual.square().mean()

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        solution = targets[:, 0]
        l2 = (outputs[:, 0] - solution).norm() / solution.norm()
        return {"loss": self.criterion(outputs, targets), "l2": l2}


def points(stream: np.random.RandomState, inside: int, boundary: int) -> tuple[np.ndarray, np.ndarray]:
    """Places, (points, 2) float32, those inside first; and there the solution, f, and 1 on the boundary or 0 inside,
    (points, 3) float32. The four sides take boundary points in turn."""
    places = stream.uniform(size=(inside + boundary, 2))
    number = np.arange(boundary)
    places[inside + number, number % 2] = number // 2 % 2
    edge = np.arange(len(places)) >= inside
    solution, force = solution_and_force(places)
    return places.astype(np.float32), np.stack([np.where(edge, 0, solution), force, edge], axis=1).astype(np.float32)


def solution_and_force(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The solution and f, minus its Laplacian, at places in the square, (points, 2): (points,) each."""
    x, y = np.pi * places.T
    waves = [(size * np.sin(k * x) * np.sin(l * y), np.pi**2 * (k**2 + l**2)) for size, k, l in WAVES]  # noqa: E741
    return sum(wave for wave, _ in waves), sum(wave * eigenvalue for wave, eigenvalue in waves)
