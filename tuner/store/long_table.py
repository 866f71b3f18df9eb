"""A long table is appended to as CSV while a run goes on, and is one parquet file when it has ended."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tuner.errors import UserError
from tuner.store.columns import STUDY
from tuner.store.files import whole_lines, write_whole
from tuner.store.tables import Row, append_lines, check_columns, read_csv

if TYPE_CHECKING:
    import pandas as pd

WANTED = {"Int64": "a whole number of 64 bits", "float64": "a number", "string": "text"}


class LongTable:
    """
    Args:
        path: of the parquet file, which cannot be appended to.
        new: of the CSV file with what has come since.
        types: of the columns, by name.
        key: columns; of rows that agree in them the last counts.
        clocks: columns that a table made elsewhere may lack.
    """

    def __init__(
        self, path: Path, new: Path, types: Mapping[str, str], key: list[str], clocks: Iterable[str] = ()
    ) -> None:
        self.path = path
        self.new = new
        self.types = dict(types)
        self.key = key
        self._goes_on = False
        self.clocks = set(clocks)

    def append(self, rows: Iterable[Row]) -> None:
        header = "" if self._goes_on else whole_lines(self.new).partition(b"\n")[0].decode(errors="replace")
        if header and header.split(",") != list(self.types):
            self.finish()  # of an older version, whose lines had other columns
        self._goes_on = True
        append_lines(self.new, list(self.types), rows)

    def read(self) -> pd.DataFrame:
        """All rows, also while the run goes on.

        Raises:
            UserError: a file is damaged, lacks a column, or has what is no number where there must be one.
        """
        import pandas as pd

        parts = [self._typed(self.path, _read_parquet(self.path))] if self.path.exists() else []
        if self.new.exists() or not parts:
            parts.append(self._typed(self.new, read_csv(self.new, list(self.types))))
        # A run cut off between the two steps of write has rows in both files; a failed job that was done again has its
        # first attempt's too.
        table = pd.concat(parts)
        return table.drop_duplicates(self.key, keep="last", ignore_index=True)

    def _typed(self, path: Path, part: pd.DataFrame) -> pd.DataFrame:
        """With columns of their types; clocks that are not there are NaN."""
        import numpy as np

        if STUDY in self.types and STUDY not in part:
            part = part.assign(**{STUDY: 0})
        check_columns(path, part, [name for name in self.types if name not in self.clocks])
        part = part.reindex(columns=[*self.types, *(name for name in part if name not in self.types)])
        for name, kind in self.types.items():
            try:
                with np.errstate(invalid="ignore"):  # a float beyond 64 bits is then refused all the same
                    part = part.astype({name: kind})
            except (ValueError, TypeError, OverflowError):
                raise UserError(f"{path}: column {name!r}: there must be {WANTED[kind]} in each row") from None
        if STUDY in part and part[STUDY].isna().any():
            raise UserError(f"{path}: column {STUDY!r}: there must be {WANTED['Int64']} in each row")
        return part

    def write(self, table: pd.DataFrame) -> None:
        """Make these the rows."""
        # pyarrow takes no path that is not UTF-8.
        write_whole(self.path, table.to_parquet(None, index=False))
        self.new.unlink(missing_ok=True)

    def finish(self) -> None:
        """Move what was appended into the parquet file."""
        if self.new.exists():
            self.write(self.read())


def _read_parquet(path: Path) -> pd.DataFrame:
    import pandas as pd

    content = path.read_bytes()
    try:
        return pd.read_parquet(io.BytesIO(content))
    except Exception as error:  # damage may end in any: of pyarrow, of its Thrift, of pandas' own metadata
        why = str(error).removeprefix("Could not open Parquet input source '<Buffer>': ")
        raise UserError(f"{path}: cannot be read as parquet: {why}") from None
