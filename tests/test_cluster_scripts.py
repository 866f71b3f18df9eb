"""The scripts of configs/clusters, with fake commands that note what they are called with."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ray.dashboard.modules.job.cli import submit
from ray.scripts.symmetric_run import curate_and_validate_ray_start_args

from tests.support.clusters import CLUSTERS, check_ray, dry_run_in, tuner_command
from tuner.search import make_parser

JOB = "77"


@pytest.fixture
def dry_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[[list[str]], dict[str, Any]]:
    return dry_run_in(tmp_path, capsys)


FAKES = {
    "srun": "os.execvp('ray', args[args.index('ray'):])",
    "scontrol": "",
    "hostname": "print('10.0.0.5 fd00::5')",
    "ray": """
if args[0] == "symmetric-run":
    if os.environ["PLAY"] == "slow start":
        ready.touch()
        time.sleep(60)
    code = subprocess.run(args[args.index("--") + 1:]).returncode
    sys.exit(code)""",
    "python": """
def value(flag):
    return args[args.index(flag) + 1]

run = pathlib.Path(value("--resume") if "--resume" in args else value("--out") + "/" + value("--name"))
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
(run / "logs").mkdir(parents=True, exist_ok="--resume" in args)
(run / "config.yaml").touch()
ready.touch()
if os.environ["PLAY"] == "bad usage":
    while not asked:
        time.sleep(0.01)
    sys.exit(2)
if os.environ["PLAY"] != "finish":
    while not asked:
        time.sleep(0.01)
    sys.exit(130)""",
}  # fmt: skip
PRELUDE = """#!{python} -S
import json, os, pathlib, signal, subprocess, sys, time
args = sys.argv[1:]
ready = pathlib.Path(os.environ["READY"])
with open(os.environ["CALLS"], "a") as file:
    file.write(json.dumps([{name!r}, *args]) + "\\n")
with open(os.environ["CALLS"] + ".auth", "a") as file:
    file.write(json.dumps([os.environ.get(key) for key in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")]) + "\\n")
"""


class Site:
    """A project's folder on a machine where only fake commands answer."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls_file = folder / "calls"
        self.ready = folder / "ready"
        self.runs = folder / "runs"
        self.run = self.runs / f"slurm-{JOB}"
        (folder / ".venv/bin").mkdir(parents=True)
        for name, body in FAKES.items():
            path = folder / ".venv/bin" / name
            path.write_text(PRELUDE.format(python=sys.executable, name=name) + body + "\n")
            path.chmod(0o755)

    def start(self, script: str, *args: str, play: str = "finish", **env: str) -> subprocess.Popen[str]:
        self.ready.unlink(missing_ok=True)
        outer = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM", "RAY"))}
        fakes = {"PATH": f"{self.folder / '.venv/bin'}:{outer['PATH']}", "CALLS": str(self.calls_file),
                 "HOME": str(self.folder)}  # fmt: skip
        slurm = {"SLURM_JOB_ID": JOB, "SLURM_SUBMIT_DIR": str(self.folder), "SLURM_JOB_NUM_NODES": "2",
                 "SLURM_CPUS_PER_TASK": "16", "SLURM_GPUS_ON_NODE": "4"}  # fmt: skip
        return subprocess.Popen(
            ["bash", str(CLUSTERS / script), *args],
            env=outer | fakes | slurm | {"READY": str(self.ready), "PLAY": play} | env,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip

    def end(self, process: subprocess.Popen[str], code: int) -> None:
        said, _ = process.communicate(timeout=30)
        assert process.returncode == code, said

    def wait_ready(self) -> None:
        deadline = time.monotonic() + 30
        while not self.ready.exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def calls(self, name: str) -> list[list[str]]:
        lines = self.calls_file.read_text().splitlines() if self.calls_file.exists() else []
        return [call[1:] for call in map(json.loads, lines) if call[0] == name]

    def auth(self) -> list[list[str | None]]:
        """Mode and token that each command saw."""
        return [json.loads(line) for line in Path(f"{self.calls_file}.auth").read_text().splitlines()]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    (tmp_path / "site").mkdir()
    return Site(tmp_path / "site")


@pytest.mark.parametrize("script", ["slurm.sh", "submit.sh"])
def test_a_script_is_bash_and_can_be_executed(script: str) -> None:
    subprocess.run(["bash", "-n", str(CLUSTERS / script)], check=True)
    assert os.access(CLUSTERS / script, os.X_OK)


def test_sbatch_is_told_what_the_script_relies_on() -> None:
    text = (CLUSTERS / "slurm.sh").read_text(encoding="utf-8")
    first_command = text.index("\nset -")
    options = re.findall(r"^#SBATCH (--\S+)", text, re.M)
    assert text.rindex("#SBATCH") < first_command  # sbatch reads no further
    assert {"--ntasks-per-node=1", "--exclusive", "--requeue", "--open-mode=append"} <= set(options)
    [lead] = [option for option in options if option.startswith("--signal=B:USR1@")]
    assert int(lead.partition("@")[2]) >= 120


def test_slurm_starts_ray_on_every_node_and_searches(
    site: Site, dry_run: Callable[[list[str]], dict[str, Any]]
) -> None:
    site.end(site.start("slurm.sh", DATA="/data"), 0)
    [srun], [ray] = site.calls("srun"), site.calls("ray")
    assert "--nodes=2" in srun and "--cpus-per-task=16" in srun
    assert ray[:5] == ["symmetric-run", "--address", "10.0.0.5:6379", "--min-nodes", "2"]
    start_flags = curate_and_validate_ray_start_args(ray[1 : ray.index("--")])
    assert start_flags[:4] == ["--num-cpus", "16", "--num-gpus", "4"]
    check_ray(["ray", "start", "--head", *start_flags])
    command = tuner_command(["python", *site.calls("python")[0]])
    assert make_parser().parse(command[1:]).data_dir == "/data"
    plan = dry_run(command)
    assert (plan["resources"]["address"], plan["resources"]["gpus_per_trial"]) == ("auto", 0.25)
    assert plan["config"]["name"] == site.run.name and command[command.index("--out") + 1] == str(site.runs)
    assert not site.calls("scontrol")


def test_each_slurm_job_has_a_token_of_its_own(site: Site) -> None:
    tokens = []
    for _ in range(2):
        site.end(site.start("slurm.sh"), 0)
        seen = {(mode, token) for mode, token in site.auth()[-3:]}  # srun, ray, python
        [(mode, token)] = seen
        assert mode == "token" and token and re.fullmatch("[0-9a-f]{64}", token)
        tokens.append(token)
    assert tokens[0] != tokens[1]


def test_a_job_near_its_time_limit_is_queued_again_and_goes_on(site: Site) -> None:
    first = site.start("slurm.sh", play="train")
    site.wait_ready()
    first.send_signal(signal.SIGUSR1)  # to the batch script alone, as --signal=B: has it
    site.end(first, 130)
    assert site.calls("scontrol") == [["requeue", JOB]]
    site.end(site.start("slurm.sh"), 0)
    assert site.calls("python")[1:] == [
        ["-m", "tuner.search", "--resume", str(site.run), "--address", "auto"],
    ]
    assert len(site.calls("scontrol")) == 1


def test_going_on_is_a_command_of_ours() -> None:
    args = make_parser().parse(["--resume", "runs/slurm-77", "--address", "auto"])
    assert (str(args.resume), args.address) == ("runs/slurm-77", "auto")


def test_a_job_that_was_killed_outright_goes_on_when_slurm_starts_it_again(site: Site) -> None:
    first = site.start("slurm.sh", play="train")
    site.wait_ready()
    os.killpg(first.pid, signal.SIGKILL)
    site.end(first, -signal.SIGKILL)
    site.end(site.start("slurm.sh"), 0)
    assert site.calls("python")[1][2:4] == ["--resume", str(site.run)]


def test_a_job_that_was_killed_before_it_wrote_anything_begins_anew(site: Site) -> None:
    (site.run / "logs").mkdir(parents=True)
    site.end(site.start("slurm.sh"), 0)
    assert "--task" in site.calls("python")[0]


def test_a_notice_while_ray_starts_ends_the_step(site: Site) -> None:
    process = site.start("slurm.sh", play="slow start")
    site.wait_ready()
    process.send_signal(signal.SIGUSR1)
    site.end(process, 128 + signal.SIGTERM)
    assert site.calls("scontrol") == [["requeue", JOB]] and not site.calls("python")


def test_a_cancelled_job_is_not_queued_again(site: Site) -> None:
    process = site.start("slurm.sh", play="train")
    site.wait_ready()
    os.killpg(process.pid, signal.SIGTERM)  # all of the job's processes, as SLURM does
    site.end(process, 128 + signal.SIGTERM)
    assert not site.calls("scontrol")


def test_a_command_that_is_refused_is_not_queued_again(site: Site) -> None:
    process = site.start("slurm.sh", play="bad usage")
    site.wait_ready()
    process.send_signal(signal.SIGUSR1)
    site.end(process, 2)
    assert not site.calls("scontrol")


def test_submit_sends_the_project_without_what_git_ignores(
    site: Site, dry_run: Callable[[list[str]], dict[str, Any]]
) -> None:
    site.end(site.start("submit.sh", "--task", "resnet18", "--gpus-per-trial", "0.25", SUBMIT="--no-wait"), 0)
    [ray] = site.calls("ray")
    assert ray[:2] == ["job", "submit"]
    params = submit.make_context("submit", ray[2:]).params
    assert params["working_dir"] == "." and params["no_wait"]
    excluded = json.loads(params["runtime_env_json"])["excludes"]
    assert {"/.venv", "/.git", "/runs"} <= set(excluded)
    command = tuner_command(list(params["entrypoint"]))
    assert command[command.index("--out") + 1] == "/runs"
    assert dry_run(command)["resources"]["address"] == "auto"


def test_submit_shows_a_token_where_there_is_one(site: Site) -> None:
    site.end(site.start("submit.sh", "--task", "mnist1d"), 0)
    site.end(site.start("submit.sh", "--task", "mnist1d", RAY_AUTH_TOKEN="mine"), 0)
    (site.folder / ".ray").mkdir()
    (site.folder / ".ray/auth_token").write_text("secret")
    site.end(site.start("submit.sh", "--task", "mnist1d"), 0)
    site.end(site.start("submit.sh", "--task", "mnist1d", RAY_AUTH_MODE="disabled"), 0)
    assert [mode for mode, _ in site.auth()] == [None, "token", "token", "disabled"]


@pytest.mark.parametrize("place", [["--out", "/elsewhere"], ["--out=/elsewhere"], ["--resume", "/runs/resnet18"]])
def test_submit_leaves_a_place_that_is_named(site: Site, place: list[str]) -> None:
    site.end(site.start("submit.sh", *place), 0)
    [ray] = site.calls("ray")
    assert ray[ray.index("--") + 1 :] == ["python", "-m", "tuner.search", *place, "--address", "auto"]
