"""A report takes away the figures of the one before it, and nothing that is somebody else's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.made_runs import make_run
from tuner import report
from tuner.errors import UserError
from tuner.reporting import manifest
from tuner.reporting.manifest import begin, end

NAMES = ["1-a.svg", "1-a.png"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "figures"


def drawn(folder: Path, names: list[str], content: str = "drawn", *, old_report: bool = False) -> None:
    """As a report does it."""
    begin(folder, names, old_report=old_report)
    for name in names:
        (folder / name).write_text(content)
    end(folder, names)


def there(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {manifest.NAME}


def test_figures_of_an_earlier_report_go_and_those_of_a_person_stay(folder: Path) -> None:
    drawn(folder, [*NAMES, "2-b.svg", "2-b.png"])
    (folder / "mine.png").write_text("mine")
    (folder / "2-b.svg").write_text("edited")
    drawn(folder, NAMES, "anew")
    assert there(folder) == {*NAMES, "mine.png", "2-b.svg"}
    assert (folder / "1-a.svg").read_text() == "anew"
    drawn(folder, ["3-c.svg"])
    assert there(folder) == {"3-c.svg", "mine.png", "2-b.svg"}


@pytest.mark.parametrize("how", ["edited", "link", "own"])
def test_a_figure_is_not_drawn_over_what_is_somebody_elses(folder: Path, tmp_path: Path, how: str) -> None:
    drawn(folder, [*(NAMES[1:] if how == "own" else NAMES), "2-b.svg"])
    other = tmp_path / "other.svg"
    other.write_text("mine")
    (folder / "1-a.svg").unlink(missing_ok=True)
    (folder / "1-a.svg").symlink_to(other) if how == "link" else (folder / "1-a.svg").write_text("mine")
    with pytest.raises(UserError, match=r"figures/1-a\.svg: is not as an earlier report left it"):
        begin(folder, NAMES, old_report=True)
    assert (folder / "1-a.svg").read_text() == "mine" and "2-b.svg" in there(folder)


def test_without_a_manifest_nothing_is_deleted_and_an_old_reports_figures_are_drawn_anew(folder: Path) -> None:
    folder.mkdir()
    for name in (*NAMES, "2-b.svg", "mine.png"):
        (folder / name).write_text("old")
    with pytest.raises(UserError, match=r"1-a\.svg"):
        begin(folder, NAMES, old_report=False)
    assert not (folder / manifest.NAME).exists()
    drawn(folder, NAMES, old_report=True)
    assert there(folder) == {*NAMES, "2-b.svg", "mine.png"}
    assert [(folder / name).read_text() for name in (*NAMES, "2-b.svg")] == ["drawn", "drawn", "old"]


def test_nothing_is_deleted_through_a_link(folder: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    drawn(elsewhere, [*NAMES, "2-b.svg"])
    (elsewhere / "mine.svg").write_text("mine")
    folder.symlink_to(elsewhere)
    drawn(folder, NAMES)
    assert there(elsewhere) == {*NAMES, "2-b.svg", "mine.svg"}


def test_a_report_that_was_cut_off_does_not_stand_in_the_way(folder: Path) -> None:
    begin(folder, NAMES, old_report=False)
    (folder / NAMES[0]).write_text("half of")
    drawn(folder, ["2-b.svg"])
    assert there(folder) == {"2-b.svg"}


@pytest.mark.parametrize(
    ("content", "refused"),
    [*((text, True) for text in ("", "[", "[]", "{}", '{"files": []}', '{"files": 5}', "[" * 5000)),
     (json.dumps({"files": {"../mine.svg": None, "/etc/x.png": None, "": None, "a\0.svg": None, "mine.txt": None,
                            "sub": None, "sub.svg": None, "none.svg": 5, "mine.svg": 5, "mine.png": ["a"]}}), False)],
)  # fmt: skip
def test_a_manifest_that_was_tampered_with_costs_no_file(folder: Path, content: str, refused: bool) -> None:
    (folder / "sub.svg").mkdir(parents=True)
    names = [folder.parent / "mine.svg", *(folder / name for name in ("mine.txt", "sub", "mine.svg", "mine.png"))]
    for path in names:
        path.write_text("mine")
    (folder / manifest.NAME).write_text(content)
    if refused:  # a person's own, perhaps
        with pytest.raises(UserError, match=r"manifest\.json: is not a list of a report's figures"):
            drawn(folder, NAMES)
        assert (folder / manifest.NAME).read_text() == content
    else:
        drawn(folder, NAMES)
    assert all(path.read_text() == "mine" for path in names) and (folder / "sub.svg").is_dir()


def test_a_report_leaves_a_persons_pictures_alone(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", effects={"adam": 0.0, "sgdm": 0.05}, seeds=3, trials=3)
    out = tmp_path / "paper"
    (out / "figures").mkdir(parents=True)
    mine = [out / "figures" / name for name in ("mine.png", "mine.svg", "1-search-ada.png")]
    for path in mine:
        path.write_text("mine")
    argv = [str(run.path), "--out", str(out), "-q"]
    for times in range(2):
        assert report.main(argv) == 0
        files = json.loads((out / "figures" / manifest.NAME).read_text())["files"]
        assert there(out / "figures") == {*files, *(path.name for path in mine)} and None not in files.values()
        assert all(path.read_text() == "mine" for path in mine), times
    (out / "figures" / "1-search-adam.svg").write_text("edited")
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    with pytest.raises(UserError, match=r"1-search-adam\.svg: is not as an earlier report left it"):
        report.main(argv)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
