"""The package as such: what importing it costs and says, with and without its native libraries."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import awpf_ext
from awpf_ext import _library

PACKAGE = Path(awpf_ext.__file__).parent
CHECKOUT = Path(__file__).parents[1]


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def output(code: str, **environment: str) -> str:
    done = python(code, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_it_imports_no_heavy_module():
    heavy = ("open_clip", "matplotlib", "typer", "pydantic", "rich", "yaml", "torchvision",
             "sklearn", "scipy", "safetensors", "timm", "tensorboard")  # fmt: skip
    loaded = output(
        "import sys, torch; before = set(sys.modules); import awpf_ext; dir(awpf_ext); "
        "print(' '.join(m for m in set(sys.modules) - before))"
    ).split()
    assert not {name for name in loaded if name.split(".")[0] in heavy}
    rooms = {name.split(".")[1] for name in loaded if name.startswith("awpf_ext.")}
    assert rooms <= {"_library", "_C", "distributed", "errors", "fusion", "ops"}


LAZY = {"choose_merge", "load_model", "merge", "run"}


def test_public_names_are_there():
    assert sorted(awpf_ext.__all__) == awpf_ext.__all__
    for name in awpf_ext.__all__:
        assert getattr(awpf_ext, name).__doc__, name


def test_completion_shows_the_public_names_and_nothing_else():
    import awpf_ext.ops.mmd

    assert set(dir(awpf_ext)) == {*awpf_ext.__all__, *LAZY, "__version__"}


def test_run_load_model_and_merge_are_attributes_of_the_package():
    pytest.importorskip("pydantic", reason='needs the extra "clip"')
    from awpf_ext import choose_merge, load_model, merge, run

    named = (choose_merge, load_model, merge, run)
    assert [function.__name__ for function in named] == sorted(LAZY)
    assert awpf_ext.run is run


def test_an_unknown_attribute_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'awpf_ext' has no attribute 'mdm'"):
        _ = awpf_ext.mdm  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["load_model", "run"])
def test_without_the_extra_they_say_how_to_install_it(name):
    hidden = ("pydantic", "yaml", "safetensors")
    without = f"import sys; sys.modules.update(dict.fromkeys({hidden!r})); import awpf_ext; "
    done = python(f"{without} awpf_ext.{name}")
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"ImportError: awpf_ext.{name}: ")
    assert 'is not installed; get it with pip install "awpf_ext[clip]"' in last
    assert output(without + "from awpf_ext import *; print(mmd.__name__)") == "mmd"
    shown = output(
        without + "import pydoc; print(pydoc.render_doc(awpf_ext)); print(dir(awpf_ext))"
    )
    assert "mmd(x" in shown
    assert f"'{name}'" not in shown.splitlines()[-1]


def test_the_version_is_that_of_the_installed_package():
    assert awpf_ext.__version__ == version("awpf_ext")


def test_build_info():
    info = awpf_ext.build_info()
    assert info["awpf_ext"] == awpf_ext.__version__
    assert info["torch"] == torch.__version__
    assert info["cpu_kernels"] == "ready"
    assert info["threads"] == torch.get_num_threads()
    assert info["instruction_set"] in info["instruction_sets_built"]
    assert "baseline" in info["instruction_sets_built"]
    assert set(info["instruction_sets_rejected"]) <= set(info["instruction_sets_built"])
    assert info["cuda_kernels"]
    assert info["built_against_torch"]
    assert info["compiler"]


def test_type_information_is_shipped():
    assert (PACKAGE / "py.typed").exists()


def test_an_unknown_instruction_set_is_explained():
    use = "import torch, awpf_ext; {}awpf_ext.mmd(torch.randn(3, 2), torch.randn(3, 2))"
    done = python(use.format(""), AWPF_CPU_ISA="sse9")
    assert done.returncode == 1
    assert "ImportError" in done.stderr.splitlines()[-1]
    assert "AWPF_CPU_ISA" in done.stderr.splitlines()[-1]
    assert "sse9" in done.stderr.splitlines()[-1]
    assert "amx, avx512, avx2, baseline, amx_portable" in done.stderr.splitlines()[-1]
    assert "sse9" in output(
        "import awpf_ext; print(awpf_ext.build_info()['cpu_kernels'])", AWPF_CPU_ISA="sse9"
    )


@pytest.fixture
def without_libraries(tmp_path):
    """A copy of the Python files alone."""
    shutil.copytree(
        PACKAGE, tmp_path / "awpf_ext", ignore=shutil.ignore_patterns("*.so", "__pycache__")
    )
    return tmp_path


CALLS = {
    "mmd": "awpf_ext.mmd(x, x)",
    "mmd_matrix": "awpf_ext.mmd_matrix(x, y)",
    "mmd_test": "awpf_ext.mmd_test(x, x)",
    "median_bandwidth": "awpf_ext.median_bandwidth(x)",
    "scatter": "awpf_ext.scatter(x, y)",
    "ScatterAccumulator": "awpf_ext.ScatterAccumulator(2, 2).update(x, y)",
    "separability": "awpf_ext.separability(x, y)",
    "low_rank_sum": "awpf_ext.low_rank_sum(x[None], None, x[None])",
    "truncate": "awpf_ext.truncate(x[None], None, x[None], 1)",
}


def test_without_native_libraries_the_import_works_and_every_use_explains(without_libraries):
    code = f"""
import sys
sys.path.insert(0, {str(without_libraries)!r})
import torch, awpf_ext
assert awpf_ext.__file__.startswith({str(without_libraries)!r})
x, y = torch.randn(4, 2), torch.tensor([0, 0, 1, 1])
print(awpf_ext.build_info()["cpu_kernels"])
for name, call in {CALLS!r}.items():
    try:
        eval(call)
        print(name, "worked")
    except ImportError as error:
        print(error)
"""
    info, *lines = output(code).splitlines()
    assert "not built" in info
    assert len(lines) == len(CALLS)
    for name, line in zip(CALLS, lines, strict=True):
        assert line.startswith(f"awpf_ext.{name}: ")
        assert "pip install" in line


def test_a_damaged_library_is_explained(without_libraries):
    (without_libraries / "awpf_ext" / "awpf_cpu.so").write_bytes(b"not a library")
    path = f"import sys; sys.path.insert(0, {str(without_libraries)!r}); "
    found = output(path + "import awpf_ext; print(awpf_ext.build_info())")
    assert "awpf_cpu.so cannot be loaded" in found


@pytest.mark.skipif(not (CHECKOUT / "setup.py").exists(), reason="needs the checkout")
def test_a_build_leaves_out_files_of_an_earlier_build(tmp_path):
    pytest.importorskip("setuptools", minversion="77", reason="pyproject.toml asks for it")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(CHECKOUT / name, tmp_path)
    sources = CHECKOUT / "awpf_ext"
    shutil.copytree(sources, tmp_path / "awpf_ext", ignore=shutil.ignore_patterns("__pycache__"))
    staged = tmp_path / "build" / "lib" / "awpf_ext"
    for left in (staged / "gone.py", staged / "gone" / "__init__.py", staged / "gone.so"):
        left.parent.mkdir(parents=True, exist_ok=True)
        left.touch()
    other = staged.parent / "another_package.py"
    other.touch()
    subprocess.run(
        [sys.executable, "setup.py", "--quiet", "build_py", "--build-lib=build/lib"],
        cwd=tmp_path,
        capture_output=True,
        check=True,
    )
    assert not list(staged.glob("gone*"))
    modules = {path.relative_to(staged) for path in staged.rglob("*.py")}
    assert modules == {path.relative_to(sources) for path in sources.rglob("*.py")}
    assert other.exists()


# ---- which CUDA kernels are loaded; no GPU is needed to decide ----


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """installed(built, running, library): pretend to be installed so, beside such a torch."""

    def pretend(built, running, library):
        if library is not None:
            (tmp_path / "awpf_cuda.so").write_bytes(library)
        facts = SimpleNamespace(cuda_version=built, cuda_status="not built: no nvcc found")
        monkeypatch.setattr(_library, "_FOLDER", tmp_path)
        monkeypatch.setattr(_library, "_facts", lambda: facts)
        monkeypatch.setattr(torch.version, "cuda", running)
        return _library._load_cuda()

    return pretend


def test_without_cuda_kernels_the_build_says_why(installed):
    assert installed("", "13.0", None) == "not built: no nvcc found"


def test_a_cpu_build_of_torch_leaves_the_cuda_kernels_alone(installed):
    reason = installed("13.0.88", None, b"would not load")
    assert "not a CUDA build" in reason
    assert torch.__version__ in reason


def test_another_cuda_major_is_explained(installed):
    reason = installed("13.0.88", "12.8", b"would not load")
    assert "built for CUDA 13" in reason
    assert "is of CUDA 12" in reason
    assert "pip install --no-build-isolation" in reason


def test_the_same_cuda_major_is_loaded_and_a_damaged_library_explained(installed):
    assert "awpf_cuda.so cannot be loaded" in installed("13.0.88", "13.2", b"not a library")


def test_cuda_tensors_without_kernels_get_the_reason(monkeypatch):
    monkeypatch.setattr(_library, "MISSING_CUDA", "not built: no nvcc found")
    with pytest.raises(NotImplementedError, match=r"awpf_ext.mmd: .* no nvcc found; .*\.cpu\(\)"):
        _library.require(torch.device("cuda", 0), "mmd")


@pytest.mark.parametrize(("capability", "works"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_a_gpu_too_old_for_the_kernels_is_named(monkeypatch, capability, works):
    monkeypatch.setattr(_library, "MISSING_CUDA", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "an old GPU")
    _library._missing_on.cache_clear()
    try:
        if works:
            _library.require(torch.device("cuda", 0), "mmd")
            return
        with pytest.raises(NotImplementedError, match=r"an old GPU has 7\.5"):
            _library.require(torch.device("cuda", 0), "mmd")
    finally:
        _library._missing_on.cache_clear()


@pytest.mark.skipif(_library.MISSING_CUDA is not None, reason=f"CUDA: {_library.MISSING_CUDA}")
def test_the_loaded_cuda_library_has_every_operation():
    everything = torch._C._dispatch_get_all_op_names()
    operations = [name for name in everything if name.startswith("awpf::")]
    assert len(operations) > 5
    for name in operations:
        assert torch._C._dispatch_has_kernel_for_dispatch_key(name, "CUDA"), name
