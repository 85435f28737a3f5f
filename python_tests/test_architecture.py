"""Imports go down: a module imports from the floors below its own, and no two import each other."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "awpf_ext"

# From the top down. A part is a folder or a module of awpf_ext; parts of one floor do not import
# each other.
FLOORS = (
    ("cli",),
    ("report",),
    ("runs",),
    ("methods",),
    ("finetuning",),
    ("lora",),
    ("data", "fusion"),
    ("ops", "clip"),
    ("io", "distributed"),
    ("errors", "_library"),
)
ROOT_MODULES = {"__init__", "_library", "distributed", "errors"}
# What each folder of csrc may include beside itself.
NATIVE = {
    "common": (),
    "cpu": ("common",),
    "cuda": ("common", "emulator"),
    "emulator": ("cuda",),  # the seam, cuda/device, alone
}
LONGEST_FILE = 350  # lines


class Import(NamedTuple):
    """One module that another imports."""

    importer: str
    imported: str
    place: str  # file and line


def module_files() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    files = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return files


MODULES = module_files()


def imported_names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything imported, in functions and under TYPE_CHECKING too.

    A string that is the name of a module counts: it is there to be imported later.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"line {node.lineno}: write the module's full name"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Constant) and node.value in MODULES and "." in str(node.value):
            yield node.lineno, str(node.value)


def all_imports() -> list[Import]:
    """Every import of one module of the package by another."""
    found = []
    for importer, path in MODULES.items():
        for line, name in imported_names(ast.parse(path.read_text(encoding="utf-8"))):
            if name == "awpf_ext._C" or name.partition(".")[0] != "awpf_ext":
                continue  # the native library, or somebody else's
            imported = name if name in MODULES else name.rpartition(".")[0]
            found.append(Import(importer, imported, f"{path.relative_to(ROOT)}:{line}"))
    return found


IMPORTS = all_imports()


def part(module: str) -> str:
    """The folder or root module of awpf_ext that a module belongs to; "" for awpf_ext itself."""
    return module.partition(".")[2].partition(".")[0]


def floor(module: str) -> int:
    """0 is the top."""
    return next(number for number, parts in enumerate(FLOORS) if part(module) in parts)


def test_every_part_has_its_floor():
    parts = {part(module) for module in MODULES} - {""}
    assert parts == {name for parts in FLOORS for name in parts}
    assert {path.stem for path in PACKAGE.glob("*.py")} <= ROOT_MODULES


def test_imports_go_down():
    upward = [
        f"{found.place}: {found.importer} imports {found.imported}"
        for found in IMPORTS
        if part(found.importer) not in ("", part(found.imported))
        and (not part(found.imported) or floor(found.imported) <= floor(found.importer))
    ]
    assert not upward, "\n".join(upward)


def test_no_modules_import_each_other():
    graph: dict[str, set[str]] = {module: set() for module in MODULES}
    for found in IMPORTS:
        if found.importer != found.imported:
            graph[found.importer].add(found.imported)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def native_includes() -> Iterator[tuple[Path, Path]]:
    """(a file of csrc, a file of csrc that it includes), both relative to csrc."""
    native = ROOT / "csrc"
    for path in sorted(
        file for kind in ("h", "cpp", "cu") for file in native.glob(f"*/**/*.{kind}")
    ):
        for name in re.findall(r'^\s*#include "(.+)"', path.read_text(encoding="utf-8"), re.M):
            candidates = ((path.parent / name).resolve(), native / name)
            included = next((file for file in candidates if file.exists()), None)
            assert included is not None, f"{path.relative_to(ROOT)} includes {name}"
            yield path.relative_to(native), included.relative_to(native)


def test_native_code_includes_what_its_folder_may():
    """Nobody includes upwards: common knows neither side, and CPU and CUDA do not meet."""
    for path, included in native_includes():
        folder, other = path.parts[0], included.parts[0]
        assert other in (folder, *NATIVE[folder]), f"{path} includes {included}"


def test_only_the_seam_and_the_emulator_know_each_other():
    """Kernels reach the hardware, or the emulator in its place, through cuda/device alone."""
    for path, included in native_includes():
        if {path.parts[0], included.parts[0]} == {"cuda", "emulator"}:
            seam = path if path.parts[0] == "cuda" else included
            assert seam.parts[1] == "device", f"{path} includes {included}"


def test_no_file_is_long():
    folders = ("awpf_ext", "csrc", "python_tests", "bench", "tools", "examples")
    for path in (path for folder in folders for path in (ROOT / folder).rglob("*")):
        if path.suffix in (".py", ".cpp", ".cu", ".cuh", ".h", ".sh"):
            lines = path.read_text(encoding="utf-8").count("\n")
            assert lines <= LONGEST_FILE, f"{path.relative_to(ROOT)} has {lines} lines"
