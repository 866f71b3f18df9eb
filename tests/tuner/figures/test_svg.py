"""Figures as SVG in a page, the points under a pointer, files."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from tests.support.figure_tables import NAMES, ODD_NAMES, bands
from tuner.figures import svg
from tuner.figures.lines import curves

SVG = "{http://www.w3.org/2000/svg}"
VALUES = [2.0, 1.0, 0.7, 0.6]


def figure(names: list[str] = NAMES, **how: bool) -> Figure:
    return curves(bands(VALUES, names), "steps", "val_loss", names, **how)


def parsed(made: Figure, title: str = "Validation loss", description: str = "") -> ElementTree.Element:
    return ElementTree.fromstring(svg.inline(made, title, description))


def path_points(element: ElementTree.Element) -> np.ndarray:
    numbers = re.findall(r"[ML] (-?[\d.]+) (-?[\d.]+)", element.get("d", ""))
    return np.array(numbers, float)


def test_it_takes_size_ink_and_type_from_the_page() -> None:
    root = parsed(figure(), description="Medians over seeds.")
    assert root.tag == SVG + "svg" and root.get("role") == "img" and root.get("aria-label") == "Validation loss"
    assert root.get("width") is None and root.get("height") is None
    assert [float(n) for n in root.get("viewBox", "").split()] == [0, 0, 331, 223]
    text = svg.inline(figure(), "t")
    assert text.startswith("<svg") and "currentColor" in text
    assert "#24292f" not in text and "DejaVu" not in text and "<metadata" not in text and "#ffffff" not in text
    about = root.find(SVG + "desc")
    assert about is not None and about.text == "Medians over seeds." and about.get("id") == root.get("aria-describedby")


def test_groups_bear_the_optimizers_names() -> None:
    groups = [g for g in parsed(figure()).iter(SVG + "g") if g.get("class") == "series"]
    for name in NAMES:
        own = [g for g in groups if g.get("data-series") == name]
        assert len(own) == 4  # line, band, stroke, name
        assert [t.text for g in own for t in g.iter(SVG + "text")] == [name]
    assert len(groups) == 4 * len(NAMES)


def test_what_comes_from_a_run_is_escaped() -> None:
    odd = "<script>alert('&')</script>\"\x00"
    root = parsed(figure([odd, *ODD_NAMES]), odd, odd)
    assert not list(root.iter(SVG + "script"))
    assert root.get("aria-label") == odd.replace("\x00", " ")
    series = {g.get("data-series") for g in root.iter(SVG + "g")} - {None}
    assert series == {name.replace("\x00", " ").replace("\n", " ") for name in [odd, *ODD_NAMES]}
    shown = {t.text for t in root.iter(SVG + "text")}
    assert {"a$x_1$b$", "\\$y\\", "<b>&\"q'"} <= shown


def test_ids_are_those_of_one_figure_and_references_find_them() -> None:
    table = bands(VALUES, ["adam"])
    roots = [parsed(figure()), parsed(curves(table, "steps", "m", NAMES)), parsed(figure(), "another title")]
    seen: set[str] = set()
    for root in roots:
        ids = [element.attrib["id"] for element in root.iter() if "id" in element.attrib]
        text = ElementTree.tostring(root, encoding="unicode")
        referred = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', text))
        assert {a or b for a, b in referred} == set(ids)
        assert len(ids) == len(set(ids)) and ids and not seen & set(ids)
        seen |= set(ids)


def test_points_under_the_pointer_lie_on_the_lines() -> None:
    made = figure()
    root = parsed(made)
    hovered = svg.hover(made)
    assert [entry["series"] for entry in hovered] == NAMES
    for place, entry in enumerate(hovered):
        paths = [
            path_points(path)
            for g in root.iter(SVG + "g")
            if g.get("data-series") == entry["series"]
            for path in g.iter(SVG + "path")
        ]
        points = np.array([[x, y] for x, y, *_ in entry["points"]])
        assert any(path.shape == points.shape and np.allclose(path, points, atol=0.02) for path in paths)
        labels = [(x, y) for *_, x, y in entry["points"]]
        assert labels == [(str(10 * i), f"{value + 0.01 * place:g}") for i, value in enumerate(VALUES)]


def test_points_leave_out_what_is_not_there_and_thin_out_what_is_long() -> None:
    gap = svg.hover(curves(bands([1, np.nan, 2], ["adam"]), "steps", "m", NAMES))
    assert [point[2] for point in gap[0]["points"]] == ["0", "20"]
    long = svg.hover(curves(bands(np.linspace(1, 2, 2000).tolist(), ["adam"]), "steps", "m", NAMES))[0]["points"]
    assert len(long) <= 120 and long[0][2] == "0" and long[-1][2] == "19.99k"
    nothing = svg.hover(curves(bands([np.nan], ["adam"]), "steps", "m", NAMES))
    assert nothing == [{"series": "adam", "points": []}]


def test_points_do_not_depend_on_the_resolution() -> None:
    made = figure()
    before = svg.hover(made)
    made.set_dpi(300)
    assert svg.hover(made) == before


def test_the_same_figure_gives_the_same_bytes(tmp_path: Path) -> None:
    files = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        made = figure(legend=True)
        svg.inline(made, "t")
        files.append([path.read_bytes() for path in svg.write(made, tmp_path / name, "curves")])
    assert files[0] == files[1]
    assert not re.search(rb"20\d\d-\d\d-\d\d|Matplotlib v", files[0][0])
    assert b"Software" not in files[0][1]
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == ["curves.png", "curves.svg"]
    assert svg.inline(figure(), "t") == svg.inline(figure(), "t")


def test_a_figure_is_rendered_once_for_page_and_file(tmp_path: Path) -> None:
    source = svg.render(figure())
    assert svg.inline(figure(), "t", "d", source) == svg.inline(figure(), "t", "d")
    (tmp_path / "given").mkdir()
    given, own = svg.write(figure(), tmp_path / "given", "f", source), svg.write(figure(), tmp_path, "f")
    assert [path.read_bytes() for path in given] == [path.read_bytes() for path in own]
    assert given[0].read_text() == source


def test_what_is_rasterized_looks_as_it_would_else() -> None:
    """The image, laid where the SVG says, against the same circle as a matter of geometry."""
    made = Figure(figsize=(2, 1), dpi=72)
    axes = made.add_axes((0, 0, 1, 1), xlim=(0, 144), ylim=(0, 72))
    axes.set_axis_off()
    axes.plot([40], [50], "o", color="#0072b2", markersize=40, markeredgewidth=0, rasterized=True)
    assert made.dpi == 72
    (element,) = parsed(made).iter(SVG + "image")
    assert made.dpi == 72
    with Image.open(io.BytesIO(base64.b64decode(element.attrib["href"].partition(",")[2]))) as image:
        pixels = np.asarray(image.convert("RGBA"), float)
    x, y, width, height = (float(element.attrib[name]) for name in ("x", "y", "width", "height"))
    assert width / pixels.shape[1] == pytest.approx(72 / 200, abs=0.01)
    offset = float(re.findall(r"translate\(0[ ,]+(-?[\d.]+)\)", element.attrib["transform"])[0])
    top = -(y + height + offset)  # of the image, upside down and turned
    rows, columns = np.nonzero(pixels[..., 3] > 128)
    across, down = x + (columns + 0.5) * 0.36, top + (rows + 0.5) * 0.36
    assert (across.mean(), down.mean()) == pytest.approx((40, 72 - 50), abs=0.5)
    assert len(rows) * 0.36**2 == pytest.approx(np.pi * 20**2, rel=0.02)
    np.testing.assert_allclose(np.median(pixels[rows, columns], axis=0), [0x00, 0x72, 0xB2, 255], atol=2)


def test_files_are_whole_figures_on_white(tmp_path: Path) -> None:
    made = figure()
    vector, raster = svg.write(made, tmp_path, "curves")
    root = ElementTree.parse(vector).getroot()
    assert (root.get("width"), root.get("height")) == ("331pt", "223pt")
    with Image.open(raster) as image:
        assert image.size == (round(331 * 150 / 72), round(223 * 150 / 72)) or image.size == (689, 464)
        assert image.convert("RGBA").getpixel((1, 1)) == (255, 255, 255, 255)
        used = {pixel for _, pixel in image.convert("RGB").getcolors(1 << 20) or []}
    assert (0x00, 0x72, 0xB2) in used and (0xD5, 0x5E, 0x00) in used  # the first two optimizers
    assert svg.hover(made) == svg.hover(figure())


@pytest.mark.parametrize("name", ODD_NAMES)
def test_letters_that_the_font_lacks_are_no_warning(name: str, tmp_path: Path) -> None:
    svg.write(figure([name], legend=True), tmp_path, "odd")
