"""The page in a real browser: figures are there, nothing overflows, nothing is asked for."""

from __future__ import annotations

import pytest

from awpf_ext.report import write_report

BOXES = """
[...document.querySelectorAll("figure svg, figure img")].map(e => {
  const box = e.getBoundingClientRect(); return [box.width, box.height]; })
"""
# Elements that reach past the page's right edge, other than inside what scrolls by itself.
OUTSIDE = """
[...document.querySelectorAll("body *")].filter(e => !e.closest(".scroll") && !e.closest("svg") &&
  e.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
  .map(e => e.tagName + ": " + e.textContent.slice(0, 60))
"""
COLOURS = """
(() => { const text = document.querySelector("figure svg text");
  return [getComputedStyle(document.body).backgroundColor, getComputedStyle(text).fill]; })()
"""


@pytest.fixture(scope="module")
def pages(
    finished, finished_with_images, finished_sweep, domain_run, combinations, tmp_path_factory
):
    folder = tmp_path_factory.mktemp("pages")
    made = {
        "names": finished,
        "pictures": finished_with_images / "run",
        "sweep": finished_sweep,
        "domains": domain_run,
        "combinations": combinations,
    }
    return {name: write_report(run, out=folder / name) for name, run in made.items()}


def luminance(colour: str) -> float:
    parts = [float(part) for part in colour.strip("rgba()").split(",")[:3]]
    return sum(parts) / 3


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("name", ["names", "pictures", "sweep", "domains", "combinations"])
def test_figures_have_a_size_and_nothing_overflows(browser, pages, name, width):
    page = browser.open(pages[name], width)
    boxes = page.evaluate(BOXES)
    assert len(boxes) == page.evaluate('document.querySelectorAll("figure").length') >= 4
    assert all(across > 50 and down > 30 for across, down in boxes), boxes
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(OUTSIDE) == []
    assert page.complaints == []
    asked = [url for url in page.requests if not url.startswith("data:")]
    assert asked == [pages[name].resolve().as_uri()]


def test_light_and_dark(browser, pages):
    for dark in (False, True):
        ground, ink = browser.open(pages["names"], 1280, dark).evaluate(COLOURS)
        assert (luminance(ground) < 60) == dark
        assert abs(luminance(ground) - luminance(ink)) > 80
