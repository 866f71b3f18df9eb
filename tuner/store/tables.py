"""Tables of a run are written and read here: cells, rows and columns that are checked as they are read."""

from __future__ import annotations

import csv
import io
import math
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner.errors import UserError
from tuner.store.columns import BORROWED, STUDY
from tuner.store.files import append, whole_lines
from tuner.text import line

if TYPE_CHECKING:
    import pandas as pd

SAID = ("state", "status", "error", "code", BORROWED)
"""Columns of text that is shown: clean as it is read, since older versions wrote it as it came."""
TEXT_COLUMNS = dict.fromkeys(["task", "optimizer", *SAID], "str")
HP = "hp."
WHOLE = range(-(2**63), 2**63)
"""Numbers of 64 bits: what tables of numbers can hold."""
WHOLE_NUMBER = re.compile(r"[+-]?[0-9]{1,30}")
LONGEST_SHOWN = 60

Row = Mapping[str, Any]

csv.field_size_limit(2**31 - 1)  # runs made before errors were cut have longer ones than the default lets pass


def append_lines(path: Path, columns: list[str], rows: Iterable[Row]) -> None:
    """Append CSV lines; a new file begins with its header."""
    append(path, csv_text(columns, rows, header=False), csv_text(columns, [], header=True))


def text_rows(path: Path, required: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a table as text, without empty cells; of study 0 where it knows no studies.

    Raises:
        UserError: it is damaged: lacks a column, or holds what is no number where there must be one.
    """
    lines = whole_lines(path)
    try:
        table = csv.DictReader(io.StringIO(lines.decode(), newline=""), strict=True)
        rows = list(table)
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as CSV: {error}") from None
    if lines:
        check_columns(path, table.fieldnames or (), required)
    if STUDY in (table.fieldnames or ()):
        required = [*required, STUDY]
    for number, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise UserError(f"{path}: line {number} has more or fewer cells than there are columns")
        for column, text in row.items():
            _check_cell(path, number, column, text, needed=column in required)
    return [
        {STUDY: "0"} | {key: line(text) if key in SAID else text for key, text in row.items() if text} for row in rows
    ]


def _check_cell(path: Path, number: int, column: str, text: str, *, needed: bool) -> None:
    if needed and not text:
        raise UserError(f"{path}: line {number}: {column} is empty")
    if not text or not _is_numeric(column):
        return
    whole = column in (STUDY, "trial", "seed")
    if not _is_whole(text) if whole else not _is_number(text, finite=column == "cohort"):
        wanted = "a whole number of 64 bits" if whole else "a number"
        raise UserError(f"{path}: line {number}: {column} must be {wanted}, got {shortened(text)}")


def _is_numeric(column: str) -> bool:
    return column not in TEXT_COLUMNS and not column.startswith(HP)


def _is_whole(text: str) -> bool:
    return WHOLE_NUMBER.fullmatch(text) is not None and int(text) in WHOLE


def _is_number(text: str, *, finite: bool) -> bool:
    try:
        value = float(text)
    except ValueError:
        return False
    return "_" not in text and text.isascii() and (math.isfinite(value) or not finite)


def shortened(value: object) -> str:
    """What was found, for an error of one line."""
    shown = repr(value)
    return shown if len(shown) <= LONGEST_SHOWN else f"{shown[: LONGEST_SHOWN - 3]}..."


def csv_text(columns: list[str], rows: Iterable[Row], *, header: bool) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def read_csv(path: Path, columns: list[str]) -> pd.DataFrame:
    import pandas as pd

    lines = whole_lines(path)
    if not lines:
        return pd.DataFrame(columns=columns)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # of lines that are too long
            (header,) = csv.reader([lines.partition(b"\n")[0].decode()])
            searched = [name for name in header if name.startswith(HP)]
            types = TEXT_COLUMNS | dict.fromkeys(searched, "str")
            table = pd.read_csv(io.BytesIO(lines), index_col=False, keep_default_na=False, na_values=[""], dtype=types)
    except (ValueError, pd.errors.ParserWarning) as error:  # pandas' errors for damage are derived from ValueError
        raise UserError(f"{path}: cannot be read as CSV: {error}") from None
    for column in set(SAID) & set(table):
        clean = {cell: line(cell) for cell in table[column].dropna().unique() if cell != line(cell)}
        table[column] = table[column].replace(clean)
    if STUDY in columns and STUDY not in table:
        table.insert(min(columns.index(STUDY), table.shape[1]), STUDY, 0)
    return table.assign(**{name: _as_written(table[name]) for name in searched})


def _as_written(texts: pd.Series) -> pd.Series:
    """Cells as whole numbers, numbers or truth values where that is how all of them are written, else as they stand:
    1, 1.0 and true are different choices."""
    import pandas as pd

    known = texts.dropna()
    for read in (int, float, {"True": True, "False": False}.__getitem__):
        with suppress(ValueError, KeyError):
            values = [read(text) for text in known]
            if all(str(value) == text != "nan" for value, text in zip(values, known, strict=True)):
                return pd.Series(values, known.index, dtype=None if values else float).reindex(texts.index)
    return texts


def check_columns(path: Path, present: Iterable[object], needed: Iterable[str]) -> None:
    """
    Raises:
        UserError: the table of this file lacks a column.
    """
    names = set(present)
    for column in needed:
        if column not in names:
            raise UserError(f"{path}: has no column {column!r}")


def hp_columns(hp: Mapping[str, Any]) -> dict[str, Any]:
    """Hyperparameters by the names of their columns."""
    return {HP + name: cell(value) for name, value in hp.items()}


def cell(value: Any) -> Any:
    """A hyperparameter for who knows no lists: a list is its text."""
    return str(value) if isinstance(value, list) else value
