"""Images for networks that are trained: rows, views, memory, reading ahead."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from awpf_ext.data.images import ArraySplit, FileSplit
from awpf_ext.data.prepared_images import PreparedImages
from awpf_ext.errors import DataError

SIDE = 6
BYTES = SIDE * SIDE * 3


class Counted(ArraySplit):
    """Images in memory that remember how often they were read."""

    def read(self, index):
        self.reads.append(index)
        return super().read(index)


@pytest.fixture
def split():
    pixels = np.random.default_rng(0).integers(0, 256, (20, SIDE, SIDE, 3), dtype=np.uint8)
    split = Counted("drawn", pixels, torch.arange(20) % 3)
    object.__setattr__(split, "reads", [])
    return split


def inverted(image: Image.Image):
    return 255 - np.asarray(image)


def expected(split, rows):
    return 255 - torch.from_numpy(split.pixels[rows])


@pytest.mark.parametrize(
    "index", [torch.tensor([3, 1, 3]), [3, 1, 3], range(2, 9, 3), slice(15, None), slice(4, 2), []]
)
def test_rows_come_prepared_and_in_the_order_asked_for(split, index):
    rows = np.arange(20)[index] if isinstance(index, slice) else list(index)
    images = PreparedImages(split, inverted)
    for _ in range(2):  # read, then kept
        found = images[index]
        assert found.dtype == torch.uint8
        assert found.shape == (len(rows), SIDE, SIDE, 3)
        assert torch.equal(found, expected(split, rows))


@pytest.mark.parametrize("images", [0, 7, 20])
def test_memory_bounds_what_is_kept_but_never_what_comes_back(split, images):
    rows = PreparedImages(split, inverted, memory=images * BYTES + 5)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(1))
    for _ in range(3):
        for part in order.split(6):
            assert torch.equal(rows[part], expected(split, part))
    assert len(split.reads) == images + 3 * (20 - images)


def test_views_number_anew_and_share_what_was_read(split):
    rows = PreparedImages(split, inverted, rows=[19, 4, 7, 0])
    view = rows.at(torch.tensor([2, 0]))
    assert len(view) == 2
    name, image = view.original(0)
    assert name == "drawn image 7"
    assert np.array_equal(image, split.pixels[7])
    assert torch.equal(view[:], expected(split, [7, 19]))
    assert torch.equal(rows[:], expected(split, [19, 4, 7, 0]))
    assert sorted(split.reads) == [0, 4, 7, 7, 19]


def test_images_that_are_not_expected_any_more_make_room(split):
    rows = PreparedImages(split, inverted, memory=8 * BYTES)
    first, second, old = range(8), range(8, 16), [1, 4]
    rows.expect(first)
    for _ in range(2):
        assert torch.equal(rows[first], expected(split, first))
    assert len(split.reads) == 8
    rows.expect(second)
    assert torch.equal(rows[second], expected(split, second))
    for _ in range(3):  # all of them stay, and there is no room for others
        assert torch.equal(rows[[*old, *second]], expected(split, [*old, *second]))
    assert len(split.reads) == 16 + 3 * len(old)


def test_kept_images_that_nobody_expects_stay_while_there_is_room(split):
    rows = PreparedImages(split, inverted, memory=12 * BYTES)
    for part in (range(8), range(8, 11), range(8)):
        rows.expect(part)
        assert torch.equal(rows[part], expected(split, part))
    assert len(split.reads) == 11
    rows.expect(range(11, 15))
    assert torch.equal(rows[range(10, 15)], expected(split, range(10, 15)))
    assert torch.equal(rows[:], expected(split, slice(None)))
    assert set(split.reads[15:]) >= {15, 16, 17, 18, 19}


def test_images_forgotten_while_others_were_read_ahead_are_read_again(split):
    rows = PreparedImages(split, inverted, memory=4 * BYTES)
    rows.expect(range(4))
    rows[range(4)]
    parts = [[8, 9], [0, 1, 10], [2, 3]]  # 0 to 3 are kept when this is planned
    batches = rows.batches(parts, ahead=2)
    rows.expect(range(8, 12))
    for part in parts:
        assert torch.equal(next(batches), expected(split, part))


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_batches_read_ahead_equal_those_read_one_by_one(split, ahead):
    rows = PreparedImages(split, inverted, memory=9 * BYTES)
    parts = [torch.tensor(p) for p in ([0, 1, 2], [2, 2, 3], [], [1, 5, 19], [9, 8, 2, 5])]
    parts[2] = parts[2].long()
    found = list(rows.batches(parts, ahead))
    assert [len(f) for f in found] == [3, 3, 0, 3, 4]
    for part, images in zip(parts, found, strict=True):
        assert torch.equal(images, expected(split, part))


def test_nothing_is_read_before_it_is_asked_for_and_reading_can_stop(split):
    rows = PreparedImages(split, inverted)
    batches = rows.batches([[0], [1], [2], [3]], ahead=1)
    assert split.reads == []
    next(batches)
    batches.close()
    assert set(split.reads) <= {0, 1}


def test_reading_leaves_random_numbers_alone(split):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    PreparedImages(split, inverted)[:]
    assert torch.equal(before, torch.get_rng_state())


def test_unreadable_image_is_named(tmp_path, save_png):
    for name in ("a.png", "b.png"):
        save_png(tmp_path / name, 1)
    (tmp_path / "b.png").write_bytes(b"not an image")
    rows = PreparedImages(FileSplit(tmp_path, ["a.png", "b.png"], torch.tensor([0, 1])), np.array)
    assert len(rows[[0]]) == 1
    with pytest.raises(DataError, match=r"cannot read .*b\.png: cannot identify"):
        rows[[0, 1]]


@pytest.mark.parametrize("index", [[20], [-1], torch.tensor([0, 25])])
def test_rows_that_are_not_there(split, index):
    with pytest.raises(IndexError, match="of 20 images"):
        PreparedImages(split, inverted)[index]


@pytest.mark.parametrize("index", [3, [0.5], torch.tensor([[1]]), torch.ones(20) > 0])
def test_what_is_no_list_of_rows(split, index):
    with pytest.raises(TypeError, match="expected integers of shape"):
        PreparedImages(split, inverted)[index]
