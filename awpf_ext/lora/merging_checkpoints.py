"""Merging checkpoints of whole CLIP models that were fine-tuned from one base, one parameter at a
time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import Tensor

from awpf_ext import io
from awpf_ext.errors import UserError
from awpf_ext.lora.adapter_writer import MERGE_REPORT, new_folder
from awpf_ext.lora.checkpoint_reader import (
    CHECKPOINT,
    OPEN_CLIP,
    Checkpoint,
    Parameter,
    open_checkpoint,
    weights_file,
)
from awpf_ext.lora.checks import check_merges_checkpoints, some_names
from awpf_ext.lora.merge_methods import DenseTerm, ImpossibleMergeError, MergeMethod, MergeSettings
from awpf_ext.lora.merge_methods.base import dense_sum
from awpf_ext.lora.merge_methods.dense_svd import truncate_dense
from awpf_ext.lora.merge_report import MergedLayer, MergeReport, peak_memory, settings_taken

Progress = Callable[[int, int], None]
# Matrices that are no linear maps between features, and the one that the authors of TSV-M and Iso
# leave out, too.
_NO_MAPS = ("embedding", "pos_embed", "text_projection")
_COUNTERS = ".num_batches_tracked"


def merge_checkpoints(
    sources: Sequence[Path],
    out: Path,
    base: str | Path,
    *,
    name: str,
    method: MergeMethod,
    settings: MergeSettings,
    weights: Sequence[float],
    dtype: torch.dtype | None,
    force: bool,
    progress: Progress | None,
) -> MergeReport:
    """`merge` of checkpoints: base + the merged changes, as a checkpoint in the folder `out`."""
    start = time.perf_counter()
    check_merges_checkpoints(name, method, settings)
    with ExitStack() as stack:
        begun = stack.enter_context(open_checkpoint(weights_file(base)))
        opened = [stack.enter_context(open_checkpoint(source)) for source in sources]
        _check_alike(begun, opened)
        types = {key: _result_type(key, opened, dtype) for key in begun.parameters}
        folder = stack.enter_context(new_folder(out, force))
        merging = _Merging(begun, opened, weights, method, settings)
        layers: list[MergedLayer] = []
        energy = lost = 0.0
        with io.open_atomic(folder / CHECKPOINT) as file:
            writer = io.TensorWriter(file, list(types), CHECKPOINT)
            names = sorted(types, key=lambda key: -types[key].itemsize)  # keeps them aligned
            for done, key in enumerate(names):
                tensor, layer, *energies = merging.parameter(key)
                tensor = tensor.to(types[key])
                if not bool(tensor.isfinite().all()):
                    raise ImpossibleMergeError(
                        f"the merged {key} does not fit into {types[key]}; use dtype float32"
                    )
                writer.write(key, tensor)
                layers += [] if layer is None else [layer]
                energy, lost = energy + energies[0], lost + energies[1]
                if progress is not None:
                    progress(done + 1, len(names))
            writer.finish()
        known = str(base) if str(base).startswith(OPEN_CLIP) else begun.path.name
        report = MergeReport(
            out=out,
            method=name,
            settings=settings_taken(method, settings),
            weights=tuple(weights),
            sources=tuple({"name": one.path.name, "sha256": one.sha256} for one in opened),
            base_model=known,
            layers=tuple(layers),
            energy_kept=1 - lost / energy if energy > 0 else 1.0,
            seconds=time.perf_counter() - start,
            peak_memory=peak_memory(),
            base={"name": known, "sha256": begun.sha256},
            others=len(types) - len(layers),
        )
        io.write_json(folder / MERGE_REPORT, report.record())
    return report


class _Merging:
    """Computes the merged parameters."""

    def __init__(
        self,
        base: Checkpoint,
        sources: Sequence[Checkpoint],
        weights: Sequence[float],
        method: MergeMethod,
        settings: MergeSettings,
    ) -> None:
        self._base = base
        self._sources = sources
        self._weights = weights
        self._method = method
        self._settings = settings
        self._one = len(sources) == 1 and weights[0] == 1 and method.keeps_one
        self._one &= settings.density in (None, 1) and settings.rank is None

    def parameter(self, key: str) -> tuple[Tensor, MergedLayer | None, float, float]:
        """The merged parameter, its row in the report, and the energies before and lost by a cut.

        Only matrices that the method merges have a row.
        """
        before = self._base.read(key)
        if not before.is_floating_point():
            return self._unchanged(key, before), None, 0.0, 0.0
        if not before.numel():
            return before, None, 0.0, 0.0
        found = [source.read(key) for source in self._sources]
        layer = self._layer(key, before.shape)
        if self._one:
            return found[0], layer, 0.0, 0.0
        precise = torch.promote_types(before.dtype, torch.float32)
        for tensor in found:
            precise = torch.promote_types(precise, tensor.dtype)
        start = before.to(precise)
        terms = [
            DenseTerm(_as_matrix(tensor.to(precise) - start), weight, source.sha256)
            for tensor, weight, source in zip(found, self._weights, self._sources, strict=True)
        ]
        del found, before
        if not any(bool(term.delta.any()) for term in terms):
            return start, layer, 0.0, 0.0
        change, energy, lost = self._change(key, terms, layer is not None)
        if layer is not None and energy:
            rank = min(self._settings.rank or layer.rank, layer.rank)
            layer = layer._replace(rank=rank, energy_kept=1 - lost / energy)
        return start + change.reshape(start.shape), layer, energy, lost

    def _change(
        self, key: str, terms: Sequence[DenseTerm], is_map: bool
    ) -> tuple[Tensor, float, float]:
        if not is_map and self._method.others != "same":
            total = dense_sum(key, terms, self._settings)
            return (total / len(terms) if self._method.others == "mean" else total), 0.0, 0.0
        assert self._method.merge_dense is not None
        try:
            change = self._method.merge_dense(key, terms, self._settings)
        except (ValueError, torch.linalg.LinAlgError) as error:  # type: ignore[attr-defined]
            raise ImpossibleMergeError(f"{key} cannot be merged: {error}") from None
        rank = self._settings.rank
        if not is_map or rank is None or rank >= min(change.shape):
            return change, 0.0, 0.0
        cut = truncate_dense(change, rank, self._settings.seed)
        return cut.b @ cut.a, cut.energy, cut.lost

    def _unchanged(self, key: str, before: Tensor) -> Tensor:
        """Integers cannot be merged; the counters of batch norms do not matter."""
        for source in self._sources:
            if not key.endswith(_COUNTERS) and not torch.equal(source.read(key), before):
                raise UserError(
                    f"{key} holds integers and differs between {self._base.name} and "
                    f"{source.name}; only floating-point parameters can be merged"
                )
        return before

    def _layer(self, key: str, shape: tuple[int, ...]) -> MergedLayer | None:
        """The row of a matrix in the report; its name is that of the module."""
        if len(shape) != 2 or any(word in key for word in _NO_MAPS):
            return None
        rank = min(shape)
        return MergedLayer(key.removesuffix(".weight"), (rank,) * len(self._sources), rank, 1.0)


def _as_matrix(change: Tensor) -> Tensor:
    """A vector as one row; a kernel of a convolution as outputs by inputs."""
    return change.reshape(len(change), -1) if change.ndim > 1 else change.reshape(1, -1)


def _check_alike(base: Checkpoint, sources: Sequence[Checkpoint]) -> None:
    """All have the same parameters with the same shapes and kinds of numbers."""
    for source in sources:
        for one, other in ((base, source), (source, base)):
            if alone := one.parameters.keys() - other.parameters.keys():
                raise UserError(
                    "the checkpoints do not have the same parameters: only "
                    f"{one.name} has {some_names(alone)}"
                )
        for key, mine in base.parameters.items():
            _check_parameter(key, base, mine, source, source.parameters[key])


def _check_parameter(
    key: str, base: Checkpoint, mine: Parameter, source: Checkpoint, theirs: Parameter
) -> None:
    if mine.shape != theirs.shape:
        raise UserError(
            f"the checkpoints differ in the shape of {key}: {mine.shape} in {base.name}, "
            f"{theirs.shape} in {source.name}"
        )
    if mine.dtype.is_complex or theirs.dtype.is_complex:
        raise UserError(f"{key} holds complex numbers, which cannot be merged")
    if mine.dtype.is_floating_point != theirs.dtype.is_floating_point:
        raise UserError(
            f"the checkpoints differ in the type of {key}: {mine.dtype} in {base.name}, "
            f"{theirs.dtype} in {source.name}"
        )


def _result_type(
    key: str, sources: Sequence[Checkpoint], chosen: torch.dtype | None
) -> torch.dtype:
    found = sources[0].parameters[key].dtype
    for source in sources[1:]:
        found = torch.promote_types(found, source.parameters[key].dtype)
    return chosen if chosen is not None and found.is_floating_point else found
