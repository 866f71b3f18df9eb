"""The report in a real browser, opened from disk."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, sync_playwright

from tests.support.made_runs import make_run
from tuner import report

EFFECTS = {"diag_hessian": -0.03, "adam": 0.0, "sgdm": 0.03}
DESK, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        own = playwright.chromium.executable_path
        program = next(filter(None, map(shutil.which, PROGRAMS)), own if Path(own).exists() else None)
        if program is None:
            assert "CI" not in os.environ, "no Chromium"
            pytest.skip("no Chromium on this machine: install one, or say `playwright install chromium`")
        chromium = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = make_run(tmp_path_factory.mktemp("runs") / "one", effects=EFFECTS, diverged={"sgdm": [2]})
    assert report.main([str(run.path)]) == 0
    return run.path / "report.html"


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    runs = [str(make_run(folder / task, task, EFFECTS, seeds=5).path) for task in ("mnist1d", "resnet18")]
    assert report.main([*runs, "--out", str(folder / "report")]) == 0
    return folder / "report" / "report.html"


@dataclass
class Heard:
    """What a page said and asked for meanwhile."""

    console: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


def opened(browser: Browser, path: Path, viewport: dict[str, int] = DESK, **context: Any) -> tuple[Page, Heard]:
    page = browser.new_context(viewport=viewport, **context).new_page()  # type: ignore[arg-type]
    page.set_default_timeout(5_000)
    heard = Heard()
    page.on("console", lambda message: heard.console.append(message.text))
    page.on("pageerror", lambda error: heard.console.append(str(error)))
    page.on("request", lambda request: heard.requests.append(request.url))
    page.goto(path.as_uri())
    return page, heard


def column(page: Page, number: int) -> list[str]:
    return page.locator(f"table.board tbody tr > :nth-child({number})").all_inner_texts()


@pytest.mark.parametrize("which", ["single", "several"])
def test_it_asks_for_nothing_and_complains_of_nothing(
    browser: Browser, which: str, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(which)
    page, heard = opened(browser, path)

    for button in page.locator("button").all():
        button.click()
    page.locator("figure.hover").first.hover()

    assert heard.console == []
    assert [url for url in heard.requests if not url.startswith("data:")] == [path.as_uri()]


def test_what_it_is_about_the_verdicts_and_the_caveats_are_on_the_first_screen(browser: Browser, single: Path) -> None:
    page, _ = opened(browser, single)

    parts = ("#answer .about", "#answer .verdicts", "#answer .caveats", "#answer table.board")
    places = [page.locator(part).bounding_box() for part in parts]
    tops = [place["y"] for place in places if place is not None]
    assert len(tops) == len(parts) and tops == sorted(tops)
    caveats = places[2]
    assert caveats is not None and caveats["y"] < DESK["height"]
    assert page.locator("#answer .verdicts .verdict").all_inner_texts() == ["better", "worse"]


def test_a_verdict_of_what_was_not_declared_or_is_slight_is_marked(browser: Browser, tmp_path: Path) -> None:
    run = make_run(tmp_path / "one", effects=EFFECTS, settings=["report.margin.acc=0.5"])
    assert report.main([str(run.path), "--metric", "test_acc", "--out", str(tmp_path / "report")]) == 0
    page, _ = opened(browser, tmp_path / "report" / "report.html")
    marked = page.locator("#answer .verdict.better")
    assert marked.all_inner_texts() == ["better, by less than matters (not declared)"] * 2  # sentence, leaderboard
    assert page.locator("#answer .verdict.slight.worse").count() == 2
    assert "(not declared)" in page.locator("#task-1 svg").nth(3).inner_html()


def test_the_leaderboard_sorts_by_numbers_either_way(browser: Browser, single: Path) -> None:
    page, _ = opened(browser, single)
    assert column(page, 1) == ["diag_hessian", "adam", "sgdm"]  # by mean loss

    head = page.get_by_role("columnheader", name="test_loss")
    head.get_by_role("button").click()
    assert column(page, 1) == ["sgdm", "adam", "diag_hessian"]
    assert head.get_attribute("aria-sort") == "descending"

    page.get_by_role("button", name="optimizer", exact=True).press("Enter")
    assert column(page, 1) == ["adam", "diag_hessian", "sgdm"]
    assert head.get_attribute("aria-sort") is None

    diverged = page.get_by_role("button", name="diverged (seeds, trials)", exact=True)
    diverged.click()
    diverged.click()
    assert column(page, 1)[0] == "sgdm"


def test_a_name_in_the_legend_hides_its_curves_everywhere(browser: Browser, single: Path) -> None:
    page, _ = opened(browser, single)
    parts = page.locator("figure.hover [data-series=sgdm]")
    others = page.locator("figure.hover [data-series=adam]")
    assert parts.count() >= 3
    button = page.get_by_role("navigation").get_by_role("button", name="sgdm")

    button.press("Space")

    assert button.get_attribute("aria-pressed") == "false"
    assert displayed(parts) == {False}
    assert displayed(others) == {True}

    button.click()

    assert button.get_attribute("aria-pressed") == "true"
    assert displayed(parts) == {True}


def displayed(parts: Locator) -> set[bool]:
    return set(parts.evaluate_all("all => all.map(each => getComputedStyle(each).display !== 'none')"))


def test_values_are_shown_under_the_pointer_and_by_arrow_keys(browser: Browser, single: Path) -> None:
    page, _ = opened(browser, single)
    curves, tip = page.locator("#\\31-curves-steps"), page.locator("#tip")
    assert tip.is_hidden()

    curves.locator("svg").hover()
    assert sorted(tip.locator("strong").all_inner_texts()) == sorted(EFFECTS)

    page.mouse.move(1, 1)
    assert tip.is_hidden()

    curves.focus()
    curves.press("ArrowRight")
    first = tip.inner_text()
    assert "at 0" in first
    curves.press("ArrowRight")
    assert "at 200" in tip.inner_text()
    curves.press("ArrowLeft")
    assert tip.inner_text() == first
    curves.press("Escape")
    assert tip.is_hidden()

    page.get_by_role("navigation").get_by_role("button", name="adam").click()
    curves.locator("svg").hover()
    assert tip.locator("strong").all_inner_texts() == ["sgdm", "diag_hessian"]  # as they lie, from above


def test_several_tasks_are_a_matrix_of_verdicts(browser: Browser, several: Path) -> None:
    page, _ = opened(browser, several)
    rows = page.locator("#answer table.matrix tr").all()
    cells = [row.locator("th, td").all_inner_texts() for row in rows]
    assert cells[0] == ["optimizer", "mnist1d", "resnet18"]
    assert [row[0].strip() for row in cells[1:]] == list(EFFECTS)
    assert cells[2][1:] == ["baseline", "baseline"]
    assert {word for row in (cells[1], cells[3]) for word in row[1:]} <= {
        f"{word} (configurations of one search each)" for word in ("better", "worse", "inconclusive")
    }
    assert page.locator("#answer .about").count() == 1


@pytest.mark.parametrize("which", ["single", "several"])
@pytest.mark.parametrize(("scheme", "viewport"), [("light", DESK), ("dark", DESK), ("light", PHONE)])
def test_it_fits_and_is_legible_in_both_themes_and_on_a_phone(
    browser: Browser, which: str, scheme: str, viewport: dict[str, int], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    page, _ = opened(browser, request.getfixturevalue(which), viewport, color_scheme=scheme)

    page.screenshot(path=tmp_path / "page.png", full_page=True)

    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    ink, ground = (page.evaluate(f"getComputedStyle(document.body).{what}") for what in ("color", "backgroundColor"))
    assert contrast(ink, ground) > 7
    for word in page.locator(".verdict").all()[:4]:
        assert contrast(word.evaluate("each => getComputedStyle(each).color"), ground) > 4.5
    text = page.locator("figure svg text").first
    assert contrast(text.evaluate("each => getComputedStyle(each).fill"), ground) > 7
    sizes = page.locator("#\\31-curves-steps svg text").evaluate_all(
        "all => all.map(each => each.getBoundingClientRect().height)"
    )
    assert min(size for size in sizes if size) > 8
    assert (tmp_path / "page.png").stat().st_size > 20_000


def contrast(one: str, other: str) -> float:
    """WCAG's ratio of luminances."""
    lights = sorted((luminance(colour) for colour in (one, other)), reverse=True)
    return (lights[0] + 0.05) / (lights[1] + 0.05)


def luminance(colour: str) -> float:
    parts = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_it_is_complete_without_scripts_and_on_paper(browser: Browser, single: Path, tmp_path: Path) -> None:
    page, _ = opened(browser, single, java_script_enabled=False)
    assert page.get_by_role("rowheader", name="diag_hessian").is_visible()
    assert page.locator("figure svg").first.is_visible()

    printed, _ = opened(browser, single, color_scheme="dark")
    content = printed.pdf(path=tmp_path / "page.pdf", print_background=True)
    printed.emulate_media(media="print")
    assert content.startswith(b"%PDF")
    assert printed.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


def test_all_controls_can_be_reached_by_keyboard(browser: Browser, single: Path) -> None:
    page, _ = opened(browser, single)
    wanted = page.locator("button, a[href], summary, figure.hover").count()

    reached = set()
    for _ in range(wanted + 5):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("[...document.querySelectorAll('*')].indexOf(document.activeElement)"))

    assert len(reached) >= wanted


def test_figures_have_names_and_ids_are_unique(browser: Browser, several: Path) -> None:
    page, _ = opened(browser, several)

    assert all(page.locator("figure svg").evaluate_all("all => all.map(svg => svg.getAttribute('aria-label'))"))
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(each => each.id)")
    assert len(ids) == len(set(ids))
