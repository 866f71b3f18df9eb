"""docs/cluster.md: every command on it is one of ours, or of Ray's, and every file that it names is there."""

from __future__ import annotations

import re
import shlex
from importlib import import_module

from tests.support.clusters import CLUSTERS, PAGE, ROOT, check_ray, tuner_commands


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


def test_the_resumed_searches_on_the_page_parse() -> None:
    resumed = [command for command in page_tuner_commands() if "--resume" in command]
    assert resumed
    for command in resumed:
        parse_with(command)


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
