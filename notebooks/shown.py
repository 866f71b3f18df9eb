"""What notebooks show: figures as PNG at twice the resolution of a screen, tables as HTML."""

from __future__ import annotations

import hashlib
import io
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from IPython.display import HTML, Image, display
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image as Picture

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a notebook starts in its own folder

from tuner.comparison.task_results import TaskResults
from tuner.figures.canvas import STYLE
from tuner.reporting.leaderboard import leaderboard
from tuner.text import number

warnings.filterwarnings("ignore", message="IProgress not found")  # of Optuna's progress bars, of which there are none

DPI = 96  # of a screen, as browsers count
SHARPER = 2
ABREAST = 2


def show(*figures: Figure, alt: str) -> None:
    """Figures two abreast, on white; ``alt`` is what stands for them where they cannot be seen."""
    drawn = [_pixels(figure) for figure in figures]
    rows = [_abreast(drawn[first : first + ABREAST]) for first in range(0, len(drawn), ABREAST)]
    width = max(row.shape[1] for row in rows)
    picture = Picture.fromarray(np.concatenate([_padded(row, row.shape[0], width) for row in rows]))
    content = io.BytesIO()
    picture.quantize(256, dither=Picture.Dither.NONE).save(content, "png", optimize=True)
    display(Image(content.getvalue(), width=width // SHARPER, alt=alt))


def _pixels(figure: Figure) -> np.ndarray:
    figure.set_facecolor("white")
    figure.set_dpi(DPI * SHARPER)
    canvas = FigureCanvasAgg(figure)
    with mpl.rc_context(STYLE):
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def _abreast(pictures: Sequence[np.ndarray]) -> np.ndarray:
    height = max(picture.shape[0] for picture in pictures)
    return np.concatenate([_padded(picture, height, picture.shape[1]) for picture in pictures], axis=1)


def _padded(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """White below and to the right."""
    missing = ((0, height - picture.shape[0]), (0, width - picture.shape[1]), (0, 0))
    return np.pad(picture, missing, constant_values=255)


def table(rows: pd.DataFrame, digits: int = 4) -> None:
    """A table without its index, numbers to so many digits, text taken literally."""
    rows = rows.reset_index(drop=True)
    text = rows.map(lambda cell: _text(cell, digits))
    numeric = [name for name in rows if pd.api.types.is_numeric_dtype(rows[name])]
    styled = text.style.hide(axis="index").format(escape="html").format_index(escape="html", axis="columns")
    styled = styled.set_properties(subset=numeric, **{"text-align": "right"})
    others = [name for name in rows if name not in numeric]
    styled = styled.set_properties(subset=others, **{"text-align": "left"})
    styled = styled.set_table_styles([{"selector": "th", "props": "text-align: left"}])
    name = hashlib.sha1(text.to_csv().encode(errors="replace")).hexdigest()[:8]
    display(HTML(styled.set_uuid(name).to_html()))


def board(task: TaskResults) -> None:
    """The leaderboard, the best mean first: what came out, then what it took."""
    head, rows = leaderboard(task)
    whole = pd.DataFrame([[cell.text for cell in row] for row in rows], columns=head)
    results = 4 + len(task.comparison.metrics[1:])
    table(whole.iloc[:, :results])
    table(whole.iloc[:, [0, *range(results, len(head))]])


def _text(cell: Any, digits: int) -> str:
    if isinstance(cell, bool | np.bool_):
        return "yes" if cell else "no"
    if isinstance(cell, int | np.integer):
        return f"{cell:,}"
    if isinstance(cell, float | np.floating):
        return f"{cell:,.0f}" if cell == round(cell, 0) and 1000 <= abs(cell) < 1e6 else number(float(cell), digits)
    return "-" if cell is None or cell is pd.NA else str(cell)
