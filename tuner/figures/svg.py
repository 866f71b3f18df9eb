"""Figures become SVG for a page, with what a pointer over them shows, and files."""

from __future__ import annotations

import base64
import hashlib
import io
import math
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from tuner.figures.canvas import INK, STYLE
from tuner.figures.scales import number
from tuner.store.files import write_whole

SVG = "http://www.w3.org/2000/svg"
XLINK = "http://www.w3.org/1999/xlink"
PNG_DPI = 150
RASTER_DPI, RASTER_COLOURS = 200, 16  # of artists that are rasterized within an SVG
EMBEDDED = re.compile(r"data:image/png;base64,\s*([A-Za-z0-9+/=\s]+)")
SERIES = re.compile(r"series-\d+")
MOST_HOVERED = 120  # points of one line
DECIMAL = re.compile(r"-?\d+\.\d+")
REFERENCE = re.compile(r"url\(#([^)]+)\)")
FAMILY = re.compile(r"font-family: [^;]*;? ?")
NO_METADATA: dict[str, Any] = dict.fromkeys(["Date", "Creator", "Format", "Type"])


def render(figure: Figure) -> str:
    """The figure as a whole SVG file, for ``inline`` and ``write``; the same figure gives the same text."""
    size, content = figure.dpi, io.StringIO()
    try:
        figure.set_dpi(RASTER_DPI)
        with _quietly():
            FigureCanvasSVG(figure).print_svg(content, metadata=NO_METADATA)
    finally:
        figure.set_dpi(size)
    return EMBEDDED.sub(_repacked, content.getvalue())


def inline(figure: Figure, title: str, description: str = "", source: str | None = None) -> Markup:
    """The figure as an ``<svg>`` that takes its size, type and ink from the page around it.

    Artists of an optimizer (``figure_parts.belongs_to``) are in groups of class "series" whose ``data-series`` is its
    name. Ids are those of this figure alone, unless the page has the same figure under the same title twice.

    Args:
        source: what ``render`` makes of the figure, where it is known.
    """
    source = render(figure) if source is None else source
    prefix = "f" + hashlib.sha1(f"{title}\0{description}\0{source}".encode(errors="replace")).hexdigest()[:8]
    root = ElementTree.fromstring(source)
    names = _series_names(figure)
    ids: dict[str, str] = {}
    for element in root.iter():
        _simplify(element, names, ids, prefix)
    _link(root, ids)
    box = root.get("viewBox", "")
    root.attrib.clear()
    root.attrib.update({"xmlns": SVG, "viewBox": box, "role": "img", "aria-label": _legible(title)})
    for metadata in root.findall("metadata"):
        root.remove(metadata)
    if description:
        root.set("aria-describedby", f"{prefix}d")
        about = ElementTree.Element("desc", id=f"{prefix}d")
        about.text = _legible(description)
        root.insert(0, about)
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def hover(figure: Figure) -> list[dict[str, Any]]:
    """Per line of an optimizer its points as ``[x, y, x's label, y's label]``, x and y as in the ``viewBox``."""
    height = figure.get_size_inches()[1] * 72
    series = []
    for axes in figure.axes:
        for line in axes.lines:
            if SERIES.fullmatch(line.get_gid() or ""):
                series.append({"series": str(line.get_label()), "points": _points(line, figure.dpi, height)})
    return series


def write(figure: Figure, folder: Path, name: str, source: str | None = None) -> list[Path]:
    """Write ``name.svg`` and ``name.png`` (on white); the same figure gives the same bytes.

    Args:
        source: what ``render`` makes of the figure, where it is known.
    """
    paths = [folder / f"{name}.svg", folder / f"{name}.png"]
    write_whole(paths[0], render(figure) if source is None else source)
    background = figure.get_facecolor()
    size, content = figure.dpi, io.BytesIO()
    try:
        figure.set_facecolor("white")
        figure.set_dpi(PNG_DPI)
        with _quietly():
            canvas = FigureCanvasAgg(figure)
            canvas.print_png(content, metadata={"Software": None}, pil_kwargs={"compress_level": 6})
    finally:
        figure.set_facecolor(background)
        figure.set_dpi(size)
    write_whole(paths[1], content.getvalue())
    return paths


@contextmanager
def _quietly() -> Iterator[None]:
    """The style, and no warning about letters that the font lacks: a viewer has them from another."""
    settings = {**STYLE, "svg.fonttype": "none", "svg.hashsalt": "tuner", "svg.id": None, "svg.image_inline": True}
    with mpl.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from")
        warnings.filterwarnings("ignore", message=r"Matplotlib currently does not support")
        yield


def _repacked(match: re.Match[str]) -> str:
    """An embedded image with so few colours that it takes a fraction of the room."""
    content = io.BytesIO()
    with Image.open(io.BytesIO(base64.b64decode(match[1]))) as image:
        few = image.convert("RGBA").quantize(RASTER_COLOURS, method=Image.Quantize.FASTOCTREE)
    few.save(content, format="png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()


def _series_names(figure: Figure) -> dict[str, str]:
    """The names by the ids of their artists' groups."""
    parts: list[Artist] = [*figure.get_children(), *(part for axes in figure.axes for part in axes.get_children())]
    marked = {part.get_gid() or "": str(part.get_label()) for part in parts}
    return {gid: name for gid, name in marked.items() if SERIES.fullmatch(gid)}


def _simplify(element: ElementTree.Element, names: dict[str, str], ids: dict[str, str], prefix: str) -> None:
    """No name spaces, no ids but those that are referred to, coordinates to a hundredth, the page's ink and type."""
    element.tag = element.tag.partition("}")[2] if "}" in element.tag else element.tag
    given = element.attrib.pop("id", None)
    if given in names:
        element.attrib.update({"class": "series", "data-series": _legible(names[given])})
    elif given is not None and element.tag in ("clipPath", "path", "linearGradient", "image"):
        ids[given] = f"{prefix}{len(ids)}"
        element.set("id", ids[given])
    if f"{{{XLINK}}}href" in element.attrib:
        element.set("href", element.attrib.pop(f"{{{XLINK}}}href"))
    for name in ("d", "x", "y", "transform", "width", "height"):
        if name in element.attrib:
            element.set(name, DECIMAL.sub(_rounded, element.attrib[name]))
    if "style" in element.attrib:
        element.set("style", FAMILY.sub("", element.attrib["style"]).replace(INK, "currentColor"))
    for attribute in ("text", "tail"):
        if (getattr(element, attribute) or "").strip() == "":
            setattr(element, attribute, None)


def _rounded(match: re.Match[str]) -> str:
    text = f"{float(match[0]):.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def _link(root: ElementTree.Element, ids: dict[str, str]) -> None:
    """Let references name the new ids; ids that none refers to go."""
    used = set()

    def renamed(match: re.Match[str]) -> str:
        used.add(ids[match[1]])
        return f"url(#{ids[match[1]]})"

    for element in root.iter():
        if element.get("href", "").startswith("#"):
            used.add(ids[element.attrib["href"][1:]])
            element.set("href", "#" + ids[element.attrib["href"][1:]])
        if "clip-path" in element.attrib:
            element.set("clip-path", REFERENCE.sub(renamed, element.attrib["clip-path"]))
    for element in root.iter():
        if element.get("id") not in used:
            element.attrib.pop("id", None)


def _legible(text: str) -> str:
    """Without the characters that XML cannot hold."""
    return "".join(" " if ord(c) < 32 or c in "￾￿" or 0xD800 <= ord(c) < 0xE000 else c for c in text)


def _points(line: Line2D, dpi: float, height: float) -> list[list[Any]]:
    data = np.column_stack([np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)])
    data = data[np.isfinite(data).all(axis=1)]
    if len(data) > MOST_HOVERED:
        data = data[np.unique(np.linspace(0, len(data) - 1, MOST_HOVERED).round().astype(int))]
    if not len(data):
        return []
    places = line.get_transform().transform(data) * (72 / dpi)
    return [
        [round(float(x), 2), round(float(height - y), 2), number(at), number(value)]
        for (x, y), (at, value) in zip(places, data, strict=True)
        if math.isfinite(x) and math.isfinite(y)
    ]
