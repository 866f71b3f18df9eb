"""Docstrings are read from source, and nothing of it is run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tuner.config.docstrings import docstring, first_paragraph

SOURCE = '''
from shown_elsewhere import Other as Renamed
from shown_here import Circular

raise RuntimeError


class Known:
    """Is known."""


class Bare:
    pass


def made(params):
    """Is made."""
'''


@pytest.fixture(autouse=True)
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shown_here.py").write_text(SOURCE)
    (tmp_path / "shown_elsewhere.py").write_text('class Other:\n    """Is elsewhere."""\n')
    (tmp_path / "shown_broken.py").write_text("class Known(:\n")
    (tmp_path / "shown_package").mkdir()
    (tmp_path / "shown_package/__init__.py").write_text("raise RuntimeError\n")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize(
    ("path", "doc"),
    [
        ("shown_here.Known", "Is known."),
        ("shown_here.made", "Is made."),
        ("shown_here.Renamed", "Is elsewhere."),
        ("tasks.mnist1d.MNIST1D", "A 40-100-10 ReLU perceptron"),
    ],
)
def test_a_docstring_is_read_where_it_is_written(path: str, doc: str) -> None:
    assert (docstring(path) or "").startswith(doc)
    assert not {"shown_here", "shown_elsewhere"} & set(sys.modules)


@pytest.mark.parametrize(
    "path",
    ["shown_here.Bare", "shown_here.Circular", "shown_here.Absent", "shown_broken.Known", "shown_package.inner.Known",
     "no_such_module.Known", "Known", ".Known", ""],
)  # fmt: skip
def test_where_there_is_none_there_is_none(path: str) -> None:
    assert docstring(path) is None


@pytest.mark.parametrize(
    ("doc", "line"),
    [
        ("One ``line``\nand :math:`x^2`.\n\nMore.", "One line and x^2."),
        ("\n    Indented.\n", "Indented."),
        ("", None),
        (None, None),
    ],
)
def test_its_first_paragraph_is_a_line_without_markup(doc: str | None, line: str | None) -> None:
    assert first_paragraph(doc) == line
