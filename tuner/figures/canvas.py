"""The canvas has what all figures share: colours, type, an axes with fixed margins, ticks.

Layout is arithmetic in points (1/72 inch), without a trial drawing: limits, ticks and margins are computed here, which
is several times faster than to let matplotlib find them, and gives the same figure at any resolution.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator
from matplotlib.transforms import Affine2D, Transform
from numpy.typing import ArrayLike, NDArray

from tuner.figures.labels import FONT, text_width
from tuner.figures.scales import Scale, SignedScale

WIDTH, HEIGHT = 331.0, 223.0  # of a usual figure, in points
INK = "#24292f"  # axes and text; inline it becomes the page's own colour
# Contrast of at least 3 both on white and on #14171c; told apart under the usual kinds of colour blindness.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#ed678f", "#987f48", "#09a2c6", "#7974ee", "#a9460e", "#845480", "#626950")
DASHES: dict[str, Any] = {
    "": "solid", "dashed": (0, (4, 1.5)), "dotted": (0, (1, 1.2)), "dash-dotted": (0, (6, 1.5, 1, 1.5)),
}  # fmt: skip
STYLE: dict[Any, Any] = {
    "font.family": ["sans-serif"],
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": FONT,
    "font.style": "normal",
    "font.weight": "normal",
    "text.usetex": False,
    "text.parse_math": True,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.facecolor": "none",
    "axes.linewidth": 0.6,
    "axes.unicode_minus": True,
    "axes.axisbelow": True,
    "axes.grid": False,
    "axes.grid.which": "major",
    "figure.facecolor": "none",
    "figure.autolayout": False,
    "figure.constrained_layout.use": False,
    "path.simplify": True,
    "path.sketch": None,
    "path.effects": [],
    "lines.solid_capstyle": "round",
    "lines.solid_joinstyle": "round",
    "lines.dash_capstyle": "butt",
    "lines.antialiased": True,
    "lines.markeredgewidth": 1.0,
    "lines.scale_dashes": True,
    "xtick.color": INK,
    "ytick.color": INK,
    **{f"{axis}.{key}": value for axis in ("xtick", "ytick") for key, value in {
        "direction": "out", "labelsize": "medium", "labelcolor": "inherit", "minor.visible": False}.items()},
    **{f"xtick.{key}": on for key, on in {
        "bottom": True, "top": False, "labelbottom": True, "labeltop": False}.items()},
    **{f"ytick.{key}": on for key, on in {
        "left": True, "right": False, "labelleft": True, "labelright": False}.items()},
    "xtick.major.width": 0.6,
    "xtick.major.size": 3.0,
    "ytick.major.size": 0.0,
    "xtick.major.pad": 3.0,
    "ytick.major.pad": 4.0,
    "grid.color": INK,
    "grid.alpha": 0.13,
    "grid.linewidth": 0.6,
    "grid.linestyle": "-",
}  # fmt: skip


def styled(function: Callable[..., Figure]) -> Callable[..., Figure]:
    """Make the figure in this style, whatever the user's matplotlibrc or notebook says."""

    @wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Figure:
        with mpl.rc_context(STYLE):
            return function(*args, **kwargs)

    return wrapped


# Axes.


@dataclass(frozen=True)
class Panel:
    """An axes whose place is known in points."""

    axes: Axes
    left: float
    bottom: float
    width: float
    height: float
    x: Scale
    y: Scale

    def points(self, x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
        """Data as points of the figure, counted from its lower left corner."""
        across = self.left + self.width * self.x.share(x)
        return np.stack([across, self.bottom + self.height * self.y.share(y)], axis=-1)


def new_figure(width: float = WIDTH, height: float = HEIGHT) -> Figure:
    return Figure(figsize=(width / 72, height / 72), dpi=72)


def new_panel(
    figure: Figure,
    rectangle: tuple[float, float, float, float],
    x: Scale,
    y: Scale,
    *,
    grid: bool = True,
    base: bool = True,
) -> Panel:
    """An axes at (left, bottom, width, height), in points: a line below, light lines across, labels without a frame."""
    width, height = figure.get_size_inches() * 72
    left, bottom, across, up = rectangle
    axes = figure.add_axes((left / width, bottom / height, across / width, up / height))
    axes.set_autoscale_on(False)
    for name, spine in axes.spines.items():
        spine.set_visible(name == "bottom" and base)
        spine.set_alpha(0.6)
    for set_scale, one in ((axes.set_xscale, x), (axes.set_yscale, y)):
        if isinstance(one, SignedScale):
            set_scale("asinh", linear_width=one.threshold)
        elif one.log:
            set_scale("log")
    for axis, one in ((axes.xaxis, x), (axes.yaxis, y)):
        axis.set_major_locator(FixedLocator(one.ticks))
        axis.set_major_formatter(FixedFormatter(one.labels))
        axis.set_minor_locator(NullLocator())
    axes.set_xlim(x.low, x.high)
    axes.set_ylim(y.low, y.high)
    if grid:
        axes.grid(axis="y")
    return Panel(axes, left, bottom, across, up, x, y)


def in_points(figure: Figure) -> Transform:
    """Points of the figure as coordinates of an artist, at any resolution."""
    return Affine2D().scale(1 / 72) + figure.dpi_scale_trans


def write_at(figure: Figure, x: float, y: float, text: str, **how: Any) -> Artist:
    """Text at a place in points; ``text`` has gone through ``plain`` where it is not ours."""
    return figure.text(x, y, text, transform=in_points(figure), **how)


def write_below(figure: Figure, middle: float, y: float, text: str) -> Artist:
    """A text centred at ``middle`` as far as the figure's edges let it."""
    width = figure.get_size_inches()[0] * 72
    half = min(text_width(text), width - 8) / 2
    return write_at(figure, min(max(middle, half + 4), width - half - 4), y, text, ha="center")


def draw_at(figure: Figure, points: ArrayLike, **how: Any) -> Line2D:
    """A line through places in points."""
    x, y = np.asarray(points, float).T
    line = Line2D(x, y, transform=in_points(figure), **how)
    figure.add_artist(line)
    return line


# Series.


def line_style(index: int) -> dict[str, Any]:
    """Colour and dashes of the optimizer with this place among all names."""
    return {"color": colour(index), "linestyle": DASHES[dashed(index)]}


def dashed(index: int) -> str:
    """How its lines are broken, beside their colour: "dashed", "dotted" or "dash-dotted"; "" where they are not."""
    return list(DASHES)[index // len(COLOURS) % len(DASHES)]


def index_of(name: str, names: Sequence[str]) -> int:
    """Its place among all names; the first where it is not among them."""
    return list(names).index(name) if name in names else 0


def colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def belongs_to(artist: Artist, index: int, name: str) -> None:
    """Mark an artist as of an optimizer: its group in an SVG bears the name."""
    artist.set_gid(f"series-{index}")
    artist.set_label(name)


def spread(wanted: ArrayLike, gap: float, low: float, high: float) -> NDArray[np.float64]:
    """Places nearest to the wanted ones (least squares) that are ``gap`` apart, in [low, high] if there is room."""
    wanted = np.asarray(wanted, float)
    order = np.argsort(wanted, kind="stable")
    steps = gap * np.arange(len(wanted))
    blocks: list[list[float]] = []  # of places that touch: their sum, their count
    for value in wanted[order] - steps:
        blocks.append([value, 1])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] >= blocks[-1][0] / blocks[-1][1]:
            total, count = blocks.pop()
            blocks[-1][0] += total
            blocks[-1][1] += count
    fitted = np.concatenate([np.full(int(count), total / count) for total, count in blocks]) if blocks else steps
    highest = high - gap * max(len(wanted) - 1, 0)
    places = np.empty(len(wanted))
    places[order] = np.clip(fitted, low, max(low, highest)) + steps
    return places
