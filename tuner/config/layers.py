"""Layers of YAML files and command-line settings are resolved into one validated object. No torch, no ray.

defaults < optimizer < task < preset < --configs < suite < --set < flags
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from copy import deepcopy
from functools import lru_cache
from io import StringIO
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tuner.config.bounded_yaml import bounded
from tuner.config.messages import FREE_FORM, Layer, check_space, mapping_at, shown, validated
from tuner.config.modules import check_configs
from tuner.config.registry import Given, Kind, Lookup, Registry
from tuner.config.schema import Config
from tuner.config.searched import searched, with_training
from tuner.config.space import OptimizerConfig, is_of_training
from tuner.errors import UserError, nearest

EXPONENT = re.compile(r"([+-]?\d+)(\.\d*)?[eE]([+-]?\d{1,3})")
"""Numbers that YAML 1.1 takes for text where they lack the point or the exponent's sign."""

OF_TRAINING = re.compile(r"\.space\.train\.(\w+)")
"""A hyperparameter with a dot in its name."""

# The YAML loader and OmegaConf raise these, and more kinds than they document, for odd scalars, keys and nesting.
LOADER_ERRORS = (
    OSError, yaml.YAMLError, OmegaConfBaseException,
    ArithmeticError, AssertionError, AttributeError, LookupError, RecursionError, TypeError, ValueError,
)  # fmt: skip


def resolve(
    flags: Mapping[str, Any],
    settings: Iterable[str] = (),
    configs: Path | None = None,
    given: Given | None = None,
    suite: Sequence[Layer] = (),
) -> Config:
    """The validated configuration of a run.

    Args:
        flags: dotted key -> value, for the flags that were given; ``task.name`` must be among them.
        settings: the ``key=value`` of each ``--set``.
        configs: the user's own folder of ``--configs``.
        given: tasks and optimizers that a program gives in place of files.
        suite: what the task's suite says, below the command line.

    Raises:
        UserError: an unknown name or key, or a value that is not valid, in one sentence.
    """
    if configs is not None:
        check_configs(configs)
    registry = Registry(configs, given or {})
    task = str(flags["task.name"])
    known = registry.names("optimizers")
    require(task, "task", registry.names("tasks"))
    typed = settings_layer(settings, known)
    command_line = [*suite, ("--set", typed), ("the command line", nested(flags))]

    names = last(_layers(task, [], registry, command_line), "search", "optimizers")
    names = [str(name) for name in names] if isinstance(names, list) else []
    for name in names:
        require(name, "optimizer", known)

    _check_settings(typed, task, names, registry)
    layers = _layers(task, names, registry, command_line)
    content = merge(layers)
    optimizers = content.get("optimizers", {})
    if isinstance(optimizers, dict):  # a file may adjust optimizers that this run does not use
        for name in optimizers:
            require(str(name), "optimizer", known)
        content = _with_spaces(content, names, layers)
    if "configs" in content:
        raise UserError("unknown key 'configs': the folder of your own files is named by --configs alone")
    _check_effect(typed, content, shared=mapping_at(content, "search", "space"))
    _check_margins(content)
    config = validated(content | {"configs": configs and str(configs.absolute())}, layers)
    _check_optimizers(config, known)
    return config


def _with_spaces(content: dict[str, Any], names: list[str], layers: list[Layer]) -> dict[str, Any]:
    """What the layers come to, with what is searched of each of these optimizers, shared by all or not."""
    shared, train = mapping_at(content, "search", "space"), mapping_at(content, "train")
    if shared:
        left = {key: dim for key, dim in shared.items() if dim is not None}
        check_space(left, layers)
        content = content | {"search": content["search"] | {"space": left}}
    own = mapping_at(content, "optimizers")
    optimizers = {name: with_training(searched(name, own[name], layers, shared), train) for name in names}
    return content | {"optimizers": optimizers}


def from_yaml(text: str) -> Config:
    """The configuration in a ``config.yaml``.

    Raises:
        UserError: it is not one.
    """
    try:
        return validated(yaml.safe_load(bounded(text)), [])
    except LOADER_ERRORS as error:
        raise UserError(f"not valid YAML: {error}") from None


def require(name: str, kind: str, valid: list[str], where: str = "") -> None:
    """Refuse a name that is not among the valid ones."""
    if name not in valid:
        raise UserError(f"{where}unknown {kind} {name!r}{nearest(name, valid)}")


# The layers.


def _layers(task: str, optimizers: list[str], registry: Registry, command_line: list[Layer]) -> list[Layer]:
    """All layers in their order. Which preset it is, the layers themselves say."""
    preset = str(last([*_entries(task, [], registry, None), *command_line], "preset"))
    return [*_entries(task, optimizers, registry, preset), *command_line]


def _entries(task: str | None, optimizers: list[str], registry: Registry, preset: str | None) -> list[Layer]:
    """The layers below the command line's."""
    layers: list[Layer] = []
    presets = ["default"]
    for lookup in registry.levels:
        layers += read(lookup, None, "defaults")
        for name in optimizers:
            layers += [
                (origin, {"optimizers": {name: content}}) for origin, content in read(lookup, "optimizers", name)
            ]
        for origin, content in read(lookup, "tasks", task) if task is not None else ():
            of_file = presets_in(origin, content)
            presets += map(str, of_file)
            layers.append((origin, settings_in(content)))
            if preset in of_file:
                layers.append((f"{origin}, preset {preset}", of_file[preset]))
    if preset is not None:
        require(preset, f"preset of {task}", list(dict.fromkeys(presets)))
    return layers


def declared(task: str | None, optimizers: Iterable[str], registry: Registry) -> dict[str, Any]:
    """What files say of a task, or of none, and of optimizers: all that ``--set`` may change."""
    return merge(_entries(task, list(optimizers), registry, None))


def presets_in(origin: str, content: dict[str, Any]) -> dict[Any, dict[str, Any]]:
    """Those of a task's file.

    Raises:
        UserError: they are no mappings.
    """
    presets = content.get("presets") or {}
    if not isinstance(presets, dict) or not all(isinstance(preset, dict) for preset in presets.values()):
        raise UserError(f"{origin}: presets must be a mapping of names to settings")
    return presets


def settings_in(content: dict[str, Any]) -> dict[str, Any]:
    """What a task's file sets by itself, without presets and what it says of itself to a reader."""
    return {key: value for key, value in content.items() if key not in ("presets", "about")}


def presets_of(task: str, registry: Registry) -> list[str]:
    """The names of a task's presets."""
    files = [layer for lookup in registry.levels for layer in read(lookup, "tasks", task)]
    return list(dict.fromkeys(["default", *(name for _, content in files for name in mapping_at(content, "presets"))]))


def read(lookup: Lookup, kind: Kind | None, name: str) -> list[Layer]:
    """What a level of the registry says, as a list of one layer; of none, where it says nothing.

    Raises:
        UserError: its file is not a mapping in YAML.
    """
    source = lookup(kind, name)
    if not isinstance(source, Path):
        return [] if source is None else [(f"{name} as given", deepcopy(source))]
    try:
        content = deepcopy(_parsed(source.read_text(encoding="utf-8")))
    except LOADER_ERRORS as error:
        raise UserError(f"{source}: cannot be read as YAML: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{source}: must be a mapping of keys to values")
    return [(str(source), {str(key): value for key, value in content.items()})]


@lru_cache(maxsize=256)
def _parsed(text: str) -> Any:
    """Files are read anew each time, but what has been read before is not parsed anew."""
    return OmegaConf.to_container(OmegaConf.load(StringIO(bounded(text))))


def settings_layer(settings: Iterable[str], optimizers: Iterable[str]) -> dict[str, Any]:
    """The layer of ``--set``.

    Args:
        optimizers: their names, which may have dots.
    """
    layer, dotted = OmegaConf.create(), sorted((name for name in optimizers if "." in name), key=len)
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise UserError(f"--set {setting}: expected key=value, say train.epochs=3")
        _check_literal(key, value)
        at = key
        for name in dotted:  # the longest that fits has the last word
            if f"{key}.".startswith(f"optimizers.{name}."):
                at = f"optimizers[{name}]{key.removeprefix(f'optimizers.{name}')}"
        at = OF_TRAINING.sub(r".space[train.\1]", at)
        try:
            layer.merge_with_dotlist([f"{at}={bounded(value)}"])
        except LOADER_ERRORS as error:
            raise UserError(f"--set {setting}: {error}") from None
    return _container(layer)


def nested(flags: Mapping[str, Any]) -> dict[str, Any]:
    layer = OmegaConf.create()
    for key, value in flags.items():
        _check_literal(key, value)
        try:
            OmegaConf.update(layer, key, value)
        except LOADER_ERRORS as error:
            raise UserError(f"{key}: {error}") from None
    return _container(layer)


def _check_literal(key: str, value: Any) -> None:
    """Refuse what OmegaConf takes for its own: a missing value, or an interpolation."""
    if isinstance(value, str) and (value.strip() == "???" or "${" in value):
        raise UserError(f"{key}: {value!r} is not a value")


def last(layers: list[Layer], *path: str) -> Any:
    """What the layers come to at a path: what the last that has one there has, ``None`` where none does."""
    *above, key = path
    said = [inner[key] for _, content in layers if key in (inner := mapping_at(content, *above))]
    return said[-1] if said else None


def merge(layers: list[Layer]) -> dict[str, Any]:
    try:
        return _container(OmegaConf.merge(*(content for _, content in layers)))
    except LOADER_ERRORS as error:
        raise UserError(f"the configuration cannot be merged: {error}") from None


def _container(node: Any) -> dict[str, Any]:
    assert isinstance(node, DictConfig)
    content = OmegaConf.to_container(node)
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}


# What is refused.


def _check_settings(settings: dict[str, Any], task: str, optimizers: list[str], registry: Registry) -> None:
    """Refuse a ``--set`` that would do nothing, or of an argument or hyperparameter that no YAML file declares: surely
    a typing error."""
    chosen = mapping_at(settings, "optimizers")
    for name in chosen:
        require(name, "optimizer", registry.names("optimizers"))
        if name not in optimizers:
            searched = ", ".join(optimizers)
            raise UserError(f"--set optimizers.{name}: has no effect, since {name} is not searched (but {searched})")
    files = declared(task, chosen, registry)
    for name in chosen:
        known = mapping_at(files, "optimizers", name)
        valid = [key for part in FREE_FORM for key in mapping_at(known, part)]
        for part in FREE_FORM:
            for key in mapping_at(chosen, name, part):
                if known and key not in valid and not is_of_training(key):  # of which the schema says what there is
                    raise UserError(f"optimizers.{name}.{part}: unknown hyperparameter {key!r}{nearest(key, valid)}")
        for key, dim in mapping_at(chosen, name, "space").items():
            if dim is not None and key in mapping_at(chosen, name, "args"):
                raise UserError(f"optimizers.{name}: {key!r} is both fixed (args) and searched (space)")
    valid = list(mapping_at(files, "task", "args"))
    for key in mapping_at(settings, "task", "args"):
        if key not in valid:
            raise UserError(f"task.args: unknown key {key!r}{nearest(key, valid)}")


def _check_effect(settings: dict[str, Any], content: Any, path: str = "", shared: Collection[str] = ()) -> None:
    """
    Args:
        shared: dimensions of all optimizers' spaces.

    Raises:
        UserError: an empty mapping was set where there is more, which merging leaves as it is.
    """
    for key, value in settings.items():
        below = mapping_at(content, key)
        if key == "space" and path.startswith("optimizers."):
            below = {name: dim for name, dim in below.items() if name not in shared}
        if isinstance(value, dict) and value:
            _check_effect(value, below, f"{path}{key}.", shared)
        elif value == {} and below:
            raise UserError(f"--set {path}{key}={{}}: has no effect; set the keys below it: {', '.join(below)}")


def _check_optimizers(config: Config, known: list[str]) -> None:
    for name, optimizer in config.optimizers.items():
        _check_defaults(name, optimizer)
        for contained in optimizer.contains:
            require(contained, "optimizer", known, f"optimizers.{name}.contains: ")


def _check_defaults(name: str, optimizer: OptimizerConfig) -> None:
    """
    Raises:
        UserError: a published default is not of its space.
    """
    for point in optimizer.defaults:
        for key, value in point.items():
            if optimizer.space[key].contains(value):
                continue
            where, number = f"optimizers.{name}.defaults: {key}", EXPONENT.fullmatch(str(value))
            if isinstance(value, str) and number:
                wanted = f"{number[1]}{number[2] or '.0'}e{int(number[3]):+d}"
                raise UserError(f"{where}: {value!r} is a text, as YAML 1.1 reads it; write {wanted}, without quotes")
            raise UserError(
                f"{where}: {shown(value)} is not in its space, {optimizer.space[key]}; widen the space, or leave the "
                f"published defaults out: --set optimizers.{name}.defaults=[]"
            )


def _check_margins(content: dict[str, Any]) -> None:
    """Refuse one that would have no effect, as config.yaml of older runs may have it."""
    for key in mapping_at(content, "report", "margin"):
        split, _, name = str(key).partition("_")
        if name and split in ("train", "val", "test"):
            raise UserError(
                f"report.margin.{key}: has no effect, a margin is of a metric on every split; use report.margin.{name}"
            )
