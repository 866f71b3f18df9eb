"""An estimate says how long a run will take, from a few timed steps; no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from tuner.config.schema import Config
from tuner.machine.resources import at_once_on_a_gpu
from tuner.planning.cohorts import CohortSizes, MemberSeconds
from tuner.text import duration

DAY_S = 86_400


@dataclass(frozen=True)
class Timings:
    """What was measured, with nothing beside it on the device.

    Attributes:
        step_s: optimizer -> seconds of one step, a refresh's share in it.
        evaluation_s: seconds of one evaluation of train and val.
        steps_per_epoch: optimizer steps.
        untimed: optimizer -> what went wrong in its first steps.
        member_s: optimizer -> size of a stack -> seconds of one step over that size; 1: one run at a time.
        device_s: the same of those in which a GPU computes, and can do nothing for another process; 0 on a CPU.
        remarks: optimizer -> why its runs train one at a time, or what else is to be known of its stacks.
    """

    step_s: Mapping[str, float]
    evaluation_s: float
    steps_per_epoch: int
    untimed: Mapping[str, str]
    member_s: MemberSeconds = field(default_factory=dict)
    device_s: MemberSeconds = field(default_factory=dict)
    remarks: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Timings:
        """JSON has no whole numbers as keys."""
        by_size = {
            key: {name: {int(size): s for size, s in of.items()} for name, of in content[key].items()}
            for key in ("member_s", "device_s")
        }
        return cls(**(content | by_size))


@dataclass(frozen=True)
class Estimate:
    """Seconds, for env.json and for a person.

    Attributes:
        search_s, retrain_s: of all trials, of all retraining runs, ``concurrent`` at once.
        step_ms: optimizer -> milliseconds of one step.
    """

    search_s: float
    retrain_s: float
    concurrent: int
    step_ms: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def estimate(config: Config, timings: Timings, sizes: CohortSizes, *, trials: float, seeds: float) -> Estimate:
    """The time of the run's training and evaluation, all optimizers that could be timed together.

    Runs that share a GPU share its time, too: a step of theirs takes at least what it computes in the steps of all.

    Args:
        trials, seeds: trials and retraining runs per optimizer.
    """
    settled = config.resources.settled
    concurrent = settled.max_concurrent
    on_a_gpu = at_once_on_a_gpu(settled.gpus_per_trial) if settled.gpus_per_trial else 1
    evaluations = timings.evaluation_s * (config.train.evaluations + 1)

    def seconds(epochs: int, runs: float, cohorts: Mapping[str, int]) -> float:
        steps = epochs * timings.steps_per_epoch
        at_once = min(concurrent, max(1, sum(max(1, runs / cohorts[name]) for name in timings.step_s)))
        each = 0.0
        for name, alone in timings.step_s.items():
            step = timings.member_s.get(name, {}).get(cohorts[name], alone)
            on_device = timings.device_s.get(name, {}).get(cohorts[name], 0.0)
            slower = max(1.0, min(on_a_gpu, at_once) * on_device / step) if step else 1.0
            each += slower * (steps * step + evaluations)
        return runs * each / at_once

    return Estimate(
        search_s=seconds(config.train.epochs, trials, sizes.search),
        retrain_s=seconds(config.retrain_epochs, seeds, sizes.retrain),
        concurrent=concurrent,
        step_ms={name: 1000 * step for name, step in timings.step_s.items()},
    )


def sentences(expected: Estimate, timings: Timings) -> list[str]:
    """What a person should know before the run begins, a line each."""
    lines = _of_optimizers(timings)
    if not expected.step_ms:
        return lines
    total = expected.search_s + expected.retrain_s
    parts = (
        f"search {time_text(expected.search_s)}, retraining {time_text(expected.retrain_s)}"
        if expected.search_s
        else ""
    )
    steps = ", ".join(f"{name} {step_text(ms)} a step" for name, ms in expected.step_ms.items())
    lines.append(f"expected: about {time_text(total)} of training ({'; '.join(filter(None, [parts, steps]))})")
    return lines


def brief(expected: Estimate, timings: Timings) -> list[str]:
    """The same of one run of several."""
    lines = _of_optimizers(timings)
    total = expected.search_s + expected.retrain_s
    return [*lines, f"about {time_text(total)} of training"] if expected.step_ms else lines


def _of_optimizers(timings: Timings) -> list[str]:
    failed = [f"{name}: its first steps failed ({error})" for name, error in timings.untimed.items()]
    return [*failed, *(f"{name}: {remark}" for name, remark in timings.remarks.items())]


def warning(config: Config, expected: Estimate) -> str | None:
    """What to say of a run that takes more than a day on a CPU."""
    if expected.search_s + expected.retrain_s <= DAY_S or config.resources.settled.gpus_per_trial:
        return None
    return (
        "this is more than a day on a CPU: --preset smoke is made for one; with a GPU, --gpus-per-trial 1, or a "
        "fraction of it"
    )


def step_text(ms: float) -> str:
    """0.231 ms, 211 ms or 4.4 s."""
    return f"{ms:.3g} ms" if ms < 999.5 else f"{ms / 1000:.1f} s"


def time_text(seconds: float) -> str:
    """8 s, 12:05, 3:07:00 or 4.2 days."""
    if seconds < 60:
        return f"{max(1, round(seconds))} s"
    return duration(seconds) if seconds < DAY_S else f"{seconds / DAY_S:.1f} days"
