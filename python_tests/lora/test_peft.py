"""PEFT reads what is written here, and gives the same where it means the same."""

from __future__ import annotations

import copy
import math
import os
from pathlib import Path

import pytest
import torch
from small_adapters import deltas, distance
from torch import nn

os.environ.setdefault("HF_HUB_OFFLINE", "1")
peft = pytest.importorskip("peft", reason='needs the extra "lora"')

from awpf_ext.errors import DataError  # noqa: E402
from awpf_ext.lora import merge  # noqa: E402
from awpf_ext.lora.adapter_reader import open_adapter  # noqa: E402
from awpf_ext.lora.applied import add_adapter  # noqa: E402

WEIGHTS = [0.5, -1.2, 0.8]
NAMES = ["one", "two", "three"]


class Net(nn.Module):
    """A linear layer, layers whose names end alike, an embedding and a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(30, 12)
        self.q = nn.Linear(12, 20)
        self.blocks = nn.ModuleList([nn.ModuleDict({"q": nn.Linear(20, 20)}) for _ in range(2)])
        self.conv = nn.Conv2d(3, 8, 3)

    def forward(self, words: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        hidden = self.q(self.words(words))
        for block in self.blocks:
            hidden = block["q"](hidden).relu()
        return hidden.mean() + self.conv(image).mean()


@pytest.fixture(scope="module")
def base():
    torch.manual_seed(0)
    return Net()


@pytest.fixture(scope="module")
def folders(base, tmp_path_factory) -> list[Path]:
    """Three adapters that PEFT has saved: alpha, rsLoRA, an alpha of one layer's own."""
    root = tmp_path_factory.mktemp("adapters")
    torch.manual_seed(1)
    kinds = [{"lora_alpha": 3}, {"use_rslora": True}, {"alpha_pattern": {"blocks.0.q": 7}}]
    for name, config in zip(NAMES, kinds, strict=True):
        targets = ["words", "q", "conv"]
        model = peft.get_peft_model(
            copy.deepcopy(base), peft.LoraConfig(r=4, target_modules=targets, **config)
        )
        for key, parameter in model.named_parameters():
            if "lora_" in key:
                nn.init.normal_(parameter)
        model.save_pretrained(root / name)
    return [root / name for name in NAMES]


def changes(model, adapter="default") -> dict[str, torch.Tensor]:
    """What an adapter adds to each layer's weight, as PEFT says."""
    return {
        name.removeprefix("base_model.model."): module.get_delta_weight(adapter).detach()
        for name, module in model.named_modules()
        if hasattr(module, "get_delta_weight")
    }


def loaded(base, folder):
    return peft.PeftModel.from_pretrained(copy.deepcopy(base), folder)


def peft_merge(base, folders, weights, kind, **options):
    model = peft.PeftModel.from_pretrained(copy.deepcopy(base), folders[0], adapter_name=NAMES[0])
    for name, folder in zip(NAMES[1:], folders[1:], strict=True):
        model.load_adapter(folder, adapter_name=name)
    model.add_weighted_adapter(NAMES, weights, "merged", combination_type=kind, **options)
    return changes(model, "merged")


@pytest.mark.parametrize(
    ("method", "options", "kind", "peft_options"),
    [
        ("stack", {}, "cat", {}),
        ("linear", {}, "cat", {}),
        ("svd", {}, "svd", {}),
        ("svd", {"rank": 6}, "svd", {"svd_rank": 6}),
        ("ties", {"density": 0.3}, "ties_svd", {"density": 0.3}),
        ("ties", {"density": 0.3, "merge_space": "factors"}, "ties", {"density": 0.3}),
        ("magnitude_prune", {"density": 0.3, "rank": 7}, "magnitude_prune_svd",
         {"density": 0.3, "svd_rank": 7}),
        ("magnitude_prune", {"density": 0.3, "merge_space": "factors"}, "magnitude_prune",
         {"density": 0.3}),
        ("dare_linear", {"density": 1.0}, "dare_linear_svd", {"density": 1.0}),
        ("dare_ties", {"density": 1.0}, "dare_ties_svd", {"density": 1.0}),
        ("dare_linear", {"density": 1.0, "merge_space": "factors"}, "dare_linear",
         {"density": 1.0}),
        ("dare_ties", {"density": 1.0, "merge_space": "factors"}, "dare_ties", {"density": 1.0}),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:The density")
def test_agrees_with_add_weighted_adapter(
    method, options, kind, peft_options, base, folders, tmp_path
):
    report = merge(folders, tmp_path / "out", method=method, weights=WEIGHTS, **options)
    found = changes(loaded(base, report.out))
    assert len(found) == 5
    expected = peft_merge(base, folders, WEIGHTS, kind, **peft_options)
    assert distance(found, expected) < 1e-5


def test_linear_of_peft_is_not_the_sum_but_ours_is(base, folders, tmp_path):
    """The reason why `linear` does not do what PEFT's "linear" does."""
    report = merge(folders, tmp_path / "out", method="linear", weights=WEIGHTS)
    parts = [changes(loaded(base, folder)) for folder in folders]
    total = {
        name: sum(w * part[name] for w, part in zip(WEIGHTS, parts, strict=True))
        for name in parts[0]
    }
    assert distance(changes(loaded(base, report.out)), total) < 1e-5
    assert distance(peft_merge(base, folders, WEIGHTS, "linear"), total) > 0.5


def test_a_merged_adapter_computes_what_its_sources_compute_together(base, folders, tmp_path):
    report = merge(folders[:1], tmp_path / "out", method="stack", weights=[-2])
    words, image = torch.randint(0, 30, (2, 5)), torch.randn(1, 3, 8, 8)
    expected = copy.deepcopy(base)
    with torch.no_grad():
        for name, delta in changes(loaded(base, folders[0])).items():
            expected.get_submodule(name).weight -= 2 * delta
        found = loaded(base, report.out).eval()(words, image)
        torch.testing.assert_close(found, expected(words, image), rtol=1e-4, atol=1e-4)


def test_ranks_that_differ_by_layer_are_read_back(base, folders, tmp_path):
    """ "q" alone and "blocks.0.q" end alike: each has to find its own rank."""
    report = merge(folders, tmp_path / "out", method="linear", weights=WEIGHTS)
    ranks = {layer.name: layer.rank for layer in report.layers}
    assert ranks["conv"] == 8  # of 8 channels
    assert ranks["q"] == 12
    model = loaded(base, report.out)
    for name, rank in ranks.items():
        module = model.base_model.model.get_submodule(name)
        assert module.r["default"] == rank
        assert module.scaling["default"] == 1


def test_our_reading_of_the_config_is_that_of_peft(base, folders):
    for folder in folders:
        theirs = changes(loaded(base, folder))
        ours = deltas(folder)
        for name in ("q", "blocks.0.q", "blocks.1.q"):
            torch.testing.assert_close(theirs[name].double(), ours[name], rtol=1e-5, atol=1e-5)


def test_one_adapter_unchanged_loads_as_before(base, folders, tmp_path):
    report = merge(folders[1:2], tmp_path / "out")
    before, after = changes(loaded(base, folders[1])), changes(loaded(base, report.out))
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert math.isclose(1.0, report.energy_kept)


def test_an_adapter_is_added_to_weights_as_by_peft(base, folders):
    for folder in folders:
        expected, found = copy.deepcopy(base), copy.deepcopy(base)
        with torch.no_grad():
            for name, delta in changes(loaded(base, folder)).items():
                expected.get_submodule(name).weight += delta
        with open_adapter(folder) as adapter:
            add_adapter(found, adapter)
        for name, weight in expected.state_dict().items():
            torch.testing.assert_close(found.state_dict()[name], weight, rtol=1e-5, atol=1e-5)
    with open_adapter(folders[0]) as adapter, pytest.raises(DataError, match="does not have"):
        add_adapter(nn.Linear(2, 2), adapter)


def test_a_change_of_another_shape_is_not_added(write):
    """Not even if it has as many entries as the weight."""
    model = nn.Sequential(nn.Linear(12, 20))
    turned = write("a", shapes={"0": (12, 20)})
    words = r"changes 0 by .* \(12, 20\); .* has shape \(20, 12\)"
    with open_adapter(turned) as adapter, pytest.raises(DataError, match=words):
        add_adapter(model, adapter)
    with open_adapter(write("b", shapes={"0": (12, 20)}, fan_in_fan_out=True)) as adapter:
        add_adapter(model, adapter)
