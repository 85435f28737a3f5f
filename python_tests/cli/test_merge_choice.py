"""`awpf merge --choose`: CLIP adapters and checkpoints scored by images, others by a program."""

from __future__ import annotations

import json

import pytest
from safetensors.torch import save_file

from awpf_ext import io
from awpf_ext.clip import load_backbone, weights
from awpf_ext.errors import DataError, UserError
from awpf_ext.lora import ProgramScore, merge
from awpf_ext.runs import merge_score
from awpf_ext.runs.merge_score import ClipSource, ImageScore
from awpf_ext.runs.validation_images import validation_images

open_clip = pytest.importorskip("open_clip", reason="needs open_clip_torch")
pytest.importorskip("peft", reason='needs the extra "lora"')


class Recorder:
    """Calls a function and keeps its results."""

    def __init__(self, function):
        self.function = function
        self.results = []

    def __call__(self, *arguments, **options):
        self.results.append(self.function(*arguments, **options))
        return self.results[-1]


@pytest.fixture
def adapters(image_arguments, awpf, tmp_path):
    """Two LoRAs, of the first task and of the second."""
    training = ["--method=lora_merge", "--set", "epochs=2", "--set", "learning_rate=0.05"]
    assert awpf("run", *image_arguments, *training, "--out=run").code == 0
    return [tmp_path / "run" / "adapters" / f"task_000{task}" for task in range(2)]


@pytest.fixture
def folder(image_arguments, tmp_path):
    """The test images as a folder of classes."""
    return f"folder:{tmp_path / 'images' / 'test'}"


def test_an_adapter_scores_as_in_its_run(image_arguments, folder, awpf, tmp_path):
    training = ["--method=lora_merge", "--set", "epochs=3", "--set", "learning_rate=0.05"]
    assert awpf("run", *image_arguments, *training, "--increment=4", "--out=one").code == 0
    score = ImageScore(folder)
    assert (score.count, score.classes) == (8, 4)
    adapter = tmp_path / "one" / "adapters" / "task_0000"
    assert score(adapter) == io.read_json(tmp_path / "one" / "result.json")["last"]


def test_a_checkpoint_scores_as_in_its_run(image_arguments, folder, awpf, tmp_path):
    training = ["--method=replay_ce", "--set", "epochs=3", "--set", "learning_rate=0.01"]
    assert awpf("run", *image_arguments, *training, "--out=full").code == 0
    assert awpf("export", "full", "clip.safetensors", "--open-clip").code == 0
    last = io.read_json(tmp_path / "full" / "result.json")["last"]
    score = ImageScore(folder, base="clip.safetensors", clip=ClipSource("tiny"))
    assert score(tmp_path / "clip.safetensors") == last
    with pytest.raises(UserError, match=r"does not say what model it is; expected model"):
        ImageScore(folder, base="clip.safetensors")
    with pytest.raises(DataError, match=r"clip.safetensors as weights of demo"):  # before a merge
        ImageScore(folder, base="clip.safetensors", clip=ClipSource("demo"))
    done = awpf("merge", "clip.safetensors", "--base=clip.safetensors", "-o", "best", "--json",
                f"--choose={folder}", "--model=tiny", "-m", "linear", "-m", "ties")  # fmt: skip
    assert done.code == 0, done.err
    assert {one["score"] for one in done.json["ranking"]} == {last}


def test_a_checkpoint_has_the_activation_and_the_pixels_of_its_bases_tag(
    image_arguments, folder, tmp_path, monkeypatch
):
    start = load_backbone("tiny", "random:0")
    file = tmp_path / "base.safetensors"
    save_file({key: value.clone() for key, value in start.model.state_dict().items()}, file)
    tag = {"url": "none", "mean": (0.9,) * 3, "std": (0.1,) * 3, "quick_gelu": True}
    known = {("tiny", "tagged"): tag}
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda *name: known.get(name, {}))
    monkeypatch.setattr(weights, "_tagged_file", lambda *arguments: file)
    monkeypatch.setattr(merge_score, "load_backbone", loaded := Recorder(load_backbone))
    merged = merge([file], tmp_path / "out", base="open_clip:tiny:tagged")
    ImageScore(folder, base="open_clip:tiny:tagged")(merged.written)
    expected = load_backbone("tiny", "tagged")
    assert loaded.results[-1].preprocessing == expected.preprocessing
    assert loaded.results[-1].quick_gelu is True


def test_it_prints_a_ranked_table_and_the_merge(adapters, folder, awpf):
    done = awpf("merge", *adapters, "--choose", folder, "-m", "linear", "-m", "tsv",
                "--scales", "0.5,1", "--validation-limit", "1", "-o", "best")  # fmt: skip
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0] == f"12 merges by {folder} (4 images of 4 classes), best first"
    assert lines[2].split() == ["method", "settings", "weights", "accuracy"]
    shown = [float(line.split()[-1]) for line in lines[3:15]]
    assert shown == sorted(shown, reverse=True)
    ranking = io.read_json("best/merge.json")["ranking"]
    assert shown == [round(100 * one["score"], 1) for one in ranking]
    low, high = ImageScore(folder, limit=1).interval(ranking[0]["score"])
    told = f"The 95 % interval of the best accuracy is {100 * low:.1f} to {100 * high:.1f}"
    assert told in " ".join(done.out.split())
    assert lines[-1] == "best"


def test_the_interval_of_an_accuracy(folder):
    score = ImageScore(folder)
    assert score.count == 8
    low, high = score.interval(1.0)  # by Wilson's formula for 8 of 8 and z = 1.96
    assert (low, high) == pytest.approx((8 / (8 + 1.96**2), 1), abs=1e-4)
    assert score.interval(0.0) == pytest.approx((0, 1 - low), abs=1e-9)
    assert sum(score.interval(0.5)) == pytest.approx(1)


def test_a_program_scores_any_adapter(adapters, awpf, tmp_path):
    script = tmp_path / "score.py"
    script.write_text(
        "import json, pathlib, sys\n"
        "made = json.loads((pathlib.Path(sys.argv[1]) / 'merge.json').read_text())\n"
        "print(10 * (made['method'] == 'iso') - abs(sum(made['weights']) - 1))\n"
    )
    done = awpf("merge", *adapters, "--choose", script, "-m", "linear", "-m", "iso", "-o", "best")
    assert done.code == 0, done.err
    assert done.out.splitlines()[0].endswith("score.py (its score), best first")
    assert done.out.splitlines()[3].split() == ["iso", "0.5,", "0.5", "10"]
    half = awpf("merge", *adapters, "--choose", script, "-m", "linear", "-o", "half",
                "--dtype=float16", "--weights=1,1", "--scales=1,1e30", "--force")  # fmt: skip
    told = " ".join(half.out.split())
    assert "1 merge has no score; the first reason: the merged base_model" in told
    assert "does not fit into torch.float16" in told
    script.write_text("import sys; sys.exit('out of memory')")
    failed = awpf("merge", *adapters, "--choose", script, "-o", "other")
    assert failed.code == 3
    assert failed.err.splitlines()[0].endswith("score.py failed with exit code 1 (out of memory)")
    assert not (tmp_path / ".other.choosing").exists()


def test_what_interrupts_it_is_told_with_what_is_kept(adapters, awpf, tmp_path, monkeypatch):
    calls = []

    def interrupted(self, path):
        calls.append(path)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return 1.0

    monkeypatch.setattr(ProgramScore, "__call__", interrupted)
    stopped = awpf("merge", *adapters, "--choose", "true", "-m", "linear", "-o", "best")
    assert stopped.code == 130
    assert " ".join(stopped.err.split()) == (
        "interrupted: 2 scores are kept in .best.choosing, and the same command continues"
    )
    done = awpf("merge", *adapters, "--choose", "true", "-m", "linear", "-o", "best", "--json")
    assert len(done.json["ranking"]) == len(calls) - 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--choose=none.py"], "is neither a data set (NAME:PATH, as in --dataset) nor a program"),
        (["--choose=true", "--prompt={}"], "--prompt is for a data set of images; 'true' is a pro"),
        (["--choose=true", "--validation-limit=3"], "--validation-limit is for a data set of"),
        (["--scales=1"], "--scales needs --choose VALIDATION"),
        (["--validation-limit=3"], "--validation-limit needs --choose VALIDATION"),
        (["-m", "tsv", "-m", "iso"], "--method is given 2 times; only --choose takes several"),
        (["--weights=1", "--weights=2"], "--weights is given 2 times; only --choose"),
        (["--choose=true", "--scales=x"], "--scales is 'x'; expected numbers separated by commas"),
        (["--choose=folder:none"], "there is no none"),
        (["--choose=features:clip.npz"], "there is no clip.npz"),
    ],
)
def test_options_that_do_not_fit(arguments, words, adapters, awpf):
    done = awpf("merge", adapters[0], *arguments, "-o", "out")
    assert done.code == 2
    assert words in " ".join(done.err.split())


def test_an_adapter_of_another_model_is_refused(adapters, folder, awpf, tmp_path):
    config = json.loads((adapters[0] / "adapter_config.json").read_text())
    for changes, error, words in (
        ({"base_model_name_or_path": "org/llm"}, UserError, "belong to 'org/llm'; expected a CLIP"),
        ({"revision": "0" * 16}, DataError, "but the adapters were trained on 0000"),
    ):
        (adapters[0] / "adapter_config.json").write_text(json.dumps({**config, **changes}))
        with pytest.raises(error, match=words):
            ImageScore(folder)(adapters[0])
    moved = ClipSource("tiny", "random:1")
    (adapters[0] / "adapter_config.json").write_text(json.dumps({**config, "revision": None}))
    assert 0 <= ImageScore(folder, clip=moved)(adapters[0]) <= 1


def test_validation_images_are_never_test_images(image_arguments, tmp_path):
    root = tmp_path / "images"
    left = validation_images(f"folder:{root}", train_limit=2)
    names = {left.images.name(row) for row in range(len(left.images.labels))}
    assert names == {str(path) for path in root.glob("train/*/[13].png")}  # a run takes 0 and 2
    assert len(validation_images(f"folder:{root}", train_limit=2, limit=1).images.labels) == 4
    words = "has training and test images; expected a folder whose subfolders are classes"
    with pytest.raises(UserError, match=words):
        validation_images(f"folder:{root}")
    with pytest.raises(UserError, match="no training images besides those that train_limit=4"):
        validation_images(f"folder:{root}", train_limit=4)
    with pytest.raises(UserError, match="limit is 0; expected at least 1"):
        validation_images(f"folder:{root}", limit=0)
    demo = validation_images("demo", limit=None)
    assert len(demo.images.labels) == 100 * (200 - 80)
    assert len(demo.class_names) == 100
    assert len(validation_images("demo:negative", limit=1).images.labels) == 100


def test_images_that_a_source_was_trained_on_are_no_validation_images(
    image_arguments, awpf, tmp_path
):
    spec, *rest = image_arguments
    training = ["--method=lora_merge", "--set", "epochs=1", "--train-limit=3", "--imbalance=0.3"]
    assert awpf("run", spec, *rest, *training, "--out=run").code == 0
    sources = [tmp_path / "run" / "adapters" / f"task_000{task}" for task in range(2)]
    root = tmp_path / "images"
    left = validation_images(f"folder:{root}", limit=None, sources=sources).images
    names = {left.name(row) for row in range(len(left.labels))}
    kept = zip(sorted(path.name for path in (root / "train").iterdir()), (3, 2, 1, 1), strict=True)
    trained = {str(root / "train" / name / f"{4 * i // count}.png")
               for name, count in kept for i in range(count)}  # fmt: skip
    assert names == {str(path) for path in root.glob("train/*/*.png")} - trained
    by_hand = validation_images(f"folder:{root}", train_limit=3, imbalance=0.3, limit=None)
    assert by_hand.images.labels.tolist() == left.labels.tolist()
    done = awpf("merge", *sources, "--choose", f"folder:{root}/../images", "-m", "linear",
                "--validation-limit=4", "--out=best")  # fmt: skip
    assert "(9 images of 4 classes)" in done.out, done.err
    for wrong, known in ({"train_limit": 2}, 3), ({"imbalance": 0.5}, 0.3):
        with pytest.raises(UserError, match=rf"but the run .*/run was trained with {known}; leave"):
            validation_images(f"folder:{root}", sources=sources, **wrong)
    other = validation_images("demo", sources=sources, limit=1)  # of which nothing is known
    assert len(other.images.labels) == 100


def test_a_folder_without_images_is_refused(tmp_path):
    for names in ((), ("a_class",)):
        for name in names:
            (tmp_path / name).mkdir()
        with pytest.raises(DataError, match="has no images to validate on"):
            validation_images(f"folder:{tmp_path}")


def test_the_version_changes_with_the_images(image_arguments, folder, tmp_path):
    before = ImageScore(folder).version
    assert ImageScore(folder).version == before
    assert ImageScore(folder, prompt="{}").version != before
    image = next((tmp_path / "images" / "test").glob("*/0.png"))
    image.write_bytes(image.with_name("1.png").read_bytes())
    assert ImageScore(folder).version != before
