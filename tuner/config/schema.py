"""The schema says what a configuration may hold: models that refuse unknown keys and check values. No torch, no ray."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    Field,
    StrictBool,
    field_validator,
    model_validator,
)

from tuner.config.checks import NAME, Section, each_once, metric_of, plain
from tuner.config.declared import ReportConfig, check_looks, equal_steps
from tuner.config.engine_options import EngineOptions
from tuner.config.space import OptimizerConfig, Space
from tuner.errors import nearest

SMALLEST_SHARE = 1e-4  # Ray's granularity
MOST_SEEDS = 10_000
MOST_STUDIES = 1_000
SEEDS_APART = MOST_SEEDS
"""What each study adds to the evaluation seeds of the one before."""
Positive = Annotated[int, Field(ge=1, lt=2**63, strict=True)]
Seed = Annotated[int, Field(ge=0, lt=2**63, strict=True)]


LEARNING = ("tpe", "gp")
"""Samplers that learn from the trials that have ended."""


class TaskConfig(Section):
    name: str
    class_: str = Field(alias="class")
    args: Annotated[dict[str, Any], AfterValidator(plain)]
    metric: Annotated[str, AfterValidator(metric_of("train", "val"))]
    mode: Literal["min", "max"]
    target: float | None
    dataset: str
    datasets: list[str]
    data_dir: str | None
    check: str | None


class TrainBudget(Section):
    epochs: Positive
    batch_size: Positive
    evaluations: Positive


class TrainConfig(EngineOptions, TrainBudget):
    """How long a training run is, and how its model is run."""


class SearchConfig(Section):
    """
    Attributes:
        trials: of each study.
        seed: the search seed of study 0; each study's is the next. Trials are trained with it, and the sampler draws
            by it and the task's name.
        studies: independent searches of each optimizer, of which each has its own winner.
        draws: whether what is drawn at random is the task's own, so that tasks do not share their luck, or the same for
            all tasks, so that there are configurations which all have tried.
        space: what was searched of every optimizer beside its own space, of which it is a part by now: see ``layers``.
    """

    optimizers: Annotated[list[str], Field(min_length=1), AfterValidator(each_once)]
    trials: Positive
    seed: Annotated[int, Field(ge=0, lt=2**32, strict=True)]
    studies: Annotated[int, Field(ge=1, le=MOST_STUDIES, strict=True)] = 1
    sampler: Literal["tpe", "gp", "random", "qmc"]
    draws: Literal["own", "shared"] = "own"
    scheduler: Literal["fifo", "asha"]
    space: Space = {}


class RetrainConfig(Section):
    """
    Attributes:
        seeds: the evaluation seeds of study 0; those of study r are ``SEEDS_APART`` times r more.
        analyze_curvature: K, for the Hessian at evaluations 0, K, 2K, ... and the last of each run.
        keep_weights: whether the network of each complete run is kept, as it was evaluated last.
    """

    seeds: Annotated[list[Seed], Field(min_length=1), AfterValidator(each_once)]
    epochs: Positive | None
    analyze_curvature: Positive | None = None
    keep_weights: StrictBool = False

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


BASELINES = ("adam", "adamw", "sgdm", "sgd")
"""What is the baseline unless one is declared: the first of these that there is, else the first optimizer."""


@dataclass(frozen=True)
class SettledResources:
    """What a trial gets, as numbers.

    Attributes:
        max_concurrent: trials at once.
    """

    cpus_per_trial: float
    gpus_per_trial: float
    max_concurrent: int

    @property
    def shared(self) -> bool:
        """Whether trials have company on their device, so that their seconds are shares."""
        return 0 < self.gpus_per_trial < 1 or self.cpus_per_trial < 1


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

    @property
    def settled(self) -> SettledResources:
        """As ``machine.resources.settle`` has made them numbers; what it has not, is one trial at a time on CPUs."""
        gpus, concurrent = self.gpus_per_trial, self.max_concurrent
        return SettledResources(
            self.cpus_per_trial, 0.0 if gpus is None else gpus, 1 if concurrent is None else concurrent
        )

    @field_validator("gpus_per_trial")
    @classmethod
    def _share_or_whole(cls, gpus: float | None) -> float | None:
        if gpus and (gpus < SMALLEST_SHARE or (gpus > 1 and not gpus.is_integer())):
            raise ValueError(f"must be 0, a fraction of 1, or 1, got {gpus:g}")
        return gpus


class Config(Section):
    """Everything that one command was asked to do.

    Attributes:
        configs: the user's own folder of ``--configs``, where Python finds their modules too.
        python_path: other folders where it finds them: those of a program that gave classes of its own.
    """

    schema_version: Literal[1] = 1
    preset: str
    out: str
    name: str | None
    configs: str | None = None
    python_path: list[str] = []
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
        self._check_seeds()
        check_looks(self.report, self.most_units, self.unit, self.search.optimizers)
        baseline = self.report.baseline
        if baseline is not None and baseline not in self.optimizers:
            raise ValueError(f"report.baseline: {baseline!r} is not searched{nearest(baseline, self.optimizers)}")
        if self.search.scheduler == "asha" and self.resources.cohort not in ("auto", 1):
            raise ValueError(
                "resources.cohort: asha decides trial by trial, so that they cannot train in lockstep; use --cohort 1, "
                f"or --scheduler fifo, got {self.resources.cohort}"
            )
        return self

    def _check_seeds(self) -> None:
        """Refuse evaluation seeds that are a search seed, or those of two studies."""
        seeds = set(self.retrain.seeds)
        if (largest := max(seeds) + SEEDS_APART * (len(self.studies) - 1)) >= 2**63:
            raise ValueError(f"retrain.seeds: must be below 2^63 in all {len(self.studies)} studies, got {largest}")
        for search in map(self.search_seed, self.studies):
            if any(search - SEEDS_APART * study in seeds for study in self.studies[: search // SEEDS_APART + 1]):
                raise ValueError(
                    f"retrain.seeds: {search} is the search seed{self._of_a_study(search)}; evaluation seeds must "
                    "differ from it (choose others, or --set search.seed=N)"
                )
        by_remainder: dict[int, int] = {}
        for seed in sorted(seeds) if len(self.studies) > 1 else ():
            before = by_remainder.get(seed % SEEDS_APART)
            if before is not None and seed - before < SEEDS_APART * len(self.studies):
                raise ValueError(
                    f"retrain.seeds: {before} and {seed} are the same for two of {len(self.studies)} studies, whose "
                    f"evaluation seeds lie {SEEDS_APART:,} apart; choose seeds below {SEEDS_APART:,}"
                )
            by_remainder[seed % SEEDS_APART] = seed

    def _of_a_study(self, search_seed: int) -> str:
        return f" of study {search_seed - self.search.seed}" if len(self.studies) > 1 else ""

    @property
    def module_folders(self) -> list[str]:
        """Where, after all other places, Python finds the modules that are named."""
        return [*([] if self.configs is None else [self.configs]), *self.python_path]

    @property
    def retrain_epochs(self) -> int:
        return self.retrain.epochs or self.train.epochs

    @property
    def baseline(self) -> str:
        """What the other optimizers will be compared with."""
        usual = (name for name in BASELINES if name in self.optimizers)
        return self.report.baseline or next(usual, self.search.optimizers[0])

    @property
    def studies(self) -> range:
        """The numbers of each optimizer's studies."""
        return range(self.search.studies)

    def search_seed(self, study: int) -> int:
        """That of a study, the same for all optimizers."""
        return self.search.seed + study

    def evaluation_seeds(self, study: int) -> list[int]:
        """Those of a study, the same for all optimizers, and of no other study."""
        return [seed + SEEDS_APART * study for seed in self.retrain.seeds]

    @property
    def retraining_runs(self) -> int:
        """Of each optimizer."""
        return self.search.studies * len(self.retrain.seeds)

    @property
    def unit(self) -> Literal["study", "seed"]:
        """What contrasts are paired by."""
        return "study" if self.search.studies > 1 else "seed"

    @property
    def most_units(self) -> int:
        """Studies, or seeds, of each optimizer: all that may be."""
        return self.units(self.unit)

    def units(self, unit: Literal["study", "seed"]) -> int:
        """How many of these each optimizer may have, at most."""
        return self.search.studies if unit == "study" else len(self.retrain.seeds)

    @property
    def looks(self) -> list[int]:
        """Units at each look at a comparison that goes on until it is decided; none of another."""
        if self.report.until is None:
            return []
        declared = self.report.looks or equal_steps(self.most_units)
        return declared if declared[-1] == self.most_units else [*declared, self.most_units]

    def trials(self, optimizer: str) -> int:
        """Of each of its studies; one where there is nothing to search."""
        return self.search.trials if self.optimizers[optimizer].space else 1

    @property
    def total_trials(self) -> int:
        """Of all studies of all optimizers."""
        return self.search.studies * sum(map(self.trials, self.optimizers))

    @property
    def hyperparameters(self) -> list[str]:
        """The searched hyperparameters of all optimizers, each once."""
        return list(dict.fromkeys(name for spec in self.optimizers.values() for name in spec.space))

    def to_yaml(self) -> str:
        """The text of ``config.yaml``."""
        return yaml.safe_dump(self.model_dump(by_alias=True), sort_keys=False)
