"""Text in lines: what comes from outside is cleaned and cut where it enters, so that nothing that it holds can spoil
a record or a terminal; hyperparameters, numbers and durations are written for a person."""

from __future__ import annotations

import math
import re
import traceback
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

LONGEST_LINE = 4_000
LONGEST_LOG = 100_000
LONGEST_NAME = 200
ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-~])")
"""A terminal's commands: colours, titles, links, the cursor's moves."""
WHOLE = range(-(2**63), 2**63)


def line(said: object, longest: int = LONGEST_LINE) -> str:
    """One line of printable text, at most so long: without a terminal's commands, other control characters, halves of
    characters and what turns the direction of writing as Python writes them (``\\x07``, ``\\ud800``)."""
    return _cut(" ".join(_legible(_cut(_text(said), longest)).split()), longest)


def log(said: object) -> str:
    """The same in several lines, as a traceback is."""
    lines = _cut(_text(said), LONGEST_LOG).split("\n")
    return _cut("\n".join(map(_legible, lines)), LONGEST_LOG)


def fault(error: BaseException) -> str:
    """An error in one line, its type first, whatever its own text does."""
    message = _text(error)
    return line(f"{type(error).__name__}: {message}" if message else type(error).__name__)


def refusal(error: OSError) -> str:
    """What the operating system refused, in one line: of which file, and why."""
    why = error.strerror or str(error) or type(error).__name__
    return line(f"{error.filename}: {why}" if error.filename else why)


def tracebacks(error: BaseException) -> str:
    """How it came to an error."""
    try:
        return log("".join(traceback.format_exception(error)))
    except Exception as other:  # of an error's own attributes, which traceback reads
        return f"{fault(error)}\n(its traceback cannot be made: {fault(other)})\n"


def named(values: Mapping[Any, Any]) -> dict[str, Any]:
    """Values by names of someone's making."""
    return {line(name, LONGEST_NAME): value for name, value in values.items()}


def plain(content: Any) -> Any:
    """A document of someone's making as one that JSON can hold: text clean, numbers finite, all else as text."""
    if isinstance(content, dict):
        return {name: plain(value) for name, value in named(content).items()}
    if isinstance(content, list | tuple):
        return [plain(value) for value in content]
    if content is None or isinstance(content, bool):
        return content
    if isinstance(content, Integral):
        return int(content) if int(content) in WHOLE else line(content)
    if isinstance(content, Real) and math.isfinite(content):
        return float(content)
    return line(content)


def hp_text(hp: Mapping[str, Any]) -> str:
    """Hyperparameters for a person: lr=0.001, square=9."""
    return ", ".join(
        line(f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}") for name, value in hp.items()
    )


def number(value: float | None, digits: int = 4) -> str:
    """For a person; a dash for none, and "never" for the infinite time to what did not happen."""
    if value is None or not math.isfinite(value):
        return "-" if value is None or math.isnan(value) else "never" if value > 0 else "-inf"
    return f"{value:.{digits}g}"


def p_value(p: float, least: float = 1e-4) -> str:
    """``p = 0.012``; below ``least`` that it is."""
    return "p -" if math.isnan(p) else f"p < {least:g}" if p < least else f"p = {p:.2g}"


def duration(seconds: float) -> str:
    """0:42, 12:05 or 3:07:00."""
    minutes, s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{s:02}" if hours else f"{minutes}:{s:02}"


def _text(said: object) -> str:
    try:
        return str(said)
    except (Exception, SystemExit) as error:
        return f"(without a text: {type(error).__name__})"


def _cut(text: str, longest: int) -> str:
    """Without its middle, where it is longer: an error begins with what it is, a traceback ends with that."""
    if len(text) <= longest:
        return text
    kept = (longest - 40) // 2
    return f"{text[:kept]} ... ({len(text):,} characters) ... {text[-kept:]}"


def _legible(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else " " if c.isspace() else _written(c) for c in ESCAPE.sub("", text))


def _written(character: str) -> str:
    return character.encode("unicode_escape").decode()
