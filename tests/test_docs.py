"""What the documentation says is so: the generated page is up to date, and the worked example runs."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from tests.support.commands import ROOT, environment, python, run
from tuner.config.registry import available

DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def generate():
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_generated_pages_are_up_to_date(generate):
    for name, text in generate.pages().items():
        assert (DOCS / name).read_text(encoding="utf-8") == text, f"{name}: run `make docs`"


def test_every_task_is_on_its_page_with_its_presets():
    page = (DOCS / "tasks.md").read_text(encoding="utf-8")
    for name in available("tasks"):
        part = re.search(rf"^## {name}$(.*?)(?=^## |\Z)", page, re.M | re.S)
        assert part, name
        assert re.findall(r"^\| (\w+) \| \d+ epochs", part[1], re.M) == ["smoke", "default", "paper"]
        assert "``" not in part[1].replace("```", "") and "Args:" not in part[1]


def test_every_optimizer_is_on_the_page_with_its_space():
    page = (DOCS / "optimizers.md").read_text(encoding="utf-8")
    for name in available("optimizers"):
        spec = yaml.safe_load((ROOT / f"configs/optimizers/{name}.yaml").read_text(encoding="utf-8"))
        own = spec["class"].startswith("optimizers.")
        part = re.search(rf"^## {name}$(.*?)(?=^## |\Z)" if own else rf"^\| {name} \|(.*)$", page, re.M | re.S * own)
        assert part, name
        assert all(f"`{key}`" in part[1] for key in spec["space"]), name
        of_others = name == "muon" or "base_optimizer" in spec.get("args", {})
        assert "```math" in part[1] or not own or of_others, name


def test_markdown_keeps_no_markup_of_docstrings(generate):
    text = generate.markdown("Of :math:`a_b` and ``c``.\n\n.. math::\n    x &= 1 \\\\\n    y &= 2\n\nThe end.")
    assert text == (
        "Of $a_b$ and `c`.\n\n```math\n\\begin{aligned}\nx &= 1 \\\\\ny &= 2\n\\end{aligned}\n```\n\nThe end."
    )


def blocks(page: str) -> dict[str, str]:
    """A page's first code block of each language."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", (DOCS / page).read_text(encoding="utf-8"), re.M | re.S)
    return {language or "sh": code for language, code in reversed(found)}


@pytest.mark.parametrize(("page", "lines"), [("add_an_optimizer.md", 30), ("add_a_task.md", 40)])
def test_an_example_is_short(page, lines):
    assert sum(len(code.splitlines()) for code in blocks(page).values()) <= lines


def run_example(page: str, folder: Path, module: str, yaml_file: str, *flags: str) -> dict[str, Any]:
    """Write the page's files, run its command with some more flags, and read the JSON that it prints."""
    found = blocks(page)
    for name, language in ((module, "python"), (yaml_file, "yaml")):
        (folder / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "mine" / name).write_text(found[language], encoding="utf-8")
    command = found["sh"].split()
    assert command[:3] == ["python", "-m", "tuner.search"]
    flags = ("--trials", "2", "--seeds", "1", "--name", "own", "--json", *flags)
    done = run(folder, command[2], *command[3:], *flags, env=environment())
    assert done.code == 0, done.err
    entries = {entry["optimizer"]: entry for entry in json.loads(done.out)["optimizers"]}
    assert all(entry["n_trials"] == 2 for entry in entries.values())
    return entries


def test_the_example_of_an_optimizer_of_ones_own_runs(tmp_path):
    epochs = ["--set", "train.epochs=1", "retrain.epochs=1"]
    files = ("my_rules.py", "optimizers/damped_newton.yaml")
    assert set(run_example("add_an_optimizer.md", tmp_path, *files, *epochs)) == {"damped_newton", "adam"}
    trials = pd.read_csv(tmp_path / "runs/own/trials.csv").set_index(["optimizer", "trial"])
    assert trials.loc[("damped_newton", 0), ["hp.lr", "hp.damping"]].tolist() == [1e-2, 1e-1]
    assert trials.loc[("damped_newton", 0), "value"] < 2.2  # it trains: guessing uniformly costs 2.3


@pytest.mark.slow
def test_the_example_of_a_task_of_ones_own_runs(tmp_path):
    entries = run_example("add_a_task.md", tmp_path, "my_tasks.py", "tasks/diabetes.yaml")
    assert set(entries) == {"diag_hessian", "adam"}
    assert entries["adam"]["metrics"]["test_loss"]["mean"] < 0.75  # always naming the mean costs about 1


@pytest.mark.slow
def test_the_page_about_python_is_a_script_that_runs(tmp_path):
    """Its classes are the script's own, so that they travel by value."""
    text = (DOCS / "python.md").read_text(encoding="utf-8")
    script = tmp_path / "script.py"
    script.write_text("\n".join(re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S)), encoding="utf-8")
    done = python(f"import runpy; runpy.run_path({str(script)!r}, run_name='__main__')", folder=tmp_path)
    assert done.code == 0, done.err
    (folder,) = (tmp_path / "runs").iterdir()
    assert {"objects.pkl", "report.html", "weights"} <= {path.name for path in folder.iterdir()}
    assert f"Result of runs/{folder.name}" in done.out and "SignedMomentum" in done.out
    assert "{'trials': 12, 'retrain': 6, 'total': 18} rmsprop against adam, by test_acc" in done.out
    assert "from torch.optim import Adam\noptimizer = Adam(model.parameters(), betas=(0.9, 0.999)" in done.out
    assert done.out.rstrip().endswith("(2): Linear(in_features=100, out_features=10, bias=True)\n)")


@pytest.mark.slow
def test_the_examples_of_a_suite_run(tmp_path):
    """Its files and commands as they stand, with less training: one suite, one more optimizer, another that borrows."""
    text = (DOCS / "suites.md").read_text(encoding="utf-8")
    files = [code for language, code in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S) if language == "yaml"]
    for name, content in zip(("suites/three.yaml", "targets/three.yaml"), files, strict=True):
        (tmp_path / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mine" / name).write_text(content, encoding="utf-8")
    commands = [line.partition("  #")[0].split() for line in text.splitlines() if line.startswith("python -m tuner.")]
    (begin,) = [words for words in commands if words[-2:] == ["--name", "first"]]
    (add,) = [words for words in commands if "--add-optimizer" in words]
    (against,) = [words for words in commands if "--against" in words]
    less = ["--trials", "2", "--seeds", "1", "--set", "train.epochs=1", "retrain.epochs=1"]
    for words in ([*begin, *less], add, [*against, *less]):
        studies = [] if words is add else ["--studies", "3"]
        done = run(tmp_path, words[2], *words[3:], *studies, "-q", env=environment())
        assert done.code == 0, done.err
    entries = ["mnist1d", "wine", "ill"]
    assert sorted(path.name for path in (tmp_path / "runs/first").iterdir() if path.is_dir()) == sorted(entries)
    for entry in entries:
        trials = pd.read_csv(tmp_path / f"runs/nesterov/{entry}/trials.csv")
        own = trials[trials["borrowed"].isna()]
        assert set(own["optimizer"]) == {"nesterov"} and len(own) == 6
        assert set(trials["optimizer"]) == {"nesterov", "nadamw", "adam", "sgdm"} and len(trials) == 24
        assert yaml.safe_load((tmp_path / f"runs/first/{entry}/config.yaml").read_text())["search"]["draws"] == "shared"
    targets = [
        yaml.safe_load((tmp_path / f"runs/first/{e}/config.yaml").read_text())["task"]["target"] for e in entries
    ]
    assert targets[0] == yaml.safe_load(files[1])["tasks"]["mnist1d"]["target"]
