"""The fenced blocks of a Markdown page, and what the comment above each says of its test.

    (nothing)                   python: executed; sh: its `awpf` commands are run; both must succeed
    <!-- fails: CODE -->        sh: the commands end with this exit code
    <!-- output -->             text: what the block before it printed; ... stands for anything
    <!-- file: NAME -->         written to the page's folder, for the blocks after it
    <!-- needs: WHAT -->        sh: options and values are checked, nothing is run; python: compiled
    <!-- not run: WHY -->       sh and text: shown only
    <!-- message from FILE: WORDS -->
                                text: the words are in the block and in that file
    <!-- test command -->       run by .ci/run

A block that none of these covers is a mistake.
"""

from __future__ import annotations

import re
import shlex
import textwrap
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
KINDS = ("fails", "output", "file", "needs", "not run", "message from", "test command")
# Which comments a block of a language may have; "" is none.
ALLOWED = {
    "python": ("", "needs"),
    "sh": ("", "fails", "needs", "not run", "test command"),
    "text": ("output", "message from", "not run"),
    "yaml": ("file",),
    "csv": ("file",),
    "cpp": ("not run",),
    "bibtex": ("not run",),
}
_FENCE = re.compile(
    r"^(?:[ ]*<!--[ ](?P<comment>[^\n]*)[ ]-->\n)?"
    r"(?P<indent>[ ]*)```(?P<language>[^\n]*)\n(?P<content>.*?)^(?P=indent)```[ ]*$",
    re.DOTALL | re.MULTILINE,
)


class Block(NamedTuple):
    """One fenced block."""

    place: str  # page and line, for messages
    language: str
    kind: str  # of KINDS, or ""
    detail: str  # what the comment says after the colon
    content: str

    @property
    def commands(self) -> list[list[str]]:
        """The words of each shell command, comments left out."""
        lines = re.sub(r"\\\n\s*", " ", self.content).splitlines()
        return [words for line in lines if (words := shlex.split(line, comments=True))]

    @property
    def fault(self) -> str | None:
        """What is wrong with the block as a block."""
        allowed = ALLOWED.get(self.language)
        if allowed is None:
            return f"{self.place}: no test knows what to do with {self.language or 'a bare fence'}"
        if self.kind not in allowed:
            given = f"<!-- {self.kind} -->" if self.kind else "no comment above it"
            return f"{self.place}: {self.language} with {given}; expected {' or '.join(allowed)}"
        if self.language == "sh" and self.kind in ("", "fails", "needs"):
            others = [words[0] for words in self.commands if words[0] != "awpf"]
            if others:
                return f"{self.place}: {others[0]} is not run by any test; mark it <!-- not run -->"
        return None


def pages() -> list[Path]:
    """Every page that a reader is shown."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks_of(page: Path) -> list[Block]:
    """The page's fenced blocks, in order."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        kind, _, detail = (match["comment"] or "").partition(":")
        if kind.startswith("message from"):
            detail = f"{kind.removeprefix('message from').strip()}:{detail}"
            kind = "message from"
        line = text.count("\n", 0, match.start("language")) + 1
        found.append(
            Block(
                place=f"{page.relative_to(ROOT)}:{line}",
                language=match["language"].strip(),
                kind=kind if kind in KINDS else "",
                detail=detail.strip(),
                content=textwrap.dedent(match["content"]),
            )
        )
    return found
