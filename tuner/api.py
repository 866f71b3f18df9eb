"""The functions of ``import tuner`` call the commands: keywords become flags, classes and objects names."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from tuner import call
from tuner.call import Call
from tuner.config.given import gather
from tuner.config.program import Inside, Program
from tuner.console.keywords import keywords_to_flags
from tuner.console.notebook import Notebook, in_notebook
from tuner.console.parsing import check_working_directory
from tuner.console.terminal import Terminal
from tuner.errors import UserError
from tuner.events import Event, Listener
from tuner.result import Result
from tuner.store.run import Run
from tuner.training.best import Best, best_of


def search(
    task: Any = None,
    optimizers: Any = None,
    *,
    trials: int | None = None,
    studies: int | None = None,
    seeds: int | Iterable[int] | None = None,
    on_event: Callable[[Event], Any] | None = None,
    quiet: bool = False,
    **flags: Any,
) -> Any:
    """Search each optimizer's hyperparameters, retrain the best over seeds, write it all down.

    The same as ``tuner search``, in a process of its own, and with the same files.

    Args:
        task: a name; a ``tasks.base.Task``; a class or a function that makes one; or a mapping, what its YAML file
            would hold, with ``name`` beside it and a class or function in place of the dotted path.
        optimizers: one or several: names; classes or functions (params, **hyperparameters) ->
            ``torch.optim.Optimizer``; or mappings, what their YAML files would hold, with ``name`` beside ``class``,
            ``space``, ``args`` and ``defaults``.
        trials: of each study.
        studies: independent searches of each optimizer; three or more for verdicts on optimizers.
        seeds: evaluation seeds of each study, 0 to N-1 or a list.
        on_event: is told each ``tuner.events.Event`` in place of showing it.
        quiet: show no progress.
        flags: any other flag of the command by its name: ``suite="core"`` in place of a task, ``preset="smoke"``,
            ``gpus_per_trial=0.5``, ``set={"train.epochs": 3}``, ``resume="runs/mine"``, ``keep_weights=True``.

    Returns:
        The ``Result``; with ``dry_run=True`` what would be done, as a dict.

    Raises:
        UserError: bad input, in the sentence of the command line.
        MachineError: the work ended before it was done; the message says how to go on.
        KeyboardInterrupt: it was interrupted; the run is there, and the message says how to go on.
    """
    from tuner.search import make_parser

    keywords = {"trials": trials, "studies": studies, "seeds": seeds} | flags
    configs = keywords.get("configs")
    check_working_directory()
    task_name, names, program = gather(task, optimizers, None if configs is None else Path(configs))
    argv = keywords_to_flags(make_parser(), {"task": task_name, "optimizers": names} | keywords)
    plan = bool(keywords.get("dry_run"))
    answer = _call(Call("search", argv, program, plan), on_event, quiet, keywords.get("address"))
    return answer.plan if plan else Result([answer.run])


def retrain(
    run: str | os.PathLike[str],
    *,
    studies: int | None = None,
    seeds: int | Iterable[int] | None = None,
    on_event: Callable[[Event], Any] | None = None,
    quiet: bool = False,
    **flags: Any,
) -> Result:
    """Train a run's best hyperparameters over more evaluation seeds, or of more studies: the same as ``tuner
    retrain``.

    Args:
        run: its directory.
        studies, seeds, on_event, quiet, flags: as for ``search``.

    Raises:
        UserError, MachineError, KeyboardInterrupt: as for ``search``.
    """
    from tuner.retrain import make_parser

    argv = [os.fspath(run), *keywords_to_flags(make_parser(), {"studies": studies, "seeds": seeds} | flags)]
    return Result([_call(Call("retrain", argv, Program()), on_event, quiet, None).run])


def open(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    baseline: str | None = None,
    metric: str | None = None,
) -> Result:
    """What a run, or several, come to.

    Args:
        paths: of run directories, or of folders of suites.
        baseline, metric: in place of those that the runs declare.

    Raises:
        UserError: there is no such run.
    """
    several = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    return Result(several, baseline, metric)


def best(run: str | os.PathLike[str], optimizer: str) -> Best:
    """The winning configuration of an optimizer: ``best(run, "adam").make(model.parameters())``.

    Raises:
        UserError: the run has no such optimizer, or no valid trial of it.
    """
    return best_of(Run.open(Path(run)), optimizer)


def _call(asked: Call, on_event: Listener | None, quiet: bool, address: str | None) -> call.Answer:
    if address is None and (inside := _initialised_ray()):
        asked = replace(asked, program=replace(asked.program, inside=inside))
    if on_event is not None:
        return call.carry_out(asked, on_event)
    with closing((Notebook if in_notebook() else Terminal)(quiet=quiet)) as shown:
        return call.carry_out(asked, partial(_show, shown))


def _show(shown: Terminal, event: Event) -> None:
    """The work goes on where nobody sees it any more."""
    if sys.stderr is not None and not getattr(sys.stderr, "closed", False):
        with suppress(OSError):
            shown(event)


def _initialised_ray() -> Inside | None:
    """The Ray of this process, if it has initialised one.

    Raises:
        UserError: it is on other machines, or a client's, so that its address must be said.
    """
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return None
    nodes = [node for node in ray.nodes() if node["Alive"]]
    address = ray.get_runtime_context().gcs_address
    if len(nodes) != 1:
        raise UserError(f"Ray is initialised on {len(nodes)} nodes: say address={address!r} to search on all of them")
    free = ray.available_resources()
    return Inside(address, int(free.get("CPU", 0)), int(free.get("GPU", 0)))
