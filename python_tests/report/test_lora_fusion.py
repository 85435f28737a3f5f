"""The section on ICM-Fusion, from the records of such a run."""

from __future__ import annotations

from dataclasses import replace

import pytest

from awpf_ext.report.blocks import Drawing, Table, Text
from awpf_ext.report.load import read_run
from awpf_ext.report.sections import lora_fusion
from awpf_ext.report.style import drawing

RECORD = {
    "kind": "icm_fusion",
    "task": 1,
    "tasks": [0, 1],
    "search": "network",
    "loras": 12,
    "held_out": 2,
    "latent": 3,
    "explained": 0.625,
    "explained_by_pca": 0.5,
    "explained_logits": 0.875,
    "codes": [[0, -1.0, 0.1], [0, -0.9, 0.0], [1, 1.0, 0.2]],
    "mean_code": [0.0, 0.1],
    "fused_code": [0.2, 0.3],
    "scale": 1.5,
    "losses": [2.0, 1.5, 1.0],
    "refine_losses": [0.9, 0.8],
}


def section_of(folder, *records):
    run = read_run(folder)
    first, *others = run.result.tasks
    result = replace(run.result, tasks=(replace(first, records=records), *others))
    with drawing():
        return lora_fusion.section(replace(run, result=result))


def test_a_run_without_fusions_has_no_section(finished):
    assert section_of(finished, {"kind": "buffer"}) is None


def test_it_shows_codes_explained_variance_and_losses(finished, strict):
    section = section_of(finished, RECORD, {**RECORD, "task": 2, "explained": 0.25})
    figures = {b.name: b.figure.axes[0] for b in section.blocks if isinstance(b, Drawing)}
    assert list(figures) == ["lora_codes", "lora_explained", "lora_search"]
    spots = [len(each.get_offsets()) for each in figures["lora_codes"].collections]
    assert spots == [2, 1, 1, 1]  # two tasks, their mean, the fusion
    first, *_ = figures["lora_explained"].lines
    assert list(first.get_ydata()) == pytest.approx([62.5, 25.0])
    assert [list(line.get_ydata()) for line in figures["lora_search"].lines] == [
        RECORD["losses"],
        RECORD["refine_losses"],
    ]
    (table,) = [block for block in section.blocks if isinstance(block, Table)]
    assert table.rows[0] == ["2", "12", "3", "62.5", "50.0", "87.5", "1.50"]


def test_the_words_are_those_of_a_search_over_components(finished, strict):
    section = section_of(finished, {**RECORD, "search": "pca"})
    (text,) = [block.text for block in section.blocks if isinstance(block, Text)]
    assert "first principal components. The fused LoRA is found by a search" in text
    assert "network" not in text
    (table,) = [block for block in section.blocks if isinstance(block, Table)]
    assert table.columns[3:] == ["PCA", "logits, PCA", "scale"]
    assert table.rows[0][3:] == ["50.0", "87.5", "1.50"]


@pytest.mark.parametrize(
    ("search", "losses", "words"),
    [
        ("scale", [2.0, 1.0], "their average times a scale, found by a search"),
        ("none", [], "LoRA is their average. Steps on the LoRA itself"),
    ],
)
def test_the_words_name_no_components_that_nothing_was_searched_over(
    search, losses, words, finished, strict
):
    bare = {key: RECORD[key] for key in ("kind", "task", "tasks", "loras", "refine_losses")}
    section = section_of(finished, {**bare, "search": search, "losses": losses})
    (text,) = [block.text for block in section.blocks if isinstance(block, Text)]
    assert words in text
    assert "components" not in text
    (drawn,) = [block for block in section.blocks if isinstance(block, Drawing)]
    assert ("search" in drawn.caption) == bool(losses)


def test_a_fusion_without_search_shows_only_its_losses(finished, strict):
    bare = {key: RECORD[key] for key in ("kind", "task", "tasks", "search", "loras")}
    section = section_of(finished, {**bare, "losses": [], "refine_losses": [0.9]})
    names = [block.name for block in section.blocks if isinstance(block, Drawing)]
    assert names == ["lora_search"]
