"""`python -m tuner.status RUN`: how a run, or a suite, is getting on, or what became of it, from its files alone."""

from __future__ import annotations

import json
import time
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from tuner.console import status_view, suite_status
from tuner.console.parsing import Parser, add_run, run_command
from tuner.errors import DONE
from tuner.machine.streams import reader_left
from tuner.planning.heartbeat import AT_WORK
from tuner.store.run import Run
from tuner.store.suites import Suite, is_suite

REFRESH_S = 2.0


def make_parser() -> Parser:
    parser = Parser("tuner.status", "How a run, or a suite, is getting on, or what became of it.")
    add_run(parser)
    parser.add_argument("--watch", action="store_true", help="until the command that is at work on it ends")
    parser.add_argument("--json", action="store_true", help="print one JSON document, for each look")
    parser.add_argument("-v", "--verbose", action="store_true", help="tracebacks")
    return parser


def main(argv: list[str]) -> int:
    args = make_parser().parse(argv)
    run = Suite.open(args.run) if is_suite(args.run) else Run.open(args.run)
    if args.watch:
        watch(run, as_json=args.json)
        return DONE
    status, lines = look(run)
    print(json.dumps(status, indent=2) if args.json else "\n".join(lines))
    return DONE


def look(run: Run | Suite) -> tuple[dict[str, Any], list[str]]:
    """How it is getting on now, as a document and in lines."""
    if isinstance(run, Suite):
        status = suite_status.describe(run)
        return status, suite_status.lines(status)
    status = status_view.describe(run)
    return status, status_view.lines(status)


def watch(run: Run | Suite, *, as_json: bool) -> None:
    """Show how it is getting on until nobody is at work on it."""
    console = Console(highlight=False, soft_wrap=True, emoji=False)
    shown: list[str] = []
    live = Live(console=console, auto_refresh=False)
    redraw = console.is_terminal and not as_json
    if redraw:
        live.start()
    try:
        while True:
            status, now = look(run)
            now = [json.dumps(status)] if as_json else now
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


if __name__ == "__main__":
    run_command(main)
