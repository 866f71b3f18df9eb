"""A search with optimizers that spoil their process, as a user runs it, on one worker."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from tests.support.commands import Done, run
from tuner.store.run import Run

HONEST = ["adam", "rmsprop", "ssvp"]
SPOILERS = {
    "dtype": "default dtype", "device": "default device", "grad": "grad mode", "threads": "threads",
    "anomaly": "anomaly mode", "patch": "torch.optim.adam.Adam.step",
}  # fmt: skip
COMMON = ["--task", "tabular_mlp", "--out", ".", "--gpus-per-trial", "0", "--max-concurrent", "1", "--cohort", "2"]
TINY = ["--trials", "3", "--seeds", "2", "--set", "train.epochs=20", "train.evaluations=2", "retrain.epochs=10"]
OF_MACHINE = ["seconds", "peak_mem_mb", "step_ms"]


def search(folder: Path, name: str, *optimizers: str) -> tuple[Run, Done]:
    asked = [*COMMON, "--configs", "mine", "--name", name, "--optimizers", *optimizers, *TINY]
    return Run(folder / name), run(folder, "tuner.search", *asked)


def honest(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["optimizer"].isin(HONEST)].drop(columns=OF_MACHINE, errors="ignore").dropna(axis=1, how="all")


@pytest.mark.slow
def test_honest_optimizers_among_spoilers_have_the_values_that_they_have_without_them(tmp_path: Path) -> None:
    (tmp_path / "mine/optimizers").mkdir(parents=True)
    for name, what in SPOILERS.items():
        (tmp_path / f"mine/optimizers/{name}.yaml").write_text(
            f"class: tests.support.spoilers.Spoiler\nargs: {{what: {what}}}\n"
            "space: {lr: {low: 1e-4, high: 1.0, log: true}}\ndefaults: [{lr: 0.01}]\n"
        )
    without, _ = search(tmp_path, "without", *HONEST)
    among, done = search(tmp_path, "among", *SPOILERS, *HONEST)
    assert done.code == 3, done.err  # one of them cannot train without gradients
    assert [said for said in ("Traceback", "lost") if said in done.err] == []
    assert [line.split(":")[0] for line in done.err.splitlines() if "first steps failed" in line] == ["grad"]
    for read in (Run.trials, Run.seeds):
        expected, found = (
            honest(read(of)).sort_values([c for c in ("optimizer", "trial", "seed") if c in read(of)])
            for of in (without, among)
        )
        assert len(expected) in (6, 9)
        pd.testing.assert_frame_equal(
            found[expected.columns].reset_index(drop=True), expected.reset_index(drop=True), check_exact=True
        )
    (line,) = [line for line in done.err.splitlines() if "which cannot be undone" in line]
    assert line.startswith("patch: a run of it changed torch.optim.adam.Adam.step, which cannot be undone; the worker")
    trials = among.trials().set_index("optimizer")
    assert (trials.loc["patch", "state"] == "complete").all()
    assert len(trials) == 3 * len(SPOILERS | dict.fromkeys(HONEST))
