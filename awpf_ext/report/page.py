"""Writes the sections: one self-contained HTML page, and every figure as PNG and SVG."""

from __future__ import annotations

import io as bytes_io
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from awpf_ext import io
from awpf_ext._library import __version__
from awpf_ext.report.blocks import Drawing, Section
from awpf_ext.report.names import replaced
from awpf_ext.report.style import css_variables, themed

if TYPE_CHECKING:
    from jinja2 import Environment
    from matplotlib.figure import Figure

HERE = Path(__file__).parent
PAGE = "report.html"
FIGURES = "figures"


def write_page(
    folder: Path,
    *,
    title: str,
    lead: str,
    sections: Sequence[Section],
    drawable: Callable[[str], bool],
    substitutes: Mapping[str, str],
) -> Path:
    """Write folder/figures/* and then folder/report.html: if the page exists, it is complete.

    `substitutes` replaces names in image files if no installed font has their characters. If two
    processes write a report to the same folder, one waits for the other.
    """
    with io.lock(folder / FIGURES / ".lock"):
        io.remove_leftovers(folder / FIGURES)
        for leftover in folder.glob(f".{PAGE}.*.tmp"):
            leftover.unlink(missing_ok=True)
        return _write(folder, title, lead, sections, drawable, substitutes)


def _write(
    folder: Path,
    title: str,
    lead: str,
    sections: Sequence[Section],
    drawable: Callable[[str], bool],
    substitutes: Mapping[str, str],
) -> Path:
    drawings = [b for section in sections for b in section.blocks if isinstance(b, Drawing)]
    inline: dict[str, str] = {}
    for drawing in drawings:
        svg = _svg(drawing.figure)
        inline[drawing.name] = _for_page(svg, drawing.name, drawing.caption)
        io.write_atomic(folder / FIGURES / f"{drawing.name}.svg", svg.encode())
        png = _png(drawing.figure, drawable, substitutes)
        io.write_atomic(folder / FIGURES / f"{drawing.name}.png", png)
    html = (
        _environment()
        .get_template("page.html")
        .render(
            title=title,
            lead=lead,
            sections=sections,
            inline=inline,
            variables=css_variables(),
            version=__version__,
            figures=FIGURES,
        )
    )
    io.write_atomic(folder / PAGE, html.encode(errors="replace"))
    return folder / PAGE


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["drawn"] = (
        Markup  # for SVG made by `_for_page` only, never for text from outside
    )
    return environment


def _svg(figure: Figure) -> str:
    buffer = bytes_io.BytesIO()
    nothing: dict[str, Any] = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", metadata=nothing)
    return buffer.getvalue().decode()


def _png(figure: Figure, drawable: Callable[[str], bool], substitutes: Mapping[str, str]) -> bytes:
    """Call it after `_svg`, which computes the layout. Names that cannot be drawn are replaced."""
    from matplotlib.text import Text

    figure.set_layout_engine("none")
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            names = [label.get_text() for label in axis.get_ticklabels()]
            if not all(map(drawable, names)):  # tick labels can only be set together
                axis.set_ticklabels([replaced(name, substitutes) for name in names])
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        if not drawable(text.get_text()):
            text.set_text(replaced(text.get_text(), substitutes))
    buffer = bytes_io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _for_page(svg: str, name: str, description: str) -> str:
    """The SVG for the page: unique ids, the page's colours and fonts, any width."""
    from markupsafe import escape

    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", svg)
    svg = re.sub(r'^<svg[^>]*?viewBox="([^"]+)"[^>]*>', _opening(r"\1", escape(description)), svg)
    return themed(svg).strip()


def _opening(box: str, description: str) -> str:
    described = str(description).replace("\\", "\\\\")
    return (
        f'<svg viewBox="{box}" role="img" aria-label="{described}" '
        'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">'
    )
