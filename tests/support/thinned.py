"""Many cases of one kind: some of them run in `make test`, the others in `make test-slow`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def thinned(cases: Iterable[Any], every: int) -> list[Any]:
    """Cases of ``parametrize``, of which the first, and then each so many, are not slow.

    Args:
        cases: values, or tuples of the values of several arguments.
    """
    marked = []
    for index, case in enumerate(cases):
        values = case if isinstance(case, tuple) else (case,)
        marked.append(pytest.param(*values, marks=() if index % every == 0 else pytest.mark.slow))
    return marked
