"""Reports of a run and of several: what is in them, whatever the names and the numbers are."""

from __future__ import annotations

import csv
import html
import json
import logging
import re
import shutil
import sys
import warnings
from html.parser import HTMLParser
from pathlib import Path

import pytest
from report_samples import NASTY, QUICK, features_file, without_tests_of

from awpf_ext import io
from awpf_ext.errors import UserError
from awpf_ext.report import write_report
from awpf_ext.report.load import read_run
from awpf_ext.report.names import Fonts, plain, short
from awpf_ext.runs.config import resolve_config
from awpf_ext.runs.folder import RunFolder
from awpf_ext.runs.run import run


class Outline(HTMLParser):
    """Tags, ids and visible text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.text = ""
        self.sources: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        given = dict(attributes)
        self.ids += [given["id"]] if "id" in given else []
        self.sources += [given[key] for key in ("src", "xlink:href") if key in given]

    def handle_data(self, data):
        self.text += f" {data} "


def outline(page: Path) -> Outline:
    return Outline(page.read_text(encoding="utf-8"))


def test_a_run_from_its_folder_alone(own, strict, caplog):
    result = RunFolder(own).result()
    caplog.set_level(logging.DEBUG)
    page = write_report(own)
    assert page == own / "report.html"
    content = outline(page)
    for title in ("Summary", "Accuracy matrix", "Feature map", "Confusions"):
        assert title in content.text
    assert f"{100 * result.last:.1f}" in content.text
    assert result.provenance["order_hash"] in content.text
    assert f"{result.records[-1]['tau']:.4f}" in content.text
    figures = {path.stem for path in (own / "figures").glob("*.svg")}
    assert figures == {path.stem for path in (own / "figures").glob("*.png")}
    assert {"accuracy", "accuracy_matrix", "forgetting", "weights", "mmd", "map_after"} <= figures
    assert {f"figure-{name}" for name in figures} <= set(content.ids)
    assert not [record for record in caplog.records if record.name.startswith("matplotlib")]


@pytest.fixture(scope="module")
def page(finished, tmp_path_factory):
    return write_report(finished, out=tmp_path_factory.mktemp("page"))


def test_the_page_stands_alone_and_is_well_formed(page):
    content = outline(page)
    assert not {"script", "link", "iframe", "object"} & (set(content.tags) - {"link"})
    assert content.tags.count("link") == 1  # the empty icon that keeps browsers from asking for one
    assert all(source.startswith(("data:", "#")) for source in content.sources)
    assert len(content.ids) == len(set(content.ids))
    assert page.stat().st_size < 3_000_000


def test_names_are_text_wherever_they_stand(page):
    text = page.read_text(encoding="utf-8")
    assert "<script" not in text
    assert "b_<i>" not in text
    assert html.escape("features:b_<i>$a_1$.npz") in text
    content = outline(page)
    for name in NASTY:
        assert name in content.text
    drawn = (page.parent / "figures" / "confused_pairs.svg").read_text(encoding="utf-8")
    assert "$x_1$" in drawn  # as it is, not as a formula
    assert "x" * 300 not in drawn


def test_equal_runs_make_equal_pages(page, own):
    again = write_report(own)
    assert again.read_bytes() == page.read_bytes()
    for file in page.parent.glob("figures/*"):
        assert (own / "figures" / file.name).read_bytes() == file.read_bytes()


def test_the_command_makes_the_run_again(finished):
    import shlex

    from awpf_ext.report.sections.provenance import command
    from awpf_ext.runs.config import RUN_KEYS, ConfigLayer, parse_assignments

    saved = read_run(finished).config
    words = shlex.split(command(saved))
    assert words[:2] == ["awpf", "run"]
    pairs = list(zip(words[2::2], words[3::2], strict=True))
    assigned = [value for key, value in pairs if key == "--set"]
    options = {key[2:].replace("-", "_"): value for key, value in pairs if key != "--set"}
    assert set(options) <= set(RUN_KEYS)
    again = resolve_config([ConfigLayer("options", options), parse_assignments(assigned)]).config
    assert again.identity() == saved.identity()


def test_the_command_uses_options_that_there_are():
    import typer

    from awpf_ext.cli.commands import app
    from awpf_ext.finetuning.roles import Role, keys_with
    from awpf_ext.runs.config import RUN_KEYS, RunConfig

    run_command = typer.main.get_command(app).commands["run"]
    options = {name for parameter in run_command.params for name in parameter.opts}
    shown = {*RUN_KEYS} - {*keys_with(RunConfig, Role.MACHINE)}
    used = {f"--{key.replace('_', '-')}" for key in shown}
    assert used <= options


def test_matplotlib_is_as_it_was_and_shows_nothing(finished, tmp_path):
    import matplotlib

    shown_before = "matplotlib.pyplot" in sys.modules
    with matplotlib.rc_context({"font.size": 17.0}):
        write_report(finished, out=tmp_path)
        assert matplotlib.rcParams["font.size"] == 17.0
    assert ("matplotlib.pyplot" in sys.modules) == shown_before


def test_a_run_without_diagnostics(own):
    (own / "diagnostics.safetensors").unlink()
    content = outline(write_report(own))
    assert "folder has no diagnostics.safetensors" in content.text
    assert "Feature map" not in content.text
    assert "Accuracy matrix" in content.text


def test_pictures_are_in_the_page_and_the_data_is_not_needed(finished_with_images, tmp_path):
    copy = Path(shutil.copytree(finished_with_images / "run", tmp_path / "run"))
    content = outline(write_report(copy))
    pictures = [source for source in content.sources if source.startswith("data:image/png")]
    assert len(pictures) == len(read_run(copy).diagnostics.images) > 0
    assert "predicted" in content.text


def test_features_have_no_pictures_and_the_page_says_why(finished, tmp_path):
    assert (
        "made from features, without images" in outline(write_report(finished, out=tmp_path)).text
    )


@pytest.mark.parametrize(
    ("classes", "options", "absent"),
    [
        pytest.param(2, {"increment": 2}, "Accuracy matrix", id="one task"),
        pytest.param(2, {"increment": 1, "method": "zero_shot"}, "Task weights", id="two classes"),
        pytest.param(100, {"increment": 1, "method": "zero_shot"}, "Task weights", id="100 tasks"),
        pytest.param(1000, {"increment": 500, "epochs": 0}, "undefined", id="1,000 classes"),
    ],
)
def test_any_number_of_classes_and_tasks(tmp_path, strict, classes, options, absent):
    data = features_file(tmp_path / "a.npz", classes, tests=2)
    settings = {} if options.get("method") == "zero_shot" else QUICK
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        keys = {**settings, **options}
        run(dataset=f"features:{data}", out=tmp_path / "run", **keys)
    page = write_report(tmp_path / "run")
    content = outline(page)
    assert absent not in content.text
    assert "Provenance" in content.text
    assert not re.search(r"\bnan\b", content.text)
    assert page.stat().st_size < 3_000_000


@pytest.mark.parametrize("labels", [{0, 1}, {2, 3}, {4, 5}], ids=["first", "middle", "last"])
def test_a_task_without_test_images(tmp_path, strict, labels):
    data = without_tests_of(features_file(tmp_path / "a.npz"), labels)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        run(dataset=f"features:{data}", increment=2, order="natural", out=tmp_path / "r", **QUICK)
    content = outline(write_report(tmp_path / "r"))
    assert "1 task without test images" in content.text
    assert not re.search(r"\bnan\b", content.text)


def test_letters_that_no_font_has_are_named_by_number_in_image_files(monkeypatch):
    fonts = Fonts()
    assert fonts.drawable("Äpfel $x_1$")
    assert not fonts.drawable("\U0001f40d")
    assert fonts.families(["plain"]) == ["DejaVu Sans"]
    monkeypatch.setattr(fonts, "_others", {"Another": "another.ttf"})
    monkeypatch.setattr(fonts, "_read", lambda path: {0x1F40D})
    assert fonts.families(["\U0001f40d"]) == ["DejaVu Sans", "Another"]
    assert fonts.drawable("\U0001f40d")


def test_image_files_show_no_empty_boxes():
    from matplotlib.text import Text

    from awpf_ext.report.page import _png, _svg
    from awpf_ext.report.style import drawing, new_figure

    fonts, letters = Fonts(), "\U0001f40d"
    with drawing():
        figure, axes = new_figure()
        axes.plot([0, 1], [0, 1], label=f"a {letters}")
        axes.set_yticks([0, 1], [letters, f"{letters} / b"])
        axes.legend()
        assert f">{letters} / b<" in _svg(figure)
        _png(figure, fonts.drawable, {letters: "class 7"})
    shown = {text.get_text() for text in figure.findobj(Text)}
    assert {"class 7", "class 7 / b", "a class 7"} <= shown
    assert all(fonts.drawable(text) for text in shown)


def test_names_become_one_clean_line():
    assert plain("a\nb\tc\x00\udcff") == "a b c\ufffd\ufffd"
    assert short("abcdefghijklmnopqrstuvwxyz", 10) == "abcdef…xyz"


def test_several_runs_side_by_side(finished_sweep, tmp_path, strict):
    runs = [finished_sweep / f"{value}_order-0_seed-0" for value in ("0.5", "2")]
    page = write_report(runs, out=tmp_path)
    content = outline(page)
    assert "2 values of balance_scale" in content.text
    table = (tmp_path / "table.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(table.splitlines()))
    assert [row["balance_scale"] for row in rows] == ["0.5", "2.0"]
    for row, folder in zip(rows, runs, strict=True):
        assert float(row["last"]) == RunFolder(folder).result().last


def test_a_sweep(finished_sweep, tmp_path, strict):
    sweep = Path(shutil.copytree(finished_sweep, tmp_path / "moved"))
    content = outline(write_report(sweep))
    saved = json.loads((sweep / "sweep.json").read_text())
    for variant in saved["variants"]:
        spread = f"{100 * variant['last']['mean']:.1f} ± {100 * variant['last']['std']:.1f}"
        assert spread in content.text
        assert spread in (sweep / "table.md").read_text(encoding="utf-8")
    assert "seed:0, natural" in content.text
    assert {"figure-sweep_last", "figure-above_first", "figure-accuracy"} <= set(content.ids)
    assert len(content.ids) == len(set(content.ids))


def test_an_unfinished_sweep_is_reported_as_far_as_it_is(finished_sweep, tmp_path):
    sweep = Path(shutil.copytree(finished_sweep, tmp_path / "moved"))
    (sweep / "sweep.json").unlink()
    (sweep / "2_order-0_seed-0" / "result.json").unlink()
    content = outline(write_report(sweep))
    assert "Left out because unfinished: 1 run." in content.text


def test_methods_on_other_data_are_told_apart(finished, tmp_path):
    data = features_file(tmp_path / "other.npz")
    run(dataset=f"features:{data}", increment=3, method="zero_shot", out=tmp_path / "z")
    content = outline(write_report([finished, tmp_path / "z"], out=tmp_path / "both"))
    assert "not all on the same data" in content.text
    assert "zero_shot" in content.text


def test_what_cannot_be_reported(finished, own, tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        write_report(tmp_path / "nothing")
    with pytest.raises(UserError, match="out is not given"):
        write_report([own, finished])
    with pytest.raises(UserError, match="the same run is given twice"):
        write_report([own, own], out=tmp_path / "both")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file; expected a folder"):
        write_report(own, out=tmp_path / "file")
    (own / "result.json").unlink()
    with pytest.raises(UserError, match=r"unfinished run \(3 tasks done\)"):
        write_report(own)


def test_interrupted_it_leaves_the_run_and_is_made_anew(own, monkeypatch):
    before = {path.name: path.read_bytes() for path in own.iterdir()}

    def hook(name: str) -> None:
        if name == "written map_after.png":
            raise KeyboardInterrupt

    monkeypatch.setattr(io.atomic, "FAULT_HOOK", hook)
    with pytest.raises(KeyboardInterrupt):
        write_report(own)
    assert not (own / "report.html").exists()
    assert {p.name: p.read_bytes() for p in own.iterdir() if p.is_file()} == before
    monkeypatch.setattr(io.atomic, "FAULT_HOOK", None)
    assert write_report(own).exists()
