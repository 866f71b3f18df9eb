"""Shares of a GPU's memory, as numbers; what a process really gets is in tests/null_gpu."""

from __future__ import annotations

import pytest

from tuner.machine.memory import CONTEXT_MB, share_mb

TOTAL_MB = 80_000.0


@pytest.mark.parametrize(("share", "processes"), [(0.5, 2), (0.3, 3), (0.25, 4), (0.1, 10), (1 / 49, 49), (1.0, 1)])
def test_the_shares_of_all_processes_and_their_contexts_fit_on_a_gpu(share: float, processes: int) -> None:
    mine = share_mb(TOTAL_MB, share)
    assert 0 < mine < share * TOTAL_MB
    assert processes * (mine + CONTEXT_MB) <= TOTAL_MB + 1e-6


def test_contexts_alone_may_fill_it() -> None:
    assert share_mb(TOTAL_MB, 1 / 200) == 0.0
