"""Merging on disk, one layer at a time: LoRA adapters; checkpoints have a module of their own."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import torch

from awpf_ext import io
from awpf_ext.errors import UserError
from awpf_ext.lora.adapter_config import CONFIG, merged_config, renamed
from awpf_ext.lora.adapter_reader import (
    ADAPTER_TENSORS,
    PREFIX,
    LoraAdapter,
    LoraLayer,
    open_adapter,
)
from awpf_ext.lora.adapter_writer import MERGE_REPORT, new_folder
from awpf_ext.lora.checks import (
    check_alike,
    checked_dtype,
    checked_method,
    checked_settings,
    checked_sources,
    checked_weights,
)
from awpf_ext.lora.merge_methods import (
    ImpossibleMergeError,
    Merged,
    MergeMethod,
    MergeSettings,
    Term,
)
from awpf_ext.lora.merge_report import MergedLayer, MergeReport, peak_memory, settings_taken
from awpf_ext.lora.merging_checkpoints import merge_checkpoints


def merge(
    sources: Sequence[str | Path],
    out: str | Path,
    *,
    base: str | Path | None = None,
    method: str = "linear",
    weights: Sequence[float] | None = None,
    rank: int | None = None,
    density: float | None = None,
    merge_space: str | None = None,
    common_fraction: float | None = None,
    seed: int | None = None,
    dtype: str | None = None,
    base_model: str | None = None,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> MergeReport:
    """Merge PEFT LoRA adapters of one model into a new adapter in the folder `out`.

    With `base`, merge fully fine-tuned CLIP models instead: the result is a checkpoint.

    A single source at weight 1 is copied unchanged, except by `iso` or if density or rank cut it.
    The merge needs memory for the largest layer only. `icm` reads all adapters twice.
    A killed merge leaves nothing half-written.

    Args:
        sources: the adapters' folders; with `base` open_clip checkpoints.
        out: the folder to write.
        base: the checkpoint that the sources were fine-tuned from, or open_clip:MODEL:TAG.
        method: one of `MERGE_METHODS`; their docstrings define them.
        weights: one per adapter; default: 1 each.
        rank, density, merge_space, common_fraction, seed: settings of the methods that take them;
            merge_space is "delta" or "factors".
        dtype: of the result (float32, float16, bfloat16); default: that of the sources.
        base_model: the base model's name in the result, needed if the adapters disagree about it.
        force: replace the result of another merge.
        progress: progress(done, layers) is called after each layer.

    Returns:
        A report of what was merged, and how much of it the rank kept.
    """
    start = time.perf_counter()
    out = Path(out).expanduser()
    chosen = checked_method(method)
    given = {
        "rank": rank,
        "density": density,
        "merge_space": merge_space,
        "common_fraction": common_fraction,
        "seed": seed,
    }
    settings = checked_settings(method, chosen, {k: v for k, v in given.items() if v is not None})
    kept_type = checked_dtype(dtype)
    paths = checked_sources(sources, out, base)
    checked = checked_weights(weights, len(paths))
    if base is not None:
        if base_model is not None:
            raise UserError("base_model names the base of adapters; with base there are none")
        return merge_checkpoints(
            paths,
            out,
            base,
            name=method,
            method=chosen,
            settings=settings,
            weights=checked,
            dtype=kept_type,
            force=force,
            progress=progress,
        )
    with ExitStack() as stack:
        opened = [stack.enter_context(open_adapter(path)) for path in paths]
        check_alike(opened, base_model)
        one = len(opened) == 1 and checked[0] == 1 and _keeps_one(chosen, settings, opened[0])
        kind = kept_type or _result_type(opened)

        used = checked
        if chosen.weigh is not None and not one:
            try:
                used = chosen.weigh(_terms(opened, checked, name) for name in opened[0].layers)
            except UserError as error:
                raise ImpossibleMergeError(str(error)) from None

        def compute(name: str, layer: LoraLayer) -> Merged:
            if one:
                return Merged(opened[0].read(layer.b_key), opened[0].read(layer.a_key))
            return _merged(chosen, name, _terms(opened, used, name), settings)

        folder = stack.enter_context(new_folder(out, force))
        with io.open_atomic(folder / ADAPTER_TENSORS) as file:
            writer = io.TensorWriter(file, _names(opened[0]), ADAPTER_TENSORS)
            if one and kept_type is None:
                layers, energy_kept = _copy_tensors(writer, opened[0]), 1.0
            else:
                layers, energy_kept = _write_tensors(writer, opened, compute, kind, progress)
            writer.finish()
        new_ranks = {layer.name: layer.rank for layer in layers}
        first = opened[0].config
        config = renamed(first, base_model) if one else merged_config(first, new_ranks, base_model)
        report = MergeReport(
            out=out,
            method=method,
            settings=settings_taken(chosen, settings),
            weights=tuple(checked),
            sources=tuple(
                {"name": adapter.folder.name, "sha256": adapter.sha256} for adapter in opened
            ),
            base_model=base_model or first.base_model,
            layers=tuple(layers),
            energy_kept=energy_kept,
            seconds=time.perf_counter() - start,
            peak_memory=peak_memory(),
        )
        io.write_json(folder / MERGE_REPORT, report.record())
        io.write_json(folder / CONFIG, config)
    return report


def _copy_tensors(writer: io.TensorWriter, adapter: LoraAdapter) -> list[MergedLayer]:
    """Copy a single adapter unchanged."""
    keys = {PREFIX + name: key for name, key in adapter.others.items()}
    for name, layer in adapter.layers.items():
        keys.update(zip(_keys(name, layer), (layer.a_key, layer.b_key), strict=True))
    for name, key in sorted(keys.items(), key=lambda pair: -adapter.width(pair[1])):
        writer.write(name, adapter.read(key))
    return [
        MergedLayer(name, (layer.rank,), layer.rank, 1.0) for name, layer in adapter.layers.items()
    ]


def _write_tensors(
    writer: io.TensorWriter,
    adapters: Sequence[LoraAdapter],
    compute: Callable[[str, LoraLayer], Merged],
    dtype: torch.dtype,
    progress: Callable[[int, int], None] | None,
) -> tuple[list[MergedLayer], float]:
    """Merge and write each layer; returns the layers and the fraction of energy kept."""
    layers, energy, lost = [], 0.0, 0.0
    shared, others = adapters[0].layers, adapters[0].others
    wide = [name for name in others if adapters[0].width(others[name]) >= dtype.itemsize]
    _carry(writer, adapters, wide)
    for name, layer in shared.items():
        merged = compute(name, layer)
        _write_layer(writer, name, layer, merged, dtype)
        energy, lost = energy + merged.energy, lost + merged.lost
        ranks = tuple(adapter.layers[name].rank for adapter in adapters)
        layers.append(MergedLayer(name, ranks, merged.a.shape[0], merged.energy_kept))
        if progress is not None:
            progress(len(layers), len(shared))
    _carry(writer, adapters, sorted(set(others) - set(wide)))
    return layers, 1 - lost / energy if energy > 0 else 1.0


def _result_type(adapters: Sequence[LoraAdapter]) -> torch.dtype:
    dtype = adapters[0].dtype
    for adapter in adapters[1:]:
        dtype = torch.promote_types(dtype, adapter.dtype)
    return dtype


def _keeps_one(method: MergeMethod, settings: MergeSettings, adapter: LoraAdapter) -> bool:
    widest = max(layer.rank for layer in adapter.layers.values())
    whole = settings.rank is None or settings.rank >= widest
    return method.keeps_one and whole and settings.density in (None, 1)


def _terms(adapters: Sequence[LoraAdapter], weights: Sequence[float], name: str) -> list[Term]:
    """The layer's factors as matrices, in at least single precision."""
    precise = torch.promote_types(_result_type(adapters), torch.float32)
    terms = []
    for adapter, weight in zip(adapters, weights, strict=True):
        layer = adapter.layers[name]
        b = adapter.read(layer.b_key).to(precise).reshape(-1, layer.rank)
        a = adapter.read(layer.a_key).to(precise).reshape(layer.rank, -1)
        terms.append(Term(b, a, layer.scaling, weight, adapter.sha256))
    return terms


def _merged(
    method: MergeMethod, name: str, terms: Sequence[Term], settings: MergeSettings
) -> Merged:
    try:
        return method.merge(name, terms, settings)
    except (ValueError, torch.linalg.LinAlgError) as error:  # type: ignore[attr-defined]
        raise ImpossibleMergeError(
            f"{name} cannot be merged in {terms[0].a.dtype}: {error}"
        ) from None


def _names(adapter: LoraAdapter) -> list[str]:
    factors = [key for name, layer in adapter.layers.items() for key in _keys(name, layer)]
    return [*factors, *(PREFIX + name for name in adapter.others)]


def _keys(name: str, layer: LoraLayer) -> tuple[str, str]:
    """PEFT's keys for A and B."""
    if layer.embedding:
        return f"{PREFIX}{name}.lora_embedding_A", f"{PREFIX}{name}.lora_embedding_B"
    return f"{PREFIX}{name}.lora_A.weight", f"{PREFIX}{name}.lora_B.weight"


def _write_layer(
    writer: io.TensorWriter, name: str, layer: LoraLayer, merged: Merged, dtype: torch.dtype
) -> None:
    rank = merged.a.shape[0]
    shapes = (rank, *layer.a_shape[1:]), (layer.b_shape[0], rank, *layer.b_shape[2:])
    for key, factor, shape in zip(_keys(name, layer), (merged.a, merged.b), shapes, strict=True):
        tensor = factor.to(dtype).reshape(shape)
        if not bool(tensor.isfinite().all()):
            raise ImpossibleMergeError(
                f"the merged {key} does not fit into {dtype}; use dtype float32"
            )
        writer.write(key, tensor)


def _carry(writer: io.TensorWriter, adapters: Sequence[LoraAdapter], names: Sequence[str]) -> None:
    """Write what is not a factor (saved modules, biases), which all adapters must have equal."""
    first = adapters[0]
    for name in sorted(names, key=lambda name: -first.width(first.others[name])):
        tensor = first.read(first.others[name])
        for other in adapters[1:]:
            theirs = other.read(other.others[name])
            if theirs.dtype != tensor.dtype or not torch.equal(theirs, tensor):
                raise UserError(
                    f"{name} is no LoRA factor and differs between {first.name} and "
                    f"{other.name}; only factors can be merged (modules_to_save, biases and "
                    "resized embeddings must be equal)"
                )
        writer.write(PREFIX + name, tensor)
