"""The status of a run is told from its directory alone, as a document and in lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tuner.jobs import trial_text
from tuner.machine.invocation import command_line
from tuner.planning.heartbeat import AT_WORK
from tuner.store.extent import Extent, read
from tuner.store.run import Run
from tuner.store.seed_rows import current_rows
from tuner.store.tables import Row
from tuner.store.winners import valid
from tuner.text import duration, hp_text

SILENCE_S = 60.0
"""A command that has said nothing for so long is taken for dead."""
FAILURES = 3
"""So many of the last ones are shown."""


@dataclass(frozen=True)
class LastWord:
    """What the command at work has said last.

    Attributes:
        state: "starting", "running", "ended", "interrupted", "halted", "lost", "failed", "silent" or, of an older
            run, "unknown".
        ago_s: how long ago.
    """

    state: str
    ago_s: float | None
    status: dict[str, Any]

    @classmethod
    def of(cls, run: Run) -> LastWord:
        status = run.status()
        if status is None:
            return cls("unknown", None, {})
        ago_s = max(0.0, (datetime.now(UTC) - datetime.fromisoformat(status["updated"])).total_seconds())
        silent = status["state"] in AT_WORK and ago_s > SILENCE_S
        return cls("silent" if silent else status["state"], ago_s, status)


def describe(run: Run) -> dict[str, Any]:
    """How far the run is, from its tables; what runs and for how long still, from status.json."""
    config, last = run.config(), LastWord.of(run)
    extent, looks = Extent.of(config, run.path), read(run.path)
    trials, best = run.trial_rows(), run.best_optimizers()
    seeds = current_rows(run.seed_rows(), best)
    reported = {(p["phase"], p["optimizer"]): p for p in last.status.get("progress", [])}
    running = reported if last.state == "running" else {}
    phases: list[dict[str, Any]] = []
    for phase, rows, column in (("search", trials, "state"), ("retrain", seeds, "status")):
        for name in config.optimizers:
            total = extent.trials(name) if phase == "search" else extent.retraining_runs(name)
            now = running.get((phase, name), {})
            ended = counts([row[column] for row in rows if row["optimizer"] == name])
            searched = phase == "retrain" and phases[list(config.optimizers).index(name)]["complete"]
            wanted = valid(best.get(name, {"hp": None})) * extent.seeds(name) if searched else total
            done = ended["done"] - (ended["failed"] if phase == "retrain" else 0)  # which are done again
            phases.append(
                {"phase": phase, "optimizer": name, "total": total, "running": now.get("running", 0),
                 "left_s": now.get("left_s"), "complete": done >= wanted, **ended}
            )  # fmt: skip
    return {
        "schema_version": 1, "run": str(run.path), "task": config.task.name, "metric": config.task.metric,
        "state": last.state, "ago_s": last.ago_s, "host": last.status.get("host"), "pid": last.status.get("pid"),
        "left_s": time_left(phases), "phases": phases, "complete": all(p["complete"] for p in phases),
        "studies": config.search.studies,
        "best": {
            name: {"study": entry.get("study", 0)} | {key: entry[key] for key in ("value", "trial", "hp")}
            for name, entry in best.items()
        },
        "looks": looks and {key: looks[key] for key in ("unit", "most", "looks", "stopped")},
        "failures": [*failures(trials, "state", "trial"), *failures(seeds, "status", "seed")],
    }  # fmt: skip


def counts(states: list[str]) -> dict[str, int]:
    numbers = Counter(states)
    return {"done": len(states), "diverged": numbers["diverged"], "failed": numbers["failed"]}


def time_left(phases: list[dict[str, Any]]) -> float | None:
    """Of the phase under way that takes longest; retraining, before it begins, is not in it."""
    return max((p["left_s"] for p in phases if p["left_s"] is not None), default=None)


def failures(rows: Sequence[Row], state: str, number: str) -> list[dict[str, Any]]:
    return [
        {
            "optimizer": row["optimizer"],
            "study": int(row["study"]),
            number: int(row[number]),
            "error": row.get("error", "see logs/"),
        }
        for row in rows
        if row[state] == "failed"
    ]


def lines(status: dict[str, Any]) -> list[str]:
    """The same for a person."""
    width = max(len(p["optimizer"]) for p in status["phases"])
    text = [headline(status)]
    for p in status["phases"]:
        parts = [f"{p['phase']:7}  {p['optimizer']:{width}}  {p['done']}/{p['total']}"]
        parts += [f"{p[kind]} {kind}" for kind in ("running", "diverged", "failed") if p[kind]]
        best = status["best"].get(p["optimizer"])
        if p["phase"] == "search" and best and best["hp"] is not None:
            where = f"{trial_text(best['study'], best['trial'])}: {hp_text(best['hp']) or 'nothing searched'}"
            value = "-" if best["value"] is None else f"{best['value']:.4g}"
            parts.append(f"best {status['metric']} {value} ({where})")
        if p["phase"] == "retrain" and p["complete"] and not p["done"]:
            parts.append("no valid trial")
        if p["left_s"] and p["done"] < p["total"]:
            parts.append(f"{duration(p['left_s'])} left")
        text.append("  ".join(parts))
    text += look_lines(status["looks"])
    for failure in status["failures"][-FAILURES:]:
        of_search = "trial" in failure
        which = trial_text(failure["study"], failure["trial"]) if of_search else f"seed {failure['seed']}"
        text.append(f"failed: {failure['optimizer']} {which}: {failure['error']}")
    if status["state"] not in AT_WORK and not status["complete"]:
        text.append(f"to go on: {command_line('tuner.search', '--resume', status['run'])}")
    return text


def look_lines(looks: dict[str, Any]) -> list[str]:
    """What each look has decided."""
    units = "studies" if looks and looks["unit"] == "study" else "seeds"
    return [
        f"decided after {look['units']} of {looks['most']} {units}: {name} {verdict}"
        for look in looks.get("looks", ())
        for name, verdict in look["decided"].items()
    ]


def headline(status: dict[str, Any]) -> str:
    ago = "" if status["ago_s"] is None else f" {duration(status['ago_s'])} ago"
    who = f"process {status['pid']} on {status['host']}"
    sentence = {
        "starting": f"starting, {who}; heard of{ago}",
        "running": f"running, {who}; heard of{ago}",
        "ended": f"ended{ago}",
        "interrupted": f"interrupted{ago}",
        "halted": f"halted{ago}: the run directory could not be written",
        "lost": f"ended{ago}: Ray was lost",
        "failed": f"ended{ago}: by a fault of the program or of the machine",
        "silent": f"not running: last heard of {who}{ago}",
        "unknown": "nothing is known of a command at work",
    }[status["state"]]
    left = f"; about {duration(status['left_s'])} left of this phase" if status["left_s"] else ""
    return f"{status['run']}: {sentence}{left}"
