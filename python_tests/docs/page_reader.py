"""Follows a page, block by block, as a patient reader at a terminal would."""

from __future__ import annotations

import contextlib
import doctest
import io
from collections.abc import Iterable
from pathlib import Path

import pytest
from page_blocks import ROOT, Block
from typer.main import get_command
from typer.testing import CliRunner

from awpf_ext.cli import compare
from awpf_ext.cli import run as runs
from awpf_ext.cli.commands import app


class Reader:
    """Runs and checks blocks in order, in one folder and one Python session."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, root: Path = ROOT) -> None:
        self.folder = folder
        self.root = root
        self.monkeypatch = monkeypatch
        self.names: dict[str, object] = {"__name__": "page"}
        self.printed = ""

    def follow(self, blocks: Iterable[Block]) -> None:
        for block in blocks:
            self.do(block)

    def do(self, block: Block) -> None:
        assert block.fault is None, block.fault
        if block.kind == "needs":
            self.check(block)
        elif block.kind == "file":
            (self.folder / block.detail).write_text(block.content, encoding="utf-8")
        elif block.kind == "output":
            self.compare(block)
        elif block.kind == "message from":
            self.look_up(block)
        elif block.kind in ("", "fails"):
            self.printed = self.execute(block) if block.language == "python" else self.type(block)

    def execute(self, block: Block) -> str:
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(block.content, block.place, "exec"), self.names)
        return out.getvalue()

    def type(self, block: Block) -> str:
        """Run the commands; an `awpf` that succeeds where it should fail is a mistake too."""
        expected = int(block.detail) if block.kind == "fails" else 0
        shown = ""
        for words in block.commands:
            ended = CliRunner().invoke(app, words[1:])
            seen = f"{block.place}: {' '.join(words)} ended with {ended.exit_code}: {ended.output}"
            assert ended.exit_code == expected, seen
            shown += ended.output
        return shown

    def check(self, block: Block) -> None:
        if block.language == "python":
            compile(block.content, block.place, "exec")
            return
        for words in block.commands:
            check_command(words, block.place, self.monkeypatch)

    def compare(self, block: Block) -> None:
        flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        right = doctest.OutputChecker().check_output(block.content, self.printed, flags)
        assert right, f"{block.place} shows\n{block.content}\nbut this was printed\n{self.printed}"

    def look_up(self, block: Block) -> None:
        file, _, words = block.detail.partition(":")
        source = " ".join((self.root / file.strip()).read_text(encoding="utf-8").split())
        for text in (source, " ".join(block.content.split())):
            assert words.strip() in text, f"{block.place}: {words!r} is not in {text}"


class _WouldStart(BaseException):
    """The command line was understood; from here on it would do what was asked."""


def check_command(words: list[str], place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Check an `awpf` command up to the point where it starts to work."""

    def would_start(*_: object, **__: object) -> None:
        raise _WouldStart

    if words[1] not in ("run", "compare", "sweep", "features"):
        command = get_command(app)
        with command.make_context("awpf", list(words[1:])) as context:
            name, subcommand, rest = command.resolve_command(context, list(words[1:]))
            subcommand.make_context(name, rest)
        return
    with monkeypatch.context() as patch:
        for module, name in (
            (runs, "run_configured"),
            (runs, "load_features"),
            (compare, "run_sweep"),
        ):
            patch.setattr(module, name, would_start)
        try:
            ended = CliRunner().invoke(app, words[1:])
        except _WouldStart:
            return
    raise AssertionError(f"{place}: {' '.join(words)} ended with {ended.exit_code}: {ended.output}")
