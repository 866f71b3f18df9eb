"""What of training the searches set: the same for all optimizers, or each its own. Pure functions of search spaces."""

from __future__ import annotations

from collections.abc import Mapping

from tuner.config.space import Dimension, is_of_training

Spaces = Mapping[str, Mapping[str, Dimension]]
"""By optimizer."""


def tuned_training(spaces: Spaces) -> dict[str, list[str]]:
    """By optimizer, the options of training that its search set: ``train.schedule``, say."""
    return {name: list(filter(is_of_training, space)) for name, space in spaces.items()}


def tuned_alike(spaces: Spaces) -> bool:
    """Whether the searches of all optimizers set the same of training, from the same intervals and choices."""
    first, *others = [{key: space[key] for key in filter(is_of_training, space)} for space in spaces.values()] or [{}]
    return all(other == first for other in others)
