"""What is no checkpoint, or not one of the same model, is refused in one sentence."""

from __future__ import annotations

import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from awpf_ext.errors import DataError, UserError
from awpf_ext.lora import choose_merge, merge


class Evil:
    def __reduce__(self):
        return os.mkdir, ("unpickled",)


@pytest.mark.parametrize("content", [Evil(), {"w": Evil()}, {"w": 3}, [1], "text"])
def test_pickles_of_anything_else_are_refused(content, base, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(content, tmp_path / "evil.pt")
    with pytest.raises(DataError, match=r"cannot read .*evil.pt: "):
        merge([tmp_path / "evil.pt"], tmp_path / "out", base=base)
    assert not (tmp_path / "unpickled").exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("ignore:.*nested tensors:UserWarning")
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: torch.ones(9, 14).to(torch.float8_e4m3fn), "has type torch.float8_e4m3fn, which"),
        (lambda: torch.ones(9, 14, dtype=torch.uint16), "has type torch.uint16, which cannot be"),
        (lambda: torch.ones(9, 14, dtype=torch.complex64), "holds complex numbers, which cannot"),
        (lambda: torch.ones(9, 14).to_sparse(), "is sparse, which cannot be merged"),
        (lambda: torch.ones(9, 14, device="meta"), "is without data, which cannot be merged"),
        (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), "is nested|cannot re"),
    ],
)
def test_tensors_of_other_kinds_are_refused(make, words, base, tmp_path):
    torch.save({**load_file(base), "visual.proj": make()}, tmp_path / "odd.pt")
    with pytest.raises((DataError, UserError), match=words):
        merge([tmp_path / "odd.pt"], tmp_path / "out", base=tmp_path / "odd.pt")


def test_parameters_without_elements_are_kept(base, tuned, tmp_path):
    for path in (base, *tuned):
        save_file({**load_file(path), "prompts": torch.ones(0, 5)}, path)
    out = merge(tuned, tmp_path / "out", base=base, method="tsv").written
    assert load_file(out)["prompts"].shape == (0, 5)


@pytest.mark.parametrize("begun", ["source", "base"])
def test_what_is_merged_is_never_replaced(begun, base, tuned, tmp_path):
    one = merge(tuned, tmp_path / "one", base=base).written
    before = one.read_bytes()
    sources, start = ([one, tuned[0]], base) if begun == "source" else (tuned, one)
    what = "one of the sources" if begun == "source" else "the base"
    for call in (merge, lambda *arguments, **more: choose_merge(*arguments, len, **more)):
        with pytest.raises(UserError, match=rf"one is or holds {what}; the result needs a folder"):
            call(sources, tmp_path / "one", base=start, force=True)
    assert one.read_bytes() == before


@pytest.mark.parametrize("weights", [[1, 2], ["1,2"], [[None, 1, 1]]])
def test_weights_that_are_no_lists_of_numbers(weights, base, tuned, tmp_path):
    with pytest.raises(UserError, match=r"weights has .*; expected a list of numbers"):
        choose_merge(tuned, tmp_path / "out", len, base=base, weights=weights)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")
def test_torchscript_is_refused(base, tmp_path):
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "script.pt")
    with pytest.raises(DataError, match=r"TorchScript archives and other pickled objects are not"):
        merge([tmp_path / "script.pt"], tmp_path / "out", base=base)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"visual.extra": torch.ones(2)}, "same parameters: only .*a.safetensors has visual.extra"),
        ({"visual.proj": None}, "same parameters: only .*base.safetensors has visual.proj"),
        ({"visual.proj": torch.ones(9, 15)}, r"shape of visual.proj: \(9, 14\) in .*, \(9, 15\)"),
        ({"visual.proj": torch.ones(9, 14, dtype=torch.int32)}, "differ in the type of visual.pro"),
    ],
)
def test_checkpoints_that_do_not_fit(change, words, base, tuned, tmp_path):
    tensors = {**load_file(tuned[0]), **change}
    save_file({name: x for name, x in tensors.items() if x is not None}, tuned[0])
    with pytest.raises(UserError, match=words):
        merge(tuned, tmp_path / "out", base=base)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "stack"}, "stack merges adapters only; for checkpoints choose another method"),
        ({"method": "icm"}, "icm merges adapters only"),
        ({"method": "ties", "merge_space": "factors"}, "since checkpoints have no factors"),
        ({"base_model": "x"}, "base_model names the base of adapters"),
        ({"base": "none.safetensors"}, "there is no checkpoint none.safetensors"),
        ({"base": "open_clip:demo"}, "expected a checkpoint, or open_clip:MODEL:TAG"),
        ({"base": "open_clip:demo:random:3"}, "random weights are in no file"),
        ({"base": None}, "is a file, but an adapter is a folder; to merge checkpoints"),
    ],
)
def test_options_that_do_not_fit(options, words, base, tuned, tmp_path):
    with pytest.raises(UserError, match=words):
        merge(tuned, tmp_path / "out", **{"base": base, **options})


def test_nan_is_refused(base, tuned, tmp_path):
    damaged = load_file(tuned[1])
    damaged["visual.proj"][2, 3] = float("nan")
    save_file(damaged, tuned[1])
    with pytest.raises(DataError, match=r"b.safetensors: visual.proj holds a NaN"):
        merge(tuned, tmp_path / "out", base=base)
