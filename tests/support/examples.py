"""How many examples Hypothesis makes: the same at each run, or (`make test-all`) new ones, and more of them."""

from __future__ import annotations

import os
from typing import Any

from hypothesis import HealthCheck, settings

NEW = "NEW_EXAMPLES" in os.environ


def examples(number: int, **options: Any) -> settings:
    """Settings of a test that is run with so many examples.

    Args:
        options: others of ``hypothesis.settings``.
    """
    return settings(
        max_examples=3 * number if NEW else number,
        derandomize=not NEW,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=NEW,
        **options,
    )
