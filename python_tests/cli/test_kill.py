"""Real processes, killed at random moments and at every moment of writing, then resumed."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import sys
from itertools import count
from pathlib import Path

import pytest

from awpf_ext import io

KILLED = -9
TIMES = ("seconds", "seconds_to_learn", "digest")


class Driver:
    """Runs the command line in a process that may be killed."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("kill_driver.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, arguments, *, after=None, at=None):
        """Exit status and seconds; a run that fails by itself fails the test."""
        request = {"arguments": [str(a) for a in arguments], "after": after, "at": at}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        assert answer["status"] in (0, KILLED), answer["errors"]
        return answer["status"], answer["seconds"]

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


@pytest.fixture(scope="module")
def driver():
    pytest.importorskip("open_clip", reason="needs open_clip_torch")
    if not hasattr(os, "fork"):
        pytest.skip("needs a system that forks")
    started = Driver()
    yield started
    started.close()


def content(folder: Path) -> dict[str, object]:
    """All that a run leaves, but times: tensors byte for byte, results without their seconds."""
    found: dict[str, object] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix == ".safetensors":
            found[path.name] = path.read_bytes()
        elif path.suffix == ".json":
            found[path.name] = without_times(io.read_json(path))
        elif path.name not in ("run.lock", "figures", "references"):
            found[path.name] = path.read_text()
    return found


def without_times(value):
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if k not in TIMES}
    return [without_times(v) for v in value] if isinstance(value, list) else value


def test_killed_at_twenty_random_moments(driver, quick_arguments, tmp_path):
    command = ["run", *quick_arguments, "--set", "epochs=4", "--increment=1", "--resume", "--out"]
    driver.run([*command, tmp_path / "warm"])
    _, seconds = driver.run([*command, tmp_path / "whole"])
    expected = content(tmp_path / "whole")
    moments = random.Random(0)
    kills = 0
    for number in count():
        folder, before = tmp_path / f"run{number}", kills
        while driver.run([*command, folder], after=moments.uniform(0, seconds))[0] == KILLED:
            kills += 1
        driver.run([*command, folder])
        assert content(folder) == expected
        if kills >= 20:
            break
        if kills == before:  # a busy machine has become free: a run takes less than at first
            seconds *= 0.8
        assert number < 60, f"{kills} kills: the runs end too soon to be killed"


def test_killed_at_every_moment_of_writing(driver, write_features, tmp_path):
    data = write_features(classes=2)
    settings = ["--set", "epochs=1", "--set", "replay_per_epoch=20"]
    plain = [f"--dataset=features:{data}", "--increment=1", "--no-report", *settings]
    command = ["run", *plain, "--resume", "--out"]
    driver.run([*command, tmp_path / "whole"])
    expected = content(tmp_path / "whole")
    for moment in count(1):
        folder = tmp_path / f"run{moment}"
        if driver.run([*command, folder], at=moment)[0] == 0:
            break
        driver.run([*command, folder])
        assert content(folder) == expected
    assert moment > 40


def test_killed_while_references_are_trained(driver, write_features, tmp_path):
    """At every fifth moment after the run: it stays finished, and its references continue."""
    data = write_features(classes=2)
    settings = ["--set", "epochs=1", "--set", "replay_per_epoch=20"]
    plain = [f"--dataset=features:{data}", "--increment=1", "--no-report", *settings]
    command = ["run", *plain, "--references=naive,joint", "--out"]
    driver.run([*command, tmp_path / "whole"])

    def all_of(folder: Path) -> list[dict[str, object]]:
        inside = [folder / "references" / method for method in ("naive", "joint")]
        return [content(kept) for kept in (folder, *inside)]

    expected = all_of(tmp_path / "whole")
    alone = tmp_path / "alone"
    driver.run([*command[:-1], "--references=none", "--out", alone])
    for moment in count(1, 5):
        folder = tmp_path / f"run{moment}"
        shutil.copytree(alone, folder)
        status, _ = driver.run([*command, folder], at=moment)
        assert content(folder) == expected[0]
        if status == 0:
            break
        driver.run([*command, folder])
        assert all_of(folder) == expected
    assert moment > 40


def test_killed_while_features_are_written(driver, image_arguments, tmp_path):
    """At every third moment: in shards of the images, in the whole splits, in the class texts."""
    plain = [a for a in image_arguments if "store=" not in a and a != "--set"]

    def command(folder: Path) -> list[object]:
        store = ["--set", f"store={folder / 'store'}"]
        return ["run", *plain, *store, "--method=zero_shot", "--resume", "--out", folder / "run"]

    def learned(folder: Path) -> dict[str, object]:
        return {k: v for k, v in content(folder / "run").items() if k != "config.yaml"}

    driver.run(command(tmp_path / "whole"))
    expected = learned(tmp_path / "whole")
    for moment in count(1, 3):
        folder = tmp_path / f"run{moment}"
        if driver.run(command(folder), at=moment)[0] == 0:
            break
        driver.run(command(folder))
        assert learned(folder) == expected
    assert moment > 60


def test_killed_while_the_report_is_made(driver, write_features, tmp_path):
    """At every seventh moment: the run stays finished, and the next command makes its report."""
    plain = [f"--dataset=features:{write_features(classes=2)}", "--method=zero_shot"]
    command = ["run", *plain, "--increment=2", "--out", tmp_path / "run"]
    driver.run([*command, "--no-report"])
    expected = content(tmp_path / "run")
    page = tmp_path / "run" / "report.html"
    for moment in count(1, 7):
        asked = command if moment % 2 else ["report", tmp_path / "run"]
        status, _ = driver.run(asked, at=moment)
        if page.exists():  # whole, and of whole figures
            text = page.read_text()
            names = re.findall(r'href="(figures/[^"]+)"', text)
            assert text.endswith("</html>\n")
            assert names
            assert all((tmp_path / "run" / name).stat().st_size for name in names)
            page.unlink()
        assert {k: v for k, v in content(tmp_path / "run").items() if k[0] != "."} == expected
        if status == 0:
            break
    assert moment > 20
    assert not list(tmp_path.rglob(".*.tmp"))  # what killed writers left went with the last report
