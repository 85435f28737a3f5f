"""The gradient of a loss over a joint batch that is split over processes and micro-batches.

A contrastive loss depends on all embeddings of the batch, so its gradient is not the sum of the
gradients over micro-batches. It is computed exactly in two steps. First everything is embedded
without a graph, the embeddings are gathered from all processes, and the loss is differentiated with
respect to the embeddings. Then each micro-batch is embedded again with a graph, and the gradient of
its embeddings is propagated to the parameters. A single micro-batch needs no second pass. Only the
order of summation over micro-batches and processes differs from one large batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from awpf_ext.distributed import SINGLE_PROCESS, World
from awpf_ext.finetuning.trainable_clip import TrainableClip, seeded

Loss = Callable[[Tensor, Tensor], Tensor]  # images (N, d), texts (k, d) -> scalar
_Rows = tuple[Tensor | None, Tensor | None]  # images and prompts


class _Part(NamedTuple):
    """A micro-batch: which of this process's images and prompts are in the towers together."""

    spans: tuple[range | None, range | None]
    last: bool  # the last one has images and prompts, and synchronises the processes
    seed: int | None  # of dropout, so that the second pass repeats it; None without dropout


def joint_backward(
    trainable: TrainableClip,
    x: Tensor,
    classes: range | Tensor,
    loss: Loss,
    *,
    world: World = SINGLE_PROCESS,
    dropout: bool = True,
) -> Tensor:
    """Add the gradient of `loss(images, texts)` to `.grad` of the trained parameters.

    x: this process's rows of the joint batch; may be empty. loss: a function of the embeddings of
    the joint batch, ordered by process, and the texts of `classes`, all L2-normalised; every
    process computes it from the same numbers. world: the one that `trainable` was built for; its
    `micro_batch` bounds the parts. dropout: whether the network's dropout is active. Returns the
    loss, detached; afterwards all processes have the same `.grad`.
    """
    if world != trainable.world:
        raise ValueError(
            f"world is {world}; expected {trainable.world}, for which trainable was made"
        )
    given = (x.to(trainable.device), _own_prompts(trainable, classes))
    dropouts = trainable.dropouts if dropout else ()
    parts = list(_parts(trainable, given, with_dropout=bool(dropouts)))
    one_pass = len(parts) == 1
    with _training(dropouts):
        passed = [_embedded(trainable, part, given, with_graph=one_pass) for part in parts]
        own = [_own_rows(passed, parts, side) for side in (0, 1)]
        joint = [None if rows is None else world.all_gather_ragged(rows) for rows in own]
        leaves = [None if found is None else found[0].requires_grad_() for found in joint]
        images, prompts = leaves
        assert images is not None
        with torch.enable_grad():
            value = loss(images, trainable.class_texts(prompts, classes))
        torch.autograd.backward(value)
        gradients = [None if found is None else _own_gradient(*found, world) for found in joint]
        for part, rows in zip(parts, passed, strict=True):
            _propagate(
                rows if one_pass else _embedded(trainable, part, given, with_graph=True),
                part,
                gradients,
            )
    return value.detach()


def _own_prompts(trainable: TrainableClip, classes: range | Tensor) -> Tensor | None:
    """This process's share of the prompts of all classes."""
    tokens = trainable.prompts(classes)
    if tokens is None:
        return None
    share = trainable.world.share(len(tokens))
    return tokens[share.start : share.stop]


def _parts(trainable: TrainableClip, given: _Rows, *, with_dropout: bool) -> Iterator[_Part]:
    """Micro-batches of images, then of prompts, then the rest of both together."""
    seeds: Iterator[int | None] = itertools.repeat(None)
    if with_dropout:
        drawn = torch.randint(1 << 40, (1,), generator=trainable.generator, device=trainable.device)
        seeds = itertools.count(int(drawn) + (trainable.world.rank << 42))
    images, prompts = (_spans(rows, trainable.micro_batch) for rows in given)
    alone: list[tuple[range | None, range | None]] = []
    alone += [(span, None) for span in images[:-1]]
    alone += [(None, span) for span in prompts[:-1]]
    for spans in alone:
        yield _Part(spans, False, next(seeds))
    yield _Part((images[-1], prompts[-1]), True, next(seeds))


def _spans(rows: Tensor | None, most: int | None) -> list[range | None]:
    """Ranges of at most `most` rows; at least one range, which may be empty."""
    if rows is None:
        return [None]
    count = len(rows)
    step = max(most or count, 1)
    spans: list[range | None] = [
        range(start, min(start + step, count)) for start in range(0, count, step)
    ]
    return spans or [range(0)]


def _embedded(trainable: TrainableClip, part: _Part, given: _Rows, *, with_graph: bool) -> _Rows:
    """Embeddings of a micro-batch; an empty one is replaced by one row of zeros."""
    rows = [
        None if span is None or source is None else never_empty(source[span.start : span.stop])
        for source, span in zip(given, part.spans, strict=True)
    ]
    draws = nullcontext() if part.seed is None else seeded(part.seed, trainable.device)
    network = trainable.synced if with_graph else trainable.network
    wait = isinstance(network, DistributedDataParallel) and not part.last
    with (
        network.no_sync() if wait else nullcontext(),  # type: ignore[operator]
        torch.set_grad_enabled(with_graph),
        draws,
    ):
        embedded: _Rows = network(*rows)
    return embedded


def never_empty(rows: Tensor) -> Tensor:
    """A process without rows takes part with one row, whose gradient is zero."""
    return rows if len(rows) else rows.new_zeros(1, *rows.shape[1:])


def _own_rows(passed: list[_Rows], parts: list[_Part], side: int) -> Tensor | None:
    """The embeddings of this process's images (side 0) or prompts (side 1), detached."""
    rows = []
    for part, embedded in zip(parts, passed, strict=True):
        span, found = part.spans[side], embedded[side]
        if span is not None and found is not None:
            rows.append(found.detach()[: len(span)])
    return torch.cat(rows) if rows else None


def _own_gradient(joint: Tensor, own: range, world: World) -> Tensor:
    """The gradient of this process's rows, scaled so that DDP's mean over processes is a sum."""
    if joint.grad is None:
        return torch.zeros_like(joint[own.start : own.stop])
    return world.size * joint.grad[own.start : own.stop]


def _propagate(embedded: _Rows, part: _Part, gradients: list[Tensor | None]) -> None:
    """Propagate the gradient from a micro-batch's embeddings; a tower may have nothing to train."""
    outputs, by_outputs = [], []
    for rows, span, gradient in zip(embedded, part.spans, gradients, strict=True):
        if rows is not None and rows.requires_grad and span is not None and gradient is not None:
            wanted = torch.zeros_like(rows)
            wanted[: len(span)] = gradient[span.start : span.stop]
            outputs.append(rows)
            by_outputs.append(wanted)
    if outputs:
        torch.autograd.backward(outputs, by_outputs)


@contextmanager
def _training(dropouts: Sequence[nn.Module]) -> Iterator[None]:
    """Dropout is active, also in the backward pass, where checkpointing recomputes activations."""
    for module in dropouts:
        module.train()
    try:
        yield
    finally:
        for module in dropouts:
            module.eval()
