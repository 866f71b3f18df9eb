"""Steps on a GPU: how many kernels each launches, and that none waits for the device."""

from __future__ import annotations

import pytest

from tests.null_gpu.runs import steps_of


@pytest.mark.parametrize("optimizer", ["adam", "sophia"])
def test_a_step_does_not_wait(optimizer: str) -> None:
    steps = steps_of("mnist1d", optimizer, warm=2)
    assert (steps.plain.synchronisations, steps.refresh.synchronisations) == (0, 0)
