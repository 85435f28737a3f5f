"""Whole models: base + merged changes, by definitions computed here in double."""

from __future__ import annotations

import json
import weakref

import pytest
import torch
from dense_references import best, elected, polar, trimmed, weighted_sum
from safetensors.torch import load_file, save_file
from small_checkpoints import SHAPES

from awpf_ext.errors import UserError
from awpf_ext.lora import merge
from awpf_ext.lora.checkpoint_reader import CHECKPOINT, Checkpoint

MAPS = {"visual.mlp.weight", "visual.proj"}
WEIGHTS = [0.7, -1.3, 0.4]


def changes(path, base) -> dict[str, torch.Tensor]:
    path = path / CHECKPOINT if path.is_dir() else path
    start = load_file(base)
    return {name: x.double() - start[name].double() for name, x in load_file(path).items()}


def assert_merged(out, base, tuned, combine, others, every=False):
    """combine(changes, weights) of matrices, and of all with `every`; the rest by `others`."""
    parts = [changes(path, base) for path in tuned]
    found = changes(out, base)
    assert found.keys() == SHAPES.keys()
    for name, change in found.items():
        own = [part[name] for part in parts]
        as_matrices = [x.reshape(len(x), -1) if x.ndim > 1 else x.reshape(1, -1) for x in own]
        rule = combine if every or name in MAPS else others
        expected = rule(as_matrices, WEIGHTS).reshape(change.shape)
        torch.testing.assert_close(change, expected, rtol=0, atol=2e-5, msg=lambda m, n=name: n + m)


def mean(parts, weights):
    return weighted_sum(parts, weights) / len(parts)


def svd(matrix):
    return torch.linalg.svd(matrix, full_matrices=False)


def tsv(parts, weights):
    per_task = min(parts[0].shape) // len(parts)
    found = [svd(part) for part in parts]
    u = polar(torch.cat([u[:, :per_task] for u, _, _ in found], 1))
    v = polar(torch.cat([vh[:per_task].mT for _, _, vh in found], 1))
    s = torch.cat([w * s[:per_task] for w, (_, s, _) in zip(weights, found, strict=True)])
    return u * s @ v.mT


def iso(parts, weights):
    u, s, vh = svd(weighted_sum(parts, weights))
    return s.mean() * u @ vh


def knots(parts, weights):
    u, s, vh = svd(torch.cat(parts, dim=1))
    aligned = (s[:, None] * vh).split(parts[0].shape[1], dim=1)
    return u @ elected([trimmed(part, 0.4) for part in aligned], weights)


def ties(parts, weights):
    return elected([trimmed(part, 0.4) if part.numel() > 1 else part for part in parts], weights)


def magnitude_prune(parts, weights):
    parts = [trimmed(part, 0.4) if part.numel() > 1 else part for part in parts]
    return weighted_sum(parts, weights)


@pytest.mark.parametrize(
    ("method", "options", "combine", "others"),
    [
        ("linear", {}, weighted_sum, weighted_sum),
        ("svd", {"rank": 3}, lambda *given: best(weighted_sum(*given), 3), weighted_sum),
        ("ties", {"density": 0.4}, ties, None),
        ("magnitude_prune", {"density": 0.4}, magnitude_prune, None),
        ("dare_linear", {"density": 1.0}, weighted_sum, None),
        ("dare_ties", {"density": 1.0}, elected, None),
        ("knots", {"density": 0.4}, knots, weighted_sum),
        ("tsv", {}, tsv, mean),
        ("iso", {}, iso, mean),
        ("iso", {"rank": 4}, lambda *given: best(iso(*given), 4), mean),
    ],
)
def test_methods_are_their_definitions(method, options, combine, others, base, tuned, tmp_path):
    report = merge(tuned, tmp_path / "out", base=base, method=method, weights=WEIGHTS, **options)
    if (method, options.get("rank")) == ("iso", 4):  # equal singular values: any four of them
        kept = changes(report.out, base)
        for name in MAPS:
            values = torch.linalg.svdvals(kept[name])
            torch.testing.assert_close(values[:4], values[:1].expand(4), rtol=1e-3, atol=0)
            assert values[4] < 1e-4 * values[0]
        return
    assert_merged(report.out, base, tuned, combine, others, every=others is None)
    assert {layer.name for layer in report.layers} == {"visual.mlp", "visual.proj"}
    assert report.others == 5


def test_dare_drops_entries_and_rescales_the_others(base, tuned, tmp_path):
    options = {"base": base, "density": 0.3}
    one = merge(tuned[:1], tmp_path / "one", method="dare_linear", **options)
    found, change = changes(one.out, base), changes(tuned[0], base)
    kept = total = 0
    for name, entries in found.items():
        some = entries.abs() > 1e-6
        torch.testing.assert_close(entries[some], change[name][some] / 0.3, rtol=0, atol=1e-5)
        kept, total = kept + int(some.sum()), total + entries.numel()
    assert abs(kept / total - 0.3) < 0.06  # 3.5 standard deviations of 605 entries
    ways = [merge(paths, tmp_path / f"{number}", method="dare_ties", **options).written
            for number, paths in enumerate((tuned, tuned[::-1]))]  # fmt: skip
    first, second = map(load_file, ways)
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize("rank", [1, 3, 9])
def test_iso_takes_the_mean_over_all_singular_values(rank, base, tuned, tmp_path):
    """Also where the change has a low rank, as that of a LoRA that was added to the weights."""
    start = load_file(base)
    u, s, vh = svd(torch.randn(9, 14, generator=torch.Generator().manual_seed(5)))
    low = (u[:, :rank] * s[:rank]) @ vh[:rank]
    save_file({**start, "visual.proj": start["visual.proj"] + low}, tuned[0])
    merged = merge(tuned[:1], tmp_path / "out", base=base, method="iso")
    found = changes(merged.out, base)["visual.proj"]
    mean = float(s[:rank].sum()) / 9
    torch.testing.assert_close(torch.linalg.svdvals(found), torch.full((9,), mean).double(),
                               rtol=1e-4, atol=0)  # fmt: skip
    kept = u[:, :rank].double().mT @ found @ vh[:rank].double().mT
    torch.testing.assert_close(kept, mean * torch.eye(rank).double(), rtol=0, atol=1e-4)


def test_iso_cts_of_whole_matrices(base, tuned, tmp_path):
    def expected(parts, weights):
        total = min(parts[0].shape)
        per_task = round((total - total // 2) / 3)
        common = total - 3 * per_task
        u, s, vh = svd(weighted_sum(parts, weights))
        us, ss, vs = [u[:, :common]], [s[:common]], [vh[:common].mT]
        for part, weight in zip(parts, weights, strict=True):
            left, middle, right = svd(weight * (part - us[0] @ us[0].mT @ part))
            us, ss = [*us, left[:, :per_task]], [*ss, middle[:per_task]]
            vs = [*vs, right[:per_task].mT]
        return torch.cat(ss).mean() * polar(torch.cat(us, 1)) @ polar(torch.cat(vs, 1)).mT

    report = merge(
        tuned, tmp_path / "out", base=base, method="iso", weights=WEIGHTS, common_fraction=0.5
    )
    parts = [changes(path, base) for path in tuned]
    found = changes(report.out, base)
    for name in MAPS:
        wanted = expected([part[name] for part in parts], WEIGHTS)
        assert float((found[name] - wanted).norm() / wanted.norm()) < 1e-3


@pytest.mark.parametrize("method", ["tsv", "iso", "ties", "knots", "svd"])
def test_a_matrix_that_one_task_left_alone_is_that_of_the_others(method, base, tuned, tmp_path):
    start, other = load_file(base), load_file(tuned[1])
    save_file({**other, "visual.proj": start["visual.proj"]}, tuned[1])
    options = {"density": 1.0} if method in ("ties", "knots") else {}
    report = merge(tuned[:2], tmp_path / "out", base=base, method=method, **options)
    found, change = changes(report.out, base), changes(tuned[0], base)["visual.proj"]
    if method == "tsv":  # half of the triplets, as for every task
        change = best(change, min(change.shape) // 2)
    if method == "iso":
        change = iso([change], [1.0])
    torch.testing.assert_close(found["visual.proj"], change, rtol=0, atol=1e-5)
    none = merge([base, base], tmp_path / "none", base=base, method=method, **options)
    assert all(not change.any() for change in changes(none.out, base).values())


@pytest.mark.parametrize("method", ["linear", "ties", "tsv", "knots"])
def test_one_checkpoint_at_weight_one_comes_back_bit_by_bit(method, base, tuned, tmp_path):
    half = {name: x.half() for name, x in load_file(tuned[0]).items()}
    save_file(half, tuned[0])
    options = {"density": 1.0} if method in ("ties", "knots") else {}
    report = merge(tuned[:1], tmp_path / "out", base=base, method=method, **options)
    found = load_file(report.out / CHECKPOINT)
    assert all(torch.equal(found[name], half[name]) for name in SHAPES)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_storage_types(kind, base, tuned, tmp_path):
    wide = merge(tuned, tmp_path / "wide", base=base, weights=WEIGHTS)
    for path in tuned:
        save_file({name: x.to(kind) for name, x in load_file(path).items()}, path)
    narrow = merge(tuned, tmp_path / "out", base=base, weights=WEIGHTS)
    found, expected = (load_file(one.out / CHECKPOINT) for one in (narrow, wide))
    assert {x.dtype for x in found.values()} == {kind}
    for name in SHAPES:
        close = {"rtol": 0.0, "atol": 10 * torch.finfo(kind).eps + 1e-6}
        torch.testing.assert_close(found[name].float(), expected[name], **close)
    chosen = merge(tuned, tmp_path / "chosen", base=base, dtype="bfloat16")
    assert {x.dtype for x in load_file(chosen.out / CHECKPOINT).values()} == {torch.bfloat16}
    if kind == torch.float16:
        with pytest.raises(UserError, match=r"does not fit into torch.float16; use dtype float32"):
            merge(tuned, tmp_path / "no", base=base, weights=[1e6] * 3)


def test_files_of_torch_save(base, tuned, tmp_path):
    expected = merge(tuned[:2], tmp_path / "expected", base=base, method="tsv")
    trained, plain = tmp_path / "epoch_3.pt", tmp_path / "plain.bin"
    state = {f"module.{name}": x for name, x in load_file(tuned[0]).items()}
    torch.save({"epoch": 3, "state_dict": state, "optimizer": {"state": {}}}, trained)
    settings = {"input_resolution": torch.tensor(224), "vocab_size": torch.tensor(7)}
    torch.save({**load_file(tuned[1]), **settings}, plain, _use_new_zipfile_serialization=False)
    report = merge([trained, plain], tmp_path / "out", base=base, method="tsv")
    found, wanted = (load_file(one.out / CHECKPOINT) for one in (report, expected))
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_tied_and_transposed_tensors_are_written_in_full(base, tuned, tmp_path):
    for path in [base, *tuned]:
        state = load_file(path)
        square = state["text_projection"]
        torch.save({**state, "tied": square, "turned": square.mT}, path.with_suffix(".pt"))
    paths = [path.with_suffix(".pt") for path in tuned]
    report = merge(paths, tmp_path / "out", base=base.with_suffix(".pt"), weights=WEIGHTS)
    found = load_file(report.out / CHECKPOINT)
    assert torch.equal(found["tied"], found["text_projection"])
    assert torch.equal(found["turned"], found["text_projection"].mT)


def test_integers_have_to_be_equal_but_counters_need_not(base, tuned, tmp_path):
    for number, path in enumerate([base, *tuned]):
        integers = {"bn.num_batches_tracked": torch.tensor(number), "table": torch.arange(3)}
        save_file({**load_file(path), **integers}, path)
    report = merge(tuned, tmp_path / "out", base=base)
    found = load_file(report.out / CHECKPOINT)
    assert found["bn.num_batches_tracked"] == 0
    assert torch.equal(found["table"], torch.arange(3))
    save_file({**load_file(tuned[1]), "table": torch.arange(3) + 1}, tuned[1])
    with pytest.raises(UserError, match=r"table holds integers and differs between"):
        merge(tuned, tmp_path / "no", base=base)


def test_one_parameter_is_held_at_a_time(base, tuned, tmp_path, monkeypatch):
    read, given, alive = Checkpoint.read, [], []

    def watched(self, name):
        tensor = read(self, name)
        given.append(weakref.ref(tensor))
        return tensor

    def count(done, total):
        alive.append(sum(tensor() is not None for tensor in given))

    monkeypatch.setattr(Checkpoint, "read", watched)
    merge(tuned, tmp_path / "out", base=base, method="ties", progress=count)
    assert len(given) == 4 * len(SHAPES)
    assert max(alive) <= 4


def test_the_record_names_base_and_sources_by_content(base, tuned, tmp_path):
    report = merge(tuned, tmp_path / "out", base=base, method="iso")
    record = json.loads((report.out / "merge.json").read_text())
    assert record["base"]["name"] == "base.safetensors"
    assert len({record["base"]["sha256"], *(one["sha256"] for one in record["sources"])}) == 4
    assert record["other_parameters"] == 5
    assert str(tmp_path) not in json.dumps(record)
    with pytest.raises(UserError, match="out exists; choose another name"):
        merge(tuned, tmp_path / "out", base=base)
    merge([report.out, tuned[0]], tmp_path / "again", base=base)  # a merge is a checkpoint, too
    merge(tuned, tmp_path / "out", base=base, force=True)


def test_open_clip_loads_the_merge_of_real_weights(tmp_path):
    """Task arithmetic on the CLIP of the demo, whose weights are stored in float16."""
    open_clip = pytest.importorskip("open_clip", reason='needs the extra "clip"')
    from awpf_ext.clip import demo_model, load_backbone

    start = load_file(demo_model.WEIGHTS)
    paths = [tmp_path / f"{name}.safetensors" for name in "ab"]
    for seed, path in enumerate(paths):
        made = torch.Generator().manual_seed(seed)
        save_file(
            {k: x + 0.02 * torch.randn(x.shape, generator=made) for k, x in start.items()}, path
        )
    report = merge(paths, tmp_path / "out", base="open_clip:demo:embedded", weights=[0.5, 0.25])
    parts = [changes(path, demo_model.WEIGHTS) for path in paths]
    path = report.out / CHECKPOINT
    assert report.written == path
    model, _, _ = open_clip.create_model_and_transforms("demo", pretrained=str(path))
    for name, x in model.state_dict().items():
        expected = start[name].double() + 0.5 * parts[0][name] + 0.25 * parts[1][name]
        torch.testing.assert_close(x.double(), expected, rtol=1e-6, atol=1e-6)
    images = torch.randint(0, 256, (2, 48, 48, 3), dtype=torch.uint8)
    encoded = load_backbone("demo", str(path)).encode_images(images)
    assert not torch.allclose(encoded, load_backbone("demo", "embedded").encode_images(images))
