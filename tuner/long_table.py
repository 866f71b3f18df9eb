"""A long table of a run: appended to as CSV while the run goes on, one parquet file when it has ended."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tuner.tables import Row, append_lines, read_csv

if TYPE_CHECKING:
    import pandas as pd


class LongTable:
    """
    Args:
        path: of the parquet file, which cannot be appended to.
        new: of the CSV file with what has come since.
        types: of the columns, by name.
        key: columns; of rows that agree in them the last counts.
    """

    def __init__(self, path: Path, new: Path, types: Mapping[str, str], key: list[str]) -> None:
        self.path = path
        self.new = new
        self.types = dict(types)
        self.key = key

    def append(self, rows: Iterable[Row]) -> None:
        append_lines(self.new, list(self.types), rows)

    def read(self) -> pd.DataFrame:
        """All rows, also while the run goes on."""
        import pandas as pd

        parts = [pd.read_parquet(self.path)] if self.path.exists() else []
        if self.new.exists() or not parts:
            parts.append(read_csv(self.new, list(self.types)))
        # A run cut off between the two steps of write has rows in both files; a failed job that was done again has its
        # first attempt's too.
        table = pd.concat([part.astype(self.types) for part in parts])
        return table.drop_duplicates(self.key, keep="last", ignore_index=True)

    def write(self, table: pd.DataFrame) -> None:
        """Make these the rows."""
        partial = self.path.with_suffix(".partial")
        table.to_parquet(partial, index=False)
        partial.replace(self.path)
        self.new.unlink(missing_ok=True)

    def finish(self) -> None:
        """Move what was appended into the parquet file."""
        if self.new.exists():
            self.write(self.read())
