"""Functions of ``torch.nn.functional`` have the second derivatives that are written out here, for a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch.nn import functional as F  # noqa: N812

from optimizers.curvature import normalisation, piecewise

PYTORCHS = normalisation.PYTORCHS | piecewise.PYTORCHS
CLOSED = normalisation.CLOSED | piecewise.CLOSED


@contextmanager
def closed_forms() -> Iterator[None]:
    """While it is entered, layers of ``torch.nn`` have these second derivatives."""
    changed = [name for name, theirs in PYTORCHS.items() if getattr(F, name) is theirs]
    for name in changed:
        setattr(F, name, CLOSED[name])
    try:
        yield
    finally:
        for name in changed:
            setattr(F, name, PYTORCHS[name])
