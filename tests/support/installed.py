"""This project as a user has it: built as a wheel, installed into an environment of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from tests.support.commands import EVERY_USERS, ROOT, Done

USERS = {name: os.environ[name] for name in EVERY_USERS if name in os.environ}


def copy_sources(folder: Path) -> Path:
    """The files that git tracks, or where it knows none what it would not ignore, in a new folder."""
    for path in _tracked():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, folder / path)
    if not folder.exists():
        ignored = [line.strip("/") for line in (ROOT / ".gitignore").read_text().splitlines()]
        shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*ignored, ".git"))
    return folder


def _tracked() -> list[Path]:
    """None in a copy without git, or where git is not there or refuses a folder of another user's."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        return []
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    return [Path(name) for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def build(project: Path, target: str, folder: Path) -> Path:
    """The project's ``wheel`` or ``sdist`` in a folder, made without fetching anything."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(folder)]
    subprocess.run(command, cwd=project, env=USERS, capture_output=True, check=True)
    (built,) = folder.glob("*.whl" if target == "wheel" else "*.tar.gz")
    return built


class Environment:
    """A virtual environment with these wheels; what they need it finds where the tests have it.

    Attributes:
        python: its interpreter.
        packages: its site-packages.
    """

    def __init__(self, folder: Path, *wheels: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", str(folder)], env=USERS, check=True)
        self.bin = folder / "bin"
        self.python = self.bin / "python"
        install = ["-m", "pip", "install", "-q", "--no-deps", "--no-index", "--disable-pip-version-check"]
        subprocess.run([self.python, *install, *wheels], env=USERS, check=True)
        (self.packages,) = folder.glob("lib/python*/site-packages")
        theirs = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
        (self.packages / "needed.pth").write_text("".join(f"{path}\n" for path in theirs))

    def tuner(self, folder: Path, *words: object) -> Done:
        """The command ``tuner`` in a folder."""
        return self.run(folder, self.bin / "tuner", *words)

    def run(self, folder: Path, *words: object, **more: str) -> Done:
        """A command in a folder, in an environment in which nothing leads to the checkout.

        Args:
            more: variables.
        """
        done = subprocess.run(
            list(map(str, words)), cwd=folder, env=USERS | more, capture_output=True, text=True, encoding="utf-8",
            timeout=240, check=False,
        )  # fmt: skip
        return Done(done.returncode, done.stdout, done.stderr)
