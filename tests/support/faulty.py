"""Optimizers of which the second of three trials sets a fault off, for searches as a user runs them."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path

BAD = 0.5
"""The learning rate that sets a fault off, the second of three."""

FAULTY = f"""\
import torch


class Faulty(torch.optim.SGD):
    def __init__(self, params, lr):
        super().__init__(params, lr=min(lr, 0.01))
        self.bad, self.steps = lr == {BAD}, 0

    def step(self, closure=None):
        self.steps += 1
        if self.bad and self.steps == 30:
            self.fault()
        return super().step(closure)
"""


def write_faulty(folder: Path, faults: str, kinds: Mapping[str, str]) -> None:
    """Write the module ``faulty`` into a folder, and YAML files of its optimizers into the folder's ``mine``.

    Args:
        faults: source of subclasses of ``Faulty``, each with its ``fault``.
        kinds: the classes by the optimizers' names.
    """
    (folder / "faulty.py").write_text(f"{FAULTY}\n{textwrap.dedent(faults)}")
    (folder / "mine" / "optimizers").mkdir(parents=True)
    for name, cls in kinds.items():
        (folder / "mine" / "optimizers" / f"{name}.yaml").write_text(
            f"class: faulty.{cls}\nspace: {{lr: {{low: 1e-4, high: 1.0, log: true}}}}\n"
            f"defaults: [{{lr: 0.01}}, {{lr: {BAD}}}, {{lr: 0.001}}]\n"
        )
