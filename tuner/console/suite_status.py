"""The status of a suite is told from its folder alone: a line for each task, as a document each one's status."""

from __future__ import annotations

from typing import Any

from tuner.console.status_view import describe as describe_run
from tuner.machine.invocation import command_line
from tuner.planning.heartbeat import AT_WORK
from tuner.store.suites import Suite
from tuner.text import duration

NOT_BEGUN = "not begun"


def describe(suite: Suite) -> dict[str, Any]:
    """How far each task is."""
    tasks = {entry: describe_run(run) for entry, run in suite.runs.items()}
    for entry, run in suite.runs.items():
        if run.is_new and tasks[entry]["state"] == "unknown":
            tasks[entry]["state"] = NOT_BEGUN
    return {
        "schema_version": 1,
        "suite": suite.name,
        "folder": str(suite.path),
        "state": state(list(tasks.values())),
        "complete": all(task["complete"] for task in tasks.values()),
        "tasks": tasks,
    }


def state(tasks: list[dict[str, Any]]) -> str:
    """That of a task which is worked on; else of the command that was heard of last, whose tasks may have ended each
    its own way."""
    at_work = [task["state"] for task in tasks if task["state"] in AT_WORK]
    heard = [task for task in tasks if task["ago_s"] is not None]
    last = min(heard, key=lambda task: (round(task["ago_s"]), task["state"] == "ended"), default={"state": NOT_BEGUN})
    return str(at_work[0] if at_work else last["state"])


def lines(status: dict[str, Any]) -> list[str]:
    """The same for a person."""
    width = max(map(len, status["tasks"]))
    state_width = max(len(task["state"]) for task in status["tasks"].values())
    done = sum(task["complete"] for task in status["tasks"].values())
    text = [f"{status['folder']}: suite {status['suite']}, {done} of {len(status['tasks'])} tasks are complete"]
    for entry, task in status["tasks"].items():
        parts = [f"{entry:{width}}", f"{task['state']:{state_width}}"]
        for phase in ("search", "retrain"):
            own = [p for p in task["phases"] if p["phase"] == phase]
            parts.append(f"{phase} {sum(p['done'] for p in own)}/{sum(p['total'] for p in own)}")
        for kind in ("running", "diverged", "failed"):
            count = sum(p[kind] for p in task["phases"])
            parts += [f"{count} {kind}"] * bool(count)
        if task["left_s"] and not task["complete"]:
            parts.append(f"{duration(task['left_s'])} left")
        text.append("  ".join(parts).rstrip())
    if status["state"] not in AT_WORK and not status["complete"]:
        text.append(f"to go on: {command_line('tuner.search', '--resume', status['folder'])}")
    return text
