"""Odd input and spoilt files: one test for each fault that was once found."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

from tests.support.gpus import driver
from tuner import search
from tuner.config.classes import check_dataset, find
from tuner.config.layers import from_yaml, resolve
from tuner.config.schema import Config
from tuner.config.space import Dimension, OptimizerConfig
from tuner.console.parsing import run_command
from tuner.errors import UserError
from tuner.jobs import EvaluationRecord, Job, Outcome
from tuner.machine import resources
from tuner.machine.resources import Machine, settle, this_machine
from tuner.planning.cohorts import CohortSizes
from tuner.planning.plan import Plan, retrain_plan, search_plan
from tuner.store.run import Run
from tuner.store.tables import append_lines, read_csv


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        call()
    assert not set("\n\r") & set(str(caught.value))
    return str(caught.value)


def write(folder: Path, name: str, content: bytes) -> Path:
    path = folder / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return folder


def adam(*sets: str, configs: Path | None = None, **flags: Any) -> Config:
    base = {"task.name": "mnist1d", "search.optimizers": ["adam"]}
    return resolve(base | {key.replace("__", "."): value for key, value in flags.items()}, sets, configs)


# Layers and settings.


@pytest.mark.parametrize(
    "setting",
    [
        "train.epochs=!!timestamp x",
        "train.epochs=!!bool x",
        "[train=1",
        "train=[]",
        "search=null",
        "search=",
        "search=5",
        "search=[]",
        "task.args={1: 2}",
        "optimizers=[]",
        "optimizers.adam.space=[1]",
        "optimizers.adam=[]",
        "train.epochs=a\nb: c",
        "a\nb",
    ],
)
def test_odd_settings(setting: str) -> None:
    refused(lambda: resolve({"task.name": "mnist1d"}, [setting]))


@pytest.mark.parametrize(
    "content",
    [
        b"search: null",
        b"search: 5",
        b"train: [1]",
        b"optimizers: []",
        b"a: 0x_",
        b"a: !!timestamp x",
        b"a: !!bool x",
        b'optimizers: {adam: {space: {"a\\nb": {low: 3, high: 2}}}}',
        b"optimizers: {adam: {space: [1]}}",
    ],
)
def test_odd_defaults(tmp_path: Path, content: bytes) -> None:
    refused(lambda: resolve({"task.name": "mnist1d"}, [], write(tmp_path, "defaults", content)))


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.symlink_to("nowhere")], ids=["folder", "broken link"])
def test_a_folder_named_like_an_optimizer_is_none(tmp_path: Path, make: Any) -> None:
    (tmp_path / "optimizers").mkdir()
    make(tmp_path / "optimizers/mine.yaml")
    assert "mine" in refused(lambda: adam(configs=tmp_path, search__optimizers=["mine"]))


@pytest.mark.parametrize("text", ["???", "${", "${a}", "${train.epochs}", "a: ${b"])
def test_flags_are_taken_literally(text: str) -> None:
    try:
        config = adam(task__dataset=text)
    except UserError:
        return
    assert config.task.dataset == text


def test_an_unknown_hyperparameter_of_an_optimizer_that_is_not_used() -> None:
    refused(lambda: adam("optimizers.sgd.args.momentun=1"))


def test_names_of_origins_are_printable(tmp_path: Path) -> None:
    refused(lambda: adam(configs=tmp_path / "a\nb"))


# What a configuration may say.


def base(**optimizer: Any) -> dict[str, Any]:
    return adam().model_dump(by_alias=True) | {
        "optimizers": {"adam": {"class": "a.b", "space": {"lr": {"low": 0, "high": 1}}} | optimizer}
    }


@pytest.mark.parametrize("text", ["\x85", "a\u2028b", "\u2029"])
def test_line_separators_survive_yaml(text: str) -> None:
    config = Config.model_validate(base(args={"x": text}))
    assert from_yaml(config.to_yaml()) == config


@pytest.mark.parametrize("text", ["a: 2020-13-45", "a: !!timestamp x", "a: !!bool x", "[" * 5000, "a: 0x_"])
def test_broken_run_configs(text: str) -> None:
    refused(lambda: from_yaml(text))


@pytest.mark.parametrize("setting", ["search.trials=true", "train.epochs=yes", "resources.max_concurrent=true"])
def test_a_bool_is_no_number(setting: str) -> None:
    refused(lambda: adam(setting))


def test_a_fractional_default_is_outside_an_integer_space() -> None:
    spec = OptimizerConfig(class_="a.b", space={"n": Dimension(low=1, high=10, integer=True)}, defaults=[{"n": 2.5}])
    assert spec.enqueued() == []


def test_many_seeds_are_checked_at_once() -> None:
    import time

    began = time.perf_counter()
    adam("search.seed=4000000000", retrain__seeds=9000)
    assert time.perf_counter() - began < 2


# The run directory.


def trial(run: Run, number: int, value: Any) -> None:
    row = {"task": "t", "optimizer": "o", "study": 0, "trial": number, "state": "complete", "value": 1.0, "seed": 1}
    row |= {"hp.x": value}
    run.append_trials([row], ["x"])


@pytest.mark.parametrize("name", ["1", "007", "True"])
def test_an_optimizer_may_be_called_by_a_number(tmp_path: Path, name: str) -> None:
    run = Run.create(tmp_path / "r", adam())
    run.write_seeds([{"task": "t", "optimizer": name, "study": 0, "seed": 0, "status": "complete"}], [])
    run.append_curves([{"task": "t", "optimizer": name, "study": 0, "split": "val", "metric": "loss", "value": 1.0}])
    assert run.seeds()["optimizer"].tolist() == [name]
    assert run.curves()["optimizer"].tolist() == [name]


@pytest.mark.parametrize("name", ["a?b", "a%20b", "a%b", "a#b", "a b"])
def test_the_study_lies_in_the_run(tmp_path: Path, name: str) -> None:
    run = Run.create(tmp_path / name, adam())
    optuna.storages.RDBStorage(run.study_url)
    assert "study.db" in run.files()


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff", b""])
@pytest.mark.parametrize("name", ["best.json", "config.yaml"])
def test_a_spoilt_file_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    run = Run.create(tmp_path / "r", adam())
    (run.path / name).write_bytes(content)
    assert name in refused(run.best if name == "best.json" else run.config)


@pytest.mark.parametrize("lines", [0, 1, 2])
@pytest.mark.parametrize("torn", ["", "m", "mnist1d,adam,retr"])
def test_a_line_that_was_cut_off_is_neither_read_nor_built_upon(tmp_path: Path, lines: int, torn: str) -> None:
    path = tmp_path / "some.csv"
    rows = [{"task": "t", "optimizer": str(i), "value": i / 3} for i in range(4)]
    columns = ["task", "optimizer", "value"]
    if lines:
        append_lines(path, columns, rows[: lines - 1])
    whole = path.read_bytes() if lines else b""
    path.write_bytes(whole + torn.encode())
    assert read_csv(path, columns).to_dict("records") == rows[: max(0, lines - 1)]
    append_lines(path, columns, rows[2:])
    assert read_csv(path, columns).to_dict("records") == rows[: max(0, lines - 1)] + rows[2:]


def test_a_short_write_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run.create(tmp_path / "r", adam())
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, bytes(data)[:7]))
    trial(run, 0, 0.5)
    monkeypatch.undo()
    assert len(run.trials()) == 1


# Studies and plans.

OPT = {"class": "pkg.One", "space": {"lr": {"low": 0.0, "high": 1.0}, "n": {"low": 1, "high": 9, "integer": True}}}
OTHER = {"class": "pkg.One", "space": {"lr": {"low": 0.0, "high": 1.0}}}


def config(seeds: int = 1, optimizers: Any = None) -> Config:
    optimizers = optimizers or {"one": OPT, "two": OTHER}
    content = adam().model_dump(by_alias=True)
    content["search"] |= {"trials": 1, "sampler": "random", "optimizers": list(optimizers)}
    content["retrain"]["seeds"] = seeds
    return Config.model_validate(content | {"optimizers": optimizers})


def finish(plan: Plan, outcome: Callable[[Job], Outcome]) -> None:
    while jobs := plan.next_jobs():
        plan.record([(job, outcome(job)) for job in jobs])
    plan.close()


def sizes(seeds: int = 1) -> CohortSizes:
    return CohortSizes(config(seeds), {}, seeds)


def complete(job: Job) -> Outcome:
    evaluation = EvaluationRecord(1, 1.0, 0.5, 1.0, {"val_loss": 0.5})
    return Outcome("complete", {"val_loss": 0.5}, {"steps": 1, "seconds": 0.5}, [evaluation])


def test_rows_with_whole_numbers_stay_to_the_byte(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "r", adam())
    finish(search_plan(config(), run, sizes()), complete)
    lines = (run.path / "seeds.csv").read_text().splitlines()
    finish(retrain_plan(config(2), run, sizes(2)), complete)
    assert set(lines) <= set((run.path / "seeds.csv").read_text().splitlines())


def test_a_run_done_again_replaces_its_curves(tmp_path: Path) -> None:
    def lost_at_the_end(job: Job) -> Outcome:
        done = complete(job)
        slower = [replace(e, seconds=0.75) for e in done.evaluations]
        return Outcome("failed", evaluations=slower, error="lost") if job.phase == "retrain" else done

    run = Run.create(tmp_path / "r", adam())
    finish(search_plan(config(), run, sizes()), lost_at_the_end)
    finish(retrain_plan(config(), run, sizes()), complete)
    curves = run.curves()
    assert curves.duplicated(["optimizer", "phase", "trial", "seed", "step", "split", "metric"]).sum() == 0


# Dotted paths.


@pytest.mark.parametrize("path", ["..Adam", "...", ".a.Adam"])
def test_relative_paths_are_refused(path: str) -> None:
    refused(lambda: find(path))


@pytest.mark.parametrize("check", ["os.path", "math.pi"])
def test_a_check_that_cannot_be_called_is_refused(check: str) -> None:
    refused(lambda: check_dataset(adam(f"task.check={check}")))


@pytest.mark.parametrize("cls", ["torch.optim.lr_scheduler", "math.pi"])
def test_a_class_that_is_none_is_refused(cls: str) -> None:
    from tuner.training.build import optimizer_maker

    refused(lambda: optimizer_maker("mine", OptimizerConfig(class_=cls, space={})))


def test_an_argument_that_is_needed_and_not_given_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tuner.training.build import optimizer_maker

    (tmp_path / "needs_rate.py").write_text("class Opt:\n    def __init__(self, params, rate): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert "rate" in refused(lambda: optimizer_maker("mine", OptimizerConfig(class_="needs_rate.Opt", space={})))


def test_a_task_argument_behind_kwargs_is_checked() -> None:
    from tuner.training.build import make_task

    c = resolve({"task.name": "rahimi_recht"})
    task = c.task.model_copy(update={"args": {"dta_seed": 1}})
    refused(lambda: make_task(c.model_copy(update={"task": task})))


# Resources.


@pytest.mark.parametrize("cpus", [1e-320, 5e-324])
def test_tiny_shares(cpus: float) -> None:
    with contextlib.suppress(UserError):
        settle(adam(resources__cpus_per_trial=cpus), Machine(2, 0))


@pytest.mark.parametrize(("cpus", "per", "runs"), [(7, 0.07, 100), (14, 0.14, 100), (3, 0.1, 30), (16, 0.32, 50)])
def test_shares_are_counted_without_rounding(cpus: int, per: float, runs: int) -> None:
    assert settle(adam(resources__cpus_per_trial=per), Machine(cpus, 0)).resources.max_concurrent == runs


def test_more_than_one_gpu_must_be_whole() -> None:
    refused(lambda: settle(adam(resources__gpus_per_trial=1.5), Machine(16, 4)))


@pytest.mark.parametrize(("visible", "gpus"), [("0,-1,1", 1), ("-1,0", 0), ("7", 0), ("0,0", 1)])
def test_cuda_visible_devices_as_cuda_reads_it(monkeypatch: pytest.MonkeyPatch, visible: str, gpus: int) -> None:
    monkeypatch.setattr(resources, "pynvml", driver("NVIDIA H200", "NVIDIA H200"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert this_machine().gpus == gpus


# Commands.


def complaint(argv: list[str], capsys: Any) -> str:
    with pytest.raises(SystemExit) as leave:
        run_command(search.main, argv)
    out, err = capsys.readouterr()
    assert (leave.value.code, out, err.count("\n")) == (2, "", 1)
    return err


def test_a_misspelt_required_flag_is_named(capsys: Any) -> None:
    assert "'--taks'; did you mean '--task'" in complaint(["--taks", "mnist1d"], capsys)


@pytest.mark.parametrize(
    "argv",
    [
        ["--seeds", "a\nb"],
        ["--out", "/etc/passwd/a\nb"],
        ["--configs", "a\nb"],
        ["--set", "a\nb=1"],
        ["a\nb"],
        ["--data-dir", "a\nb"],
    ],
)
def test_one_line_whatever_was_typed(argv: list[str], capsys: Any) -> None:
    complaint(["--task", "mnist1d", *argv], capsys)


@pytest.mark.parametrize("content", [b"PK\x03\x04 broken"])
def test_a_broken_npz(tmp_path: Path, content: bytes, capsys: Any) -> None:
    (tmp_path / "own.npz").write_bytes(content)
    assert "own.npz" in complaint(["--task", "rahimi_recht", "--dataset", str(tmp_path / "own.npz")], capsys)


def test_a_bit_flipped_npz(tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "own.npz"
    np.savez_compressed(
        path, A=np.ones((14, 12)), X=np.random.default_rng(0).normal(size=(50, 12)), Y=np.ones((50, 14))
    )
    data = bytearray(path.read_bytes())
    for i in range(60, len(data) - 400, 131):
        broken = bytearray(data)
        broken[i] ^= 0xFF
        path.write_bytes(broken)
        with contextlib.suppress(UserError):
            search.main(["--task", "rahimi_recht", "--dataset", str(path), "--dry-run"])


def test_integer_keys_of_task_args_are_refused() -> None:
    refused(lambda: resolve({"task.name": "rahimi_recht"}, ["task.args={1: 2}"]))
