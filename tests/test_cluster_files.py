"""configs/clusters and docs/cluster.md are what Ray, KubeRay and SLURM expect, and the searches in them are ours."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.dashboard.modules.job.cli import submit
from ray.scripts.scripts import cli as ray_cli
from ray.scripts.symmetric_run import curate_and_validate_ray_start_args

from tuner.folders import available
from tuner.search import main, make_parser

ROOT = Path(__file__).resolve().parent.parent
CLUSTERS = ROOT / "configs/clusters"
PAGE = ROOT / "docs/cluster.md"
[RAY_VERSION] = re.findall(r"^ray==(\S+)$", (ROOT / "requirements.txt").read_text(encoding="utf-8"), re.M)
JOB = "77"

needs_resume = pytest.mark.skipif("--resume" not in make_parser().format_help(), reason="there is no --resume")
needs_status = pytest.mark.skipif(find_spec("tuner.status") is None, reason="there is no tuner.status")


def tuner_commands(words: list[str]) -> Iterator[list[str]]:
    """Each `python -m tuner.NAME ARGS` among a command's words, as [NAME, *ARGS]; also within a quoted command."""
    for i, word in enumerate(words):
        if " " in word:
            yield from tuner_commands(shlex.split(word))
        elif Path(word).name == "python" and words[i + 1] == "-m" and words[i + 2].startswith("tuner."):
            rest = words[i + 2 :]
            end = next((k for k, other in enumerate(rest) if other in ("&&", "||", ";", "|", "&", ">")), len(rest))
            yield [rest[0].removeprefix("tuner."), *rest[1:end]]


def tuner_command(words: list[str]) -> list[str]:
    [found] = tuner_commands(words)
    return found


@pytest.fixture
def dry_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[[list[str]], dict[str, Any]]:
    """Dry-runs a quoted search, with folders that are there in place of its own; its plan."""

    def dry_run(command: list[str]) -> dict[str, Any]:
        data = tmp_path / "images"
        for folder in (data / split / str(label) for split in ("train", "test") for label in range(10)):
            folder.mkdir(parents=True, exist_ok=True)
        assert command[0] == "search"
        there = ["--data-dir", str(data), "--out", str(tmp_path / "elsewhere"), "--dry-run", "--json"]
        assert main([*command[1:], *there]) == 0
        return json.loads(capsys.readouterr().out)

    return dry_run


def test_they_are_no_tasks_and_no_optimizers() -> None:
    assert {path.name for path in CLUSTERS.iterdir()} == {"aws.yaml", "rayjob.yaml", "slurm.sh", "submit.sh"}
    assert not {"aws", "rayjob", "clusters"} & {*available("tasks"), *available("optimizers")}


# aws.yaml


@pytest.fixture
def aws() -> dict[str, Any]:
    return yaml.safe_load((CLUSTERS / "aws.yaml").read_text(encoding="utf-8"))


def test_ray_up_accepts_the_cluster(aws: dict[str, Any]) -> None:
    validate_config(prepare_config(aws))
    with pytest.raises(Exception, match="max_worker"):
        validate_config(prepare_config(aws | {"max_worker": 2}))


def test_its_nodes_are_there_from_the_start_with_code_and_data(aws: dict[str, Any]) -> None:
    types = aws["available_node_types"]
    assert types[aws["head_node_type"]]["resources"] == {"CPU": 0, "GPU": 0}
    assert types["worker"]["min_workers"] == types["worker"]["max_workers"] > 0
    assert aws["max_workers"] >= types["worker"]["min_workers"]
    [code] = [path for path, source in aws["file_mounts"].items() if source == "."]
    assert {".venv", ".git", "/runs"} <= set(aws["rsync_exclude"])
    assert any(f"-r {code}/requirements.txt" in command for command in aws["setup_commands"])
    mounted = [option.split()[1].split(":")[0] for option in aws["docker"]["run_options"] if option.startswith("-v ")]
    assert len(mounted) == 2
    assert all(any(path in command for command in aws["initialization_commands"]) for path in mounted)
    assert not any("dashboard-host" in command for command in aws["head_start_ray_commands"])


def test_ray_start_knows_the_flags_of_its_nodes(aws: dict[str, Any]) -> None:
    for command in aws["head_start_ray_commands"] + aws["worker_start_ray_commands"]:
        words = shlex.split(command.rpartition(";")[2])
        assert words[:2] == ["ray", "stop"] or words.pop(0) == "RAY_AUTH_MODE=token"
        check_ray(words)


# rayjob.yaml


@pytest.fixture
def rayjob() -> dict[str, Any]:
    return yaml.safe_load((CLUSTERS / "rayjob.yaml").read_text(encoding="utf-8"))


def groups(rayjob: dict[str, Any]) -> list[dict[str, Any]]:
    cluster = rayjob["spec"]["rayClusterSpec"]
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def container(group: dict[str, Any]) -> dict[str, Any]:
    [only] = group["template"]["spec"]["containers"]
    return only


def test_the_rayjob_has_the_shape_that_kuberay_expects(rayjob: dict[str, Any]) -> None:
    assert (rayjob["apiVersion"], rayjob["kind"]) == ("ray.io/v1", "RayJob")
    spec = rayjob["spec"]
    assert spec["shutdownAfterJobFinishes"] is True
    assert set(spec) == {
        "entrypoint", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "backoffLimit", "rayClusterSpec",
    }  # fmt: skip
    assert set(spec["rayClusterSpec"]) == {"rayVersion", "authOptions", "headGroupSpec", "workerGroupSpecs"}
    head, *workers = groups(rayjob)
    assert set(head) == {"rayStartParams", "template"}
    for worker in workers:
        assert set(worker) == {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}
        assert worker["minReplicas"] == worker["replicas"] == worker["maxReplicas"] > 0
    for group in groups(rayjob):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        resources = container(group)["resources"]
        assert set(resources["limits"]) >= {"cpu", "memory"} and resources["limits"] == resources["requests"]


def test_its_mounts_have_volumes_and_its_folders_are_mounted(rayjob: dict[str, Any]) -> None:
    mounts = []
    for group in groups(rayjob):
        volumes = {volume["name"] for volume in group["template"]["spec"]["volumes"]}
        mounts.append({mount["mountPath"]: mount["name"] for mount in container(group)["volumeMounts"]})
        assert set(mounts[-1].values()) == volumes
    args = make_parser().parse(tuner_command(shlex.split(rayjob["spec"]["entrypoint"]))[1:])
    assert all(args.data_dir in paths for paths in mounts)
    assert args.out in mounts[0]  # the driver's, on the head


def test_its_entrypoint_is_a_search_of_ours_without_shell(
    rayjob: dict[str, Any], dry_run: Callable[[list[str]], dict[str, Any]]
) -> None:
    entrypoint = rayjob["spec"]["entrypoint"]
    assert not re.search(r"[;&|$`\"'<>()\n]", entrypoint)
    resources = dry_run(tuner_command(shlex.split(entrypoint)))["resources"]
    assert (resources["address"], resources["gpus_per_trial"]) == ("auto", 0.25)
    worker = container(groups(rayjob)[1])["resources"]["limits"]
    trials = int(worker["nvidia.com/gpu"]) / resources["gpus_per_trial"]
    assert int(worker["cpu"]) >= trials * resources["cpus_per_trial"]


def test_every_file_names_the_ray_that_is_installed(aws: dict[str, Any], rayjob: dict[str, Any]) -> None:
    assert rayjob["spec"]["rayClusterSpec"]["rayVersion"] == RAY_VERSION
    assert aws["docker"]["image"].partition(":")[2].split("-")[0] == RAY_VERSION
    for path in (CLUSTERS / "aws.yaml", PAGE):
        named = re.findall(r"ray\[default\]==([\d.]+)|rayproject/ray:([\d.]+)-", path.read_text(encoding="utf-8"))
        assert named and {"".join(version) for version in named} == {RAY_VERSION}


# The scripts, with fake commands that note what they are called with.

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


@needs_resume
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


# docs/cluster.md


def check_ray(words: list[str]) -> None:
    """Parse `ray ...` by Ray's own command line, without running it."""
    assert words[0] == "ray"
    command: click.Command = ray_cli
    rest = words[1:]
    while isinstance(command, click.Group):
        command, rest = command.commands[rest[0]], rest[1:]
    command.make_context(words[1], list(rest))


def page_lines() -> list[str]:
    """The command lines of the page: lines of its shell blocks, continued ones joined, and code in its text."""
    text = PAGE.read_text(encoding="utf-8")
    blocks = [code for language, code in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S) if not language]
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S))
    return [*"".join(blocks).replace("\\\n", " ").splitlines(), *inline]


def page_tuner_commands() -> list[list[str]]:
    lines = [line for line in page_lines() if "python -m tuner." in line]
    return [command for line in lines for command in tuner_commands(shlex.split(line, comments=True))]


def parse_with(command: list[str]) -> None:
    import_module(f"tuner.{command[0]}").make_parser().parse(command[1:])


def test_the_searches_on_the_page_parse() -> None:
    searches = [command for command in page_tuner_commands() if command[0] == "search" and "--resume" not in command]
    assert len(searches) >= 3
    for command in searches:
        parse_with(command)


@needs_resume
def test_the_resumed_searches_on_the_page_parse() -> None:
    resumed = [command for command in page_tuner_commands() if "--resume" in command]
    assert resumed
    for command in resumed:
        parse_with(command)


@needs_status
def test_the_other_commands_on_the_page_parse() -> None:
    others = [command for command in page_tuner_commands() if command[0] != "search"]
    assert others
    for command in others:
        parse_with(command)


def test_ray_knows_the_commands_on_the_page() -> None:
    lines = [line for line in page_lines() if re.match(r"ray (status|job \w+ [-J]|.*/)", line)]  # not a mere name
    commands = [shlex.split(line, comments=True) for line in lines]
    assert {words[1] for words in commands} >= {"up", "down", "exec", "rsync-down", "job", "status"}
    for words in commands:
        check_ray(words)


def test_the_files_that_the_page_names_are_there() -> None:
    text = PAGE.read_text(encoding="utf-8")
    named = set(re.findall(r"(?:configs|tasks|tuner|docs)/[\w/]+\.\w+", text))
    assert {f"configs/clusters/{path.name}" for path in CLUSTERS.iterdir()} <= named
    assert all((ROOT / name).is_file() for name in named)
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert (PAGE.parent / link).exists(), link
