"""A program that scores a merge."""

from __future__ import annotations

import hashlib
import math
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from awpf_ext.errors import DataError, UserError, reason


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
        found = shutil.which(Path(words[0]).expanduser()) if words else None
        script = Path(words[0]).expanduser() if words else Path()
        if script.suffix == ".py" and script.is_file():
            words = [sys.executable, str(script), *words[1:]]
        elif found is None:
            raise UserError(
                f"{command!r} is neither a data set (NAME:PATH, as in --dataset) nor a program "
                "that can be run"
            )
        self._words = words
        self.name = command
        # The same command may be another program later.
        files = [Path(word) for word in words[:2] if word != sys.executable]
        content = b"".join(file.read_bytes() for file in files if file.is_file())
        self.version = hashlib.sha256(content).hexdigest()

    def __call__(self, path: Path) -> float:
        try:
            done = subprocess.run(
                [*self._words, str(path)],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                check=False,
            )
        except OSError as error:
            raise DataError(f"cannot run {self.name}: {reason(error)}") from None
        if done.returncode:
            said = _last_line(done.stderr)
            code = done.returncode
            how = f"exit code {code}" if code > 0 else f"signal {-code}"
            raise DataError(f"{self.name} failed with {how}{said and f' ({said})'}")
        line = _last_line(done.stdout)
        try:
            score = float(line)
        except ValueError:
            score = math.nan
        if not math.isfinite(score):
            raise DataError(
                f"the last line that {self.name} printed is {line!r}; expected the score, a number"
            )
        return score


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
