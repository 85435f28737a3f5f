"""Checks that one binary works with every torch release.

Builds a wheel against the oldest torch and one against the newest, and runs the operation tests
with each wheel on several releases:

    python tools/abi_check.py --folder SCRATCH [--torch 2.10 2.11 newest] [--build 2.10 newest]

Needs a package index and 20 GB in SCRATCH: one virtual environment per release, reused on the next
call.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1].resolve()
BUILD_REQUIREMENTS = [
    "setuptools>=77,<82",
    "wheel",
    "cmake>=3.24",
    "ninja",
    "numpy",
]
TEST_REQUIREMENTS = ["pytest", "hypothesis", "scikit-learn", "scipy", "pydantic", "safetensors"]


def run(*command: object, cwd: Path | None = None) -> None:
    subprocess.run([str(part) for part in command], cwd=cwd, check=True)


def environment(folder: Path, release: str) -> Path:
    """The Python of a virtual environment with that torch release."""
    home = folder / f"torch-{release}"
    python = home / "bin" / "python"
    if not (home / "ready").exists():
        shutil.rmtree(home, ignore_errors=True)
        run(sys.executable, "-m", "venv", home)
        wanted = "torch" if release == "newest" else f"torch=={release}.*"
        requirements = [wanted, *BUILD_REQUIREMENTS, *TEST_REQUIREMENTS]
        run(python, "-m", "pip", "install", "--quiet", *requirements)
        (home / "ready").touch()
    return python


def build(folder: Path, release: str) -> Path:
    """A wheel built against that release."""
    target = folder / f"wheel-{release}"
    shutil.rmtree(target, ignore_errors=True)
    source = folder / f"source-{release}"
    shutil.rmtree(source, ignore_errors=True)
    run("git", "clone", "--quiet", ROOT, source)
    python = environment(folder, release)
    wheel = ("-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps")
    run(python, *wheel, "--wheel-dir", target, source)
    return next(target.glob("*.whl"))


def check(folder: Path, release: str, wheel: Path, tests: Path) -> str:
    """The last line of pytest for the operation tests with that wheel under that release."""
    python = environment(folder, release)
    install = ("-m", "pip", "install", "--quiet", "--no-deps", "--force-reinstall")
    run(python, *install, wheel)
    done = subprocess.run(
        [
            str(python),
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "--rootdir",
            str(tests),
            str(tests),
        ],
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
    )
    if done.returncode:
        print(done.stdout)
    return (done.stdout.strip() or "error: pytest printed no output").splitlines()[-1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--torch", nargs="+", default=["2.10", "2.11", "newest"])
    parser.add_argument("--build", nargs="+", default=["2.10", "newest"])
    options = parser.parse_args()
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for built in options.build:
        wheel = build(folder, built)
        # The tests are copied away from the clone's package folder, so that they import the wheel.
        tests = folder / f"tests-{built}"
        shutil.rmtree(tests, ignore_errors=True)
        shutil.copytree(folder / f"source-{built}" / "python_tests" / "ops", tests)
        rows += [
            (built, release, check(folder, release, wheel, tests)) for release in options.torch
        ]
    for built, release, result in rows:
        print(f"built against torch {built:8s} run on torch {release:8s} {result}")
    return 0 if all("failed" not in result and "error" not in result for *_, result in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
