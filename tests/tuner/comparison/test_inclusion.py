"""An optimizer that is worse than one that it contains: its search has failed, which is said with the verdict."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.made_runs import make_run
from tuner.comparison.inclusion import audited, failures
from tuner.comparison.results import compare
from tuner.comparison.task_results import TaskResults
from tuner.reporting.as_json import document
from tuner.reporting.caveats import caveat_sentences
from tuner.reporting.verdicts import verdict
from tuner.store import extent
from tuner.store.run import Run

BLAMED = ("{0} contains {1}: a search that found {1}'s settings could not be worse, so it is {0}'s search that failed, "
          "not its rule; give it more trials or a narrower space, or start it from {1}'s best point.")  # fmt: skip


def made(folder: Path, effects: dict[str, float], contains: dict[str, list[str]], **settings: Any) -> Run:
    """A run whose optimizers declare that they contain others."""
    run = make_run(folder / "run", effects=effects, seeds=8, trials=2, **settings)
    config = run.config()
    optimizers = {
        name: spec.model_copy(update={"contains": contains.get(name, [])}) for name, spec in config.optimizers.items()
    }
    run.write_config(config.model_copy(update={"optimizers": optimizers}))
    return run


def of(run: Run) -> TaskResults:
    (task,) = compare([run]).tasks
    return task


def test_worse_than_the_baseline_that_it_contains(tmp_path: Path) -> None:
    run = made(tmp_path, {"adamw": 0.2, "adam": 0.0, "sgdm": 0.2}, {"adamw": ["adam"]})
    task, found = of(run), compare([run])
    assert verdict(task, "adamw").endswith(" " + BLAMED.format("adamw", "adam"))
    assert "contains" not in verdict(task, "sgdm")
    assert any(text.endswith(": adamw contains adam.") for text in caveat_sentences(found))
    (entry,) = [entry for entry in document(found)["tasks"][0]["optimizers"] if entry["optimizer"] == "adamw"]
    assert (entry["verdict"], entry["contains"], entry["search_failed_to_find"]) == ("worse", ["adam"], ["adam"])


def test_better_than_a_baseline_that_contains_it(tmp_path: Path) -> None:
    task = of(made(tmp_path, {"sgdm": -0.2, "adam": 0.0}, {"adam": ["sgdm"]}))
    assert verdict(task, "sgdm").startswith("sgdm's configuration is better than adam's")
    assert verdict(task, "sgdm").endswith(BLAMED.format("adam", "sgdm"))


@pytest.mark.parametrize("effect", [-0.2, 0.0])
def test_what_is_not_worse_is_not_blamed(tmp_path: Path, effect: float) -> None:
    run = made(tmp_path, {"adamw": effect, "adam": 0.0}, {"adamw": ["adam"]})
    assert "contains" not in verdict(of(run), "adamw")
    assert not any("contains" in text for text in caveat_sentences(compare([run])))


def test_inclusion_is_followed_also_by_way_of_what_was_not_searched(tmp_path: Path) -> None:
    contains = {"adamw": ["diag_hessian", "adam", "nowhere"], "diag_hessian": ["sgdm"], "sgdm": ["adamw"]}
    comparison = of(made(tmp_path, dict.fromkeys(["adamw", "adam", "sgdm", "diag_hessian"], 0.0), contains)).comparison
    assert comparison.contained == {
        "adamw": ["adam", "sgdm", "diag_hessian"], "adam": [], "sgdm": ["adamw", "adam", "diag_hessian"],
        "diag_hessian": ["adamw", "adam", "sgdm"],
    }  # fmt: skip


def test_two_of_which_neither_is_the_baseline(tmp_path: Path) -> None:
    run = made(tmp_path, {"diag_hessian": 0.1, "adam": 0.0, "sgdm": -0.2}, {"diag_hessian": ["sgdm"]})
    task = of(run)
    assert failures(task) == [("diag_hessian", "sgdm")]
    assert "contains" not in verdict(task, "diag_hessian")
    assert any(text.endswith(": diag_hessian contains sgdm.") for text in caveat_sentences(compare([run])))


def testaudited_pairs_are_a_family_of_their_own(tmp_path: Path) -> None:
    """What alone is worse at p 0.02 blames nobody as one of five pairs."""
    effects = {"adam": 0.0, "sgdm": -0.015, **dict.fromkeys(["adamw", "nesterov", "sgd", "rmsprop", "lion"], 0.0)}
    outer = [name for name in effects if name not in ("adam", "sgdm")]
    alone = [failures(of(made(tmp_path / name, effects, {name: ["sgdm"]}))) for name in outer]
    assert sum(map(len, alone)) == 1
    assert failures(of(made(tmp_path / "all", effects, {name: ["sgdm"] for name in outer}))) == []


@pytest.mark.parametrize(("units", "found"), [(3, []), (8, [("adamw", "sgdm")])])
def testaudited_pairs_are_of_what_has_been_looked_at(tmp_path: Path, units: int, found: list[tuple[str, str]]) -> None:
    effects = {"adam": 0.0, "adamw": 0.0, "sgdm": -0.06}
    settings = ["report.until=decided", "report.baseline=adam", "report.looks=[3, 8]"]
    run = made(tmp_path, effects, {"adamw": ["sgdm"]}, studies=8, settings=settings)
    extent.write(run.path, run.config(), [{"units": units, "decided": {}}], {})
    task = of(run)
    assert [course.done for course in audited(task)["course"]] == [units]
    assert failures(task) == found
