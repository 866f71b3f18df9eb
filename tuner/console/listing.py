"""The listing shows the catalogue in a terminal: a table of each kind, or a task, an optimizer or a suite
whole."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tuner.planning.estimate import time_text
from tuner.text import hp_text

Facts = dict[str, Any]
PIPED_WIDTH = 10_000
"""Of a file or a pipe: no line is broken."""
WIDE = 120
"""Columns from which on headings are not broken."""
LEAST_WIDTH = 11
"""Of a column that gives way; in a terminal too narrow for it, the terminal breaks the lines."""
DAY_MIN = 24 * 60
NO_SUITES = "no suites: there are no YAML files in configs/suites"


def show(document: Facts) -> None:
    """Print what the document has, a kind after the other."""
    console = Console(highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = PIPED_WIDTH
    with console.capture() as captured:
        for kind, entries in document.items():
            if kind == "schema_version":
                continue
            if entries and "values" in entries[0]:
                _whole(console, kind, entries[0])
            elif entries and "budgets" in entries[0]:
                _whole_suite(console, entries[0])
            else:
                TABLES[kind](console, entries)
            console.print()
    print("\n".join(line.rstrip() for line in captured.get().rstrip().splitlines()))


# Tables.


PRESET_COLUMNS = ("preset", "trials x epochs", "seeds x epochs", "on 2 cores")


def tasks_table(console: Console, tasks: list[Facts]) -> None:
    rows = []
    for task in tasks:
        model = task["model"] or "-"
        size = "-" if task["parameters"] is None else f"{task['parameters']:,} parameters"
        what = "\n".join([model, size, _metric(task), f"data: {', '.join(task['datasets'])}"])
        presets = zip(*map(_preset, task["presets"]), strict=True)
        rows.append([task["name"], what, *("\n".join(column) for column in presets)])
    _table(console, ["task", "model, metric, data", *PRESET_COLUMNS], rows, wrapped={1}, gap=1)


def _preset(preset: Facts) -> list[str]:
    minutes, studies = preset["minutes"], f"{preset['studies']} x " if preset["studies"] > 1 else ""
    return [
        preset["name"],
        f"{studies}{preset['trials']} x {preset['epochs']}",
        f"{preset['seeds']} x {preset['retrain_epochs']}",
        "-" if minutes is None else minutes_text(minutes),
    ]


def minutes_text(minutes: float) -> str:
    """To the two digits that it is known to."""
    return f"{float(f'{minutes / DAY_MIN:.2g}'):g} days" if minutes >= DAY_MIN else time_text(60 * minutes)


def _metric(task: Facts) -> str:
    solved = "" if task["target"] is None else f", solved at {task['target']:g}"
    return f"{task['metric']} ({task['mode']}{solved})"


def _count(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"


def optimizers_table(console: Console, optimizers: list[Facts]) -> None:
    rows = [
        [entry["name"], entry["class"], ", ".join(entry["space"]) or "nothing", _needs(entry), _stacks(entry)]
        for entry in optimizers
    ]
    _table(console, ["optimizer", "class", "searched", "needs", "stacks"], rows, wrapped={1, 2, 3})
    for entry in optimizers:
        if entry["error"]:
            console.print(Text(f"{entry['name']}: {entry['error']}"))


def _needs(entry: Facts) -> str:
    curvature = entry["curvature"]
    if not entry["installed"]:
        return f"{entry['package']}, not installed" + (f": {entry['remedy']}" if entry["remedy"] else "")
    if curvature is None:
        return entry["package"] if not entry["own"] else "torch"
    return f"curvature: {_curvature(curvature)}"


def _curvature(curvature: Facts) -> str:
    every = "every step" if curvature["period"] == 1 else f"every {curvature['period']} steps"
    number, _, per = curvature["costs"].partition(" ")
    costs = f", {' '.join(filter(None, (number, 'gradients', per)))}" if number else ""
    return f"{curvature['estimator']}{costs}, {every}"


def _stacks(entry: Facts) -> str:
    if not entry["installed"]:
        return "not installed"
    return {True: "yes", False: "no", None: "-"}[entry["stacks"]]


def estimators_table(console: Console, estimators: list[Facts]) -> None:
    rows = [
        [entry["name"], entry["costs"] or "-", ", ".join(entry["needs"]) or "nothing", entry["estimates"] or "-"]
        for entry in estimators
    ]
    _table(console, ["estimator", "gradients", "needs", "what it estimates"], rows, wrapped={2, 3})


def suites_table(console: Console, suites: list[Facts]) -> None:
    if suites:
        rows = [
            [suite["name"], ", ".join(suite["tasks"]), suite["description"] or "-", suite["file"]] for suite in suites
        ]
        _table(console, ["suite", "tasks", "what it is", "file"], rows, wrapped={1, 2, 3})
    else:
        console.print(NO_SUITES)


TABLES = {
    "tasks": tasks_table,
    "optimizers": optimizers_table,
    "estimators": estimators_table,
    "suites": suites_table,
}


def _table(
    console: Console, head: Sequence[str], rows: Sequence[Sequence[str]], wrapped: Collection[int], gap: int = 0
) -> None:
    """
    Args:
        wrapped: the columns that give way where the terminal is narrow; nothing of them is cut.
        gap: empty lines between rows.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 2, gap, 0), show_header=any(head))
    least = 0
    for number, column in enumerate(head):
        heading = column.split() if console.width < WIDE else [column]
        lines = [*heading, *(line for row in rows for line in row[number].splitlines())]
        width = None if number in wrapped else max(map(cell_len, lines), default=0)
        table.add_column(Text(column), width=width, overflow="fold")
        least += (LEAST_WIDTH if width is None else width) + 2
    for row in rows:
        table.add_row(*map(Text, row))
    table.width = least if least > console.width else None
    console.print(table, crop=False)


# One task, optimizer or suite.


def _whole(console: Console, kind: str, entry: Facts) -> None:
    """What it is, then each value with the layer that it comes from."""
    console.print(Text(f"{kind.removesuffix('s')} {entry['name']}: {entry['class']}"))
    if entry["doc"]:
        console.print(Text(entry["doc"]))
    console.print()
    (_about_task if kind == "tasks" else _about_optimizer)(console, entry)
    console.print()
    comma = ",\n" if console.width < WIDE else ", "  # before the preset
    rows = [[v["key"], _value(v["value"]), v["origin"].replace(", ", comma)] for v in entry["values"]]
    _table(console, ["key", "value", "from"], rows, wrapped={0, 1})


def _about_task(console: Console, task: Facts) -> None:
    datasets = [f"{name} (default)" if name == task["dataset"] else name for name in task["datasets"]]
    _table(console, ["", ""], [
        ["data sets", ", ".join(datasets)],
        ["model", task["model"] or "-"],
        ["parameters", _count(task["parameters"])],
        ["metric", _metric(task)],
        *([["reference", task["reference"]]] if task["reference"] else []),
    ], wrapped={1})  # fmt: skip
    console.print()
    rows = [[*_preset(preset), _settings(preset["settings"])] for preset in task["presets"]]
    _table(console, [*PRESET_COLUMNS, "sets"], rows, wrapped={4})
    console.print(Text(f"\nvalues of preset {task['preset']}; those of an optimizer: tuner.list NAME"))


def _about_optimizer(console: Console, entry: Facts) -> None:
    rows = [["needs", _needs(entry)], ["stacks", _stacks(entry)]]
    if entry["curvature"]:
        rows.insert(1, ["at a refresh", ", ".join(entry["curvature"]["needs"]) or "nothing"])
    rows += [["searched", f"{name}: {dimension}"] for name, dimension in entry["searched"].items()]
    rows += [["published default", hp_text(point)] for point in entry["defaults"]]
    rows += [[f"in {c['task']}", f"{c['key']} {_value(c['value'])} ({c['origin']})"] for c in entry["changes"]]
    rows += [["cannot be made", entry["error"]]] if entry["error"] else []
    _table(console, ["", ""], rows, wrapped={1})


def _whole_suite(console: Console, suite: Facts) -> None:
    """What it is, and what each of its tasks gets."""
    console.print(Text(f"suite {suite['name']}: {suite['file']}"))
    if suite["description"]:
        console.print(Text(suite["description"]))
    console.print()
    head = ["task", "of", "data", *PRESET_COLUMNS, "target", "optimizers"]
    rows = [
        [
            task["entry"],
            task["task"],
            task["dataset"],
            *_preset(task),
            "-" if task["target"] is None else _value(task["target"]),
            ", ".join(task["optimizers"]),
        ]
        for task in suite["budgets"]
    ]
    _table(console, head, rows, wrapped={8})
    targets = f"targets: {suite['targets']}, frozen" if suite["targets"] else "no frozen targets"
    console.print(Text(f"\n{targets}; times are scaled from those that presets were measured to take"))


def _settings(settings: Facts) -> str:
    return ", ".join(f"{key} {_value(value)}" for key, value in settings.items()) or "-"


def _value(value: Any) -> str:
    """As YAML has it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {_value(part)}' for key, part in value.items())}}}"
    short = f"{value:g}" if isinstance(value, float) else str(value)
    return repr(value) if isinstance(value, float) and float(short) != value else short
