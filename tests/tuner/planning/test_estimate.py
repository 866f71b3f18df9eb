"""How long a run will take: the arithmetic by hand, the sentences, and bad data refused before anything starts."""

from __future__ import annotations

import io
import json
import os
import sys
import textwrap
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tasks.tabular_mlp import TabularMLP
from tests.support.commands import ROOT, Done, environment, run
from tuner.config.layers import resolve
from tuner.config.schema import Config
from tuner.config.space import OptimizerConfig
from tuner.errors import UserError
from tuner.planning.cohorts import CohortSizes, to_measure
from tuner.planning.estimate import DAY_S, Estimate, Timings, estimate, sentences, time_text, warning
from tuner.workers import preflight


def config(**flags: Any) -> Config:
    base = {"task.name": "mnist1d", "search.optimizers": ["adam", "sgd"], "retrain.seeds": 4, "search.trials": 10,
            "search.studies": 1}  # fmt: skip
    settings = ["train.epochs=3", "train.evaluations=5", "retrain.epochs=20", *flags.pop("settings", [])]
    return resolve(base | {key.replace("__", "."): value for key, value in flags.items()}, settings)


SEEDS = 4
TIMINGS = Timings(step_s={"adam": 0.002, "sgd": 0.001}, evaluation_s=0.5, steps_per_epoch=100, untimed={})


def expected(settled: Config, timings: Timings, *, search: bool, seeds: int) -> Estimate:
    sizes, trials = CohortSizes(settled, timings.member_s, seeds), settled.search.trials if search else 0
    return estimate(settled, timings, sizes, trials=trials, seeds=seeds)


# The arithmetic.


def test_seconds_are_those_of_steps_and_evaluations_of_all_runs() -> None:
    found = expected(config(resources__max_concurrent=1), TIMINGS, search=True, seeds=SEEDS)
    evaluations = 6 * 0.5  # one before the first step
    assert found.search_s == pytest.approx(10 * (300 * 0.002 + evaluations) + 10 * (300 * 0.001 + evaluations))
    assert found.retrain_s == pytest.approx(4 * (2000 * 0.002 + evaluations) + 4 * (2000 * 0.001 + evaluations))
    assert found.concurrent == 1 and found.step_ms == {"adam": pytest.approx(2.0), "sgd": pytest.approx(1.0)}


def test_runs_at_once_share_the_time_as_far_as_there_are_runs() -> None:
    alone = expected(config(resources__max_concurrent=1), TIMINGS, search=True, seeds=SEEDS)
    for at_once, shared, retrained in (
        (2, 2, 2),
        (8, 8, 8),
        (20, 20, 8),
        (1000, 20, 8),
    ):  # 20 trials, 8 retraining runs
        found = expected(config(resources__max_concurrent=at_once), TIMINGS, search=True, seeds=SEEDS)
        assert found.search_s == pytest.approx(alone.search_s / shared)
        assert found.retrain_s == pytest.approx(alone.retrain_s / retrained)
        assert found.concurrent == at_once
    assert expected(config(), TIMINGS, search=True, seeds=SEEDS) == alone  # not yet settled: one at once


STACKED = replace(TIMINGS, member_s={"adam": {1: 0.002, 4: 0.0005, 8: 0.0004}, "sgd": {1: 0.001}})


def test_in_a_stack_a_members_share_of_a_step_counts() -> None:
    asked = config(search__trials=32, resources__max_concurrent=1)
    found = expected(asked, STACKED, search=True, seeds=SEEDS)
    assert found.search_s == pytest.approx(32 * (300 * 0.0004 + 3) + 32 * (300 * 0.001 + 3))  # 8 is a quarter
    assert found.retrain_s == pytest.approx(4 * (2000 * 0.0005 + 3) + 4 * (2000 * 0.001 + 3))
    assert found.step_ms == {"adam": pytest.approx(2.0), "sgd": pytest.approx(1.0)}


@pytest.mark.parametrize(("workers", "searching", "retraining"), [(1, 1, 1), (2, 2, 2), (100, 32 / 8 + 32, 4 / 4 + 4)])
def test_a_cohort_is_work_for_one_worker(workers: int, searching: float, retraining: float) -> None:
    asked = config(search__trials=32, resources__max_concurrent=workers)
    sizes = CohortSizes(config(search__trials=32, resources__max_concurrent=1), STACKED.member_s, SEEDS)
    found = estimate(asked, STACKED, sizes, trials=32, seeds=SEEDS)
    assert found.search_s == pytest.approx((32 * 3.12 + 32 * 3.3) / searching)
    assert found.retrain_s == pytest.approx((4 * 4.0 + 4 * 5.0) / retraining)


ON_A_GPU = replace(
    STACKED, device_s={"adam": {1: 0.0005, 4: 0.0005, 8: 0.0001}, "sgd": {1: 0.001}}
)  # adam alone and in stacks of 8 is bound by launches, in stacks of 4, and sgd, by the GPU


@pytest.mark.parametrize(
    ("gpus", "workers", "adam_slower", "sgd_slower"),
    [
        (1.0, 1, 1, 1),
        (1.0, 4, 1, 1),
        (0.25, 1, 1, 1),
        (0.25, 4, 1, 4),
        (0.25, 8, 1, 4),
        (0.5, 8, 1, 2),
        (0.1, 10, 2.5, 10),
    ],
)
def test_networks_that_a_gpu_is_busy_with_gain_nothing_from_sharing_it(
    gpus: float, workers: int, adam_slower: float, sgd_slower: float
) -> None:
    asked = config(search__trials=32, resources__max_concurrent=workers, resources__gpus_per_trial=gpus)
    sizes = CohortSizes(config(resources__cohort=1), {}, SEEDS)
    found = estimate(asked, ON_A_GPU, sizes, trials=32, seeds=0)
    adam, sgd = 300 * 0.002 + 3, 300 * 0.001 + 3
    assert found.search_s == pytest.approx(32 * (adam_slower * adam + sgd_slower * sgd) / workers)


def test_in_a_stack_too() -> None:
    asked = config(search__trials=32, resources__max_concurrent=4, resources__gpus_per_trial=0.25)
    sizes = CohortSizes(asked, STACKED.member_s, SEEDS)
    for size, slower in ((4, 4), (8, 1)):
        sizes.retrain = {"adam": size, "sgd": 1}
        found = estimate(asked, ON_A_GPU, sizes, trials=0, seeds=32)
        adam, sgd = 2000 * STACKED.member_s["adam"][size] + 3, 4 * (2000 * 0.001 + 3)
        assert found.retrain_s == pytest.approx(32 * (slower * adam + sgd) / 4)


def test_sizes_stay_numbers_on_the_way_from_the_process_that_measured_them() -> None:
    for timings in (STACKED, ON_A_GPU):
        assert Timings.from_json(json.loads(json.dumps(asdict(timings)))) == timings


def test_without_a_search_it_takes_no_time() -> None:
    found = expected(config(), TIMINGS, search=False, seeds=SEEDS)
    assert found.search_s == 0 and found.retrain_s == expected(config(), TIMINGS, search=True, seeds=SEEDS).retrain_s


def test_retraining_is_as_long_as_a_trial_unless_told_otherwise() -> None:
    as_long = expected(config(settings=["retrain.epochs=null"]), TIMINGS, search=True, seeds=SEEDS)
    assert as_long.retrain_s == pytest.approx(as_long.search_s * 4 / 10)


def test_optimizers_that_could_not_be_timed_are_left_out() -> None:
    timings = Timings({"adam": 0.002}, 0.5, 100, {"sgd": "ValueError: no"})
    found = expected(config(), timings, search=True, seeds=SEEDS)
    assert found.search_s == pytest.approx(10 * (0.6 + 3)) and list(found.step_ms) == ["adam"]
    nothing = expected(config(), Timings({}, 0.5, 100, {"adam": "a", "sgd": "b"}), search=True, seeds=SEEDS)
    assert (nothing.search_s, nothing.retrain_s, nothing.step_ms) == (0, 0, {})


def test_an_estimate_is_plain_json() -> None:
    found = expected(config(), TIMINGS, search=True, seeds=SEEDS).to_dict()
    assert json.loads(json.dumps(found)) == found
    assert set(found) == {"search_s", "retrain_s", "concurrent", "step_ms"}


# What a person reads.


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "1 s"), (8.4, "8 s"), (59.4, "59 s"), (60, "1:00"), (725, "12:05"), (3 * 3600 + 420, "3:07:00"),
     (DAY_S - 1, "23:59:59"), (DAY_S, "1.0 days"), (4.2 * DAY_S, "4.2 days")],
)  # fmt: skip
def test_times_in_words(seconds: float, text: str) -> None:
    assert time_text(seconds) == text


def test_the_expected_time_with_its_parts_is_one_line() -> None:
    both = Estimate(search_s=700.0, retrain_s=25.0, concurrent=2, step_ms={"adam": 1.23456, "sgd": 0.5})
    (line,) = sentences(both, TIMINGS)
    assert line == (
        "expected: about 12:05 of training (search 11:40, retraining 25 s; adam 1.23 ms a step, sgd 0.5 ms a step)"
    )
    (line,) = sentences(Estimate(0.0, 5000.0, 2, {"adam": 4367.4}), TIMINGS)
    assert line == "expected: about 1:23:20 of training (adam 4.4 s a step)"
    (line,) = sentences(Estimate(0.0, 25.0, 2, {"adam": 2.0}), TIMINGS)
    assert line == "expected: about 25 s of training (adam 2 ms a step)"


@pytest.mark.parametrize(
    ("gpus", "seconds", "warned"),
    [(0.0, 1.01 * DAY_S, True), (None, 1.01 * DAY_S, True), (0.0, 0.99 * DAY_S, False), (1.0, 99 * DAY_S, False),
     (0.25, 99 * DAY_S, False)],
)  # fmt: skip
def test_more_than_a_day_on_a_cpu_says_so_and_names_the_ways_out(
    gpus: float | None, seconds: float, warned: bool
) -> None:
    settled = config(**({} if gpus is None else {"resources__gpus_per_trial": gpus}))
    line = warning(settled, Estimate(seconds / 2, seconds / 2, 1, {"adam": 1.0}))
    assert (line is not None) == warned
    assert line is None or all(
        part in line for part in ("more than a day", "--preset smoke", "--gpus-per-trial", "CPU")
    )


def test_an_optimizer_whose_first_steps_failed_is_named_with_the_reason() -> None:
    lines = sentences(
        Estimate(1.0, 1.0, 1, {"adam": 1.0}), replace(TIMINGS, untimed={"sgd": "RuntimeError: too large"})
    )
    assert lines[0] == "sgd: its first steps failed (RuntimeError: too large)" and len(lines) == 2
    assert sentences(Estimate(0.0, 0.0, 1, {}), replace(TIMINGS, untimed={"adam": "E: a", "sgd": "E: b"})) == [
        "adam: its first steps failed (E: a)", "sgd: its first steps failed (E: b)",
    ]  # fmt: skip
    assert not any("\n" in line for line in lines)


def test_why_an_optimizers_runs_are_not_stacked_is_a_line() -> None:
    timings = replace(TIMINGS, remarks={"adam": "trains one at a time: it draws lots"})
    assert sentences(Estimate(1.0, 1.0, 1, {"adam": 1.0}), timings)[0] == "adam: trains one at a time: it draws lots"


# The process that looks at the task and times it.


def said(settled: Config, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> tuple[Any, str]:
    """The answer of ``python -m tuner.workers.preflight``, and what is printed meanwhile."""
    reading, writing = os.pipe()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(settled.to_yaml().encode())))
    threads = torch.get_num_threads()
    try:
        preflight.main([str(writing)])
    finally:
        torch.set_num_threads(threads)
    with os.fdopen(reading, encoding="utf-8") as answer:
        (line,) = answer.readlines()
    out, err = capfd.readouterr()
    return json.loads(line), out + err


def small(**flags: Any) -> Config:
    return config(**{"task__name": "tabular_mlp", "resources__gpus_per_trial": 0.0, **flags})


def test_timings_are_one_document_whatever_a_task_prints(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    load = TabularMLP.load
    monkeypatch.setattr(TabularMLP, "load", lambda *args: (print("loading"), load(*args))[1])
    document, printed = said(small(), monkeypatch, capfd)
    timings = Timings.from_json(document["found"]["timings"])
    assert all({1} < set(times) <= {1, *to_measure(small(), SEEDS)} for times in timings.member_s.values())
    assert set(timings.step_s) == {"adam", "sgd"} and timings.steps_per_epoch == 1 and timings.untimed == {}
    assert expected(small(), timings, search=True, seeds=SEEDS).search_s > 0
    assert document["found"]["data"]["rows"] == {"train": 90, "val": 30, "test": 30}
    assert document["found"]["device"] == "cpu"
    assert printed == "loading\n"


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (["task.class=tasks.tabular_mlp.TabularMPL"], "'TabularMLP'"),
        (["optimizers.adam.class=torch.optim.Adm"], "torch.optim has no 'Adm'; did you mean 'Adam'?"),
        (["optimizers.adam.args.betas=[2, 0]"], "optimizer adam: Invalid beta parameter"),
        (["task.dataset=irs"], "task tabular_mlp: unknown dataset 'irs'"),
    ],
)
def test_what_is_wrong_is_one_sentence_in_the_document(
    settings: list[str], named: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    document, err = said(small(settings=settings), monkeypatch, capfd)
    assert set(document) == {"error"} and named in document["error"] and "\n" not in document["error"]
    assert err == ""


def test_a_clusters_nodes_are_not_timed_here(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(TabularMLP, "load", lambda *_: pytest.fail("not on this machine"))
    assert said(small(resources__address="auto"), monkeypatch, capfd)[0] == {"found": None}


@pytest.mark.parametrize(
    ("script", "complaint"),
    [
        ("exit 3", "ended with code 3"),
        ("exit 0", "ended with code 0"),
        ("kill -9 $$", "ended by signal 9, perhaps for want of memory"),
        ('echo \'{"error": "not on the pipe"}\'', "ended with code 0"),
        ("printf '{\"found\": ' > /dev/fd/$3; exit 1", "ended with code 1"),
        ('echo \'{"error": "a is wrong"}\' > /dev/fd/$3', "a is wrong"),
    ],
)
def test_the_driver_says_what_the_process_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, complaint: str
) -> None:
    stand_in(tmp_path, monkeypatch, f"cat > /dev/null\n{script}")
    with preflight.Preflight(small()) as checking, pytest.raises(UserError, match=complaint):
        checking.wait()


def stand_in(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """A shell script in the interpreter's place."""
    program = folder / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))


def test_the_driver_gets_what_was_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = preflight.PreflightResult(TIMINGS, {"rows": {"train": 3}}, "cpu")
    for said, expected in ((json.dumps(asdict(found)), found), ("null", None)):
        stand_in(tmp_path, monkeypatch, f"cat > /dev/null\necho '{{\"found\": {said}}}' > /dev/fd/$3")
        with preflight.Preflight(small()) as checking:
            assert checking.wait() == expected


def test_the_answer_counts_not_how_long_the_process_takes_to_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = "cat > /dev/null\necho '{\"found\": null}' > /dev/fd/$3\nexec sleep 60"
    stand_in(tmp_path, monkeypatch, answer)
    began = time.monotonic()
    with preflight.Preflight(small()) as checking:
        assert checking.wait() is None
    assert time.monotonic() - began < 30


def test_a_process_that_ends_before_it_has_read_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, monkeypatch, "exit 7")
    for _ in range(5):
        with preflight.Preflight(small()) as checking, pytest.raises(UserError, match="ended with code 7"):
            checking.wait()


PRINTS = """
    import os
    import subprocess

    import torch

    print("on import")

    class Prints(torch.optim.SGD):
        def __init__(self, params, lr):
            print('{"error": "by Python"}', flush=True)
            os.write(1, b'{"error": "by C++"}\\n')
            subprocess.run(["echo", '{"error": "by a child"}'], check=True)
            super().__init__(params, lr=lr)
"""


def test_what_an_optimizer_and_libraries_print_is_not_the_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "prints.py").write_text(textwrap.dedent(PRINTS))
    for name, value in {
        "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}",
        "ONEDNN_VERBOSE": "1",
        "MKL_VERBOSE": "1",
    }.items():
        monkeypatch.setenv(name, value)
    spec = OptimizerConfig.model_validate({"class": "prints.Prints", "space": {"lr": {"low": 0.1, "high": 0.2}}})
    settled = small(search__optimizers=["sgd"])
    settled.optimizers["sgd"] = spec
    with preflight.Preflight(settled, verbose=True) as checking:
        found = checking.wait()
    assert found is not None and found.timings.untimed == {}
    out, err = capfd.readouterr()
    assert out == "" and all(f'{{"error": "by {who}"}}\n' in err for who in ("Python", "C++", "a child"))


# Data that cannot be used, found before Ray starts.


def search(folder: Path, *argv: str) -> Done:
    base = ["--task", "resnet18", "--preset", "smoke", "--gpus-per-trial", "0", "--out", "runs", "-q"]
    return run(folder, "tuner.search", *base, *argv, env=environment(XDG_CACHE_HOME=str(folder / "cache")))


def assert_refused(done: Done, folder: Path, *named: str) -> None:
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: ") and done.err.count("\n") == 1
    assert all(name in done.err for name in named), done.err
    assert not (folder / "runs").exists()


def test_a_folder_without_the_data_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    done = search(tmp_path, "--data-dir", "data")
    assert_refused(done, tmp_path, str(tmp_path / "data"), "cifar-10-batches-py", "--dataset digits")


def test_a_truncated_image_is_refused_in_one_line_by_its_name(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for i in range(10):
            (tmp_path / "data" / split / str(i)).mkdir(parents=True)
            for j in range(2):
                path = tmp_path / "data" / split / str(i) / f"{j}.jpg"
                Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:300])
    assert_refused(search(tmp_path, "--data-dir", "data"), tmp_path, str(path))
