"""Published settings: every method takes them, and they give the published replay."""

from __future__ import annotations

import pytest

from awpf_ext.methods import PRESETS, method_config


@pytest.mark.parametrize("name", ["zero_shot", "finetune", "rapf", "awpf", "calfuse"])
def test_every_preset_fits_every_method(name):
    for preset in PRESETS:
        method_config(name, preset=preset)


def test_presets_come_to_the_published_number_of_replayed_classes():
    published = {
        "cifar100-b0-inc10": (5000, 2),
        "cifar100-b50-inc5": (2500, 4),
        "imagenet100-b0-inc5": (6500, 2),
        "imagenet100-b0-inc10": (13000, 2),
        "imagenet100-b0-inc20": (26000, 2),
        "imagenet-r-b0-inc10": (1200, 5),
        "imagenet-r-b0-inc20": (2400, 5),
        "imagenet-r-b0-inc40": (4800, 5),
        "imagenet-r-b100-inc10": (1200, 5),
        "cub200-b0-inc20": (600, 10),
    }
    for preset, (images, k) in published.items():
        config = method_config("rapf", preset=preset)
        batches = -(-images // config.batch_size)
        assert round(config.replay_per_epoch / (batches * int(10 * config.beta))) == k, preset


def test_settings_override_a_preset():
    config = method_config("rapf", {"batch_size": 7}, preset="cub200-b0-inc20")
    assert (config.batch_size, config.mask_bias, config.init) == (7, 0.8, "uniform")
