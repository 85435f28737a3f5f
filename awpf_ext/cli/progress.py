"""Output on standard error: live progress, warnings, notes and errors."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.text import Text

from awpf_ext.data import ExtractProgress
from awpf_ext.runs.trainer import Progress
from awpf_ext.runs.wording import percent


def error_console() -> Console:
    """Standard error; long lines are wrapped in a terminal, but not in a file."""
    return Console(
        stderr=True,
        highlight=False,
        markup=False,
        emoji=False,
        soft_wrap=not sys.stderr.isatty(),
    )


def print_error(error: object) -> None:
    """Print one error without its traceback."""
    error_console().print(Text.assemble(("error: ", "bold red"), str(error)))


class Reporter:
    """Live progress of encoding, training and comparing; only a terminal shows it."""

    def __init__(self, quiet: bool, bar_width: int = 24) -> None:
        self._console = error_console()
        self.quiet = quiet
        self._bar = Bar(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width),
            TextColumn("{task.fields[facts]}", markup=False),
            TimeRemainingColumn(compact=True),
            console=self._console,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
            disable=quiet or not self._console.is_terminal,
        )
        self._line = self._bar.add_task("reading data", total=None, facts="")
        self._stage = ""
        self._width = 0
        self.prefix = ""  # names the run, if there are several
        self.rates: dict[str, float] = {}  # images per second, for each split that was encoded

    @contextmanager
    def live(self) -> Iterator[None]:
        """Show progress during a block; its warnings become notes and its prints go to stderr."""
        with redirect_stdout(sys.stderr), warnings.catch_warnings(), self._bar:
            warnings.simplefilter("default", UserWarning)
            warnings.showwarning = self._warn
            yield

    def note(self, text: str) -> None:
        if not self.quiet:
            self._console.print(Text(text, style="dim"))

    @contextmanager
    def spinner(self, text: str) -> Iterator[None]:
        """Show a text during a block that takes a while."""
        if self.quiet or not self._console.is_terminal:
            yield
            return
        with self._console.status(Text(text)):
            yield

    def __call__(self, event: Progress | ExtractProgress) -> None:
        if isinstance(event, ExtractProgress):
            self._show_encoding(event)
        else:
            self._show_training(event)

    def count(self, done: int, total: int, what: str = "images") -> None:
        """Show how many images, or other things, are done."""
        self._show(what, done, total, f"{done:,}/{total:,}")

    def _show_encoding(self, event: ExtractProgress) -> None:
        what = "prompts" if event.stage == "text" else f"{event.stage} images"
        if event.waiting_for is not None:
            self._show(f"{what}: waiting for {event.waiting_for}", 0, None, "")
            return
        if event.per_second:
            self.rates[event.stage] = event.per_second
        rate = f"  {event.per_second:,.0f}/s" if event.per_second else ""
        self._show(what, event.done, event.total, f"{event.done:,}/{event.total:,}{rate}")

    def _show_training(self, event: Progress) -> None:
        done = event.task + (event.epoch / event.epochs if event.stage == "train" else 1)
        epoch = f"  epoch {event.epoch}/{event.epochs}" if event.stage == "train" else ""
        facts = f"accuracy {percent(event.accuracy[-1])}" if event.accuracy else ""
        self._show(f"task {event.task + 1}/{event.tasks}{epoch}", done, event.tasks, facts)

    def _show(self, text: str, done: float, total: float | None, facts: str) -> None:
        stage = self.prefix + text.split("/")[0].split(" ")[0]
        if stage != self._stage:  # a new stage, with a time estimate of its own
            self._stage = stage
            self._bar.reset(self._line, total=total)
            self._width = 0
        description = f"{self.prefix}{text}"
        self._width = max(self._width, len(description))  # so that the bar does not jump
        self._bar.update(
            self._line,
            description=description.ljust(self._width),
            completed=done,
            total=total,
            facts=facts,
        )

    def _warn(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if issubclass(category, UserWarning):  # other categories are meant for developers
            self._bar.console.print(Text.assemble(("warning: ", "yellow"), str(message)))
