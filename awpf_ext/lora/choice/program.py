"""A program that scores a merge."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import BinaryIO

from awpf_ext.errors import DataError, UserError, reason
from awpf_ext.lora.checkpoint_reader import file_hash


class ProgramScore:
    """Calls a program with the path of a merge; the last line that it prints is the score.

    The path is that of an adapter's folder, or of a checkpoint's file, as the last argument. Higher
    scores are better.
    """

    def __init__(self, command: str) -> None:
        """command: words as in a shell; a file that ends in .py is run by this Python."""
        try:
            words = shlex.split(command)
        except ValueError as error:
            raise UserError(f"the command {command!r} cannot be read: {error}") from None
        # Not a Path: it would drop the "./" that tells a file here from a program in PATH.
        program = os.path.expanduser(words[0]) if words else ""  # noqa: PTH111
        found = shutil.which(program)
        if program.endswith(".py") and Path(program).is_file():
            found = program
            self._words = [sys.executable, program, *words[1:]]
        elif found is not None:
            self._words = [found, *words[1:]]
        else:
            raise UserError(
                f"{command!r} is neither a data set (NAME:PATH, as in --dataset) nor a program "
                "that can be run"
            )
        self.name = command
        # The same command may be another program later: all files that it names count.
        # A word may be too long for a name, for which Path raises an error.
        files = [Path(word) for word in (found, *words[1:]) if os.path.isfile(word)]  # noqa: PTH113
        try:
            self.version = " ".join(map(file_hash, files))
        except OSError as error:
            raise UserError(f"cannot read a file of {command!r}: {reason(error)}") from None

    def __call__(self, path: Path) -> float:
        # Files, not pipes: a process that the program leaves behind would hold a pipe open.
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
            try:
                code = subprocess.run(
                    [*self._words, str(path)],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=errors,
                    check=False,
                ).returncode
            except OSError as error:
                raise DataError(f"cannot run {self.name}: {reason(error)}") from None
            line, said = _last_line(output), _last_line(errors)
        if code:
            how = f"exit code {code}" if code > 0 else f"signal {-code}"
            raise DataError(f"{self.name} failed with {how}{said and f' ({said})'}")
        try:
            return float(line)
        except ValueError:
            raise DataError(
                f"the last line that {self.name} printed is {line!r}; expected the score, a number"
            ) from None


def _last_line(file: BinaryIO) -> str:
    file.seek(0)
    text = file.read().decode(errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
