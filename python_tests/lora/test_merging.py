"""From folder to folder: one adapter unchanged, formats, the record, and what a kill leaves."""

from __future__ import annotations

import json
import os
import signal
import weakref

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_adapters import deltas, distance

from awpf_ext import io
from awpf_ext.errors import UserError
from awpf_ext.lora import MERGE_METHODS, merge
from awpf_ext.lora.adapter_reader import LoraAdapter

WHOLE = {name: {"density": 1.0} if method.takes[1:2] == ("density",) else {}
         for name, method in MERGE_METHODS.items()}  # fmt: skip
FILES = ["adapter_config.json", "adapter_model.safetensors", "merge.json"]


@pytest.mark.parametrize(
    "method", [name for name in MERGE_METHODS if MERGE_METHODS[name].keeps_one]
)
def test_one_adapter_at_weight_one_comes_back_bit_by_bit(method, write, tmp_path):
    saved = {
        "base_model.model.head.weight": torch.randn(3, 5),
        "base_model.model.mixed.lora_A.weight": torch.randn(4, 5),
        "base_model.model.mixed.lora_B.weight": torch.randn(6, 4).half(),
    }
    one = write("one", 4, dtype=torch.bfloat16, lora_alpha=7, use_rslora=True, tensors=saved)
    report = merge([one], tmp_path / "out", method=method, **WHOLE[method])
    before, after = (load_file(f / "adapter_model.safetensors") for f in (one, report.out))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert all(before[key].dtype == after[key].dtype for key in before)
    old, new = (json.loads((f / "adapter_config.json").read_text()) for f in (one, report.out))
    assert old == new


def test_another_weight_or_a_cut_is_not_the_adapter(write, tmp_path):
    one = write("one", 4)
    half = merge([one], tmp_path / "half", method="stack", weights=[0.5])
    assert distance(deltas(half.out), {k: d / 2 for k, d in deltas(one).items()}) < 1e-6
    cut = merge([one], tmp_path / "cut", method="svd", rank=2)
    assert {layer.rank for layer in cut.layers} == {2}


def test_scaling_follows_alpha_rank_and_rslora(write, tmp_path):
    plain = write("plain", 4, lora_alpha=4)
    stabilised = write("plain2", 4, lora_alpha=4, use_rslora=True)
    names = ("adapter_model.safetensors",)
    for name in names:  # the same tensors under both configs
        (stabilised / name).write_bytes((plain / name).read_bytes())
    report = merge([plain, stabilised], tmp_path / "out", method="stack")
    assert distance(deltas(report.out), {k: 3 * d for k, d in deltas(plain).items()}) < 1e-6
    config = json.loads((report.out / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["use_rslora"]) == (8, 8, False)


def test_ranks_of_their_own_are_written_as_patterns(write, tmp_path):
    narrow = {"layers.0.q": (20, 12), "x.layers.0.q": (3, 12)}
    folders = [write(name, 2, shapes=narrow) for name in ("a", "b")]
    report = merge(folders, tmp_path / "out", method="svd", rank=4)
    config = json.loads((report.out / "adapter_config.json").read_text())
    assert {layer.name: layer.rank for layer in report.layers} == {
        "layers.0.q": 4,
        "x.layers.0.q": 3,
    }
    usual, other = config["r"], ({3, 4} - {config["r"]}).pop()
    name = "x.layers.0.q" if other == 3 else "layers.0.q"
    assert config["rank_pattern"] == {f"^{name.replace('.', chr(92) + '.')}$": other}
    assert config["alpha_pattern"] == config["rank_pattern"]
    assert config["lora_alpha"] == usual
    found = merge([report.out], tmp_path / "again", method="stack", weights=[2])  # and is read
    twice = {k: 2 * d for k, d in deltas(report.out).items()}
    assert distance(deltas(found.out), twice) < 1e-6


def test_convolutions_and_embeddings_keep_their_form(write, tmp_path):
    def extra(seed):
        made = torch.Generator().manual_seed(seed)
        key = "base_model.model."
        return {
            f"{key}conv.lora_A.weight": torch.randn(4, 3, 5, 5, generator=made),
            f"{key}conv.lora_B.weight": torch.randn(8, 4, 1, 1, generator=made),
            f"{key}words.lora_embedding_A": torch.randn(4, 50, generator=made),
            f"{key}words.lora_embedding_B": torch.randn(6, 4, generator=made),
        }

    folders = [write(name, 4, tensors=extra(seed)) for seed, name in enumerate("ab")]
    report = merge(folders, tmp_path / "out", method="svd", rank=5)
    tensors = load_file(report.out / "adapter_model.safetensors")
    assert tensors["base_model.model.conv.lora_A.weight"].shape == (5, 3, 5, 5)
    assert tensors["base_model.model.conv.lora_B.weight"].shape == (8, 5, 1, 1)
    assert tensors["base_model.model.words.lora_embedding_A"].shape == (5, 50)
    assert tensors["base_model.model.words.lora_embedding_B"].shape == (6, 5)
    kinds = {layer.name.split(".")[-1] for layer in report.layers}
    assert kinds == {"q", "up", "conv", "words"}
    exact = merge(folders, tmp_path / "exact", method="stack")
    one, two = deltas(folders[0]), deltas(folders[1])
    assert distance(deltas(exact.out), {k: one[k] + two[k] for k in one}) < 1e-6


def test_keys_with_an_adapter_name_or_without_prefix_are_understood(write, tmp_path):
    plain = write("plain")
    named, bare = write("named"), write("bare")
    tensors = load_file(plain / "adapter_model.safetensors")
    renamed = {key.replace(".weight", ".default.weight"): t for key, t in tensors.items()}
    short = {key.removeprefix("base_model.model."): t for key, t in tensors.items()}
    save_file(renamed, named / "adapter_model.safetensors")
    save_file(short, bare / "adapter_model.safetensors")
    report = merge([plain, named, bare], tmp_path / "out")
    assert distance(deltas(report.out), {k: 3 * d for k, d in deltas(plain).items()}) < 1e-5
    copied = merge([bare], tmp_path / "copy")
    assert load_file(copied.out / "adapter_model.safetensors").keys() == tensors.keys()


def test_types_are_kept_joined_or_chosen(write, tmp_path):
    half = write("half", dtype=torch.float16)
    brain = write("brain", dtype=torch.bfloat16)

    def kind(folders, **options):
        out = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        merge(folders, out, **options)
        return {t.dtype for t in load_file(out / "adapter_model.safetensors").values()}

    assert kind([half, half]) == {torch.float16}
    assert kind([half, brain]) == {torch.float32}
    assert kind([half, brain], dtype="bfloat16") == {torch.bfloat16}
    assert kind([half], dtype="float32") == {torch.float32}
    with pytest.raises(UserError, match=r"does not fit into torch.float16; use dtype float32"):
        kind([half], weights=[1e9], method="stack")


def test_what_is_no_factor_is_carried_over_if_equal(write, tmp_path):
    head = torch.randn(3, 5)
    key = "base_model.model.head.weight"
    folders = [write(name, tensors={key: head}) for name in "ab"]
    report = merge(folders, tmp_path / "out")
    assert torch.equal(load_file(report.out / "adapter_model.safetensors")[key], head)
    other = write("c", tensors={key: head + 1})
    with pytest.raises(UserError, match=r"head.weight is no LoRA factor and differs"):
        merge([folders[0], other], tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_every_tensor_is_aligned_whatever_is_beside_it(write, tmp_path):
    others = {
        "base_model.model.a": torch.ones(3, dtype=torch.uint8),
        "base_model.model.b": torch.ones(3, dtype=torch.float64),
        "base_model.model.z": torch.ones(3, dtype=torch.float32),
    }
    odd = {"q": (5, 3)}
    folders = [write(n, 1, dtype=torch.float16, tensors=others, shapes=odd) for n in "ab"]
    for name, sources in (("copy", folders[:1]), ("merged", folders)):
        out = merge(sources, tmp_path / name).out / "adapter_model.safetensors"
        content = out.read_bytes()
        length = int.from_bytes(content[:8], "little")
        for key, entry in json.loads(content[8 : 8 + length]).items():
            if key != "__metadata__":
                width = {"F64": 8, "F32": 4, "F16": 2, "U8": 1}[entry["dtype"]]
                assert (8 + length + entry["data_offsets"][0]) % width == 0
        assert load_file(out).keys() >= others.keys()


def test_the_record_names_sources_by_content(write, tmp_path):
    folders = [write("a", base_model_name_or_path="m"), write("b", base_model_name_or_path="m")]
    report = merge(folders, tmp_path / "out", method="svd", rank=3, weights=[1, 0.5])
    record = io.read_json(report.out / "merge.json")
    assert record["method"] == "svd"
    assert record["settings"] == {"rank": 3}
    assert record["weights"] == [1, 0.5]
    assert record["base_model"] == "m"
    assert [source["name"] for source in record["sources"]] == ["a", "b"]
    assert len({source["sha256"] for source in record["sources"]}) == 2
    assert record["layers"][0].keys() == {"name", "ranks", "rank", "energy_kept"}
    assert str(tmp_path) not in json.dumps(record)
    assert sorted(path.name for path in report.out.iterdir()) == FILES


def test_progress_is_told_by_layers(write, tmp_path):
    seen = []
    folders = [write("a"), write("b")]
    merge(folders, tmp_path / "out", progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_an_existing_folder_is_replaced_only_with_force_and_only_if_an_adapter(write, tmp_path):
    one, two = write("one"), write("two")
    out = tmp_path / "out"
    out.mkdir()  # empty: free
    first = merge([one], out)
    with pytest.raises(UserError, match="out exists; choose another name, or replace it"):
        merge([two], out)
    assert distance(deltas(out), deltas(one)) == 0
    merge([two], out, force=True)
    assert distance(deltas(first.out), deltas(two)) == 0
    (out / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"out is not replaced: it holds notes.txt"):
        merge([one], out, force=True)
    with pytest.raises(UserError, match="is or holds one of the sources"):
        merge([one, two], one, force=True)
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"is not replaced: it holds a.png"):
        merge([one], photos, force=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="exists and is no folder"):
        merge([one], tmp_path / "file", force=True)


MOMENTS = ["writing adapter_model", "written adapter_model", "synced merge.json", "moved out"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_merge_leaves_nothing_half_written(moment, force, write, tmp_path):
    one, two = write("one"), write("two")
    out = tmp_path / "out"
    if force:
        merge([one], out)
    child = os.fork()
    if child == 0:
        io.atomic.FAULT_HOOK = lambda name: (
            os.kill(os.getpid(), signal.SIGKILL) if name.startswith(moment) else None
        )
        merge([two], out, force=force)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    if force and moment != "moved out":
        assert distance(deltas(out), deltas(one)) == 0
    else:
        assert not out.exists()
    with pytest.raises(UserError, match="no merge method"):
        merge([two], out, method="nothing")
    merge([two], out, force=force)
    assert distance(deltas(out), deltas(two)) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one", "out", "two"]


def test_a_merge_killed_while_replacing_gives_the_old_adapter_back(write, tmp_path):
    one, two = write("one"), write("two")
    out, old = tmp_path / "out", tmp_path / ".out.1-ab.old.tmp"
    merge([one], out)
    out.rename(old)
    with pytest.raises(UserError, match="out exists"):
        merge([two], out)
    assert distance(deltas(out), deltas(one)) == 0


def test_another_merge_at_work_is_left_alone(write, tmp_path):
    one = write("one")
    at_work = tmp_path / ".out.1-ab.tmp"
    with io.lock(at_work / ".lock"):
        (at_work / "file").write_text("")
        merge([one], tmp_path / "out")
        assert (at_work / "file").exists()


@pytest.mark.parametrize("error", [RuntimeError("stop"), KeyboardInterrupt()])
def test_a_failed_merge_leaves_nothing(error, write, tmp_path, monkeypatch):
    one = write("one")

    def fail(name):
        if name.startswith("writing adapter_model"):
            raise error

    monkeypatch.setattr(io.atomic, "FAULT_HOOK", fail)
    with pytest.raises(type(error)):
        merge([one], tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


def test_only_a_layer_is_held_at_a_time(write, tmp_path, monkeypatch):
    shapes = {f"layers.{i}.q": (8, 8) for i in range(40)}
    folders = [write(name, 4, shapes=shapes) for name in "ab"]
    read, given, alive = LoraAdapter.read, [], []

    def watched(self, key):
        tensor = read(self, key)
        given.append(weakref.ref(tensor))
        return tensor

    def count(done, total):
        alive.append(sum(tensor() is not None for tensor in given))

    monkeypatch.setattr(LoraAdapter, "read", watched)
    merge(folders, tmp_path / "out", method="stack", progress=count)
    assert len(given) == 2 * 2 * 40
    assert max(alive) <= 4  # two factors of two adapters
