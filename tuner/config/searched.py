"""What is searched of an optimizer follows from layers: its own space, the one that all share, and what is fixed."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from tuner.config.engine_options import SEARCHABLE, TRAINING, EngineOptions
from tuner.config.messages import Layer, mapping_at
from tuner.config.space import Dimension, is_of_training


def searched(name: str, optimizer: Any, layers: list[Layer], shared: dict[str, Any] | None = None) -> Any:
    """The optimizer's part with the space of ``search.space`` in its own, and without the hyperparameters that a later
    layer than that of their interval takes out of the search: by a fixed value in ``args``, by ``null``, or by an
    empty ``space``.

    Args:
        shared: ``search.space`` as the layers have it together. Of a hyperparameter that stands in both, the later
            layer's is searched, and the optimizer's own where one layer has both.
    """
    own = mapping_at(optimizer, "space")
    of_optimizer = [mapping_at(layer, "optimizers", name) for _, layer in layers]
    of_all = [mapping_at(layer, "search", "space") for _, layer in layers]

    def last(part: str, key: str) -> int:
        return max((index for index, layer in enumerate(of_optimizer) if key in mapping_at(layer, part)), default=-1)

    def last_shared(key: str) -> int:
        return max((index for index, layer in enumerate(of_all) if key in layer), default=-1)

    from_all = {key: dim for key, dim in (shared or {}).items() if last_shared(key) > last("space", key)}
    space = own | from_all
    emptied = max((index for index, layer in enumerate(of_optimizer) if layer.get("space") == {}), default=-1)

    def is_gone(key: str) -> bool:
        said = last_shared(key) if key in from_all else last("space", key)
        return space[key] is None or max(emptied, last("args", key)) > said

    gone = set(filter(is_gone, space))
    if not gone and not from_all:
        return optimizer
    points = optimizer.get("defaults", [])
    if gone and isinstance(points, list) and all(isinstance(point, dict) for point in points):
        points = [{key: value for key, value in point.items() if key not in gone} for point in points]
        points = [point for index, point in enumerate(points) if point and point not in points[:index]]
    return optimizer | {"space": {key: dim for key, dim in space.items() if key not in gone}, "defaults": points}


def with_training(optimizer: Any, train: dict[str, Any]) -> Any:
    """The optimizer's part with published defaults that say of training, where it is searched, what the task does by
    itself: so that one of the first trials is of the published method as the task trains it.

    Args:
        train: the section; what it says is left to the sampler where the search cannot come to it.
    """
    points = optimizer.get("defaults") if isinstance(optimizer, dict) else None
    if not isinstance(points, list) or not all(isinstance(point, dict) for point in points):
        return optimizer
    known = {}
    for key, dim in mapping_at(optimizer, "space").items():
        option = key.removeprefix(TRAINING)
        if not is_of_training(key) or option not in SEARCHABLE:
            continue
        value = train.get(option, EngineOptions.model_fields[option].default)
        try:
            dimension = Dimension.model_validate(dim)
        except ValidationError:  # the schema says what is wrong with it
            continue
        if dimension.contains(value):
            known[key] = value if dimension.choices is None else dimension.choices[dimension.choices.index(value)]
    if not known:
        return optimizer
    return optimizer | {"defaults": [point | {k: v for k, v in known.items() if k not in point} for point in points]}
