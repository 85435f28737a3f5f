"""What users of PEFT, mergekit and transformers ask for or report (docs/merge.md), and what is done
here. Where PEFT can be asked quickly, it is: the answers are those of version 0.21.
"""

from __future__ import annotations

import copy
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from small_adapters import deltas, distance
from torch import nn

os.environ.setdefault("HF_HUB_OFFLINE", "1")
peft = pytest.importorskip("peft", reason='needs the extra "lora"')

from awpf_ext.errors import UserError  # noqa: E402
from awpf_ext.lora import choose_merge, merge  # noqa: E402

asks_peft = pytest.mark.skipif(
    not peft.__version__.startswith("0.21."), reason="PEFT may have changed since 0.21"
)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.up = nn.Linear(12, 20), nn.Linear(20, 9)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.up(self.q(x))


@pytest.fixture
def base():
    torch.manual_seed(0)
    return Net()


@pytest.fixture
def saved(base, tmp_path):
    """saved(name, **config): the folder of an adapter that PEFT has made and saved."""

    def make(name: str, **config: object):
        settings = peft.LoraConfig(r=4, target_modules=["q", "up"], **config)
        model = peft.get_peft_model(copy.deepcopy(base), settings)
        for key, parameter in model.named_parameters():
            if "lora_" in key:
                nn.init.normal_(parameter)
        model.save_pretrained(tmp_path / name)
        return tmp_path / name

    return make


def loaded(base, folder):
    return peft.PeftModel.from_pretrained(copy.deepcopy(base), folder)


def combined_by_peft(base, folders, weights, kind, **options):
    model = peft.PeftModel.from_pretrained(copy.deepcopy(base), folders[0], adapter_name="0")
    for number, folder in enumerate(folders[1:], start=1):
        model.load_adapter(folder, adapter_name=str(number))
    names = [str(number) for number in range(len(folders))]
    model.add_weighted_adapter(names, weights, "merged", combination_type=kind, **options)
    model.set_adapter("merged")
    return model


def changes_of(model) -> dict[str, torch.Tensor]:
    layers = {name: model.base_model.model.get_submodule(name) for name in ("q", "up")}
    return {n: x.get_delta_weight("merged").detach().double() for n, x in layers.items()}


def weighted(folders, weights):
    parts = [deltas(folder) for folder in folders]
    return {k: sum(w * p[k] for w, p in zip(weights, parts, strict=True)) for k in parts[0]}


# PEFT 3004: the cross terms of "linear".
def test_a_subtracted_adapter_leaves_no_cross_terms(saved, tmp_path):
    folders = [saved("a"), saved("b")]
    report = merge(folders, tmp_path / "out", weights=[1, -1])
    assert distance(deltas(report.out), weighted(folders, [1, -1])) < 1e-5


@asks_peft
def test_peft_has_cross_terms(base, saved):
    folders = [saved("a"), saved("b")]
    model = combined_by_peft(base, folders, [1.0, -1.0], "linear")
    found = changes_of(model)
    assert distance(found, weighted(folders, [1, -1])) > 0.5


# PEFT 3737: rank_pattern.
@pytest.mark.parametrize("method", ["linear", "ties", "dare_ties", "magnitude_prune", "tsv"])
def test_a_merge_of_adapters_with_rank_patterns_is_loaded_again(method, base, saved, tmp_path):
    folders = [saved(name, rank_pattern={"up": 2}) for name in "ab"]
    pruning = {"density": 1.0, "rank": 6} if method not in ("linear", "tsv") else {}
    report = merge(folders, tmp_path / "out", method=method, weights=[1, 0.5], **pruning)
    model, x = loaded(base, report.out), torch.randn(5, 12)
    with torch.no_grad():
        expected = copy.deepcopy(base)
        for name, delta in deltas(report.out).items():
            expected.get_submodule(name).weight += delta.float()
        torch.testing.assert_close(model(x), expected(x), rtol=1e-4, atol=1e-4)
    if method == "linear":
        assert distance(deltas(report.out), weighted(folders, [1, 0.5])) < 1e-5


@asks_peft
def test_peft_cannot_load_what_it_made_of_them(base, saved, tmp_path):
    folders = [saved(name, rank_pattern={"up": 2}) for name in "ab"]
    model = combined_by_peft(base, folders, [1.0, 0.5], "linear")
    model.save_pretrained(tmp_path / "out", selected_adapters=["merged"])
    with pytest.raises(RuntimeError, match="size mismatch"):
        loaded(base, tmp_path / "out" / "merged")


# PEFT 3761: rsLoRA, DoRA and biases of factors.
@pytest.mark.parametrize("method", ["linear", "stack", "svd", "ties", "tsv", "knots"])
def test_one_rslora_adapter_is_itself_also_among_others(method, saved, tmp_path):
    one = saved("a", use_rslora=True)
    whole = {"density": 1.0} if method in ("ties", "knots") else {}
    alone = merge([one], tmp_path / "alone", method=method, **whole)
    assert distance(deltas(alone.out), deltas(one)) == 0
    halves = merge([one, one], tmp_path / "halves", method="linear", weights=[0.25, 0.75])
    assert distance(deltas(halves.out), deltas(one)) < 1e-5


@asks_peft
def test_peft_scales_rslora_twice(base, saved):
    one = saved("a", use_rslora=True)
    model = combined_by_peft(base, [one], [1.0], "linear")
    found = changes_of(model)
    assert distance(found, {k: 2 * d for k, d in deltas(one).items()}) < 1e-5  # sqrt(4) too large


@pytest.mark.parametrize(("key", "words"), [("use_dora", "DoRA"), ("lora_bias", "biases of LoRA")])
def test_what_is_no_plain_lora_is_refused(key, words, saved, tmp_path):
    with pytest.raises(UserError, match=words):
        merge([saved("a", **{key: True})], tmp_path / "out")


@asks_peft
@pytest.mark.parametrize("key", ["use_dora", "lora_bias"])
def test_peft_changes_it_without_a_word(key, base, saved):
    one, x = saved("a", **{key: True}), torch.randn(5, 12)
    with torch.no_grad():
        expected = loaded(base, one)(x)
        found = combined_by_peft(base, [one], [1.0], "linear")(x)
    assert float((found - expected).norm() / expected.norm()) > 0.01


# mergekit 470: adapters alone.
def test_adapters_are_merged_without_base_model_and_without_other_libraries(write, tmp_path):
    folders = [write(name, base_model_name_or_path="org/is-nowhere") for name in "ab"]
    program = (
        "import sys; sys.modules.update(dict.fromkeys(['peft', 'transformers', 'open_clip']));"
        "from awpf_ext.lora import merge; merge(sys.argv[1:3], sys.argv[3], weights=[0.3, 0.25])"
    )
    arguments = [*map(str, folders), str(tmp_path / "out")]
    subprocess.run([sys.executable, "-c", program, *arguments], check=True)
    assert distance(deltas(tmp_path / "out"), weighted(folders, [0.3, 0.25])) < 1e-5


# transformers 42113: one command that combines several adapters and checks that they fit.
def test_one_command_combines_several_adapters(write, tmp_path, monkeypatch):
    typer = pytest.importorskip("typer.testing", reason='needs the extra "clip"')
    from awpf_ext.cli.commands import app

    monkeypatch.chdir(tmp_path)
    folders = [write(name, base_model_name_or_path="m") for name in "abc"]
    command = ["merge", "a", "b", "c", "--weights", "1,0.5,-1", "--out", "out"]
    assert typer.CliRunner().invoke(app, command).exit_code == 0
    assert distance(deltas(tmp_path / "out"), weighted(folders, [1, 0.5, -1])) < 1e-5
    write("b", base_model_name_or_path="other")
    refused = typer.CliRunner().invoke(app, [*command, "--force"])
    assert refused.exit_code == 2
    assert (
        "the adapters differ in base_model_name_or_path: 'm' in a, 'other' in b" in refused.stderr
    )


# PEFT 1555: which method, which weights.
def test_method_and_weights_are_chosen_by_a_score(base, saved, tmp_path):
    """The score is a loss of the model that the merge makes, on a target it can only meet so."""
    folders, x = [saved("a"), saved("b")], torch.randn(50, 12)
    target = merge(folders, tmp_path / "target", method="tsv", weights=[0.5, 0.5])
    with torch.no_grad():
        wanted = loaded(base, target.out)(x)

    @torch.no_grad()
    def score(folder):
        return -float((loaded(base, folder)(x) - wanted).square().mean())

    report = choose_merge(folders, tmp_path / "out", score, methods=["linear", "tsv", "iso"])
    assert (report.method, report.weights) == ("tsv", (0.5, 0.5))
    tensors = load_file(report.out / "adapter_model.safetensors")
    assert all(torch.equal(x, tensors[k]) for k, x in load_file(
        target.out / "adapter_model.safetensors").items())  # fmt: skip
