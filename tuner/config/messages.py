"""Messages say in a line, with the nearest valid name, what of a configuration is refused and which layer said it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from tuner.config.schema import Config
from tuner.config.space import Dimension, OptimizerConfig, Space
from tuner.errors import UserError, nearest

FREE_FORM = ("args", "space")
LONGEST_SHOWN = 200
Layer = tuple[str, dict[str, Any]]
"""A layer's content with the name that an error gives it."""


def mapping_at(content: Any, *keys: str) -> dict[str, Any]:
    """What stands at the path, if it is a mapping; the schema refuses anything else."""
    for key in keys:
        content = content.get(key) if isinstance(content, dict) else None
    return content if isinstance(content, dict) else {}


def validated(content: Any, layers: list[Layer]) -> Config:
    try:
        return Config.model_validate(content)
    except ValidationError as error:
        raise UserError(_sentence(error.errors()[0], layers)) from None


def check_space(space: Any, layers: list[Layer]) -> None:
    """Refuse a ``search.space`` that is none, before it is part of each optimizer's own.

    Raises:
        UserError: what is wrong with it.
    """
    try:
        TypeAdapter(Space).validate_python(space)
    except ValidationError as error:
        first: Any = error.errors()[0]
        raise UserError(_sentence({**first, "loc": ("search", "space", *first["loc"])}, layers)) from None


def validated_optimizer(name: str, content: Any, layers: list[Layer]) -> OptimizerConfig:
    """One optimizer's part of a configuration."""
    try:
        return OptimizerConfig.model_validate(content)
    except ValidationError as error:
        first: Any = error.errors()[0]
        raise UserError(_sentence({**first, "loc": ("optimizers", name, *first["loc"])}, layers)) from None


def _sentence(error: Any, layers: list[Layer]) -> str:
    """One line for one of pydantic's errors: where it is, what is wrong, what was expected."""
    keys = [str(key) for key in error["loc"]]
    path = ".".join(keys)
    origin = next((name for name, layer in reversed(layers) if holds(layer, keys)), None)
    where, got = f" (from {origin})" if origin else "", shown(error["input"])
    if error["type"] == "extra_forbidden":
        return f"unknown key {path!r}{where}{_owned(keys, layers) or nearest(keys[-1], _fields(keys[:-1]))}"
    if error["type"] == "missing":
        return f"{path} is missing"
    if error["type"] == "model_type":
        return f"{path or 'the configuration'}: must be a mapping of keys to values, got {got}{where}"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "value_error":
        return f"{path}: {message}{where}" if path else message
    return f"{path}: {message[0].lower()}{message[1:]}, got {got}{where}"


def _owned(keys: list[str], layers: list[Layer]) -> str:
    """Where a hyperparameter belongs that was looked for elsewhere; empty for what is none."""
    if keys[0] == "optimizers":
        return ""
    places = [
        f"optimizers.{name}.{part}.{keys[-1]}"
        for name in dict.fromkeys(name for _, layer in layers for name in mapping_at(layer, "optimizers"))
        for part in FREE_FORM
        if any(keys[-1] in mapping_at(layer, "optimizers", name, part) for _, layer in layers)
    ]
    return f"; it is a hyperparameter: {' or '.join(places[:3])}" if places else ""


def shown(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # Python does not write integers of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]} ..."


def holds(layer: Any, keys: Sequence[str]) -> bool:
    for key in keys:
        if not isinstance(layer, dict):
            return isinstance(layer, list)
        if key not in layer:
            return False
        layer = layer[key]
    return True


def _fields(keys: list[str]) -> list[str]:
    """The keys that the schema has at this path."""
    model: type[BaseModel] = Config
    path = iter(keys)
    for key in path:
        if key == "optimizers" and model is Config:
            next(path, None)  # the optimizer's name
            model = OptimizerConfig
        elif key == "space":
            next(path, None)  # the hyperparameter's name
            model = Dimension
        else:
            model = model.model_fields[key].annotation  # type: ignore[assignment]
    return [field.alias or name for name, field in model.model_fields.items()]
