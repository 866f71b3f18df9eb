"""What the page and the document say of how much depends on tuning."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.commands import ROOT
from tests.support.made_runs import make_run
from tuner.analysis.surrogate import Surrogate
from tuner.comparison.results import Results, compare
from tuner.comparison.sensitivity import Shared
from tuner.reporting import as_json, sensitivity

EFFECTS = {"adam": 0.0, "sgdm": 0.03}
RANDOM = ["search.sampler=random"]
SHADES = {name: {"colour": "#000000", "dash": ""} for name in EFFECTS}


def made(folder: Path, *tasks: str, settings: list[str] | None = None) -> Results:
    return compare([make_run(folder / task, task, EFFECTS, seeds=3, studies=2, trials=20,
                             settings=RANDOM if settings is None else settings, draw=draw)
                    for draw, task in enumerate(tasks)])  # fmt: skip


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return made(tmp_path_factory.mktemp("runs"), "mnist1d", "resnet18")


def cells(results: Results) -> dict[str, dict[str, str]]:
    """By optimizer, by head."""
    found = sensitivity.section(results, SHADES)
    assert found is not None
    head = [column["name"] for column in found["board"]["head"]]
    rows = [[cell["text"] for cell in row["cells"]] for row in found["board"]["rows"]]
    return {row[0]: dict(zip(head, row, strict=True)) for row in rows}


def test_the_table_shows_what_was_found(several: Results) -> None:
    found, row = several.sensitivity, cells(several)["adam"]
    shares = [share for share, _ in found.near_best("adam").values()]
    decades = math.log10(0.5 / 1e-5)
    middle = sum(shares) / 2
    assert row["learning rates near the best"] == f"{100 * middle:.0f} % ({middle * decades:.1f} decades)"
    assert row["score, tuned per task"] == f"{found.tuned('adam').mean():.2f}"
    assert row["gained by tuning per task"] == f"{found.shared['adam'].sensitivity:.2f} (modelled)"
    assert row["must be tuned per task"] == "0 of 1"
    assert row["score of the best shared"].endswith(" (modelled)")
    assert "score of defaults" not in row  # no trial of theirs


def test_of_one_task_it_is_about_the_learning_rate(tmp_path: Path) -> None:
    results = made(tmp_path, "mnist1d")
    assert list(cells(results)["sgdm"]) == ["optimizer", "learning rates near the best", "score, tuned per task"]
    assert sensitivity.notes(results.sensitivity) == []
    assert len(sensitivity.panels(results.sensitivity)) == 1


def test_one_search_that_learns_has_no_such_part(tmp_path: Path) -> None:
    results = made(tmp_path, "mnist1d", settings=[])
    assert sensitivity.section(results, SHADES) is None
    assert as_json.document(results)["sensitivity"] is None


def test_panels_have_the_metric_as_it_is_and_mark_what_is_near(several: Results) -> None:
    loss, accuracy = sensitivity.panels(several.sensitivity)
    assert (loss.mode, accuracy.mode) == ("min", "max")
    assert 0 < accuracy.untrained < accuracy.curves["best"].max() <= 1
    for panel, sign in ((loss, 1), (accuracy, -1)):
        for _, own in panel.curves.groupby("optimizer"):
            best = (sign * own["best"]).min()
            within = sign * own["best"] <= best + 0.05 * (sign * panel.untrained - best)
            assert own["near"].tolist() == within.tolist()


def note(**shared: object) -> str:
    return sensitivity._note(replace(Shared(), **shared))  # type: ignore[arg-type]


def test_notes_say_what_the_numbers_rest_on_or_why_there_are_none(several: Results) -> None:
    models = {task: Surrogate(lambda at: at[:, 0], explained, error, 40)
              for task, explained, error in (("t", 0.914, 0.03), ("u", -0.2, 0.2))}  # fmt: skip
    explained = "the models explain 0 to 91 % of the variance of scores that they have not seen, and err by up to 0.20"
    assert note(common=12, how="measured") == "12 configurations in common of all tasks, as they were measured"
    assert note(common=1, how="modelled", models=models, dimensionality=(0, ())) == (
        f"1 configuration in common; {explained}"
    )
    assert note(obstacle="fit", models=models) == (
        f"no configurations in common, and no model that is good enough: {explained}"
    )
    for obstacle in ("one task", "spaces", "nothing searched", "sampler", "outside", "few trials"):
        assert note(obstacle=obstacle)
    (line,) = [text for text in sensitivity.notes(several.sensitivity) if text.startswith("adam")]
    assert line.endswith(".")


def test_the_document_has_the_same_and_is_json(several: Results) -> None:
    document = json.loads(json.dumps(as_json.document(several), allow_nan=False))["sensitivity"]
    assert set(document) == {"optimizers", "clock", "times_to_target", "algoperf", "notes"}
    adam = document["optimizers"][0]
    assert adam["optimizer"] == "adam"
    assert adam["gained"] == several.sensitivity.shared["adam"].sensitivity
    assert (adam["dimensionality"], adam["must_be_tuned"], adam["how"]) == (0, [], "modelled")
    assert set(adam["models"]) == {"mnist1d", "resnet18"}
    assert set(document["algoperf"]) == {"tuned", "defaults", "best_shared"}
    assert document["algoperf"]["best_shared"] == {"adam": None, "sgdm": None}


def test_every_column_and_key_is_explained(several: Results) -> None:
    page = (ROOT / "docs/report.md").read_text(encoding="utf-8")
    heads = set(re.findall(r"^\| ([^|]+) \|", page, re.M))
    assert set(sensitivity._columns(several.sensitivity)) <= heads
    document = sensitivity.document(several)
    assert document is not None
    adam = document["optimizers"][0]
    keys = {*document, *document["algoperf"], *adam, *next(iter(adam["models"].values()))}
    assert keys <= set(re.findall(r"`(\w+)`", page))
