"""The demo's pictures: the same everywhere, balanced, and none that the backbone was trained on."""

from __future__ import annotations

import hashlib
import pickle
from collections import Counter

import numpy as np
import pytest

from awpf_ext.data import demo, load_dataset
from awpf_ext.data.demo import dataset as demo_data
from awpf_ext.data.demo.numbers import Numbers
from awpf_ext.data.demo.scene import SIZE, paint, sample_scene
from awpf_ext.data.demo.styles import RENDERINGS
from awpf_ext.data.demo.words import COLORS, PATTERNS, SHAPES, WATCHED
from awpf_ext.errors import UserError


def test_the_pictures_are_those_that_were_frozen():
    """Bit by bit, in every style, whatever NumPy and processor draw them."""
    assert demo.frozen_hash() == demo_data.FROZEN


def test_the_backbones_training_pictures_are_still_those_it_was_trained_on():
    training, digest = demo.compositions().training, hashlib.sha256()
    for row in range(60):
        numbers = Numbers((2024, 0), (0, 4000, row))  # as tools/train_demo.py draws them
        clutter, style = numbers.uniform(0, 1.0), demo.TRAINED[row % 3]
        scene = sample_scene(numbers, numbers.choice(training), training, clutter)
        digest.update(paint(scene, numbers, clutter, style).tobytes())
    assert digest.hexdigest()[:16] == "8a89c0b7b32f6af7"


def test_a_pictures_random_numbers_are_pinned():
    numbers = Numbers((1, 2), (3, 4, 5))
    assert [numbers.below(1000) for _ in range(4)] == [112, 608, 587, 973]
    assert numbers.uniform(-1, 1) == pytest.approx(-0.6953466988683634, abs=0)
    assert Numbers((1, 2), (3, 4, 5)).bytes(4).tolist() == [85, 187, 123, 146]


def test_the_classes_are_kept_from_training():
    split = demo.compositions()
    sets = [set(part) for part in split]
    assert [len(part) for part in sets] == [2100, WATCHED, 100]
    assert len(set.union(*sets)) == len(COLORS) * len(PATTERNS) * len(SHAPES) == 2400
    for row in range(1000):  # nor does one lie beside what is trained on
        scene = sample_scene(Numbers((9, 9), (0, 0, row)), split.training[row], split.training, 1.0)
        assert scene.beside is None or scene.beside in sets[0]


def test_the_classes_are_balanced():
    classes = demo.compositions().demo
    assert set(Counter(c.shape for c in classes).values()) == {5}
    assert set(Counter(c.pattern for c in classes).values()) == {10}
    assert set(Counter(c.color for c in classes).values()) == {8, 9}


def test_the_data_set():
    data = load_dataset("demo")
    assert (data.name, len(data.class_names)) == ("demo", 100)
    assert data.class_names == tuple(c.name for c in demo.compositions().demo)
    assert np.bincount(data.train.labels).tolist() == [200] * 100
    assert np.bincount(data.test.labels).tolist() == [50] * 100
    picture = data.train.read(4321)
    assert (picture.size, picture.mode) == ((48, 48), "RGB")
    assert data.train.name(4321) == f"demo hue45 train {data.class_names[21]} 121"


def test_a_picture_depends_on_nothing_but_its_place():
    train, test = load_dataset("demo").train, load_dataset("demo").test
    first = train.read(777).tobytes()
    test.read(777)
    elsewhere = pickle.loads(pickle.dumps(train))  # as to another process
    assert elsewhere.read(777).tobytes() == first
    others = [train.read(778), train.read(577), test.read(777)]
    assert all(other.tobytes() != first for other in others)


def test_styles_show_the_same_classes_in_other_pictures():
    sets = {style: load_dataset(f"demo:{style}") for style in demo.STYLES}
    assert len({data.class_names for data in sets.values()}) == 1
    assert [data.name for data in sets.values()][:3] == ["demo:plain", "demo", "demo:negative"]
    assert len({data.train.read(0).tobytes() for data in sets.values()}) == len(sets) == 6
    assert set(demo.TRAINED) & set(demo.STYLES) == {"plain"}
    with pytest.raises(UserError, match="demo has no style 'night'; expected one of plain, hue45"):
        load_dataset("demo:night")


def test_lenses_lose_nothing():
    numbers = Numbers((5, 5), (0, 0, 0))
    image = numbers.bytes(3 * SIZE * SIZE).astype(np.float32).reshape(3, SIZE, SIZE) / 255
    lens = {name: RENDERINGS[name] for name in ("hue45", "negative", "sideways")}
    for name, times, error in (("hue45", 8, 1e-5), ("negative", 2, 1e-6), ("sideways", 4, 0)):
        turned = image
        for _ in range(times):
            turned = lens[name](turned, numbers)
            assert turned.dtype == np.float32
        assert np.abs(turned - image).max() <= error, name
    grey = np.broadcast_to(image[:1], image.shape)
    assert np.abs(lens["hue45"](grey, numbers) - grey).max() < 2e-6
    red = np.array([0.85, 0.10, 0.12], np.float32)[:, None, None]
    assert lens["hue45"](red, numbers).ravel().tolist() == pytest.approx(
        [0.71, 0.47, -0.12], abs=0.01
    )
    assert lens["sideways"](image, numbers)[0, -1, 0] == image[0, 0, 0]  # top left: bottom left


def test_fingerprints_draw_nothing(monkeypatch):
    monkeypatch.setattr(demo_data, "paint", lambda *_: pytest.fail("a picture was drawn"))
    splits = [load_dataset(spec) for spec in ("demo", "demo:negative")]
    found = [
        part.fingerprint(start, start + 10)
        for data in splits
        for part in (data.train, data.test)
        for start in (0, 10)
    ]
    assert len(set(found)) == len(found)
    assert splits[0].train.fingerprint(0, 10) == load_dataset("demo").train.fingerprint(0, 10)


def test_disturbances_grow_with_clutter():
    """What lies beside, how small the object is, and noise: nothing at 0, much at 1."""
    split = demo.compositions()

    def drawn(clutter):
        pictures, beside = [], 0
        for row in range(60):
            numbers = Numbers((8, 8), (0, 0, row))
            scene = sample_scene(numbers, split.training[row], split.training, clutter)
            beside += scene.beside is not None
            pictures.append(paint(scene, numbers, clutter).astype(float))
        rough = np.abs(np.diff(np.stack(pictures)[:, :4], axis=2)).mean()
        return beside, rough

    (none, smooth), (many, rough) = drawn(0.0), drawn(1.0)
    assert none == 0
    assert many > 20
    assert rough > 1.5 * smooth
