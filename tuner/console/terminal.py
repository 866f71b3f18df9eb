"""A terminal shows the events of a command, each kind in its sentence; on stderr."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence

from rich.console import Console

from tuner import events
from tuner.console import end_of_run, end_of_suite
from tuner.console.progress import Silence, View, make_view
from tuner.errors import DONE, NOTHING, PARTLY
from tuner.events import Event
from tuner.execute import Executed
from tuner.machine.invocation import command_line
from tuner.planning.progress import Progress
from tuner.suite import SuiteExecuted

PATIENCE_S = 15.0
EXIT_CODES = {"done": DONE, "partly": PARTLY, "nothing": NOTHING}


class Terminal:
    """Listens to a command.

    Args:
        quiet: show no progress, and nothing that is no warning.
    """

    def __init__(self, *, quiet: bool) -> None:
        self.quiet = quiet
        self.console = Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True, emoji=False)
        self.timer: threading.Timer | None = None
        self.view: View = Silence()

    def __call__(self, event: Event) -> None:
        match event:
            case events.WaitBegan(what):
                self._wait(what)
            case events.WaitEnded():
                self._end_wait()
            case events.TrainingBegan(metric, progress):
                self.view = self.make_view(progress, metric)
                self.view.__enter__()
            case events.Progressed():
                self.view.update()
            case events.TrainingEnded():
                self.close()
            case events.Expected(sentences):
                for sentence in sentences:
                    self.console.print(sentence, markup=False)
            case events.PreflightRemark() | events.RayRemark() | events.LookRemark() | events.RunsFailed():
                self.console.print(sentence_of(event), markup=False)
            case _ if text := sentence_of(event):
                self.say(text)

    def close(self) -> None:
        """Show progress no more; the terminal is as it was."""
        self._end_wait()
        self.view.__exit__()
        self.view = Silence()

    def say(self, text: str) -> None:
        """A line for who wants quiet, too."""
        print(text, file=sys.stderr)

    def make_view(self, progress: Callable[[], Sequence[Progress]], metric: str) -> View:
        """What shows how training is getting on."""
        return make_view(progress, metric, self.quiet)

    def _wait(self, what: str) -> None:
        """Show on a terminal what is waited for; elsewhere once it takes long."""
        patience_s = 0.0 if self.console.is_terminal else PATIENCE_S
        self.timer = threading.Timer(patience_s, self.console.print, [what])
        self.timer.daemon = True
        self.timer.start()

    def _end_wait(self) -> None:
        if self.timer:
            self.timer.cancel()


def sentence_of(event: Event) -> str:
    """One line; nothing for an event that is shown otherwise."""
    match event:
        case events.TaskWarning(text):
            return f"warning: {text}"
        case events.NotRecorded(text):
            return f"{text}; trials.csv has them"
        case events.Remark(text):
            return text
        case events.SearchAbandoned(optimizer):
            return f"{optimizer}: its search was given up, since all of its trials failed"
        case events.WorkerReplaced(reason):
            return reason
        case events.RunsFailed(what, count, first, error, logs):
            runs = f"{count} {'run' if count == 1 else 'runs'}"
            failed = f"{runs} failed" if what == "training" else f"the curvature of {runs} was not analysed"
            return f"{failed}; the first: {first}: {error}; see {logs}"
        case events.Ended():
            return _why_ended(event)
    return ""


def _why_ended(ended: events.Ended) -> str:
    """Why the work ended before it was done, and how to go on."""
    finished = f"{ended.finished} of {ended.total} training runs finished"
    resume = command_line("tuner.search", "--resume", ended.run)
    return {
        "ended": "",
        "interrupted": f"interrupted: {finished}; {ended.run} has them; to go on: {resume}",
        "halted": f"error: {ended.reason}; {finished}; when it can be written again: {resume}",
        "lost": f"error: Ray was lost: {ended.reason}; {finished}; to go on: {resume}",
    }[ended.state]


def conclude(done: Executed | SuiteExecuted, terminal: Terminal, *, as_json: bool) -> int:
    """Show what came of a command: results on stdout, then why it ended early, if it did; the exit code."""
    ended = done.ended
    if ended and ended.state == "halted":
        terminal(ended)
        return ended.exit_code
    if isinstance(done, Executed):
        status = end_of_run.present(done, as_json=as_json)
    else:
        status = end_of_suite.present(done, as_json=as_json)
    if ended and ended.state == "interrupted":
        terminal(ended)
        return ended.exit_code
    return PARTLY if status == "done" and not done.all_written else EXIT_CODES[status]
