"""Sources say from which layer of YAML files each value of a task or of an optimizer comes. No torch, no ray."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tuner.config.about import NOTHING_SAID, About, read_about
from tuner.config.layers import merge, presets_in, read, require, settings_in
from tuner.config.messages import Layer, holds, mapping_at, validated, validated_optimizer
from tuner.config.registry import SHIPPED, Registry
from tuner.config.schema import Config
from tuner.config.searched import searched
from tuner.config.space import OptimizerConfig
from tuner.errors import UserError

STUB = {"class": "any", "space": {}}


@dataclass(frozen=True)
class Value:
    """A resolved value.

    Attributes:
        key: dotted.
        origin: the last layer that says it.
    """

    key: str
    value: Any
    origin: str


def files(kind: Literal["tasks", "optimizers"], name: str, configs: Path | None) -> list[Layer]:
    """What YAML files say of a task or an optimizer, the later with the last word: of each folder its defaults.yaml,
    then the file of that name. An optimizer's stands where a configuration has it."""
    found: list[Layer] = []
    for lookup in Registry(configs).levels:
        found += read(lookup, None, "defaults")
        for origin, content in read(lookup, kind, name):
            found.append((origin, content if kind == "tasks" else {"optimizers": {name: content}}))
    return [(_short(origin), content) for origin, content in found]


def _short(origin: str) -> str:
    """A shipped file as the repository and the pages call it."""
    path = Path(origin)
    return str(path.relative_to(SHIPPED.parent)) if path.is_relative_to(SHIPPED) else origin


class TaskFiles:
    """The files of one task, read once.

    Attributes:
        presets: the names that there are.
        about: what the last file says; nothing where another one, which may change the task, comes after it.

    Raises:
        UserError: a file cannot be used.
    """

    def __init__(self, name: str, configs: Path | None) -> None:
        self.name = name
        self.files = files("tasks", name, configs)
        named = [preset for origin, content in self.files for preset in presets_in(origin, content)]
        self.presets = list(dict.fromkeys(named or ["default"]))
        self.about = self._about()

    def _about(self) -> About:
        said = [
            read_about(origin, content["about"], self.presets) if "about" in content else NOTHING_SAID
            for origin, content in self.files
        ]
        return said[-1]

    def layers(self, preset: str | None) -> list[Layer]:
        """Those of a preset; without one, as the files choose it themselves.

        Raises:
            UserError: the task has no such preset.
        """
        plain = [(origin, settings_in(content)) for origin, content in self.files]
        chosen = preset or str(merge(plain).get("preset"))
        require(chosen, f"preset of {self.name}", list(dict.fromkeys(["default", *self.presets])))
        layers: list[Layer] = []
        for (origin, content), layer in zip(self.files, plain, strict=True):
            layers.append(layer)
            if chosen in mapping_at(content, "presets"):
                layers.append((f"{origin}, preset {chosen}", content["presets"][chosen]))
        asked = {"preset": preset} if preset else {}
        return [*layers, ("the command line", {**asked, "task": {"name": self.name}})]

    def settings(self, preset: str) -> dict[str, Any]:
        """What the files set for a preset."""
        return merge([(origin, mapping_at(content, "presets", preset)) for origin, content in self.files])

    def changes(self, optimizer: str) -> list[Value]:
        """What the task's own files, by themselves or in a preset, say of an optimizer, each where it says it."""
        said: list[Value] = []
        for origin, content in self.files:
            if Path(origin).stem != self.name:
                continue
            presets = mapping_at(content, "presets")
            parts = [(origin, content), *((f"{origin}, preset {name}", part) for name, part in presets.items())]
            for where, part in parts:
                if of_optimizer := mapping_at(part, "optimizers", optimizer):
                    said += values([(where, {"optimizers": {optimizer: of_optimizer}})])
        return said

    def config(self, preset: str | None) -> Config:
        """The configuration of a run of the task, but for its optimizers, whose files are not read.

        Raises:
            UserError: a value is not valid.
        """
        layers = self.layers(preset)
        content = merge(layers)
        names = mapping_at(content, "search").get("optimizers")
        stubs = {str(name): STUB for name in names} if isinstance(names, list) else {}
        try:
            return validated(content | {"optimizers": stubs}, layers)
        except UserError as error:
            raise UserError(f"task {self.name}: {error}") from None


def optimizer_layers(name: str, configs: Path | None) -> list[Layer]:
    """What files say of an optimizer whatever the task."""
    found = files("optimizers", name, configs)
    return [(origin, {"optimizers": {name: mapping_at(content, "optimizers", name)}}) for origin, content in found]


def optimizer(name: str, layers: list[Layer]) -> OptimizerConfig:
    """
    Raises:
        UserError: a value is not valid.
    """
    return validated_optimizer(name, _resolved(name, layers), layers)


def optimizer_values(name: str, layers: list[Layer]) -> list[Value]:
    """Keys below the optimizer's own."""
    content, head = {"optimizers": {name: _resolved(name, layers)}}, f"optimizers.{name}."
    return [Value(value.key.removeprefix(head), value.value, value.origin) for value in values(layers, content)]


def _resolved(name: str, layers: list[Layer]) -> Any:
    return searched(name, merge(layers)["optimizers"][name], layers)


def values(layers: list[Layer], content: dict[str, Any] | None = None) -> list[Value]:
    """Every value with its origin, in the order of the merged layers.

    Args:
        content: what has come of the layers; by default all that they say, merged.
    """
    merged = merge(layers) if content is None else content
    return [
        Value(".".join(path), value, next(origin for origin, layer in reversed(layers) if holds(layer, path)))
        for path, value in leaves(merged)
    ]


def leaves(content: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """All that is no mapping with something in it, by its path."""
    if not isinstance(content, dict) or (path and not content):
        yield path, content
        return
    for key, value in content.items():
        yield from leaves(value, (*path, str(key)))
