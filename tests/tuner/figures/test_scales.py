"""Numbers, ticks, places of labels and colours of figures."""

from __future__ import annotations

import itertools
import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from tests.support.examples import examples
from tuner.figures.canvas import COLOURS, dashed, line_style, spread
from tuner.figures.labels import fitted, labels, plain, text_width
from tuner.figures.scales import number, scale, tick_labels

SUPERSCRIPT = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹−", "-0123456789-")
UNITS = {"k": 1e3, "M": 1e6}


def read(text: str) -> float:
    """The number that a person reads."""
    text = text.replace(",", "")
    unit = UNITS.get(text[-1], 1.0)
    text = text.rstrip("kM")
    if match := re.fullmatch(r"(−?)(?:([\d.]+)×)?10([⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+)", text):
        return (-1 if match[1] else 1) * float(match[2] or 1) * 10.0 ** int(match[3].translate(SUPERSCRIPT))
    return float(text.translate(SUPERSCRIPT)) * unit


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0, "0"), (0.25, "0.25"), (1500, "1,500"), (30_000, "30k"), (2.5e6, "2.5M"), (3e-5, "3×10⁻⁵"), (1e-5, "10⁻⁵"),
     (-0.004, "−0.004"), (1e12, "10¹²"), (9999.6, "10,000"), (math.nan, "–"), (math.inf, "–")],
)  # fmt: skip
def test_a_number(value: float, shown: str) -> None:
    assert number(value) == shown


@given(st.floats(-1e50, 1e50).filter(lambda value: value == 0 or abs(value) > 1e-50))
@examples(100)
def test_a_number_has_four_digits(value: float) -> None:
    assert read(number(value)) == pytest.approx(value, rel=6e-4)


magnitudes = st.integers(-12, 12).map(lambda e: 10.0**e)
mantissas = st.integers(-9999, 9999).map(lambda a: a / 1000)
values = st.lists(st.builds(lambda a, m: a * m, mantissas, magnitudes), min_size=1, max_size=6)


@given(values, st.booleans())
@examples(100)
def test_ticks_lie_on_the_axis_and_are_labelled_as_what_they_are(known: list[float], log: bool) -> None:
    one = scale(known, log)
    shown = [value for value in known if value > 0] if one.log else known
    assert one.low <= min(shown) and max(shown) <= one.high
    assert one.log == (log and max(known) > 0)
    assert all(one.low - 1e-6 * abs(one.low) <= tick <= one.high + 1e-6 * abs(one.high) for tick in one.ticks)
    assert len(set(one.labels)) == len(one.ticks) <= 8
    span = max(map(abs, one.ticks), default=0)
    for tick, label in zip(one.ticks, one.labels, strict=True):
        assert read(label) == pytest.approx(tick, rel=1e-3, abs=1e-9 * span)


@pytest.mark.parametrize(
    ("ticks", "log", "labels"),
    [
        ([0, 0.5, 1.0], False, ["0", "0.5", "1.0"]),
        ([0, 5000, 10_000], False, ["0", "5k", "10k"]),
        ([0, 2000, 4000], False, ["0", "2,000", "4,000"]),
        ([1e-5, 1e-3, 1e-1], True, ["10⁻⁵", "10⁻³", "10⁻¹"]),
        ([0.01, 0.1, 1, 10], True, ["0.01", "0.1", "1", "10"]),
        ([1_000_000, 1_000_001], False, ["1,000,000", "1,000,001"]),
        ([-0.05, 0, 0.05], False, ["−0.05", "0", "0.05"]),
    ],
)
def test_tick_labels_are_in_one_notation(ticks: list[float], log: bool, labels: list[str]) -> None:
    assert tick_labels(ticks, log) == labels


def test_an_axis_chooses_logarithms_by_the_span() -> None:
    assert scale([1, 21], None).log
    assert not scale([1, 19], None).log
    assert not scale([-1, 1000], None).log
    assert not scale([math.nan, math.inf], None).log


@given(st.lists(st.floats(0, 100), min_size=1, max_size=6))
@examples(30)
def test_labels_are_spread_as_little_as_can_be(wanted: list[float]) -> None:
    found = spread(wanted, 7.0, -1e3, 1e3)
    order = np.argsort(wanted, kind="stable")
    assert (np.diff(found[order]) >= 7 - 1e-9).all()
    apart = [{"type": "ineq", "fun": lambda p, a=a, b=b: p[b] - p[a] - 7.0} for a, b in itertools.pairwise(order)]
    least = minimize(lambda p: ((p - wanted) ** 2).sum(), x0=found + 1, constraints=apart)
    assert ((found - wanted) ** 2).sum() <= least.fun + 1e-3


def test_labels_stay_within_the_axes() -> None:
    found = spread([0, 0, 0, 100, 100], 10, 0, 100)
    assert found.min() == 0 and found.max() == 100
    assert np.diff(np.sort(found)).min() >= 10


def luminance(linear: np.ndarray) -> float:
    return float(linear @ [0.2126, 0.7152, 0.0722])


def linear_rgb(colour: str) -> np.ndarray:
    channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


# Machado, Oliveira and Fernandes 2009, severity 1.0: protanopia, deuteranopia, tritanopia.
BLINDNESS = {
    "none": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def cielab(linear: np.ndarray) -> np.ndarray:
    to_xyz = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    xyz = np.array(to_xyz) @ np.clip(linear, 0, 1) / [0.95047, 1.0, 1.08883]
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("page", ["#ffffff", "#14171c"])
def test_colours_have_a_contrast_of_three(colour: str, page: str) -> None:
    lighter, darker = sorted((luminance(linear_rgb(c)) + 0.05 for c in (colour, page)), reverse=True)
    assert lighter / darker >= 3


@pytest.mark.parametrize("blindness", BLINDNESS)
def test_colours_are_told_apart(blindness: str) -> None:
    seen = [cielab(np.array(BLINDNESS[blindness]) @ linear_rgb(colour)) for colour in COLOURS]
    # A distance of 2.3 in CIELAB is just noticeable.
    assert min(math.dist(a, b) for a, b in itertools.combinations(seen, 2)) >= 9


def test_forty_optimizers_look_different() -> None:
    assert len({str(line_style(i)) for i in range(40)}) == 40


def test_a_name_says_how_its_lines_are_broken_once_colours_repeat() -> None:
    words = {i: dashed(i) for i in range(40)}
    assert not any(words[i] for i in range(10)) and all(words[i] for i in range(10, 40))
    assert len({(line_style(i)["color"], words[i]) for i in range(40)}) == 40
    assert (dashed(15), line_style(15)["linestyle"][1]) == ("dashed", (4, 1.5))
    assert dashed(25) == "dotted" and line_style(25)["linestyle"][1][0] < 1.5


def test_text_is_taken_literally_and_cut() -> None:
    assert plain("a$b$") == r"a\$b\$"
    assert plain("a\nb\x00c\ud800") == "a b c�"
    assert plain("abcdefgh", 4) == "ab…h" and plain("abcdefgh", 5) == "ab…gh" and plain("abcd", 4) == "abcd"
    assert text_width(fitted("m" * 40, 60)) <= 60 and fitted("short", 60) == "short"
    assert text_width("mm", 10) == pytest.approx(2 * 9.74, abs=0.02)  # DejaVu Sans: an m is 0.974 em wide


LONG = "a_rather_long_optimizer"


@pytest.mark.parametrize(
    "names",
    [
        [f"{LONG}_one", f"{LONG}_two"],
        [f"{LONG}@run-1", f"{LONG}@run-2", LONG],
        [f"x{LONG}", f"y{LONG}", "adam"],
        [LONG],
    ],
)
def test_both_ends_of_a_name_are_kept(names: list[str]) -> None:
    for name, label in zip(names, labels(names, 90), strict=True):
        assert label == name or (label[:6] == name[:6] and label[-6:] == name[-6:] and label.count("…") == 1)
        assert 76 < text_width(label) <= 90 or label == "adam"


def test_where_only_the_middle_tells_names_apart_it_is_kept() -> None:
    for before, after in ((5, 40), (40, 5), (40, 40)):
        names = [f"{'b' * before}_{one}_{'e' * after}" for one in ("sun", "moon", "star")]
        found = labels(names, 100)
        assert len(set(found)) == 3 and all(label.startswith("b") and label.endswith("e") for label in found)
    assert all(one in label for one, label in zip(("sun", "moon", "star"), found, strict=True))


def is_cut_of(label: str, name: str) -> bool:
    """Whether the label is parts of the name, in their order, with ellipses between them, a number at most after it."""
    parts = re.sub(r" \d+$", "", label).split("…")
    return re.fullmatch("(.*)".join(map(re.escape, parts)), name) is not None


@examples(300)
@given(
    st.lists(st.text("ab", max_size=40).map(lambda text: text + "_" * 20), min_size=2, max_size=8, unique=True),
    st.sampled_from([60.0, 90.0, 140.0]),
)
def test_different_names_have_different_labels_that_fit(names: list[str], room: float) -> None:
    found = labels(names, room)
    assert len(set(found)) == len(names)
    assert all(text_width(label) <= room for label in found)
    assert all(is_cut_of(label, name) for label, name in zip(found, names, strict=True))
    assert all(label == name for label, name in zip(found, names, strict=True) if text_width(name) <= room)


def test_names_that_look_the_same_are_numbered_and_equal_names_are_not() -> None:
    assert labels(["a\x00", "a\n", "b", "b"], 100) == ["a  1", "a  2", "b", "b"]
    taken = labels(["a\x00", "a\n", "a  1"], 100)
    assert len(set(taken)) == 3 and taken[2] == "a  1"
    assert labels([], 100) == [] and labels(["a$b"], 100) == [r"a\$b"]
    assert len(set(labels(["x" * 30, "x" * 31, "y"], 1.0))) == 3  # no room at all


def test_a_cut_is_not_what_another_name_is() -> None:
    names = [f"{'b' * 9}{one}{'e' * 30}" for one in "xy"]
    cuts = labels(names, 90)
    for third in cuts:
        found = labels([*names, third], 90)
        assert len(set(found)) == 3 and found[2] == third
