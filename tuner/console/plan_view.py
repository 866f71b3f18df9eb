"""What a command would do is shown, of a run or of a suite: by ``--dry-run``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuner.config.schema import Config
from tuner.console import dry_run, suite_plan


@dataclass(frozen=True)
class Planned:
    """What a command would do.

    Attributes:
        configs: by the entries of a suite, or by the task's name.
        path: where to.
        suite: its name.
    """

    configs: dict[str, Config]
    path: Path
    suite: str | None = None


def show(planned: Planned, *, as_json: bool) -> None:
    """Print it, for a person or as a document."""
    plan = describe(planned)
    if as_json:
        print(json.dumps(plan, indent=2))
    elif planned.suite is not None:
        suite_plan.show(plan)
    else:
        (config,) = planned.configs.values()
        dry_run.show(config, plan)


def describe(planned: Planned) -> dict[str, Any]:
    """As a document."""
    if planned.suite is not None:
        return suite_plan.describe(planned.suite, planned.configs, planned.path)
    (config,) = planned.configs.values()
    return dry_run.describe(config, planned.path)
