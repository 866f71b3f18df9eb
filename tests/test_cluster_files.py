"""The YAML files of configs/clusters are what Ray and KubeRay expect, and the searches in them are ours."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.support.clusters import CLUSTERS, PAGE, ROOT, check_ray, dry_run_in, tuner_command
from tuner.config.registry import available
from tuner.search import make_parser

[RAY_VERSION] = re.findall(r"^ray==(\S+)$", (ROOT / "requirements.txt").read_text(encoding="utf-8"), re.M)


@pytest.fixture
def dry_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[[list[str]], dict[str, Any]]:
    return dry_run_in(tmp_path, capsys)


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
