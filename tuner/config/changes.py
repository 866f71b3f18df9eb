"""Changes of a run's configuration are what a command that goes on may ask for; all else would be another run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tuner.config.declared import E_PROCESS
from tuner.config.engine_options import WITHOUT_EFFECT
from tuner.config.layers import merge, nested, resolve, settings_layer
from tuner.config.messages import validated
from tuner.config.schema import Config
from tuner.errors import UserError

MAY_CHANGE = (
    "search.trials", "search.studies", "retrain.seeds", "retrain.analyze_curvature", "retrain.keep_weights",
    "task.data_dir", "python_path", "resources", "faults", "tracker",
    *(f"train.{option}" for option in WITHOUT_EFFECT),
)  # fmt: skip
"""Keys in which a run that goes on may differ from its beginning."""


def revise(config: Config, changes: Mapping[str, Any]) -> Config:
    """The configuration with other values at some dotted keys, validated anew.

    Raises:
        UserError: a value is not valid.
    """
    layers = [("the run", config.model_dump(by_alias=True)), ("the command line", nested(changes))]
    return validated(merge(layers), layers)


def keep_seeds(config: Config, retrained: Iterable[int]) -> Config:
    """The configuration with the seeds that a run has retrained before those that it asks for; looks have an order of
    their own."""
    if config.looks:
        return config
    return revise(config, {"retrain.seeds": list(dict.fromkeys([*retrained, *config.retrain.seeds]))})


def extend(config: Config, flags: Mapping[str, Any], settings: Iterable[str] = ()) -> Config:
    """The configuration of a run that goes on: more trials, studies or seeds, other resources.

    Args:
        config: the run's.
        flags, settings: as in ``resolve``, those that were given.

    Raises:
        UserError: a value is not valid, or contradicts what the run has done so far.
    """
    if (named := flags.get("search.optimizers")) is not None and list(named) != list(config.optimizers):
        raise UserError(f"--optimizers: the run has {', '.join(config.optimizers)}; one more is --add-optimizer NAME")
    run = config.model_dump(by_alias=True)
    typed = settings_layer(settings, config.optimizers)
    layers = [("the run", run), ("--set", typed), ("the command line", nested(flags))]
    asked = validated(merge(layers), layers)
    different = list(_differences(run, asked.model_dump(by_alias=True)))
    if different:
        raise UserError(f"the run was made with another configuration: {'; '.join(different)}")
    return extended(config, asked)


def add_optimizers(
    config: Config, names: Sequence[str], settings: Iterable[str] = (), configs: Path | None = None
) -> tuple[Config, list[str]]:
    """The configuration of a run that is to have more optimizers, each as its file says and with the run's shared
    space; and the settings that are of others. The baseline stays what it was.

    Args:
        settings: as in ``resolve``; those of the new optimizers are taken.
        configs: the user's own folder, where they may be.

    Raises:
        UserError: there is no such optimizer, or the run has it already, or is decided at looks.
    """
    for name in names:
        if name in config.optimizers:
            raise UserError(f"--add-optimizer: the run has {name} already")
    if config.looks:
        raise UserError("--add-optimizer: this run is decided at looks, declared before it began, with its optimizers")
    settings = list(settings)
    own = [setting for setting in settings if any(setting.startswith(f"optimizers.{name}.") for name in names)]
    flags = {
        "task.name": config.task.name, "preset": config.preset, "search.optimizers": list(names),
        "search.space": {key: dim.model_dump() for key, dim in config.search.space.items()},
        "train": config.train.model_dump(),
    }  # fmt: skip
    new = resolve(flags, own, configs or (None if config.configs is None else Path(config.configs)))
    python_path = config.python_path if configs is None else [*config.python_path, str(configs.absolute())]
    changed = config.model_dump(by_alias=True) | {"python_path": list(dict.fromkeys(python_path))}
    changed["optimizers"] |= {name: new.optimizers[name].model_dump(by_alias=True) for name in names}
    changed["search"]["optimizers"] += list(names)
    changed["report"]["baseline"] = config.baseline
    return validated(changed, [("the run", changed)]), [setting for setting in settings if setting not in own]


def extended(config: Config, asked: Config) -> Config:
    """What is asked of a run.

    Args:
        config: the run's.

    Raises:
        UserError: it is less than the run has.
    """
    for key in ("trials", "studies"):
        had, wanted = getattr(config.search, key), getattr(asked.search, key)
        if wanted < had:
            raise UserError(f"search.{key}: {wanted} asked, but the run has {had}; a run can be extended, not cut")
    if config.looks:
        _check_looks(config, asked)
    return asked


def _check_looks(config: Config, asked: Config) -> None:
    """
    Raises:
        UserError: what is asked changes what the looks at a comparison, declared before it began, are of.
    """
    grows = {"study": "search.studies", "seed": "retrain.seeds"}[config.unit]
    had, wanted = config.model_dump(by_alias=True), asked.model_dump(by_alias=True)
    for section, key in (("search", "studies"), ("search", "trials"), ("retrain", "seeds")):
        before, now = had[section][key], wanted[section][key]
        more = not isinstance(before, list) or now[: len(before)] == before
        open_ended = config.report.spending == E_PROCESS and f"{section}.{key}" == grows and more
        if before != now and not open_ended:
            looks = ", ".join(map(str, config.looks))
            units = "studies" if config.unit == "study" else "seeds"
            raise UserError(
                f"{section}.{key}: this run is decided at looks after {looks} {units}, as declared before it began; "
                f"{now} in place of {before} would be another plan, of a new run (with report.spending=e_process "
                f"{grows} may grow)"
            )


def _differences(run: Mapping[str, Any], asked: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """What differs, but for keys that say how much, where and how a run is carried out."""
    for key in dict.fromkeys([*run, *asked]):
        here, ours, theirs = f"{path}{key}", run.get(key), asked.get(key)
        if here in MAY_CHANGE or ours == theirs:
            continue
        if isinstance(ours, dict) and isinstance(theirs, dict):
            yield from _differences(ours, theirs, f"{here}.")
        else:
            yield f"{here} is {ours!r} in the run, {theirs!r} asked"
