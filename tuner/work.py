"""The work on one run or several is done on one Ray: what is expected is told, jobs are done, faults are told."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tuner import events
from tuner.config.program import Inside
from tuner.config.schema import Config
from tuner.errors import UserError
from tuner.events import Ended, Listener
from tuner.jobs import Phase
from tuner.machine.resources import settle
from tuner.planning.cohorts import CohortSizes
from tuner.planning.estimate import Estimate, brief, estimate, sentences, time_text, warning
from tuner.planning.remaining import Work
from tuner.store import provenance
from tuner.store.run import Run
from tuner.text import duration
from tuner.workers import remembered
from tuner.workers.preflight import Preflight, PreflightResult
from tuner.workers.remembered import Remembered
from tuner.workers.starting import CommandRay

if TYPE_CHECKING:
    from tuner.planning.looking import Decide
    from tuner.planning.plan import Plan
    from tuner.trackers.tracker import Tracker


@dataclass(frozen=True)
class RaySetting:
    """How Ray is used.

    Attributes:
        inside: the Ray to join where the configuration names none; ``None`` starts one.
        verbose: leave the logs of Ray and of its workers where a person sees them.
    """

    inside: Inside | None = None
    verbose: bool = False


@dataclass(frozen=True)
class RunWork:
    """What is to be done on a run.

    Attributes:
        checked: what the preflight found; ``None`` where that is for a cluster to find.
        name: what tells it from others of the same command; empty where it is the only one.
    """

    config: Config
    run: Run
    work: Work
    checked: PreflightResult | None = None
    name: str = ""


DEFAULT_RAY = RaySetting()


def ray_of(setting: RaySetting, tell: Listener) -> CommandRay:
    """The Ray of a command, to be entered once, around all that it does."""
    return CommandRay(tell, setting.inside.address if setting.inside else None, verbose=setting.verbose)


def preflight(
    configs: Sequence[Config], objects: bytes, tell: Listener, ray: CommandRay
) -> Iterator[PreflightResult | UserError | None]:
    """Load each task's data and time a few steps, in a process of its own, while Ray starts, or remember what came of
    it; what is found of each, or is wrong with it: ``None`` where that is for a cluster to find.

    Raises:
        UserError: Ray cannot be used with this interpreter.
        MachineError: it did not start.
    """
    if sys.flags.optimize > 1:
        raise UserError("python -OO (PYTHONOPTIMIZE=2) removes docstrings, without which Ray cannot be imported")
    keys = [None if ray.verbose else remembered.key_of(config, objects) for config in configs]
    known = [remembered.find(key) for key in keys]
    tell_remembered([(config, of_one) for config, of_one in zip(configs, known, strict=True) if of_one], tell)
    unknown = [config for config, of_one in zip(configs, known, strict=True) if of_one is None]
    fresh = checked_now(unknown, objects, tell, ray)
    for key, of_one in zip(keys, known, strict=True):
        found = next(fresh) if of_one is None else of_one.result
        if of_one is None and isinstance(found, PreflightResult):
            remembered.keep(key, found)
        yield found


def tell_remembered(known: Sequence[tuple[Config, Remembered]], tell: Listener) -> None:
    """Which tasks are not looked at again."""
    if known:
        names = ", ".join(config.task.name for config, _ in known)
        oldest = duration(max(of_one.age_s for _, of_one in known))
        switch = f"{remembered.SWITCH}=0 looks again"
        tell(events.PreflightRemark(f"preflight of {names}: found {oldest} ago, with nothing changed since ({switch})"))


def checked_now(
    configs: Sequence[Config], objects: bytes, tell: Listener, ray: CommandRay
) -> Iterator[PreflightResult | UserError | None]:
    """What a preflight finds, under way while Ray starts."""
    done = 0
    while done < len(configs):
        with Preflight(*configs[done:], objects=objects, verbose=ray.verbose) as process:
            for config in configs[done:]:
                done += 1
                which = f" ({config.task.name}, {done} of {len(configs)})" * (len(configs) > 1)
                with waiting(f"loading the data, timing a few steps{which} ...", tell):
                    ray.start(config)
                    found = process.next_result()
                yield found
                if process.has_ended:
                    break


@contextmanager
def waiting(what: str, tell: Listener) -> Iterator[None]:
    tell(events.WaitBegan(what))
    try:
        yield
    finally:
        tell(events.WaitEnded())


def expectations(part: RunWork, tell: Listener) -> tuple[CohortSizes, Estimate | None]:
    """How large cohorts will be, and how long the run will take; both are told.

    Raises:
        UserError: the data is not what the run was begun with.
    """
    config, run, work, checked = part.config, part.run, part.work, part.checked
    tell = named(part.name, tell)
    sizes = CohortSizes(config, checked.timings.member_s if checked else {}, math.ceil(work.seeds))
    if checked is None:
        return sizes, None
    provenance.check_data(run, checked.data)
    for text in checked.warnings:
        tell(events.TaskWarning(text))
    tried = len(checked.timings.step_s) + len(checked.timings.untimed)
    share = len(config.optimizers) / max(tried, 1)  # others are borrowed, and nothing of them is left
    expected = estimate(config, checked.timings, sizes, trials=share * work.trials, seeds=share * work.seeds)
    if part.name:
        tell(events.Expected(brief(expected, checked.timings)))
        return sizes, expected
    without = ["the analyses of the curvature come on top"] if config.retrain.analyze_curvature else []
    without += ["this is what it comes to if nothing is decided before the last look"] if config.looks else []
    unsaved = [f"{name}: trained without checkpoints, since {why}" for name, why in checked.unsaved.items()]
    tell(events.Expected([*sentences(expected, checked.timings), *without, *sizes.sentences(), *unsaved]))
    if config.resources.settled.gpus_per_trial and checked.device == "cpu":
        no_gpu = "the cluster's nodes declare GPUs, but PyTorch there finds none: training is on CPUs"
        tell(events.ResourceWarning(no_gpu))
    elif too_long := warning(config, expected):
        tell(events.ResourceWarning(too_long))
    return sizes, expected


def run_plans(parts: Sequence[RunWork], path: Path, tell: Listener, ray: CommandRay) -> tuple[list[Plan], Ended]:
    """Start Ray, do what is left of the runs, tell what went wrong; their plans, and how the work ended.

    Args:
        path: what the command writes: the run, or the folder of several.
    """
    from tuner.planning.heartbeat import AT_WORK, write_state

    for part in parts:
        write_state(part.run, "starting", [])
    try:
        plans, ended = with_ray(parts, path, tell, ray)
    except BaseException as error:
        with suppress(OSError):
            for part in parts:
                if (part.run.status() or {}).get("state") in (*AT_WORK, None):  # others have ended before
                    write_state(part.run, "interrupted" if isinstance(error, KeyboardInterrupt) else "failed", [])
        raise
    for part, plan in zip(parts, plans, strict=True):
        tell_faults(plan, named(part.name, tell))
    return plans, ended


def with_ray(parts: Sequence[RunWork], path: Path, tell: Listener, ray: CommandRay) -> tuple[list[Plan], Ended]:
    """What is left, done; its plans, with the resources that there turned out to be, and how it ended."""
    config = parts[0].config
    address = ray.address(config)
    expected = None if config.resources.address else expected_of(parts, tell)
    with ray.at_work(config) as (nodes, scratch):
        from tuner.workers import supervision  # while workers import what they need

        owner = "the cluster's largest node" if address else "this machine"
        parts = [replace(part, config=settle(part.config, *nodes, owner=owner)) for part in parts]
        if expected is None:
            parts = [replace(part, checked=checked_in_cluster(part, tell)) for part in parts]
            expected = expected_of(parts, tell)
        plans = [plan_of(part, *of_part, named(part.name, tell)) for part, of_part in zip(parts, expected, strict=True)]
        return plans, supervision.Supervisor(plans, path, scratch, tell, address).run()


def expected_of(parts: Sequence[RunWork], tell: Listener) -> list[tuple[CohortSizes, Estimate | None]]:
    """The ``expectations`` of each run, and of all together."""
    each = [expectations(part, tell) for part in parts]
    if len(parts) > 1 and all(expected for _, expected in each):
        total = sum(expected.search_s + expected.retrain_s for _, expected in each if expected)
        tell(events.Expected([f"expected in all: about {time_text(total)} of training"]))
    return each


def named(name: str, tell: Listener) -> Listener:
    """Tells what is of one run of several with its name before it."""
    if not name:
        return tell

    def tell_named(event: events.Event) -> None:
        match event:
            case events.Remark(text):
                event = replace(event, text=text if text.startswith(f"task {name}:") else f"{name}: {text}")
            case events.Expected(lines):
                event = events.Expected([f"{name}: {line}" for line in lines])
            case events.SearchAbandoned(optimizer):
                event = replace(event, optimizer=f"{name}: {optimizer}")
            case events.RunsFailed():
                event = replace(event, first=f"{name}: {event.first}")
        tell(event)

    return tell_named


def checked_in_cluster(part: RunWork, tell: Listener) -> PreflightResult | None:
    """What the preflight finds in the cluster.

    Raises:
        UserError: the task, an optimizer or the data cannot be used there.
    """
    from tuner.workers import tune

    with waiting("loading the data, timing a few steps in the cluster ...", tell):
        return tune.preflight_in_cluster(part.config, part.run.objects())


def plan_of(part: RunWork, sizes: CohortSizes, expected: Estimate | None, tell: Listener) -> Plan:
    """The plan of what is to be done on a run, whose files say so from now on."""
    from tuner.planning.plan import retrain_plan, search_plan

    config, run = part.config, part.run
    provenance.note_environment(config, run, expected.to_dict() if expected else None, sizes.to_dict())
    run.write_config(config)
    make_plan = search_plan if part.work.search else retrain_plan
    tracker = tracker_of(config, run, tell)
    unsaved = part.checked.unsaved if part.checked else ()
    plan = make_plan(config, run, sizes, unsaved, tracker, decisions(config, run, tell))
    if expected:
        plan.run_s = seconds_of_a_run(expected, part.work, len(config.optimizers))
    return plan


def seconds_of_a_run(expected: Estimate, work: Work, optimizers: int) -> dict[Phase, float]:
    """How much each training run of a phase adds to the time of the command."""
    phases: dict[Phase, tuple[float, float]] = {
        "search": (expected.search_s, work.trials), "retrain": (expected.retrain_s, work.seeds)
    }  # fmt: skip
    return {phase: s / (runs * optimizers) for phase, (s, runs) in phases.items() if s > 0 and runs > 0}


def decisions(config: Config, run: Run, tell: Listener) -> Decide | None:
    """What a look at the comparison decides, which is told; ``None`` where there are no looks."""
    if not config.looks:
        return None

    def decide(units: int) -> dict[str, str]:
        from tuner.comparison.looks import decided

        found = decided(run, units)
        what = "studies" if config.unit == "study" else "seeds"
        said = [f"{name} {found.get(name, 'undecided')}" for name in config.optimizers if name != config.baseline]
        tell(events.LookRemark(f"after {units} of at most {config.most_units} {what}: {', '.join(said)}"))
        return found

    return decide


def tracker_of(config: Config, run: Run, tell: Listener) -> Tracker | None:
    """The tracker that was asked for, whose fault is told."""
    from tuner.trackers.tracker import make_tracker

    if config.tracker is None:
        return None
    return make_tracker(config.tracker, run, config, lambda text: tell(events.TrackerFailed(text)))


def tell_faults(plan: Plan, tell: Listener) -> None:
    """What went wrong with searches, workers and training runs, of which each kind's first is told."""
    for name in plan.abandoned_searches():
        tell(events.SearchAbandoned(name))
    for reason in plan.replaced_workers:
        tell(events.WorkerReplaced(reason))
    for job, error in plan.failures[:1]:
        tell(events.RunsFailed("training", len(plan.failures), str(job), error, plan.run.logs))
    for job, error in plan.unanalyzed[:1]:
        count = len(plan.unanalyzed)
        tell(events.RunsFailed("analysis of the curvature", count, str(job), error, plan.run.logs))
