"""What another run has of an optimizer, under the same conditions, a new run borrows in place of doing it again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tuner.config.carried import is_carried
from tuner.config.engine_options import WITHOUT_EFFECT
from tuner.config.messages import validated
from tuner.config.schema import Config
from tuner.machine.code import Code, differences, mark
from tuner.planning.heartbeat import write_state
from tuner.planning.remaining import remaining_work
from tuner.store.columns import BORROWED
from tuner.store.provenance import note_environment
from tuner.store.run import Run
from tuner.store.tables import Row

TIMES = ("seconds", "step_ms")
"""Of another command's, perhaps on another machine: not borrowed."""
MAY_DIFFER = ("task.data_dir", "task.check", "task.target", *(f"train.{option}" for option in WITHOUT_EFFECT))
"""Where data lies is no matter, since that is compared; nor what counts as solved, nor how soon a result is there."""
SAME_SEARCH = ("trials", "seed", "studies", "sampler", "draws", "scheduler", "space")


@dataclass(frozen=True)
class Loan:
    """An optimizer that a run borrows.

    Attributes:
        code: what the lender's rows have in their column code: nothing where it was made by the same.
    """

    optimizer: str
    lender: Run
    code: str


@dataclass(frozen=True)
class Loans:
    """What a run borrows, and why not more.

    Attributes:
        config: the run's, with the optimizers that it has by borrowing alone behind its own.
        remarks: a line each.
    """

    config: Config
    loans: list[Loan]
    remarks: list[str]


def borrowed(config: Config, lenders: Sequence[Run], data: Mapping[str, Any], code: Code) -> Loans:
    """What there is to be borrowed: of each optimizer that was asked for, and of all others that the lenders have.

    Args:
        config: of the new run.
        lenders: runs of any tasks, the first of this one's that has an optimizer lends it.
        data: what the task says of its data: its ``sha256``.
        code: what the new run is made by.
    """
    loans: dict[str, Loan] = {}
    specs: dict[str, Any] = {}
    of_task = [(run, theirs) for run in lenders if _same_task(config, theirs := run.config())]
    remarks = [] if of_task else [f"nothing is borrowed: there is no run of {config.task.name} with the data set "
                                  f"{config.task.dataset} to borrow from"]  # fmt: skip
    for lender, theirs in of_task:
        env = lender.env() if lender.has_env() else {}
        unlike = next(_unlike(config, theirs, data, env, code), None)
        if unlike is not None:
            remarks.append(f"nothing is borrowed from {lender.path}: {unlike}")
            continue
        known = differences(env.get("code") or {}, code, ("there", "here"))
        marked = mark(env["code"]) if known else ""
        remarks += [f"{lender.path}: {line}; what is borrowed has {marked} in its column code" for line in known]
        for name in theirs.optimizers:
            why = _lacking(config, theirs, lender, name)
            if why and name in config.optimizers:
                remarks.append(f"{name} is not borrowed from {lender.path}, but searched: {why}")
            elif not why and name not in loans:
                loans[name] = Loan(name, lender, marked)
                specs[name] = theirs.optimizers[name].model_dump(by_alias=True)
    folders = [folder for loan in loans.values() for folder in loan.lender.config().module_folders]
    return Loans(_with(config, specs, folders), list(loans.values()), remarks)


def _same_task(config: Config, theirs: Config) -> bool:
    return (theirs.task.name, theirs.task.dataset) == (config.task.name, config.task.dataset)


def _unlike(
    config: Config, theirs: Config, data: Mapping[str, Any], env: Mapping[str, Any], code: Code
) -> Iterator[str]:
    """What differs, so that nothing can be borrowed."""
    for section in ("task", "train", "search"):
        ours, other = config.model_dump()[section], theirs.model_dump()[section]
        for key in SAME_SEARCH if section == "search" else ours:
            if f"{section}.{key}" not in MAY_DIFFER and ours[key] != other[key]:
                yield f"{section}.{key} is {other[key]!r} there, {ours[key]!r} here"
    if theirs.retrain.seeds != config.retrain.seeds:
        yield f"retrain.seeds are {theirs.retrain.seeds} there, {config.retrain.seeds} here"
    if theirs.retrain_epochs != config.retrain_epochs:
        yield f"retraining is of {theirs.retrain_epochs} epochs there, of {config.retrain_epochs} here"
    if config.looks or theirs.looks:
        yield "a comparison that goes on until it is decided has units of its own"
    there = (env.get("data") or {}).get("sha256")
    if there != data["sha256"]:
        yield f"its data is other (sha256 {str(there)[:12]}..., here {data['sha256'][:12]}...)"
    made = env.get("code") or {}
    for part in ("tuner", "torch"):
        before, now = (made.get(part) or {}).get("version"), code[part].get("version")
        if before != now:
            yield f"made by {part} {before}, here it is {now}"


def _lacking(config: Config, theirs: Config, lender: Run, name: str) -> str:
    """Why an optimizer is not to be had from a run of the same conditions; empty where it is."""
    ours = config.optimizers.get(name)
    if ours is not None and ours != theirs.optimizers[name]:
        return "its class, arguments, space or defaults are others there"
    if is_carried(theirs.optimizers[name].class_):
        return "its class was given by a program"
    alone = theirs.model_copy(update={"optimizers": {name: theirs.optimizers[name]}})
    work, _ = remaining_work(alone, lender, search=True)
    return "it is not complete there" if work.trials or work.seeds else ""


def _with(config: Config, specs: Mapping[str, Any], folders: Sequence[str]) -> Config:
    """The configuration with more optimizers, the baseline that is declared, or the usual one, among them.

    Args:
        folders: where their classes are found, should the run go on with more trials of them.
    """
    more = {name: spec for name, spec in specs.items() if name not in config.optimizers}
    if not more:
        return config
    changed = config.model_dump(by_alias=True)
    changed["optimizers"] |= more
    changed["search"]["optimizers"] += list(more)
    changed["python_path"] = list(dict.fromkeys([*config.python_path, *folders]))
    return validated(changed, [("the run", changed)])


def write(run: Run, config: Config, loans: Sequence[Loan]) -> None:
    """Write what is borrowed into a new run, as if it had been done there, each row marked by its lender, and in the
    order in which that writes, so that a command can go on from any part of it."""
    trials: list[Row] = []
    seeds: list[Row] = []
    best: dict[str, Any] = {}
    for lender, names, code in _by_lender(loans):
        note = {BORROWED: str(lender.path), "code": code} if code else {BORROWED: str(lender.path)}
        trials += [_note(row, note) for row in lender.trial_rows() if row["optimizer"] in names]
        seeds += [_note(row, note) for row in lender.seed_rows() if row["optimizer"] in names]
        best |= {name: entry for name, entry in lender.best_optimizers().items() if name in names}
        curves = lender.curves()
        of_loan: Any = curves[curves["optimizer"].isin(names)].drop(columns="seconds").to_dict("records")
        run.append_curves(of_loan)
    run.write_trials(trials, config.hyperparameters)
    run.write_best({"task": config.task.name, "metric": config.task.metric, "optimizers": best})
    run.write_seeds(seeds, config.hyperparameters)


def _by_lender(loans: Sequence[Loan]) -> Iterator[tuple[Run, list[str], str]]:
    """Each lender, whose tables are read once, with what it lends and its mark."""
    for lender in dict.fromkeys(loan.lender for loan in loans):
        of_lender = [loan for loan in loans if loan.lender is lender]
        yield lender, [loan.optimizer for loan in of_lender], of_lender[0].code


def end_without_work(run: Run, config: Config, data: Mapping[str, Any], lender: Run) -> None:
    """Leave a run that has borrowed all of it as one that has ended.

    Args:
        data: what the task says of its data.
    """
    note_environment(config, run, None, {})
    run.write_env(run.env() | {"data": data, "parameters": lender.env().get("parameters")})
    write_state(run, "ended", [])
    run.finish_curves()


def _note(row: Mapping[str, str], note: Mapping[str, str]) -> Row:
    return {key: value for key, value in row.items() if key not in TIMES} | dict(note)
