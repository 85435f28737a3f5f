"""The site builds without a complaint, needs no network, and no link of a page leads nowhere."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from page_blocks import ROOT, pages


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site; `--strict` fails on broken links and anchors, and on pages left out."""
    for module in ("material", "latex2mathml"):
        if importlib.util.find_spec(module) is None:
            pytest.skip('needs mkdocs-material and latex2mathml, the extra "docs"')
    target = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(target)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return target


class _Fetched(HTMLParser):
    """What a browser would fetch for a page, or show as markup that was not understood."""

    LOADING = ("link", "script", "img", "iframe", "source")

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag, attributes) -> None:
        if tag in self.LOADING:
            self.addresses += [v for k, v in attributes if k in ("src", "href") and v]


def test_the_site_fetches_nothing_from_elsewhere(site):
    built = sorted(site.rglob("*.html"))
    assert len(built) >= len(list((ROOT / "docs").rglob("*.md")))
    for page in built:
        fetched = _Fetched()
        fetched.feed(page.read_text(encoding="utf-8"))
        outside = [address for address in fetched.addresses if re.match(r"(https?:)?//", address)]
        assert not outside, f"{page.name} fetches {outside}"
        for address in fetched.addresses:
            path = address.partition("#")[0].partition("?")[0]
            if path and not address.startswith("data:") and page.name != "404.html":
                assert (page.parent / path).exists(), f"{page.name} misses {address}"


def test_formulas_are_shown_as_formulas(site):
    text = (site / "methods" / "rapf.html").read_text(encoding="utf-8")
    assert text.count("<math") >= 5
    assert 'class="formula"' in text
    for page in site.rglob("*.html"):
        assert "arithmatex" not in page.read_text(encoding="utf-8"), page.name


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_the_page_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path = target.partition("#")[0]
        if path and "://" not in target:
            assert (page.parent / path).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_lines_of_the_page_fit_into_120_characters(page):
    lines = page.read_text(encoding="utf-8").splitlines()
    long = [number for number, line in enumerate(lines, 1) if len(line) > 120]
    assert not long, f"{page.name}, lines {long}"


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_paths_that_the_page_names_are_there(page):
    folders = "awpf_ext|csrc|python_tests|bench|tools|examples|docs"
    for path in re.findall(rf"`((?:{folders})/[\w./]+)`", page.read_text(encoding="utf-8")):
        assert "NAME" in path or (ROOT / path).exists(), f"{page.name} names {path}"
