from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pandas as pd
import pytest
import yaml

from tests.support.commands import python
from tests.support.made_runs import SHA, make_run
from tuner import report
from tuner.errors import UserError
from tuner.store.run import Run

EFFECTS = {"diag_hessian": -0.05, "adam": 0.0, "sgdm": 0.05, "adamw": 0.0}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One optimizer is better than the baseline, one worse, one the same."""
    return make_run(tmp_path_factory.mktemp("runs") / "one", effects=EFFECTS)


def said(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    assert report.main([str(word) for word in argv]) == 0
    return capsys.readouterr().out


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def as_json(capsys: pytest.CaptureFixture[str], *argv: object) -> dict[str, Any]:
    return json.loads(said(capsys, *argv, "--json"), parse_constant=pytest.fail)


def test_a_run_becomes_a_page_with_figures_and_tables(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    out = said(capsys, run.path)

    assert re.search(
        r"^diag_hessian's configuration is better than adam's on test_loss, .*: 0\.\d+ against 0\.\d+",
        out,
        re.M,
    )
    assert re.search(r"^sgdm's configuration is worse than adam's on test_loss", out, re.M)
    assert f"report: {run.path}/report.html" in out
    page = (run.path / "report.html").read_text(encoding="utf-8")
    assert SHA in page
    assert len(page) < 5e6
    figures = sorted(path.name for path in (run.path / "figures").iterdir())
    assert {path.rpartition(".")[0] for path in figures if path.endswith(".svg")} == {
        path.rpartition(".")[0] for path in figures if path.endswith(".png")
    }
    assert {"1-curves-steps.svg", "1-curves-seconds.svg", "1-curves-grad_equivalents.svg", "1-differences.svg",
            "1-pairs-sgdm.svg", "1-search-adam.svg", "1-tuning.svg"} < set(figures)  # fmt: skip
    for path in (run.path / "figures").glob("*.svg"):
        ElementTree.parse(path)
    assert {row["optimizer"] for row in rows_of(run.path / "summary.csv")} == set(EFFECTS)
    primary = [row for row in rows_of(run.path / "contrasts.csv") if row["primary"] == "True"]
    assert {row["optimizer"]: row["verdict"] for row in primary}["diag_hessian"] == "better"


def test_nothing_in_the_page_is_fetched(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    said(capsys, run.path)

    page = (run.path / "report.html").read_text(encoding="utf-8")

    addresses = re.findall(r"""(?:href|src)=["']([^"']*)|url\(([^)]*)\)""", page)
    beyond = [a or b for a, b in addresses if not (a or b).startswith(("#", "data:", "figures/"))]
    assert beyond == []


def test_the_document_says_what_the_tables_say(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    found = as_json(capsys, run.path)

    (task,) = found["tasks"]
    seeds = run.seeds()
    for entry in task["optimizers"]:
        own = seeds[seeds["optimizer"] == entry["optimizer"]]["test_loss"]
        assert entry["mean"] == pytest.approx(own.mean())
        assert entry["sd"] == pytest.approx(own.std(ddof=1))
        assert entry["hp"] == run.best()["optimizers"][entry["optimizer"]]["hp"]
    assert [entry["mean"] for entry in task["optimizers"]] == sorted(entry["mean"] for entry in task["optimizers"])
    assert task["baseline"] == "adam"
    assert task["metric"] == "test_loss"
    pairs = seeds.pivot(index="seed", columns="optimizer", values="test_loss")
    (row,) = [c for c in task["contrasts"] if c["primary"] and c["optimizer"] == "sgdm"]
    assert row["mean_difference"] == pytest.approx((pairs["sgdm"] - pairs["adam"]).mean())
    assert found["across_tasks"] is None


def test_printing_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run", seeds=5)
    before = run.files()

    for flag in ("--json", "--markdown", "--latex"):
        assert "diag" in said(capsys, run.path, flag)

    assert run.files() == before


def test_another_baseline_and_metric(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    (declared,) = as_json(capsys, run.path)["tasks"]
    (task,) = as_json(capsys, run.path, "--baseline", "sgdm", "--metric", "test_acc")["tasks"]

    assert (task["baseline"], task["metric"], task["mode"]) == ("sgdm", "test_acc", "max")
    assert {entry["optimizer"]: entry["verdict"] for entry in task["optimizers"]} == {
        "diag_hessian": "better", "adam": "better", "adamw": "better", "sgdm": None,
    }  # fmt: skip
    mark = " (not declared: the baseline and metric were chosen afterwards): "
    for made, said in ((declared, True), (task, False)):
        assert made["declared"] is said
        assert {row["declared"] for row in made["contrasts"]} == {said}
        for entry in made["optimizers"]:
            assert entry["declared"] is said
            assert (mark in entry["sentence"]) == (not said and entry["verdict"] is not None)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--baseline", "amda"], "--baseline: unknown optimizer 'amda'; did you mean 'adam'?"),
        (["--metric", "test_los"], "--metric: unknown metric 'test_los'; did you mean 'test_loss'?"),
        (["--jsn"], "unknown argument '--jsn'; did you mean '--json'?"),
        (["--json", "--latex"], "not allowed with argument"),
        (["--out", "/dev/null/x"], "output folder /dev/null/x: /dev/null is not a folder"),
    ],
)
def test_what_is_wrong_is_said(run: Run, argv: list[str], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        report.main([str(run.path), *argv])


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, run: Run) -> None:
    with pytest.raises(UserError, match="not a run directory"):
        report.main([str(tmp_path)])
    with pytest.raises(UserError, match="is named twice"):
        report.main([str(run.path), str(run.path / ".." / run.path.name)])


def test_several_tasks_are_compared_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [make_run(tmp_path / task, task, EFFECTS, seeds=5, draw=place).path
            for place, task in enumerate(("mnist1d", "resnet18"))]  # fmt: skip

    out = said(capsys, *runs, "--out", tmp_path / "report")
    found = as_json(capsys, *runs)

    assert re.search(r"^diag_hessian against adam: .*\(Holm-corrected over 6 contrasts\)\.$", out, re.M)
    assert {task["task"] for task in found["tasks"]} == {"mnist1d", "resnet18"}
    across = found["across_tasks"]
    assert across["mean_ranks"]["diag_hessian"] == 1
    assert across["mean_ranks"]["sgdm"] == 4
    assert any("2 tasks with all optimizers are too few" in text for text in found["caveats"])
    names = {path.name for path in (tmp_path / "report" / "figures").iterdir()}
    assert {"tasks-profile.svg", "tasks-critical-difference.png", "tasks-ranks.svg"} < names
    assert not (runs[0] / "report.html").exists()
    table = pd.read_csv(tmp_path / "report" / "summary.csv")
    assert table.groupby("task").size().to_dict() == {"mnist1d": 4, "resnet18": 4}


def test_of_several_runs_the_report_is_in_a_folder_beside_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [make_run(tmp_path / name, seeds=3, effects={name: 0.0, "sgd": 0.1}).path for name in ("adam", "adamw")]

    said(capsys, *runs)

    (folder,) = tmp_path.glob("report-*")
    assert (folder / "report.html").exists()


def test_runs_of_one_task_are_one_comparison(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = make_run(tmp_path / "first", effects={"adam": 0.0, "sgdm": 0.05}, seeds=10)
    second = make_run(tmp_path / "second", effects={"diag_hessian": -0.05, "adam": 0.0}, seeds=10, draw=0)

    (task,) = as_json(capsys, first.path, second.path)["tasks"]

    assert {entry["optimizer"] for entry in task["optimizers"]} == {"adam", "sgdm", "diag_hessian", "adam@second"}
    assert task["baseline"] == "adam"


def test_runs_under_other_conditions_are_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = make_run(tmp_path / "first", seeds=5)
    second = make_run(tmp_path / "second", seeds=5, settings=["train.epochs=3"])

    found = as_json(capsys, first.path, second.path)

    assert [task["task"] for task in found["tasks"]] == ["mnist1d (first)", "mnist1d (second)"]


HOSTILE = "<script>alert('x')</script>&\"${7*7}{{7*7}}"


def test_everything_from_a_run_is_escaped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "a&b <i>", seeds=3)
    env = run.env()
    env["data"]["source"] = env["hardware"]["cpu"] = HOSTILE
    env["command"] = [HOSTILE]
    run.write_env({key: value for key, value in env.items() if key != "schema_version"})

    said(capsys, run.path)

    page = (run.path / "report.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&amp;&#34;${7*7}{{7*7}}" in page
    assert "<i>" not in page.replace('<i class="swatch"', "")


def test_hyperparameters_and_metrics_of_any_name_are_escaped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "lr<b>&'"
    mine = {"optimizers/mine": {"class": "torch.optim.SGD", "space": {name: {"low": 0.1, "high": 1.0}}}}
    for file, content in mine.items():
        (tmp_path / "optimizers").mkdir()
        (tmp_path / f"{file}.yaml").write_text(yaml.safe_dump(content))
    run = make_run(tmp_path / "run", effects={"mine": 0.0, "adam": 0.0}, seeds=3, configs=tmp_path)

    said(capsys, run.path)

    page = (run.path / "report.html").read_text(encoding="utf-8")
    assert "<b>" not in page
    assert "lr&lt;b&gt;&amp;" in page


def test_markdown_and_latex_survive_special_characters(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    markdown, latex = said(capsys, run.path, "--markdown"), said(capsys, run.path, "--latex")

    rows = [line for line in markdown.splitlines() if line.startswith("| ")]
    assert len(rows) == 2 + len(EFFECTS)
    assert len({row.replace("\\|", "").count("|") for row in rows}) == 1
    assert r"diag\_hessian" in latex
    body = [line for line in latex.splitlines() if line.endswith(r"\\")]
    assert len({line.count("&") - line.count(r"\&") for line in body}) == 1
    assert re.search(r"(?<!\\)[_%#]", latex.replace("$d_z$", "")) is None


def test_the_report_needs_neither_torch_nor_ray(run: Run) -> None:
    code = (
        "import sys; from tuner import report; code = report.main([sys.argv[1], '-q']); "
        "print(sorted({'torch', 'ray'} & {name.partition('.')[0] for name in sys.modules})); sys.exit(code)"
    )
    done = python(code, run.path)
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines()[-1] == "[]"


# Runs that have little to say.


def test_a_run_without_retraining(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run")
    (run.path / "seeds.csv").unlink()

    assert report.main([str(run.path)]) == 1

    out = capsys.readouterr().out
    assert "diag_hessian was not retrained" in out
    assert "search-adam" in (run.path / "report.html").read_text(encoding="utf-8")


def test_a_run_that_was_cut_off_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run")
    for name in ("seeds.csv", "trials.csv", "best.json", "env.json", "curves.parquet"):
        (run.path / name).unlink()

    assert report.main([str(run.path)]) == 1

    assert (run.path / "report.html").exists()
    assert json.loads(said_of_nothing(run, capsys))["tasks"][0]["contrasts"] == []


def said_of_nothing(run: Run, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert report.main([str(run.path), "--json"]) == 1
    return capsys.readouterr().out


@pytest.mark.parametrize("seeds", [1, 2])
def test_one_or_two_seeds_decide_nothing(tmp_path: Path, seeds: int, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run", effects={"diag_hessian": -1.0, "adam": 0.0}, seeds=seeds)

    out = said(capsys, run.path)

    assert "diag_hessian and adam cannot be told apart on test_loss" in out
    assert ("one seed in common" if seeds == 1 else "2 seeds in common") in out


def test_all_diverged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    everywhere = range(5)
    run = make_run(tmp_path / "run", seeds=5, diverged={"diag_hessian": everywhere, "adam": everywhere})

    assert report.main([str(run.path)]) == 1

    assert "both diverged on every seed" in capsys.readouterr().out


def test_one_optimizer_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run", effects={"sophia": 0.0}, seeds=3)

    assert "sophia is the baseline" in said(capsys, run.path)


def test_runs_from_before_there_were_declarations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run", seeds=3)
    config = yaml.safe_load((run.path / "config.yaml").read_text())
    del config["report"]
    (run.path / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))

    (task,) = as_json(capsys, run.path)["tasks"]

    assert task["rules"] == {"test": "t", "alpha": 0.05, "margin": None}


@pytest.mark.parametrize("value", ["inf", "0.001", ""])
def test_a_diverged_run_is_the_worst_whatever_its_value(
    tmp_path: Path, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "run", seeds=5)
    rows = rows_of(run.path / "seeds.csv")
    rows[0] |= {"status": "diverged", "test_loss": value}
    run.write_seeds(rows, [key.removeprefix("hp.") for key in rows[0] if key.startswith("hp.")])

    found = as_json(capsys, run.path)

    assert any("diverged count" in text and text.endswith(" 1 of 5.") for text in found["caveats"])
    (entry,) = [e for e in found["tasks"][0]["optimizers"] if e["optimizer"] == rows[0]["optimizer"]]
    others = [float(row["test_loss"]) for row in rows[1:] if row["optimizer"] == rows[0]["optimizer"]]
    assert entry["mean"] is None
    assert entry["median"] == pytest.approx(sorted(others)[2])


def test_lists_as_choices_and_nothing_to_search_are_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    betas = "optimizers.adam.space.betas={choices: [[0.9, 0.999], [0.8, 0.99]]}"
    settings = [betas, "optimizers.sgd.args.lr=0.1"]
    run = make_run(tmp_path / "run", effects={"adam": 0.0, "sgd": 0.1}, settings=settings, seeds=5)
    found = {entry["optimizer"]: entry for entry in as_json(capsys, run.path)["tasks"][0]["optimizers"]}
    assert found["sgd"]["hp"] == {} and found["adam"]["hp"]["betas"] in ([0.9, 0.999], [0.8, 0.99])
    assert (found["sgd"]["trials"], found["adam"]["trials"]) == (1, 30)
    assert "is not complete" not in said(capsys, run.path)
    assert f"betas={found['adam']['hp']['betas']}" in (run.path / "report.html").read_text(encoding="utf-8")
    assert (run.path / "figures/1-search-adam.svg").exists() and "betas" in found["adam"]["hp"]
