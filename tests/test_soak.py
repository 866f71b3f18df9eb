"""A short soak: many kinds of faults and a driver that is killed twice, and nothing is lost."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from benchmarks import soak, soak_trials
from benchmarks.bench_processes import Bench

TRIALS, SHARE = 40, 0.25
SEED = 184  # with which each kind of fault befalls at least one trial, and the dear ones just one


@pytest.mark.slow
def test_nothing_is_lost_in_a_search_with_every_kind_of_fault_and_a_killed_driver() -> None:
    with tempfile.TemporaryDirectory(prefix="soak-") as scratch:  # a short path: Ray's sockets are below it
        found = soak.soak(Bench(Path(scratch)), "1", TRIALS, SHARE, kills=(0.25, 0.45), seed=SEED)
    assert {row.fault.name for row in found.rows} == {fault.name for fault in (*soak_trials.FAULTS, soak_trials.SOUND)}
    assert [life.before for life in found.lives][1:] == [life.done for life in found.lives][:-1]
    assert len(found.lives) == 3
    assert [str(claim) for claim in found.claims() if not claim.met] == []


def test_a_learning_rate_s_fault_is_always_the_same_and_as_frequent_as_asked() -> None:
    rates = [1e-4 * 1.0001**n for n in range(40_000)]
    found = [soak_trials.fault_of(rate, share=0.2) for rate in rates]
    assert found == [soak_trials.fault_of(rate, share=0.2) for rate in rates]
    for fault in soak_trials.FAULTS:  # five standard deviations of a count are at most 0.015 of the trials
        expected = 0.2 * fault.part
        deviation = (expected * (1 - expected) / len(rates)) ** 0.5
        assert sum(one == fault for one in found) / len(rates) == pytest.approx(expected, abs=5 * deviation)
    assert soak_trials.fault_of(soak_trials.DEFAULT_LR, share=1.0) == soak_trials.SOUND
