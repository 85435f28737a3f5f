"""`group=`: what several processes find together is what one finds alone."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

import awpf_ext

WORKER = Path(__file__).parent / "sharded_worker.py"
pytestmark = pytest.mark.skipif(
    not dist.is_available() or not dist.is_gloo_available(), reason="torch has no gloo here"
)
DTYPES = (torch.float64, torch.float32, torch.bfloat16)
CLOSE = {torch.float64: 1e-10, torch.float32: 2e-6, torch.bfloat16: 2e-6}


def load_worker() -> Any:
    spec = importlib.util.spec_from_file_location("sharded_worker", WORKER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


worker = load_worker()


@pytest.fixture(scope="module", params=[2, 4], ids=["two ranks", "four ranks"])
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What each rank wrote."""
    folder, ranks = tmp_path_factory.mktemp("ranks"), request.param
    outs = [folder / f"{rank}.pt" for rank in range(ranks)]
    commands = [
        [sys.executable, str(WORKER), str(rank), str(ranks), str(folder / "meeting"), str(out)]
        for rank, out in enumerate(outs)
    ]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE) for command in commands]
    try:
        errors = [process.communicate(timeout=240)[1].decode() for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert not any(process.returncode for process in processes), "\n".join(errors)
    return [torch.load(out) for out in outs]


def relative(value: torch.Tensor, reference: torch.Tensor) -> float:
    scale = reference.abs().max().clamp(min=1e-30)
    return float((value.double() - reference.double()).abs().max() / scale)


def rank_order(found: list[Any], dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """x, y and labels as one machine would hold them: rank 0's rows first."""
    x, y, labels, _ = worker.points(dtype)
    of_x, of_y = (torch.cat([rank[str(dtype)]["rows"][side] for rank in found]) for side in (0, 1))
    return x[of_x], y[of_y], labels[of_x]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_values_are_those_of_one_machine(found: list[Any], dtype: torch.dtype) -> None:
    """The median too, which of 1,350 pooled rows looks at pairs of 1,024."""
    alone = worker.losses(*rank_order(found, dtype))
    for rank in found:
        for name, value in rank[str(dtype)]["values"].items():
            assert value.dtype == alone[name].dtype
            assert value.shape == alone[name].shape
            assert relative(value, alone[name]) < CLOSE[dtype], name


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
def test_gradients_are_those_of_the_sum_of_the_ranks_losses(
    found: list[Any], dtype: torch.dtype
) -> None:
    alone = worker.gradients(*rank_order(found, dtype))
    for name, of_both in alone.items():
        for side, whole in enumerate(of_both):
            parts = [rank[str(dtype)]["gradients"][name][side] for rank in found]
            if whole.dim() == 1:  # not a function of y
                continue
            difference = torch.cat(parts) - len(found) * whole
            assert float(difference.abs().max() / whole.abs().max()) < 20 * CLOSE[dtype], name


def test_a_mistake_on_one_rank_is_an_error_on_all(found: list[Any]) -> None:
    invalid = "the arguments on rank 1 of the group are invalid"
    expected = {
        "nan": ("the rows of rank 1 hold NaN or infinity",) * 2,
        "label": (invalid, "label"),
        "group": (invalid, "groups must be between 0 and 4"),
        "dtype": (invalid, "same dtype"),
        "width": ("all ranks must pass the same number of features",) * 2,
        "classes": ("num_classes must be given with group",) * 2,
        "empty": ("y must have at least one row (n >= 1) over all ranks",) * 2,
    }
    for name, (elsewhere, on_rank_one) in expected.items():
        for rank, result in enumerate(found):
            wanted = on_rank_one if rank == 1 else elsewhere
            assert wanted in result["refused"][name], (name, rank)


def test_group_needs_torch_distributed() -> None:
    x = torch.randn(4, 3)
    with pytest.raises(ValueError, match="call init_process_group"):
        awpf_ext.mmd(x, x, group=object())
