"""`python -m tuner.status RUN`: how a run is getting on, or what became of it, from its directory alone."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from tuner.console.parsing import DONE, Parser, command_line, run_command
from tuner.machine.streams import reader_left
from tuner.store.run import Run
from tuner.store.seed_rows import current_rows
from tuner.store.tables import Row
from tuner.text import duration, hp_text

SILENCE_S = 60.0
"""A command that has said nothing for so long is taken for dead."""
REFRESH_S = 2.0
AT_WORK = ("starting", "running")
FAILURES = 3
"""So many of the last ones are shown."""


def make_parser() -> Parser:
    parser = Parser("tuner.status", "How a run is getting on, or what became of it.")
    parser.add_argument("run", type=Path, metavar="RUN", help="the run directory")
    parser.add_argument("--watch", action="store_true", help="until the command that is at work on it ends")
    parser.add_argument("--json", action="store_true", help="print one JSON document, for each look")
    parser.add_argument("-v", "--verbose", action="store_true", help="tracebacks")
    return parser


def main(argv: list[str]) -> int:
    args = make_parser().parse(argv)
    run = Run.open(args.run)
    if args.watch:
        watch(run, as_json=args.json)
        return DONE
    status = describe(run)
    print(json.dumps(status, indent=2) if args.json else "\n".join(lines(status)))
    return DONE


def watch(run: Run, *, as_json: bool) -> None:
    """Show how a run is getting on until nobody is at work on it."""
    console = Console(highlight=False, soft_wrap=True, emoji=False)
    shown: list[str] = []
    live = Live(console=console, auto_refresh=False)
    redraw = console.is_terminal and not as_json
    if redraw:
        live.start()
    try:
        while True:
            status = describe(run)
            now = [json.dumps(status)] if as_json else lines(status)
            at_work = status["state"] in AT_WORK
            if redraw:
                live.update(Text("\n".join(now)), refresh=True)
            elif as_json or not at_work or now[1:] != shown[1:]:  # the first line says how long ago
                console.print("\n".join(now), markup=False)
            shown = now
            if not at_work or reader_left():
                return
            time.sleep(REFRESH_S)
    finally:
        if redraw:
            live.stop()


@dataclass(frozen=True)
class Heard:
    """What the command at work said last.

    Attributes:
        state: "starting", "running", "ended", "interrupted", "halted", "lost", "failed", "silent" or, of an older
            run, "unknown".
        ago_s: how long ago.
    """

    state: str
    ago_s: float | None
    said: dict[str, Any]

    @classmethod
    def of(cls, run: Run) -> Heard:
        said = run.status()
        if said is None:
            return cls("unknown", None, {})
        ago_s = max(0.0, (datetime.now(UTC) - datetime.fromisoformat(said["updated"])).total_seconds())
        silent = said["state"] in AT_WORK and ago_s > SILENCE_S
        return cls("silent" if silent else said["state"], ago_s, said)


def describe(run: Run) -> dict[str, Any]:
    """How far the run is, from its tables; what runs and for how long still, from status.json."""
    config, heard = run.config(), Heard.of(run)
    trials, best = run.trial_rows(), run.best_optimizers()
    seeds = current_rows(run.seed_rows(), best)
    told = {(p["phase"], p["optimizer"]): p for p in heard.said.get("progress", [])}
    running = told if heard.state == "running" else {}
    phases: list[dict[str, Any]] = []
    for phase, rows, column in (("search", trials, "state"), ("retrain", seeds, "status")):
        for name in config.optimizers:
            total = config.trials(name) if phase == "search" else len(config.retrain.seeds)
            now = running.get((phase, name), {})
            own = counts([row[column] for row in rows if row["optimizer"] == name])
            searched = phase == "retrain" and phases[list(config.optimizers).index(name)]["complete"]
            hopeless = searched and best.get(name, {}).get("hp") is None
            done = own["done"] - (own["failed"] if phase == "retrain" else 0)  # which are done again
            phases.append(
                {"phase": phase, "optimizer": name, "total": total, "running": now.get("running", 0),
                 "left_s": now.get("left_s"), "complete": done >= total or hopeless, **own}
            )  # fmt: skip
    return {
        "schema_version": 1, "run": str(run.path), "task": config.task.name, "metric": config.task.metric,
        "state": heard.state, "ago_s": heard.ago_s, "host": heard.said.get("host"), "pid": heard.said.get("pid"),
        "left_s": time_left(phases), "phases": phases, "complete": all(p["complete"] for p in phases),
        "best": {name: {key: entry[key] for key in ("value", "trial", "hp")} for name, entry in best.items()},
        "failures": [*failures(trials, "state", "trial"), *failures(seeds, "status", "seed")],
    }  # fmt: skip


def counts(states: list[str]) -> dict[str, int]:
    there = Counter(states)
    return {"done": len(states), "diverged": there["diverged"], "failed": there["failed"]}


def time_left(phases: list[dict[str, Any]]) -> float | None:
    """Of the phase under way that takes longest; retraining, before it begins, is not in it."""
    return max((p["left_s"] for p in phases if p["left_s"] is not None), default=None)


def failures(rows: Sequence[Row], state: str, number: str) -> list[dict[str, Any]]:
    return [
        {"optimizer": row["optimizer"], number: int(row[number]), "error": row.get("error", "see logs/")}
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
            where = f"trial {best['trial']}: {hp_text(best['hp']) or 'nothing searched'}"
            value = "-" if best["value"] is None else f"{best['value']:.4g}"
            parts.append(f"best {status['metric']} {value} ({where})")
        if p["phase"] == "retrain" and p["complete"] and not p["done"]:
            parts.append("no valid trial")
        if p["left_s"] and p["done"] < p["total"]:
            parts.append(f"{duration(p['left_s'])} left")
        text.append("  ".join(parts))
    for failure in status["failures"][-FAILURES:]:
        which = f"trial {failure['trial']}" if "trial" in failure else f"seed {failure['seed']}"
        text.append(f"failed: {failure['optimizer']} {which}: {failure['error']}")
    if status["state"] not in AT_WORK and not status["complete"]:
        text.append(f"to go on: {command_line('tuner.search', '--resume', status['run'])}")
    return text


def headline(status: dict[str, Any]) -> str:
    ago = "" if status["ago_s"] is None else f" {duration(status['ago_s'])} ago"
    who = f"process {status['pid']} on {status['host']}"
    said = {
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
    return f"{status['run']}: {said}{left}"


if __name__ == "__main__":
    run_command(main)
