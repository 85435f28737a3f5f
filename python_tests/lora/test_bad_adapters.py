"""What cannot be merged, is damaged or means harm is refused in one sentence that names it."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from awpf_ext.errors import AwpfError, DataError, UserError
from awpf_ext.lora import merge

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"


def refused(folders, out, error: type[AwpfError], words: str, **options):
    with pytest.raises(error, match=words) as caught:
        merge(folders, out, **options)
    assert "\n" not in str(caught.value)
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "tise"}, "no merge method 'tise'; did you mean 'ties'?"),
        ({"method": "stack", "rank": 4}, "rank is no setting of stack; it takes none"),
        ({"method": "svd", "density": 0.5}, "density is no setting of svd; it takes rank"),
        ({"method": "svd", "rank": 0}, "rank is 0; expected a whole number of at least 1"),
        ({"method": "svd", "rank": True}, "rank is True; expected a whole number"),
        ({"method": "ties", "density": 0}, "density is 0; expected a number above 0, at most 1"),
        ({"method": "ties", "density": float("nan")}, "density is nan; expected"),
        (
            {"method": "ties", "merge_space": "both"},
            "merge_space is 'both'; expected delta or factors",
        ),
        (
            {"method": "iso", "common_fraction": 2},
            "common_fraction is 2; expected a number from 0 to 1",
        ),
        ({"method": "dare_ties", "density": 0.5, "seed": -1}, "seed is -1; expected"),
        ({"method": "dare_ties"}, r"dare_ties needs density \(--density\)"),
        ({"weights": [1, 2, 3]}, "there are 3 weights for 2 sources"),
        ({"weights": [1, float("inf")]}, "a weight is inf; expected finite numbers"),
        ({"dtype": "int8"}, "dtype is 'int8'; expected one of float32, float16, bfloat16"),
    ],
)
def test_bad_options(options, words, write, tmp_path):
    refused([write("a"), write("b")], tmp_path / "out", UserError, words, **options)


def test_places_that_are_no_adapters(write, tmp_path):
    out, one = tmp_path / "out", write("one")
    refused([], out, UserError, r"sources is \[\]; expected a list")
    refused(str(one), out, UserError, "expected a list of paths")
    refused([tmp_path / "none"], out, UserError, "there is no folder .*none; expected")
    refused([one / WEIGHTS], out, UserError, "is a file, but an adapter is a folder; to merge ch")
    (tmp_path / "empty").mkdir()
    refused([tmp_path / "empty"], out, UserError, f"no LoRA adapter: it has no file {WEIGHTS}")
    (one / CONFIG).unlink()
    refused([one], out, UserError, f"it has no file {CONFIG}")
    with pytest.raises(UserError, match="is no name for a new folder"):
        merge([write("two")], tmp_path / "..")


def test_a_pickle_is_not_opened(write, tmp_path):
    one = write("one")
    (one / WEIGHTS).unlink()
    (one / "adapter_model.bin").write_bytes(b"cos\nsystem\n(S'touch opened'\ntR.")
    refused([one], tmp_path / "out", UserError, "adapter_model.bin, a pickle, which is not opened")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", "cannot read .*adapter_config.json"),
        (b"\xff\xfe", "cannot read .*adapter_config.json"),
        (b"[" * 100_000, "cannot read .*adapter_config.json"),
        (b" " * (2 << 20), "far more than a config"),
        (b"[1]", "it holds a list, not a JSON object"),
    ],
)
def test_a_config_that_cannot_be_read(content, words, write, tmp_path):
    one = write("one")
    (one / CONFIG).write_bytes(content)
    refused([one], tmp_path / "out", DataError, words)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"peft_type": "LOHA"}, UserError, "peft_type 'LOHA'; only LORA"),
        ({"peft_type": None}, UserError, "peft_type None"),
        ({"use_dora": True}, UserError, r"use_dora: weight-decomposed LoRA \(DoRA\)"),
        ({"lora_bias": True}, UserError, "lora_bias: biases of LoRA factors"),
        ({"target_parameters": ["w"]}, UserError, "target_parameters: LoRA of bare parameters"),
        ({"init_lora_weights": "pissa_niter_4"}, UserError, "changes the base model; convert"),
        ({"r": "4"}, DataError, "r is '4'; expected a whole number"),
        ({"r": True}, DataError, "r is True; expected a whole number"),
        ({"r": -4}, DataError, "r is -4; expected a whole number"),
        ({"r": 8}, DataError, "have rank 4, but adapter_config.json says 8"),
        ({"lora_alpha": float("nan")}, DataError, "lora_alpha is nan; expected a finite number"),
        ({"lora_alpha": None}, DataError, "lora_alpha is None; expected a finite number"),
        ({"alpha_pattern": [1]}, DataError, "alpha_pattern is a list; expected an object"),
        ({"alpha_pattern": {"q": "x"}}, DataError, r"alpha_pattern\['q'\] is 'x'"),
        ({"alpha_pattern": {"(": 1}}, DataError, r"alpha_pattern has the pattern '\('"),
        ({"rank_pattern": {"q": 3}}, DataError, "have rank 4, but adapter_config.json says 3"),
    ],
)
def test_configs_of_other_kinds(changes, error, words, write, tmp_path):
    refused([write("one", **changes)], tmp_path / "out", error, words)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"base_model_name_or_path": "y"}, "differ in base_model_name_or_path: 'x' in .*a, 'y' in"),
        ({"task_type": "CAUSAL_LM"}, "differ in task_type: None in .*a, 'CAUSAL_LM' in"),
        ({"fan_in_fan_out": True}, "differ in fan_in_fan_out"),
        ({"revision": "v2"}, "differ in revision: 'main' in .*, 'v2' in"),
    ],
)
def test_adapters_of_different_models(changes, words, write, tmp_path):
    of_x = {"base_model_name_or_path": "x"}
    folders = [write("a", **of_x), write("b", **{**of_x, **changes})]
    refused(folders, tmp_path / "out", UserError, words)


def test_a_base_model_may_be_vouched_for(write, tmp_path):
    folders = [write(name, base_model_name_or_path=name) for name in "ab"]
    report = merge(folders, tmp_path / "out", base_model="org/model")
    config = json.loads((report.out / CONFIG).read_text())
    assert config["base_model_name_or_path"] == report.base_model == "org/model"


def test_different_modules_and_shapes_are_named(write, tmp_path):
    out, plain = tmp_path / "out", write("plain")
    more = write("more", shapes={f"layers.{i}.q": (20, 12) for i in range(8)})
    refused([plain, more], out, UserError, "same modules: only .*plain has layers.0.up$")
    wide = write("wide", shapes={"layers.0.q": (20, 12), "layers.1.q": (20, 12),
                                 "layers.0.up": (9, 31)})  # fmt: skip
    refused([plain, wide], out, UserError, r"differ in the shape of layers.0.up: A \(4, 30\) and B")
    few = write("few", shapes={"layers.0.q": (20, 12)})
    words = r"only .*more has layers.1.q, layers.2.q, layers.3.q, layers.4.q and 3 more"
    refused([few, more], out, UserError, words)
    saved = write("saved", tensors={"base_model.model.head.weight": torch.ones(2)})
    refused([plain, saved], out, UserError, "only .*saved has head.weight")


KEY = "base_model.model.layers.0.q"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({f"{KEY}.lora_A.weight": torch.full((4, 12), float("nan"))}, "holds a NaN or an infinity"),
        ({f"{KEY}.lora_B.weight": torch.full((20, 4), float("inf"))}, "holds a NaN or an infinity"),
        ({f"{KEY}.lora_A.weight": torch.ones(4, 12, dtype=torch.int32)}, "has type I32; expected"),
        ({f"{KEY}.lora_A.weight": torch.ones(48)}, r"has shape \(48,\); expected a factor's"),
        ({f"{KEY}.lora_A.weight": torch.ones(4, 0)}, r"has shape \(4, 0\)"),
        ({f"{KEY}.lora_B.weight": torch.ones(20, 3)}, r"have shapes \(4, 12\) and \(20, 3\)"),
        ({f"{KEY}.lora_A.other.weight": torch.ones(4, 12)}, "two tensors for one factor"),
        ({f"{KEY}.lora_B.weight": None}, "needs two factors, but has .*lora_A.weight"),
        ({f"{KEY}.lora_embedding_A": torch.ones(4, 12)}, "needs two factors, but has"),
        ({f"{KEY}.lora_magnitude_vector": torch.ones(20)}, "only factors lora_A and lora_B can"),
        ({f"{KEY}.lora_B.bias": torch.ones(20)}, "only factors lora_A and lora_B can be merged"),
        ({"base_model.model.c.lora_A.weight": torch.ones(4, 2, 3, 3),
          "base_model.model.c.lora_B.weight": torch.ones(8, 2, 1, 1)}, "grouped convolutions"),
    ],
)  # fmt: skip
def test_tensors_that_are_no_factors(changes, words, write, tmp_path):
    one = write("one")
    tensors = {**load_file(one / WEIGHTS), **changes}
    save_file({k: t for k, t in tensors.items() if t is not None}, one / WEIGHTS)
    refused([one], tmp_path / "out", AwpfError, words)


def test_a_file_without_factors(write, tmp_path):
    one = write("one")
    save_file({"base_model.model.head.weight": torch.ones(2)}, one / WEIGHTS)
    refused([one], tmp_path / "out", DataError, "has no LoRA factors")


def crafted(entries: dict[str, object] | bytes, data: bytes, length: int | None = None) -> bytes:
    header = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return (len(header) if length is None else length).to_bytes(8, "little") + header + data


def entry(shape: list[int], start: int, end: int, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


A, B = f"{KEY}.lora_A.weight", f"{KEY}.lora_B.weight"
DAMAGED = {
    "empty": b"",
    "a header of 2^63 bytes": crafted({}, b"", 2**63),
    "a header longer than the file": crafted({}, b"", 50_000_000),
    "no JSON": crafted(b"{" * 100, b""),
    "deep JSON": crafted(b"[" * 200_000, b""),
    "a pickle": b"\x80\x04\x95" + b"\x00" * 100,
    "overlapping": crafted({A: entry([4, 1], 0, 16), B: entry([1, 4], 8, 24)}, b"\0" * 24),
    "beyond the end": crafted({A: entry([4, 1], 0, 16), B: entry([1, 4], 16, 32)}, b"\0" * 24),
    "a hole": crafted({A: entry([4, 1], 0, 16), B: entry([1, 4], 32, 48)}, b"\0" * 48),
    "more data than told": crafted({A: entry([4, 1], 0, 16)}, b"\0" * 4096),
    "a shape that is not its bytes": crafted({A: entry([2**40, 2**40], 0, 16)}, b"\0" * 16),
    "an overflowing shape": crafted({A: entry([2**62, 4], 0, 16)}, b"\0" * 16),
    "negative offsets": crafted({A: entry([4, 1], -16, 0)}, b"\0" * 16),
    "a name twice": crafted(
        json.dumps({A: entry([4, 1], 0, 16)}).encode()[:-1]
        + b", "
        + json.dumps({A: entry([2, 2], -64, 1 << 50)}).encode()[1:],
        b"\0" * 16,
    ),
    "an unknown type": crafted({A: entry([4, 1], 0, 16, "PICKLE")}, b"\0" * 16),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED.keys())
def test_damaged_or_malicious_tensors(content, write, tmp_path):
    one = write("one")
    (one / WEIGHTS).write_bytes(content)
    refused([one], tmp_path / "out", DataError, "cannot read .*adapter_model.safetensors")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_truncated_tensors(share, write, tmp_path):
    one = write("one")
    whole = (one / WEIGHTS).read_bytes()
    (one / WEIGHTS).write_bytes(whole[: int(share * len(whole))])
    refused([one], tmp_path / "out", DataError, "cannot read .*adapter_model.safetensors")


def test_numbers_beyond_the_type_are_an_error(write, tmp_path):
    folders = [write("a"), write("b")]
    for method in ("linear", "stack", "svd", "tsv", "iso"):
        refused(folders, tmp_path / "out", UserError, "layers.0", method=method,
                weights=[1e300, 1e300])  # fmt: skip


def test_names_are_never_taken_for_paths(write, tmp_path):
    strange = "../../../escaped"
    one = write("one", shapes={strange: (3, 2)}, rank=1)
    report = merge([one, one], tmp_path / "deep" / "out", method="svd")
    assert report.layers[0].name == strange
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "one"]
