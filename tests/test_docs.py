"""What the documentation says is so: the generated page is up to date, and the worked example runs."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from tuner.folders import available

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def generate():
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_optimizers_is_up_to_date(generate):
    assert (DOCS / "optimizers.md").read_text(encoding="utf-8") == generate.page(), "run `make docs`"


def test_every_optimizer_is_on_the_page_with_its_space():
    page = (DOCS / "optimizers.md").read_text(encoding="utf-8")
    for name in available("optimizers"):
        spec = yaml.safe_load((ROOT / f"configs/optimizers/{name}.yaml").read_text(encoding="utf-8"))
        own = spec["class"].startswith("optimizers.")
        part = re.search(rf"^## {name}$(.*?)(?=^## |\Z)" if own else rf"^\| {name} \|(.*)$", page, re.M | re.S * own)
        assert part, name
        assert all(f"`{key}`" in part[1] for key in spec["space"]), name
        assert "```math" in part[1] or not own or name == "muon", name


def test_markdown_keeps_no_markup_of_docstrings(generate):
    text = generate.markdown("Of :math:`a_b` and ``c``.\n\n.. math::\n    x &= 1 \\\\\n    y &= 2\n\nThe end.")
    assert text == (
        "Of $a_b$ and `c`.\n\n```math\n\\begin{aligned}\nx &= 1 \\\\\ny &= 2\n\\end{aligned}\n```\n\nThe end."
    )


def blocks() -> dict[str, str]:
    """The example's code blocks by language."""
    page = (DOCS / "add_an_optimizer.md").read_text(encoding="utf-8")
    return {language or "sh": code for language, code in re.findall(r"^```(\w*)\n(.*?)^```$", page, re.M | re.S)}


def test_the_example_is_thirty_lines():
    assert sum(len(code.splitlines()) for code in blocks().values()) <= 30


def test_the_example_of_an_optimizer_of_ones_own_runs(tmp_path):
    found = blocks()
    (tmp_path / "mine/optimizers").mkdir(parents=True)
    (tmp_path / "mine/my_rules.py").write_text(found["python"], encoding="utf-8")
    (tmp_path / "mine/optimizers/damped_newton.yaml").write_text(found["yaml"], encoding="utf-8")
    command = found["sh"].split()
    assert command[:4] == ["PYTHONPATH=mine", "python", "-m", "tuner.search"]
    short = ["--trials", "2", "--seeds", "1", "--name", "own", "--json", "--set", "train.epochs=1", "retrain.epochs=1"]
    done = subprocess.run(
        [sys.executable, *command[2:], *short],
        cwd=tmp_path, capture_output=True, text=True, timeout=240,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(["mine", str(ROOT)])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    entries = {entry["optimizer"]: entry for entry in json.loads(done.stdout)["optimizers"]}
    assert set(entries) == {"damped_newton", "adam"}
    assert entries["damped_newton"]["n_trials"] == 2
    trials = pd.read_csv(tmp_path / "runs/own/trials.csv").set_index(["optimizer", "trial"])
    assert trials.loc[("damped_newton", 0), ["hp.lr", "hp.damping"]].tolist() == [1e-2, 1e-1]
    assert trials.loc[("damped_newton", 0), "value"] < 2.2  # it trains: guessing uniformly costs 2.3
