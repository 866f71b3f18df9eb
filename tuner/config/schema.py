"""What a configuration may say: pydantic models that refuse unknown keys and check values. No torch, no ray."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    field_validator,
    model_serializer,
    model_validator,
)

from tuner.errors import nearest

SMALLEST_SHARE = 1e-4  # Ray's granularity
MOST_SEEDS = 10_000
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
LARGEST = 1e100
"""Of a searched number: samplers square the widths of intervals."""
NARROWEST = 1e-9
"""An interval's width in its larger bound: they divide by it."""
MOST_WHOLE = 1_000_000
"""Whole numbers in one interval: the sampler gp lists them."""
LONGEST_TEXT = 200
Positive = Annotated[int, Field(ge=1, lt=2**63, strict=True)]
Seed = Annotated[int, Field(ge=0, lt=2**63, strict=True)]


def _plain(value: Any) -> Any:
    """Refuse what a document cannot hold: JSON knows no bytes and no infinity."""
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise ValueError(f"keys must be text, got {key!r}")
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ():
        _plain(part)
    if isinstance(value, int) and abs(value) >= 2**1023:
        raise ValueError("numbers must be below 2^1023")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"numbers must be finite, got {value}")
    if value is not None and not isinstance(value, bool | int | float | str | list | tuple | dict):
        raise ValueError(
            f"must be text, a number, true, false, null, a list or a mapping, got a {type(value).__name__}"
        )
    return value


def _each_once(values: list[Any]) -> list[Any]:
    for value, count in Counter(values).items():
        if count > 1:
            raise ValueError(f"{value!r} is named twice")
    return values


Scalar = bool | int | float | str
Value = Scalar | list[Scalar]
"""Of a hyperparameter, as files hold it; an optimizer gets a list as a tuple."""


def _choices(choices: list[Any]) -> list[Value]:
    """Refuse what cannot be written as the text of a cell and read back."""
    for choice in choices:
        if not _is_scalar(choice) and not (isinstance(choice, list) and all(map(_is_scalar, choice))):
            got = "null" if choice is None else repr(choice)
            raise ValueError(
                "a choice must be a number (a whole one of 64 bits), true, false, a text of 1 to "
                f"{LONGEST_TEXT} printable characters, or a list of these, got {got}"
            )
    values = {tuple(choice) if isinstance(choice, list) else choice for choice in choices}
    if not choices or min(len(values), len(set(map(str, choices)))) < len(choices):
        raise ValueError(f"choices must be different values, at least one, got {choices}")
    return choices


def _is_scalar(value: Any) -> bool:
    if isinstance(value, str):
        return value.isprintable() and 0 < len(value) <= LONGEST_TEXT
    return -(2**63) <= value < 2**63 if isinstance(value, int) else isinstance(value, float) and math.isfinite(value)


def _columns(space: dict[str, Any]) -> dict[str, Any]:
    for name in space:
        if not _is_scalar(name):
            raise ValueError(f"a name must be 1 to {LONGEST_TEXT} printable characters, got {name!r}")
    return space


def _metric_of(*splits: str) -> Callable[[str], str]:
    """A metric's name begins with one of these splits."""

    def check(name: str) -> str:
        if not re.fullmatch(rf"({'|'.join(splits)})_\w+", name):
            forms = " or ".join(f"{split}_NAME" for split in splits)
            raise ValueError(f"must be {forms}, a split's metric, say {splits[-1]}_acc, got {name!r}")
        return name

    return check


def _margin(value: Any) -> float | str:
    """A number above 0, or as text a share of the baseline's value."""
    relative = re.fullmatch(r"(\d+\.?\d*|\.\d+) ?%", value) if isinstance(value, str) else None
    size = float(relative[1]) if relative else value
    if isinstance(size, bool) or not isinstance(size, int | float) or not 0 < size < 2**1023:
        raise ValueError(
            f"must be a number above 0 in the metric's unit, or a share of the baseline's value, say 1%, got {value!r}"
        )
    return f"{relative[1]}%" if relative else float(size)


class Section(BaseModel):
    """A part of the configuration: unknown keys are refused, values are checked, nothing changes afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, allow_inf_nan=False)


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
        """The value that was written as this text.

        Raises:
            ValueError: the search cannot have come to it.
        """
        if self.choices is not None:
            return self.choices[list(map(str, self.choices)).index(text)]
        return int(text) if self.integer else float(text)

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


class OptimizerConfig(Section):
    """One optimizer: its class by dotted path, fixed arguments, search space and published defaults."""

    class_: str = Field(alias="class")
    args: Annotated[dict[str, Any], AfterValidator(_plain)] = {}
    space: Annotated[dict[str, Dimension], AfterValidator(_columns)]
    defaults: Annotated[list[dict[str, Any]], AfterValidator(_plain)] = []

    @model_validator(mode="after")
    def _known_hyperparameters(self) -> OptimizerConfig:
        for point in self.defaults:
            for name in point:
                if name not in self.space:
                    raise ValueError(f"defaults: unknown hyperparameter {name!r}{nearest(name, self.space)}")
        return self

    def fixed(self) -> dict[str, Any]:
        """The arguments that are not searched, with YAML's lists as tuples."""
        return {k: tuple(v) if isinstance(v, list) else v for k, v in self.args.items() if k not in self.space}

    def arguments(self, hp: Mapping[str, Any]) -> dict[str, Any]:
        """All that an optimizer with these hyperparameters is given."""
        return self.fixed() | {k: self.space[k].argument(v) if k in self.space else v for k, v in hp.items()}

    def enqueued(self) -> list[dict[str, Any]]:
        """The published defaults that lie in the space; in runs that were made before others were refused, not all."""
        return [p for p in self.defaults if p and all(self.space[name].contains(value) for name, value in p.items())]

    def first_point(self) -> dict[str, Any]:
        """A point of the space: the first published default, where there is one."""
        point = {key: dim.choices[0] if dim.choices else dim.low for key, dim in self.space.items()}
        return point | next(iter(self.enqueued()), {})


class TaskConfig(Section):
    name: str
    class_: str = Field(alias="class")
    args: Annotated[dict[str, Any], AfterValidator(_plain)]
    metric: Annotated[str, AfterValidator(_metric_of("train", "val"))]
    mode: Literal["min", "max"]
    target: float | None
    dataset: str
    datasets: list[str]
    data_dir: str | None
    check: str | None


class TrainConfig(Section):
    epochs: Positive
    batch_size: Positive
    evaluations: Positive
    # What defaults.yaml says, for the config.yaml of a run that was made before there were these.
    schedule: Literal["constant", "cosine"] = "constant"
    final_lr: Annotated[float, Field(ge=0, le=1)] = 0.1
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    clip_grad_norm: Annotated[float, Field(gt=0)] | None = None
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    channels_last: bool = False
    compile: bool = False
    deterministic: bool = False


class SearchConfig(Section):
    optimizers: Annotated[list[str], Field(min_length=1), AfterValidator(_each_once)]
    trials: Positive
    seed: Annotated[int, Field(ge=0, lt=2**32, strict=True)]
    sampler: Literal["tpe", "gp", "random", "qmc"]
    scheduler: Literal["fifo", "asha"]


class RetrainConfig(Section):
    """
    Attributes:
        analyze_curvature: K, for the Hessian at evaluations 0, K, 2K, ... and the last of each run.
    """

    seeds: Annotated[list[Seed], Field(min_length=1), AfterValidator(_each_once)]
    epochs: Positive | None
    analyze_curvature: Positive | None = None

    @field_validator("seeds", mode="before")
    @classmethod
    def _count(cls, seeds: Any) -> Any:
        if isinstance(seeds, bool) or not isinstance(seeds, int):
            return seeds
        if not 1 <= seeds <= MOST_SEEDS:
            raise ValueError(f"must be at least 1 and at most {MOST_SEEDS}, or a list, got {seeds}")
        return list(range(seeds))


class FaultsConfig(Section):
    """What is done about faults.

    Attributes:
        retries: how often a run is tried again whose worker was lost.
        trial_limit_s: a run that takes longer has failed.
        checkpoint_s: seconds between the checkpoints of a long run.
    """

    retries: Annotated[int, Field(ge=0, strict=True)] = 2
    trial_limit_s: Annotated[float, Field(gt=0)] | None = None
    checkpoint_s: Annotated[float, Field(gt=0)] = 180.0


class ReportConfig(Section):
    """How the run's optimizers will be compared, said before there is anything to compare.

    Attributes:
        baseline: what the others are compared with; adam where it is among them, unless said otherwise.
        metric: that decides; the task's own on the test split, where there is one, unless said otherwise.
        test: the primary test.
        alpha: its level, over the contrasts of the task; intervals are of 1 - alpha.
        margin: differences that do not matter, by a metric's name without its split: numbers in the metric's unit, or
            shares of the baseline's value, "1%".
    """

    baseline: str | None = None
    metric: Annotated[str, AfterValidator(_metric_of("train", "val", "test"))] | None = None
    test: Literal["t", "wilcoxon", "sign_flip"] = "t"
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.05
    margin: dict[str, Annotated[float | str, PlainValidator(_margin)]] = {}


BASELINES = ("adam", "adamw", "sgdm", "sgd")
"""What is the baseline unless one is declared: the first of these that there is, else the first optimizer."""


class ResourcesConfig(Section):
    cpus_per_trial: Annotated[float, Field(ge=SMALLEST_SHARE)]
    gpus_per_trial: Annotated[float, Field(ge=0)] | None
    max_concurrent: Positive | None
    address: str | None
    cohort: int | Literal["auto"] = "auto"

    @field_validator("cohort", mode="before")
    @classmethod
    def _size_or_auto(cls, cohort: Any) -> Any:
        if cohort != "auto" and (isinstance(cohort, bool) or not isinstance(cohort, int) or not 1 <= cohort < 2**63):
            shown = "a larger one" if isinstance(cohort, int) and cohort >= 2**63 else repr(cohort)
            raise ValueError(f"must be auto, or a whole number of at least 1, got {shown}")
        return cohort

    @field_validator("gpus_per_trial")
    @classmethod
    def _share_or_whole(cls, gpus: float | None) -> float | None:
        if gpus and (gpus < SMALLEST_SHARE or (gpus > 1 and not gpus.is_integer())):
            raise ValueError(f"must be 0, a fraction of 1, or a whole number, got {gpus:g}")
        return gpus


class Config(Section):
    """Everything that one command was asked to do.

    Attributes:
        configs: the user's own folder of ``--configs``, where Python finds their modules too.
    """

    schema_version: Literal[1] = 1
    preset: str
    out: str
    name: str | None
    configs: str | None = None
    task: TaskConfig
    optimizers: dict[str, OptimizerConfig]
    train: TrainConfig
    search: SearchConfig
    retrain: RetrainConfig
    resources: ResourcesConfig
    faults: FaultsConfig = FaultsConfig()
    report: ReportConfig = ReportConfig()
    tracker: Literal["tensorboard", "mlflow", "wandb"] | None = None

    @model_validator(mode="after")
    def _names_that_stay_in_their_folders(self) -> Config:
        named = [
            ("name", self.name),
            ("task.name", self.task.name),
            *(("optimizers", name) for name in self.optimizers),
        ]
        for key, name in named:
            if name is not None and not NAME.fullmatch(name):
                raise ValueError(
                    f"{key}: {name!r} must be letters, digits, '.', '_' and '-', beginning with a letter or digit"
                )
        if list(self.optimizers) != self.search.optimizers:
            raise ValueError(f"optimizers: {list(self.optimizers)} are not those of search.optimizers")
        return self

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        if self.search.seed in self.retrain.seeds:
            raise ValueError(
                f"retrain.seeds: {self.search.seed} is the search seed; evaluation seeds must differ from it "
                "(choose others, or --set search.seed=N)"
            )
        baseline = self.report.baseline
        if baseline is not None and baseline not in self.optimizers:
            raise ValueError(f"report.baseline: {baseline!r} is not searched{nearest(baseline, self.optimizers)}")
        if self.search.scheduler == "asha" and self.resources.cohort not in ("auto", 1):
            raise ValueError(
                "resources.cohort: asha decides trial by trial, so that they cannot train in lockstep; use --cohort 1, "
                f"or --scheduler fifo, got {self.resources.cohort}"
            )
        return self

    @property
    def retrain_epochs(self) -> int:
        return self.retrain.epochs or self.train.epochs

    @property
    def baseline(self) -> str:
        """What the other optimizers will be compared with."""
        usual = (name for name in BASELINES if name in self.optimizers)
        return self.report.baseline or next(usual, self.search.optimizers[0])

    def trials(self, optimizer: str) -> int:
        """Of its search; one where there is nothing to search."""
        return self.search.trials if self.optimizers[optimizer].space else 1

    @property
    def hyperparameters(self) -> list[str]:
        """The searched hyperparameters of all optimizers, each once."""
        return list(dict.fromkeys(name for spec in self.optimizers.values() for name in spec.space))

    def to_yaml(self) -> str:
        """The text of ``config.yaml``."""
        return yaml.safe_dump(self.model_dump(by_alias=True), sort_keys=False)
