"""Shapes say what best.json, env.json and status.json must look like to those who read them."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from tuner.config.space import Value


class Content(BaseModel):
    """Of a JSON file; more may stand there. Nothing is converted, since the file's own content is what is used."""

    model_config = ConfigDict(strict=True)


def _text(value: str) -> str:
    if not _is_unicode(value):
        raise PydanticCustomError("text", "must be a text of whole characters")
    return value


def _hyperparameter(value: Any) -> Value:
    for part in value if isinstance(value, list) else [value]:
        if not isinstance(part, bool | int | float | str) or (isinstance(part, str) and not _is_unicode(part)):
            raise PydanticCustomError("hyperparameter", "must be a number, a text, true or false, or a list of these")
    return value


Text = Annotated[str, AfterValidator(_text)]
Count = Annotated[int, Field(ge=0, lt=2**63)]
Seconds = Annotated[float, Field(ge=0, lt=1e12)]
Hyperparameter = Annotated[Value, PlainValidator(_hyperparameter)]


class StudyEntry(Content):
    """What best.json says of one study: of its winner, and how many trials there were."""

    study: Count = 0
    hp: dict[Text, Hyperparameter] | None
    value: float | None
    trial: Count | None
    n_trials: Count
    n_diverged: Count
    n_failed: Count = 0
    at_boundary: list[Text]


class BestEntry(StudyEntry):
    """What it says of one optimizer: of the best of its winners, the trials of all, and each study; see
    ``store.winners``."""

    studies: list[StudyEntry] = []


class Best(Content):
    optimizers: dict[str, BestEntry]


def _moment(value: str) -> str:
    if datetime.fromisoformat(value).tzinfo is None:
        raise ValueError("must say its time zone")
    return value


class OfPhase(Content):
    """How far one optimizer is in one phase."""

    phase: Literal["search", "retrain"]
    optimizer: Text
    total: Count = 0
    running: Count = 0
    left_s: Seconds | None = None


class Status(Content):
    """What status.json says."""

    state: Literal["starting", "running", "ended", "interrupted", "halted", "lost", "failed"]
    updated: Annotated[str, AfterValidator(_moment)]
    host: Text | None = None
    pid: int | None = None
    progress: list[OfPhase] = []


class Data(Content):
    name: str | None = None
    source: str | None = None
    sha256: str | None = None
    rows: dict[str, int] = {}


class Hardware(Content):
    platform: str | None = None
    cpu: str | None = None
    cpus: int | None = None
    memory_mb: int | None = None
    gpus: list[str] = []


class Git(Content):
    commit: str | None = None
    dirty: bool | None = None


class Env(Content):
    """What readers of env.json rely on. Unions would make the places of errors other than those in the file."""

    started: str | None = None
    command: list[Any] = []
    versions: dict[str, str | None] = {}
    hardware: Hardware = Hardware()
    git: Git = Git()
    data: Data = Data()
    parameters: int | None = None
    device: str | None = None
    code: dict[str, dict[str, Any]] = {}
    resumed: list[Any] = []


def _is_unicode(text: str) -> bool:
    """JSON can escape half a character, which no file can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_finite(value: Value) -> bool:
    try:
        return not isinstance(value, str | list) and math.isfinite(value)
    except OverflowError:
        return False


def first_error(shape: type[Content], content: dict[str, Any]) -> ErrorDetails | None:
    try:
        shape.model_validate(content)
    except ValidationError as error:
        return error.errors()[0]
    return None


def remove(content: dict[str, Any], place: tuple[int | str, ...]) -> None:
    """What lies there, or the list that it is in; everything where a key is not text, and named otherwise."""
    key, *rest = place
    inner = content.get(str(key))
    if rest and isinstance(inner, dict):
        remove(inner, tuple(rest))
    elif key in content:
        del content[str(key)]
    else:
        content.clear()
