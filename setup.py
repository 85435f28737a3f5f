"""Builds the native libraries with CMake and ninja; all other settings are in pyproject.toml."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent.resolve()
GIB = 1 << 30


def parallel_jobs() -> int:
    """MAX_JOBS, or one job per core, but at most one per 4 GiB of memory."""
    if os.environ.get("MAX_JOBS"):
        return max(1, int(os.environ["MAX_JOBS"]))
    cores = os.cpu_count() or 1
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return cores
    return max(1, min(cores, memory // (4 * GIB)))


def build_tool(name: str) -> str:
    """The program from its PyPI package, which may not be on PATH, or else the system's."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        sys.exit(f"awpf_ext: {name} was not found; install it with `pip install {name}`")
    return found


class CMakeBuild(build_ext):
    """Builds all native libraries with one CMake run."""

    def copy_extensions_to_source(self) -> None:
        """Copy the kernels too: an editable install needs them beside the sources."""
        super().copy_extensions_to_source()
        for library in (Path(self.build_lib) / "awpf_ext").glob("awpf_*.so"):
            self.copy_file(str(library), str(ROOT / "awpf_ext"))

    def build_extension(self, ext: Extension) -> None:
        import torch  # noqa: F401  (a clear error before CMake starts, if it is missing)

        target = Path(self.get_ext_fullpath(ext.name)).parent.resolve()
        build = Path(self.build_temp).resolve() / "cmake"
        if build.exists():  # its cache may be of another torch or compiler
            shutil.rmtree(build)
        build.mkdir(parents=True)
        configure = [
            build_tool("cmake"),
            "-G",
            "Ninja",
            f"-DCMAKE_MAKE_PROGRAM={build_tool('ninja')}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-DCMAKE_INSTALL_PREFIX={target}",
            f"-DCMAKE_BUILD_TYPE={'Debug' if self.debug else 'Release'}",
            str(ROOT),
        ]
        if os.environ.get("AWPF_WERROR"):
            configure.append("-DAWPF_WERROR=ON")
        configured = subprocess.run(configure, cwd=build, text=True, stdout=subprocess.PIPE)
        if configured.returncode:
            sys.exit(f"{configured.stdout}\nawpf_ext: CMake could not configure the native build")
        build_all = [build_tool("ninja"), f"-j{parallel_jobs()}"]
        subprocess.run(build_all, cwd=build, check=True)
        subprocess.run([*build_all, "install"], cwd=build, check=True, stdout=subprocess.DEVNULL)
        output = configured.stdout.splitlines()
        summary = [line[3:] for line in output if line.startswith("-- awpf_ext:")]
        print("\n".join([*summary, f"awpf_ext: installed into {target.name}/"]), flush=True)


class FreshBuild(build_py):
    """Stages the package in an empty folder. Otherwise setuptools would also install the files of
    an earlier build in build/lib that no longer exist in the sources.
    """

    def run(self) -> None:
        if not self.editable_mode:
            for package in {name.partition(".")[0] for name in self.packages or ()}:
                staged = Path(self.build_lib) / package
                if staged.exists():
                    shutil.rmtree(staged)
        super().run()


COMMANDS = {"build_ext": CMakeBuild, "build_py": FreshBuild}
setup(ext_modules=[Extension("awpf_ext._C", sources=[])], cmdclass=COMMANDS)
