"""What the tests of configs/clusters and docs/cluster.md share: finding our commands in them, and dry runs."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from ray.scripts.scripts import cli as ray_cli

from tuner.search import main

ROOT = Path(__file__).resolve().parents[2]
CLUSTERS = ROOT / "configs/clusters"
PAGE = ROOT / "docs/cluster.md"


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


def dry_run_in(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[[list[str]], dict[str, Any]]:
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


def check_ray(words: list[str]) -> None:
    """Parse `ray ...` by Ray's own command line, without running it."""
    assert words[0] == "ray"
    command: click.Command = ray_cli
    rest = words[1:]
    while isinstance(command, click.Group):
        command, rest = command.commands[rest[0]], rest[1:]
    command.make_context(words[1], list(rest))
