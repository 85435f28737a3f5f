"""Moved and flipped images."""

from __future__ import annotations

import torch

from awpf_ext.finetuning.augmentation import augmented, draw

GENERATOR = torch.Generator().manual_seed(3)
IMAGES = torch.randint(0, 256, (5, 16, 24, 3), generator=GENERATOR, dtype=torch.uint8)
STILL = torch.tensor([0.5, 0.5, 0.0])  # no shift, no flip


def test_a_draw_in_the_middle_changes_nothing():
    assert torch.equal(augmented(IMAGES, STILL.expand(5, 3)), IMAGES)


def test_a_flip_mirrors_the_columns():
    drawn = torch.tensor([0.5, 0.5, 0.7]).expand(5, 3)
    assert torch.equal(augmented(IMAGES, drawn), IMAGES.flip(2))


def test_a_shift_is_at_most_an_eighth_and_repeats_the_edge():
    largest = torch.tensor([0.9999, 0.0, 0.0]).expand(5, 3)  # 2 rows down, 3 columns to the left
    found = augmented(IMAGES, largest)
    assert torch.equal(found[:, :-2, 3:], IMAGES[:, 2:, :-3])
    assert torch.equal(found[:, -1, 3:], IMAGES[:, -1, :-3])
    assert torch.equal(found[:, :-2, 0], IMAGES[:, 2:, 0])


def test_every_shift_and_flip_is_drawn():
    drawn = draw(4000, torch.Generator().manual_seed(0))
    ramp = torch.arange(24, dtype=torch.uint8).expand(1, 16, 24)[..., None].expand(1, 16, 24, 3)
    found = augmented(ramp.expand(4000, 16, 24, 3), drawn)
    assert {tuple(row.tolist()) for row in found[:, 0, [11, 12], 0]} == {
        *((11 + shift, 12 + shift) for shift in range(-3, 4)),
        *((12 + shift, 11 + shift) for shift in range(-3, 4)),
    }


def test_no_images_are_no_images():
    assert augmented(IMAGES[:0], STILL.expand(0, 3)).shape == (0, 16, 24, 3)
