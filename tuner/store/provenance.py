"""The provenance of a run stands in its env.json: code, data, environment; whether they are still the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tuner.config.schema import Config
from tuner.errors import CHANGED_CODE, UserError
from tuner.machine import environment
from tuner.machine.code import check_folders, differences, identity, mark
from tuner.machine.resources import this_machine
from tuner.store.run import Run


def check_code(config: Config, run: Run, *, allowed: bool, remark: Callable[[str], Any]) -> None:
    """Let the rows that a run gets from now on know their code.

    Args:
        remark: is told, a line each, what differs and what cannot be known.

    Raises:
        UserError: a class is not where it was; or the code is not what the run was begun with, and that is not
            ``allowed``.
    """
    check_folders(config)
    run.code, env = identity(config, run.objects()), run.env() if run.has_env() else {}
    for path in [path for path, known in run.code.items() if not known]:
        remark(f"{path}: by which code it is made cannot be known, so not whether it changes")
    commands = [env, *(command for command in env.get("resumed", []) if isinstance(command, dict))]
    before = next((command["code"] for command in commands if command.get("code")), None)
    if not env.get("code") and (run.trial_rows() or run.seed_rows()):
        remark(f"{run.path}: by which code it was made is not known, so not whether it is the same now")
    different = differences(before, run.code) if before else []
    if not different:
        return
    for part in different:
        remark(part)
    if not allowed:
        raise UserError(
            f"{run.path}: was made by other code, as above, so that results would not be comparable; {CHANGED_CODE} "
            "goes on all the same, and marks the rows"
        )
    run.mark = mark(run.code)
    remark(f"rows that are made from now on have {run.mark} in their column code")


def check_data(run: Run, data: Mapping[str, Any]) -> None:
    """
    Args:
        data: what the task says of its data: its ``sha256`` and ``source``.

    Raises:
        UserError: the data is not what the run was begun with.
    """
    before = run.env().get("data", {}).get("sha256") if run.has_env() else None
    if before not in (None, data["sha256"]):
        raise UserError(
            f"{run.path}: was made with other data (sha256 {before[:12]}..., now {data['sha256'][:12]}... from "
            f"{data['source']}); its results would not be comparable"
        )


def note_environment(config: Config, run: Run, expected: Mapping[str, Any] | None, cohorts: Mapping[str, Any]) -> None:
    """Versions, hardware and what was expected, of this command: a run that goes on keeps those of its beginning, and
    notes which seeds, and how many studies, it did not ask for before there were results to look at.

    Args:
        expected: the estimate of its time.
        cohorts: how large they are.
    """
    now = environment.describe(this_machine()) | {"code": run.code, "estimate": expected, "cohorts": cohorts}
    if not run.has_env():
        run.write_env(now)
        return
    env, asked = run.env(), run.config()
    last = [env, *env.get("resumed", [])][-1]
    if not isinstance(last, dict) or last.get("code") not in (None, run.code):
        run.checkpoints.clear()  # states of other code
    if run.valid_seed_rows():
        now |= {"added_seeds": [seed for seed in config.retrain.seeds if seed not in asked.retrain.seeds]}
        now |= {"added_studies": config.search.studies - asked.search.studies}
    run.write_env(env | {"resumed": [*env.get("resumed", []), now]})
