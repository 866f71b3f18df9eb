"""The notebooks: each runs on runs made here, and what is kept in the repository is what such a run gave."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from PIL import Image

from tests.support.commands import run
from tests.support.made_runs import make_run
from tuner.store.run import Run

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "notebooks"
NOTEBOOKS = ["01_explore_a_run", "02_rahimi_recht", "03_neural_networks", "04_compare_optimizers"]
FIGURES = {"01_explore_a_run": 6, "02_rahimi_recht": 6, "03_neural_networks": 4, "04_compare_optimizers": 3}
TABLES = {"01_explore_a_run": 7, "02_rahimi_recht": 1, "03_neural_networks": 9, "04_compare_optimizers": 11}
NEITHER = "{'torch': False, 'ray': False}\n"
MOST_BYTES = 1_500_000
PATHS = re.compile(r"(?<![\w.~])/(?:home|root|Users|tmp|work|usr|opt|var|mnt|data|content|private)/|[A-Z]:\\\\")


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A small run of Rahimi-Recht as a user makes it, with its curvature."""
    folder = tmp_path_factory.mktemp("runs")
    done = run(
        folder, "tuner.search", "--task", "rahimi_recht", "--optimizers", "adam", "diag_hessian",
        "sophia", "--trials", "10", "--seeds", "3", "--analyze-curvature", "every=1", "--max-concurrent", "1",
        "--gpus-per-trial", "0", "--out", ".", "--name", "real", "-q",
        "--set", "train.epochs=3", "train.evaluations=2", "retrain.epochs=3",
    )  # fmt: skip
    assert done.code == 0, done.err
    return Run(folder / "real")


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    folder, effects = tmp_path_factory.mktemp("made"), {"adam": 0.0, "sgdm": 0.1, "diag_hessian": -0.05}
    tasks = ("resnet18", "cifar_cnn", "transformer")
    return [make_run(folder / task, task, effects, seeds=5, trials=12, draw=i) for i, task in enumerate(tasks)]


def executed(name: str, runs: Sequence[Run], monkeypatch: pytest.MonkeyPatch) -> Any:
    """The notebook, after all its cells have run in a fresh kernel."""
    monkeypatch.setenv("RUN", str(runs[0].path))
    monkeypatch.setenv("RUNS", os.pathsep.join(str(run.path) for run in runs))
    monkeypatch.setenv("PYTHONWARNINGS", "error::FutureWarning")
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    for cell in code_cells(notebook):
        cell.outputs, cell.execution_count = [], None
    client = NotebookClient(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(FOLDER)}})
    return client.execute()


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(notebook: Any) -> list[Any]:
    return [output for cell in code_cells(notebook) for output in cell.outputs]


def shown(notebook: Any, kind: str) -> list[str]:
    return [output.data[kind] for output in outputs(notebook) if kind in output.get("data", {})]


def printed(notebook: Any) -> str:
    return "".join(output.text for output in outputs(notebook) if output.output_type == "stream")


def pictures(notebook: Any) -> list[Image.Image]:
    return [Image.open(io.BytesIO(base64.b64decode(data))) for data in shown(notebook, "image/png")]


def check(name: str, notebook: Any) -> None:
    """What holds of a notebook, whatever its runs."""
    kinds = {output.output_type for output in outputs(notebook)}
    assert kinds <= {"stream", "display_data", "execute_result"}
    assert {output.name for output in outputs(notebook) if output.output_type == "stream"} == {"stdout"}
    counts = [cell.execution_count for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1))
    assert len(shown(notebook, "image/png")) == FIGURES[name]
    assert len(shown(notebook, "text/html")) == TABLES[name]
    for picture in pictures(notebook):
        assert picture.width > 600 and len(picture.convert("L").getcolors()) > 20  # lines and letters, not a blank
    assert all("<td" in table and "<script" not in table for table in shown(notebook, "text/html"))
    assert printed(notebook).endswith(NEITHER)


# On runs made here.


def test_a_run_is_explored(real: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = executed("01_explore_a_run", [real], monkeypatch)
    check("01_explore_a_run", notebook)
    tables = "".join(shown(notebook, "text/html"))
    best = real.best_optimizers()["diag_hessian"]["hp"]
    assert f"{best['diff']:.4g}" in tables and "cond29" in tables
    words = "".join(shown(notebook, "text/markdown"))
    assert "adam is the baseline" in words and "three or four studies or seeds" in words


def test_curvature_is_looked_at(real: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = executed("02_rahimi_recht", [real], monkeypatch)
    check("02_rahimi_recht", notebook)
    (table,) = shown(notebook, "text/html")
    (row,) = [row for row in table.split("<tr")[1:] if ">sophia<" in row]
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", row)
    assert len(cells) == 7 and "-" not in cells
    largest = real.curvature().query("optimizer == 'sophia' and quantity == 'eigenvalue' and index == 0")
    ends = largest[largest["step"] == largest["step"].max()]["value"]
    assert len(ends) == 3
    assert float(cells[1].replace(",", "")) == pytest.approx(statistics.median(ends), rel=6e-3)


def test_networks_are_looked_at(networks: list[Run], monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = executed("03_neural_networks", networks, monkeypatch)
    check("03_neural_networks", notebook)
    words = "".join(shown(notebook, "text/markdown"))
    assert all(f"**{task}**: baseline adam" in words for task in ("resnet18", "cifar_cnn", "transformer"))


def test_optimizers_are_compared(real: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    effects = {"adam": 0.0, "diag_hessian": -0.3, "sophia": 0.3}
    made = [make_run(tmp_path / task, task, effects, seeds=6, trials=12) for task in ("mnist1d", "tabular_mlp")]
    notebook = executed("04_compare_optimizers", [*made, real], monkeypatch)
    check("04_compare_optimizers", notebook)
    assert "tasks: mnist1d, tabular_mlp, rahimi_recht\noptimizers: adam, diag_hessian, sophia" in printed(notebook)
    words = "".join(shown(notebook, "text/markdown"))
    once = r" \(configurations of one search each\)"
    assert re.search(f"diag_hessian against adam: better on [^;]*mnist1d{once}, tabular_mlp", words)
    assert re.search(f"sophia against adam: [^.]*worse on mnist1d{once}, tabular_mlp", words)


# As they are kept.


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_kept_outputs_are_whole_and_name_no_place_of_a_machine(name: str) -> None:
    path = FOLDER / f"{name}.ipynb"
    assert path.stat().st_size < MOST_BYTES
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    check(name, notebook)
    text = json.dumps([{**output, "data": without_pictures(output)} for output in outputs(notebook)])
    assert not PATHS.search(text), PATHS.search(text)
    assert not PATHS.search("".join(cell.source for cell in notebook.cells))


def without_pictures(output: Any) -> dict[str, Any]:
    return {kind: data for kind, data in output.get("data", {}).items() if not kind.startswith("image/")}


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_first_cell_is_the_path(name: str) -> None:
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    lines = code_cells(notebook)[0].source.splitlines()
    assert lines[0] == "import os" and re.match(r'RUNS? = os\.environ\.get\("RUNS?", ', lines[-1])


def test_there_are_no_others() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == NOTEBOOKS
