"""What README and docs say happens: every block is run or checked, in the order of its page."""

from __future__ import annotations

import pytest
from page_blocks import ROOT, blocks_of, pages

pytest.importorskip("typer", reason='needs the extra "clip"')

from page_reader import Reader

from awpf_ext.cli import compare
from awpf_ext.cli import run as runs
from awpf_ext.data import DATASETS
from awpf_ext.methods import METHODS


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """Tensors as small as these are done before a second thread has woken up."""
    import torch

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def without_closing_reports(monkeypatch):
    """Reports are tested where they are made; here they would take most of the time."""
    for module in (runs, compare):
        monkeypatch.setattr(
            module, "closing_report", lambda folder, reporter, **_: folder / "report.html"
        )


@pytest.fixture(autouse=True)
def same_registries():
    """What a page registers is gone after it."""
    kept = dict(METHODS), dict(DATASETS)
    yield
    for registry, before in zip((METHODS, DATASETS), kept, strict=True):
        registry.clear()
        registry.update(before)


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_the_page_does_what_it_says(page, page_folder, monkeypatch):
    Reader(page_folder, monkeypatch).follow(blocks_of(page))
