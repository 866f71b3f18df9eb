"""A recurrent layer of plain products and sums: it stacks and differentiates twice, which fused kernels do not."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class GRU(nn.Module):
    """Gated recurrent units in one or two directions, with the equations and initial distribution of ``torch.nn.GRU``.

    From an input x and the state h before it, which begins at 0, come the gates r = sigmoid(A_r x + B_r h) and
    z = sigmoid(A_z x + B_z h), the candidate n = tanh(A_n x + r B_n h) and the new state (1 - z) n + z h, where A and
    B are linear maps with biases. Weights and biases are uniform within 1 / sqrt(hidden). A second direction reads the
    sequence from its end. Each direction has 3 hidden (inputs + hidden + 2) parameters.

    Source: Cho et al., "Learning phrase representations using RNN encoder-decoder for statistical machine
    translation", 2014 (arXiv 1406.1078), with the biases and the order of product and reset of PyTorch.

    Args:
        inputs: numbers per time.
        hidden: of the state of each direction.
        directions: 1 or 2.
    """

    def __init__(self, inputs: int, hidden: int, directions: int = 1) -> None:
        super().__init__()
        self.hidden = hidden
        self.from_input = nn.ModuleList(nn.Linear(inputs, 3 * hidden) for _ in range(directions))
        self.from_state = nn.ModuleList(nn.Linear(hidden, 3 * hidden) for _ in range(directions))
        for param in self.parameters():
            nn.init.uniform_(param, -1 / math.sqrt(hidden), 1 / math.sqrt(hidden))

    def forward(self, inputs: Tensor) -> Tensor:
        """The states after each input, (rows, time, directions * hidden), of inputs (rows, time, numbers)."""
        by_time = inputs.transpose(0, 1)
        ways = [by_time, by_time.flip(0)][: len(self.from_input)]
        given = torch.stack([layer(way) for layer, way in zip(self.from_input, ways, strict=True)], dim=1)
        states = self._states(given).unbind(dim=1)
        forth = [states[0], *(states.flip(0) for states in states[1:])]
        return torch.cat(forth, dim=-1).transpose(0, 1)

    def _states(self, given: Tensor) -> Tensor:
        """
        Args:
            given: what the inputs contribute to gates and candidate, (time, directions, rows, 3 hidden).

        Returns:
            (time, directions, rows, hidden)
        """
        weight = torch.stack([layer.weight.t() for layer in self.from_state])
        bias = torch.stack([layer.bias for layer in self.from_state])[:, None]
        two = 2 * self.hidden
        state = given.new_zeros(*given.shape[1:3], self.hidden)
        states = []
        for of_gates, of_candidate in zip(given[..., :two].unbind(), given[..., two:].unbind(), strict=True):
            own = torch.baddbmm(bias, state, weight)
            reset, keep = (of_gates + own[..., :two]).sigmoid().chunk(2, dim=-1)
            candidate = (of_candidate + reset * own[..., two:]).tanh()
            state = candidate + keep * (state - candidate)
            states.append(state)
        return torch.stack(states)
