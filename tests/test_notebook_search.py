"""A notebook searches with a class of its own cell: progress is one display, the result is read below the cell, and the
kernel's interrupt leaves a run that goes on."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tests.support.commands import ROOT
from tuner.search import main
from tuner.store.run import Run

pytestmark = pytest.mark.slow

CLASS = """
import time
import torch
import tuner

class Mine(torch.optim.SGD):
    def step(self, closure=None):
        time.sleep(PAUSE_S)
        return super().step(closure)

PAUSE_S = 0.0
"""
SEARCH = """
result = tuner.search(
    "mnist1d", ["adam", Mine], trials=2, studies=1, seeds=3, preset="smoke",
    set={"train.epochs": 1, "retrain.epochs": 1},
    gpus_per_trial=0, name="whole", no_report=True,
)
"""
INTERRUPTED = """
PAUSE_S = 0.01
tuner.search(
    "mnist1d", Mine, trials=50, studies=1, seeds=1, preset="smoke", set={"train.epochs": 1}, gpus_per_trial=0,
    name="half",
)
"""


class Interrupting(NotebookClient):
    """Interrupts the kernel once the run in question has a trial, as the notebook's button does."""

    async def interrupt(self, run: Path) -> None:
        while not (run / "trials.csv").exists():
            await asyncio.sleep(0.05)
        await self.km.interrupt_kernel()


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[list[Any]]]:
    """Where it ran, and the outputs of its cells."""
    folder = tmp_path_factory.mktemp("notebook")
    cells = [nbformat.v4.new_code_cell(source) for source in (CLASS, SEARCH, "result", INTERRUPTED, "1 + 1")]
    notebook = nbformat.v4.new_notebook(cells=cells)
    client = Interrupting(
        notebook, timeout=120, kernel_name="python3", allow_errors=True, resources={"metadata": {"path": str(folder)}}
    )

    async def execute() -> None:
        waiting = asyncio.create_task(client.interrupt(folder / "runs/half"))
        try:
            await client.async_execute()
        finally:
            waiting.cancel()

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        asyncio.run(execute())
    return folder, [cell.outputs for cell in cells]


def streams(outputs: list[Any]) -> dict[str, str]:
    texts: dict[str, str] = {}
    for output in outputs:
        if output.output_type == "stream":
            texts[output.name] = texts.get(output.name, "") + output.text
    return texts


def test_progress_is_one_display_that_is_redrawn(executed: tuple[Path, list[list[Any]]]) -> None:
    defining, searching, *_ = executed[1]
    assert defining == []
    (shown,) = (output for output in searching if output.output_type == "display_data")
    assert re.findall(r"(\w+)  (\w+)  (\d/\d)", shown.data["text/plain"]) == [
        ("search", "adam", "2/2"), ("search", "Mine", "2/2"), ("retrain", "adam", "3/3"), ("retrain", "Mine", "3/3"),
    ]  # fmt: skip
    assert shown.data["text/html"].count("<tr>") == 4 and ">done</td>" in shown.data["text/html"]


def test_little_else_is_said_and_nothing_as_an_error(executed: tuple[Path, list[list[Any]]]) -> None:
    said = streams(executed[1][1])
    assert set(said) == {"stdout"}
    lines = said["stdout"].splitlines()
    assert lines[0] == "Mine: no space given, so lr alone is searched, from 1e-05 to 1 (log-uniform)"
    assert len(lines) <= 8 and not re.search("[Ww]arning|Traceback|\x1b", said["stdout"])


def test_the_result_is_sentences_then_a_table_of_few_columns(executed: tuple[Path, list[list[Any]]]) -> None:
    (shown,) = executed[1][2]
    html = shown.data["text/html"]
    assert html.startswith("<p>The answer is about configurations, not optimizers: ")
    assert "adam is the baseline" in html and "<p>Mine" in html
    assert "</p><table><caption>mnist1d</caption><tr>" in html
    head, *rows = (re.findall(r"<t[hd][^>]*>([^<]*)<", row) for row in html.split("<tr>")[1:])
    assert head[:4] == ["optimizer", "test_loss", "difference to adam", "verdict on configurations"] and len(head) <= 10
    assert {row[0] for row in rows} == {"adam", "Mine"} and all(len(row) == len(head) for row in rows)
    assert max(len(digits) for digits in re.findall(r"\d+\.(\d+)", " ".join(map(" ".join, rows)))) <= 6
    assert shown.data["text/plain"].startswith("Result of runs/whole\nThe answer is about configurations, ")


def test_the_kernels_interrupt_ends_the_cell_and_nothing_else(executed: tuple[Path, list[list[Any]]]) -> None:
    folder, (*_, interrupted, after) = executed
    (error,) = (output for output in interrupted if output.output_type == "error")
    assert error.ename == "KeyboardInterrupt"
    assert re.fullmatch(
        r"\d+ of 51 training runs finished; runs/half has them; to go on: tuner\.search\(resume='runs/half'\)",
        error.evalue,
    )
    assert set(streams(interrupted)) == {"stdout"}
    assert after[0].data["text/plain"] == "2"
    assert Run(folder / "runs/half").status()["state"] == "interrupted"


def test_what_was_interrupted_can_go_on(
    executed: tuple[Path, list[list[Any]]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(executed[0])
    assert main(["--resume", "runs/half", "--dry-run"]) == 0
    assert "50 trials" in capsys.readouterr().out
