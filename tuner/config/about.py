"""What a task's file says about itself, in `about:`, is read here: for a reader, not for a run. No torch, no ray."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import Field, ValidationError

from tuner.config.checks import Section
from tuner.config.messages import shown
from tuner.errors import UserError, nearest

Minutes = Annotated[float, Field(gt=0, strict=True)]


class About(Section):
    """
    Attributes:
        model: the network, and the data set where its size depends on that.
        parameters: how many it has, of the task's own data set and preset default.
        minutes: preset -> how long a default run of it takes on 2 CPU cores.
        reference: a result to hold others against, with where it is published or how it was made.
    """

    model: str | None = None
    parameters: Annotated[int, Field(ge=1, strict=True)] | None = None
    minutes: dict[str, Minutes] = Field(default_factory=dict)
    reference: str | None = None


NOTHING_SAID = About()


def read_about(origin: str, content: Any, presets: Iterable[str]) -> About:
    """
    Args:
        origin: the file.
        content: of its key ``about``.
        presets: those that the task has.

    Raises:
        UserError: an unknown key or preset, or a value that is not valid.
    """
    if not isinstance(content, dict):
        raise UserError(f"{origin}: about: must be a mapping of keys to values, got {shown(content)}")
    for key in content:
        _require(f"{origin}: about: unknown key", key, About.model_fields)
    try:
        about = About.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        path, message = ".".join(map(str, ("about", *first["loc"]))), first["msg"]
        sentence = f"{origin}: {path}: {message[0].lower()}{message[1:]}, got {shown(first['input'])}"
        raise UserError(sentence) from None
    for preset in about.minutes:
        _require(f"{origin}: about.minutes: unknown preset", preset, presets)
    return about


def _require(wrong: str, name: object, valid: Iterable[str]) -> None:
    valid = list(valid)
    if name not in valid:
        raise UserError(f"{wrong} {name!r}{nearest(name, valid)}")
