"""What a run has borrowed from another counts once where both are compared. No torch, no ray."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from tuner.comparison.comparison import Source
from tuner.store.columns import BORROWED, STUDY


def without_copies(sources: Sequence[Source]) -> tuple[list[Source], list[str]]:
    """The runs without those borrowed optimizers whose very runs another of them has; and a note on each of which
    some are left out.

    Args:
        sources: runs of one task under the same conditions.
    """
    rows = [source.run.seeds() for source in sources]
    kept, notes = [], []
    for index, (source, own) in enumerate(zip(sources, rows, strict=True)):
        originals = [each for at, each in enumerate(rows) if at != index]
        earlier = rows[:index]
        copies = [name for name in source.names if _is_copy(name, own, originals, earlier)]
        names = {name: shown for name, shown in source.names.items() if name not in copies}
        kept.append(replace(source, names=names))
        if copies:
            notes.append(f"{', '.join(copies)}: borrowed by {source.run.path}, and counted once.")
    return kept, notes


def _is_copy(name: str, own: pd.DataFrame, others: Sequence[pd.DataFrame], earlier: Sequence[pd.DataFrame]) -> bool:
    """Whether these borrowed rows are another run's own, or what one before it has borrowed as well."""
    rows = own[own["optimizer"] == name]
    if BORROWED not in rows or not len(rows) or rows[BORROWED].isna().any():
        return False
    lenders = [*(other for other in others if not _borrows(name, other)), *earlier]
    columns = [STUDY, "seed", "status", *(key for key in map(str, rows) if key.startswith(("train_", "val_", "test_")))]
    own_runs = _runs(rows, columns)
    return any(own_runs <= _runs(other[other["optimizer"] == name], columns) for other in lenders)


def _borrows(name: str, table: pd.DataFrame) -> bool:
    return BORROWED in table and bool(table.loc[table["optimizer"] == name, BORROWED].notna().any())


def _runs(rows: pd.DataFrame, columns: Sequence[str]) -> set[tuple[str, ...]]:
    """What a loan does not change: which retraining runs there are, and what came of them."""
    return set(rows.reindex(columns=list(columns)).astype(str).itertuples(index=False, name=None))
