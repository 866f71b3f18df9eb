"""A search space has a dimension for each hyperparameter, an interval or choices; an optimizer has a space."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    Field,
    ValidationError,
    model_serializer,
    model_validator,
)

from tuner.config.checks import LONGEST_TEXT, Section, each_once, is_scalar, plain
from tuner.config.engine_options import SEARCHABLE, TRAINING, EngineOptions
from tuner.errors import nearest

LARGEST = 1e100
"""Of a searched number: samplers square the widths of intervals."""
NARROWEST = 1e-9
"""An interval's width in its larger bound: they divide by it."""
MOST_WHOLE = 1_000_000
"""Whole numbers in one interval: the sampler gp lists them."""
Scalar = bool | int | float | str
Value = Scalar | list[Scalar]
"""Of a hyperparameter, as files hold it; an optimizer gets a list as a tuple."""


def _choices(choices: list[Any]) -> list[Value]:
    """Refuse what cannot be written as the text of a cell and read back."""
    for choice in choices:
        if not is_scalar(choice) and not (isinstance(choice, list) and all(map(is_scalar, choice))):
            got = "null" if choice is None else repr(choice)
            raise ValueError(
                "a choice must be a number (a whole one of 64 bits), true, false, a text of 1 to "
                f"{LONGEST_TEXT} printable characters, or a list of these, got {got}"
            )
    values = {tuple(choice) if isinstance(choice, list) else choice for choice in choices}
    if not choices or min(len(values), len(set(map(str, choices)))) < len(choices):
        raise ValueError(f"choices must be different values, at least one, got {choices}")
    return choices


class Dimension(Section):
    """One searched hyperparameter: an interval, or a list of choices."""

    low: float | None = None
    high: float | None = None
    log: bool = False
    integer: bool = False
    choices: Annotated[list[Any], AfterValidator(_choices)] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Dimension:
        if self.choices is not None:
            if self.low is not None or self.high is not None or self.log or self.integer:
                raise ValueError("give either choices, or low and high")
        elif self.low is None or self.high is None:
            raise ValueError("low and high (or choices) are needed")
        elif not self.low < self.high:
            raise ValueError(f"low {self.low:g} must be below high {self.high:g}")
        elif max(-self.low, self.high) > LARGEST:
            raise ValueError(f"low {self.low:g} and high {self.high:g} must be within -{LARGEST:g} and {LARGEST:g}")
        elif self.log and self.low < 1 / LARGEST:
            least = "0" if self.low <= 0 else f"{1 / LARGEST:g}"
            raise ValueError(f"low must be above {least} where log is true, got {self.low:g}")
        elif self.high - self.low < max(NARROWEST * max(-self.low, self.high), 1 / LARGEST):
            raise ValueError(f"low {self.low} and high {self.high} must differ by more, by {NARROWEST:g} of the larger")
        elif self.integer and not (self.low.is_integer() and self.high.is_integer()):
            raise ValueError(f"low {self.low:g} and high {self.high:g} must be whole numbers where integer is true")
        elif self.integer and self.high - self.low >= MOST_WHOLE:
            raise ValueError(
                f"low {self.low:g} to high {self.high:g}: at most {MOST_WHOLE:,} whole numbers are searched"
            )
        return self

    @model_serializer(mode="wrap")
    def _without_defaults(self, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        return {key: value for key, value in handler(self).items() if value is not None and value is not False}

    def parse(self, text: str) -> Value:
        """The value that was written as exactly this text: what a command that goes on, goes on from.

        Raises:
            ValueError: the search cannot have come to it.
        """
        if self.choices is not None:
            return self.choices[list(map(str, self.choices)).index(text)]
        return int(text) if self.integer else float(text)

    def read(self, cell: Any) -> Value:
        """The value of a table's cell, which pandas may have read as a number, or as another kind of number.

        Raises:
            ValueError: the search cannot have come to it.
        """
        if self.choices is None:
            value = float(cell)
            if self.contains(value):
                return int(value) if self.integer else value
            raise ValueError(f"{cell} is not between {self.low:g} and {self.high:g}")
        readings: tuple[Callable[[Any], Any], ...] = (str, _number, lambda value: str(value).lower())
        for reading in readings:  # "1" is read as 1, or as 1.0, and "true" as True
            for choice in self.choices:
                if reading(choice) == reading(cell):
                    return choice
        raise ValueError(f"{cell} is none of {self.choices}")

    def contains(self, value: Any) -> bool:
        """Whether the search could come to this value."""
        if self.choices is not None:
            return value in self.choices
        assert self.low is not None and self.high is not None
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= self.high:
            return False
        return not self.integer or value == int(value)

    def argument(self, value: Any) -> Any:
        """The value as an optimizer gets it: whole numbers are whole, lists tuples."""
        if isinstance(value, list):
            return tuple(value)
        return int(value) if self.integer and float(value).is_integer() else value

    def position(self, value: float) -> float | None:
        """Where the value lies between low (0) and high (1), on the searched scale; None for choices."""
        if self.low is None or self.high is None:
            return None
        if self.log and value <= 0:
            return -math.inf
        scale: Callable[[float], float] = math.log if self.log else float
        return (scale(value) - scale(self.low)) / (scale(self.high) - scale(self.low))

    def __str__(self) -> str:
        """For a person."""
        if self.choices is not None:
            return f"one of {', '.join(map(str, self.choices))}"
        kind = f"{'whole numbers' if self.integer else 'numbers'}, {'log-uniform' if self.log else 'uniform'}"
        return f"{self.low:g} to {self.high:g} ({kind})"


def _searchable(space: dict[str, Dimension]) -> dict[str, Dimension]:
    """Refuse names that are no column, and what of training cannot be searched, or not in these values."""
    for name, dim in space.items():
        if not is_scalar(name):
            raise ValueError(f"a name must be 1 to {LONGEST_TEXT} printable characters, got {name!r}")
        if not is_of_training(name):
            continue
        option = name.removeprefix(TRAINING)
        if option not in SEARCHABLE:
            valid = [f"{TRAINING}{known}" for known in SEARCHABLE]
            raise ValueError(f"{name} cannot be searched, of training only some can{nearest(name, valid)}")
        for value in [dim.low, dim.high] if dim.choices is None else dim.choices:
            try:
                EngineOptions.model_validate({option: value})
            except ValidationError as error:
                message, own = error.errors()[0]["msg"], "Value error, "
                got = "" if message.startswith(own) else f", got {value!r}"
                message = message.removeprefix(own)
                raise ValueError(f"{name}: {message[0].lower()}{message[1:]}{got}") from None
    return space


def is_of_training(name: str) -> bool:
    """Whether a hyperparameter belongs to training and not to the optimizer's constructor."""
    return name.startswith(TRAINING)


Space = Annotated[dict[str, Dimension], AfterValidator(_searchable)]


def _number(choice: Any) -> float:
    """NaN, which equals nothing, for what is no number."""
    try:
        return math.nan if isinstance(choice, bool | list) else float(choice)
    except ValueError:
        return math.nan


class OptimizerConfig(Section):
    """One optimizer: its class by dotted path, fixed arguments, search space and published defaults.

    Attributes:
        space: those of its hyperparameters that are called ``train.NAME`` are options of training.
        contains: names of optimizers whose every run this one comes to at some point of its space.
    """

    class_: str = Field(alias="class")
    args: Annotated[dict[str, Any], AfterValidator(plain)] = {}
    space: Space
    defaults: Annotated[list[dict[str, Any]], AfterValidator(plain)] = []
    contains: Annotated[list[str], AfterValidator(each_once)] = []

    @model_validator(mode="after")
    def _known_hyperparameters(self) -> OptimizerConfig:
        for point in self.defaults:
            for name in point:
                if name not in self.space:
                    raise ValueError(f"defaults: unknown hyperparameter {name!r}{nearest(name, self.space)}")
        return self

    @model_validator(mode="after")
    def _arguments_of_its_own(self) -> OptimizerConfig:
        for name in filter(is_of_training, self.args):
            raise ValueError(f"args: {name} is of training, the same for all: set {name}, or search it (space)")
        return self

    @property
    def of_training(self) -> dict[str, Dimension]:
        """The part of the space that belongs to training."""
        return {name: dim for name, dim in self.space.items() if is_of_training(name)}

    def fixed(self) -> dict[str, Any]:
        """The arguments that are not searched, with YAML's lists as tuples."""
        return {k: tuple(v) if isinstance(v, list) else v for k, v in self.args.items() if k not in self.space}

    def arguments(self, hp: Mapping[str, Any]) -> dict[str, Any]:
        """All that an optimizer with these hyperparameters is given; not what belongs to training."""
        own = {name: value for name, value in hp.items() if not is_of_training(name)}
        return self.fixed() | {k: self.space[k].argument(v) if k in self.space else v for k, v in own.items()}

    def enqueued(self) -> list[dict[str, Any]]:
        """The published defaults that lie in the space; in runs that were made before others were refused, not all."""
        return [p for p in self.defaults if p and all(self.space[name].contains(value) for name, value in p.items())]

    def first_point(self) -> dict[str, Any]:
        """A point of the space: the first published default, where there is one."""
        point = {key: dim.choices[0] if dim.choices else dim.low for key, dim in self.space.items()}
        return point | next(iter(self.enqueued()), {})
