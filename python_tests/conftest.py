"""What every test may rely on."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

CHECKOUT = Path(__file__).parents[1]
if not (CHECKOUT / "awpf_ext" / "awpf_cpu.so").exists():
    # `python -m pytest` looks for modules in the working folder first; use the installed package.
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != CHECKOUT]

from awpf_ext.data.features import FeatureSet, read_features
from awpf_ext.data.stream import TaskStream, task_stream

sys.path.append(str(Path(__file__).parent / "ops"))  # `from error_bounds import ...`
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts jobs in the background so, and processes that the tests start would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)

SHARED = CHECKOUT.parent / "shared"


@pytest.fixture(autouse=True, scope="session")
def _outside_the_checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Processes that tests start import the installed package too, not the checkout's folder."""
    home = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("outside"))
    yield
    os.chdir(home)


@pytest.fixture(autouse=True)
def _same_start() -> Iterator[None]:
    """A test neither depends on the one before it nor leaves its number of threads to the next."""
    threads = torch.get_num_threads()
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def gaussian_features(
    train: Sequence[int], test: Sequence[int], dim: int = 16, seed: int = 0, scale: float = 1.0
) -> FeatureSet:
    """Gaussian classes, `train[c]` and `test[c]` images each, around points off their texts."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    text = normalize(normal(len(train), dim), dim=1)
    centres = normalize(text + 0.8 * normalize(normal(len(train), dim), dim=1), dim=1)

    def images(counts: Sequence[int]) -> tuple[Tensor, Tensor]:
        labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
        noise = normal(len(labels), dim) * 0.5 / dim**0.5
        return scale * (centres[labels] + noise), labels

    train_x, train_y = images(train)
    test_x, test_y = images(test)
    return FeatureSet(
        train_x=train_x,
        train_y=train_y,
        test_x=test_x,
        test_y=test_y,
        text=text,
        class_names=tuple(f"class {index}" for index in range(len(train))),
        logit_scale=100.0,
        provenance={"dataset": "gaussian"},
    )


@pytest.fixture
def make_stream() -> Callable[..., TaskStream]:
    """A stream over `gaussian_features`; by default four tasks of three classes."""

    def make(
        train: Sequence[int] | int = 8,
        test: Sequence[int] | int = 5,
        classes: int = 12,
        increment: int = 3,
        base: int = 0,
        **features: float,
    ) -> TaskStream:
        counts = [[n] * classes if isinstance(n, int) else n for n in (train, test)]
        return task_stream(gaussian_features(*counts, **features), base=base, increment=increment)

    return make


@pytest.fixture
def domain_stream() -> TaskStream:
    """Three domains of six classes: the same points, turned a little further in each."""
    base = gaussian_features([12] * 6, [6] * 6)
    generator = torch.Generator().manual_seed(5)
    turn = torch.linalg.matrix_exp(0.15 * torch.randn(16, 16, generator=generator))
    turns = [torch.linalg.matrix_power(turn, domain) for domain in range(3)]
    domains = {
        f"{split}_domain": torch.arange(len(y)) % 3
        for split, y in (("train", base.train_y), ("test", base.test_y))
    }
    moved = {
        f"{split}_x": torch.stack(
            [turns[domain] @ row for row, domain in zip(x, domains[f"{split}_domain"], strict=True)]
        )
        for split, x in (("train", base.train_x), ("test", base.test_x))
    }
    names = ("plain", "turned", "far")
    return task_stream(
        replace(base, **moved, **domains, domain_names=names), protocol="domain", order="natural"
    )


@pytest.fixture(scope="session")
def real_features() -> FeatureSet:
    """Real CLIP features of 309 ImageNet classes."""
    path = SHARED / "data" / "imagenet309_clip_vitb32.npz"
    if not path.exists():
        pytest.skip(f"needs {path.name} in ../shared/data beside the checkout")
    return read_features(path)
