"""The gradient of a loss over a joint batch, in parts of any size: the plain backward's."""

from __future__ import annotations

import importlib.util

import pytest
import torch

pytest.importorskip("open_clip", reason='needs the extra "clip"')
from joint_steps import batch, contrastive, with_factors

from awpf_ext.distributed import World
from awpf_ext.finetuning.build import build_trainable
from awpf_ext.finetuning.joint_backward import joint_backward
from awpf_ext.finetuning.trainable_config import TrainableConfig

needs_peft = pytest.mark.skipif(
    importlib.util.find_spec("peft") is None, reason='needs the extra "lora"'
)
FORMS = ["full", pytest.param("lora", marks=needs_peft), "adapter"]


def made(tiny, seed=0, **settings):
    clip, text = tiny
    generator = torch.Generator().manual_seed(seed)
    return with_factors(
        build_trainable(TrainableConfig(**settings), text, clip, generator=generator)
    )


def gradient(trainable):
    return torch.cat([parameter.grad.flatten() for parameter in trainable.parameters()])


def distance(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


@pytest.fixture
def plainly(tiny):
    """Loss and gradient by one backward pass through everything."""

    def compute(classes=range(4), **settings):
        trainable = made(tiny, **settings)
        x, labels = batch(trainable.inputs)
        loss = contrastive(labels)(trainable.embed(x), trainable.texts(classes))
        loss.backward()
        return loss.detach(), gradient(trainable)

    return compute


@pytest.mark.parametrize("train", FORMS)
@pytest.mark.parametrize("micro_batch", [None, 1, 3, 7, 100])
def test_parts_do_not_change_the_gradient(train, micro_batch, tiny, plainly):
    """Seven images and eight prompts; the loss compares images with each other."""
    trainable = made(tiny, train=train, micro_batch=micro_batch)
    x, labels = batch(trainable.inputs)
    loss = joint_backward(trainable, x, range(4), contrastive(labels))
    expected_loss, expected = plainly(train=train)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-5, atol=1e-6)
    assert not loss.requires_grad
    assert distance(gradient(trainable), expected) < 1e-5


@pytest.mark.parametrize("train", FORMS[:2])
def test_checkpointing_does_not_change_the_gradient(train, tiny, plainly):
    trainable = made(tiny, train=train, checkpointing=True, micro_batch=4)
    x, labels = batch(trainable.inputs)
    joint_backward(trainable, x, range(4), contrastive(labels))
    assert distance(gradient(trainable), plainly(train=train)[1]) < 1e-5


def test_a_micro_batch_bounds_what_is_in_a_tower_at_once(tiny, monkeypatch):
    trainable = made(tiny, train="full", micro_batch=3)
    rows = []
    model = trainable.network.model
    for name in ("encode_image", "encode_text"):
        encode = getattr(model, name)

        def counted(given, encode=encode):
            rows.append(len(given))
            return encode(given)

        monkeypatch.setattr(model, name, counted)
    x, labels = batch("images")
    joint_backward(trainable, x, range(4), contrastive(labels))
    assert max(rows) == 3
    assert sum(rows) == 2 * (7 + 8)  # each twice: for its embedding, and for its gradient


def test_gradients_add_up_over_calls(tiny):
    """As they do in PyTorch, so that a caller may sum losses."""
    trainable = made(tiny, train="adapter")
    x, labels = batch("features")
    joint_backward(trainable, x, range(4), contrastive(labels))
    once = gradient(trainable)
    joint_backward(trainable, x, range(4), contrastive(labels))
    torch.testing.assert_close(gradient(trainable), 2 * once)


@pytest.mark.parametrize("of", ["images", "texts"])
def test_a_loss_may_look_at_one_side_alone(of, tiny):
    trainable = made(tiny, train="full")
    x, _ = batch("images")

    def loss(images, texts):
        return (images if of == "images" else texts)[:, :3].sum()

    joint_backward(trainable, x, range(2), loss)
    moved = {
        name.split(".")[0]
        for name, parameter in trainable.named_parameters().items()
        if parameter.grad.any()
    }
    assert ("visual" in moved) == (of == "images")
    assert ("transformer" in moved) == (of == "texts")


def test_some_classes_have_the_texts_of_these(tiny):
    trainable = made(tiny, train="full")
    x, _ = batch("images")
    seen = []

    def loss(images, texts):
        seen.append(texts.detach())
        return images.sum() + texts.sum()

    joint_backward(trainable, x, torch.tensor([3, 1]), loss)
    torch.testing.assert_close(seen[0], tiny[1][[3, 1]])


@needs_peft
@pytest.mark.parametrize("checkpointing", [False, True])
def test_dropout_is_the_same_in_both_passes(checkpointing, tiny):
    """Were it not, the gradient would be that of no function: compare with finite differences of
    the loss under the same seed.
    """

    def loss_at(shift):
        settings = {"train": "lora", "lora_dropout": 0.4, "checkpointing": checkpointing}
        trainable = made(tiny, seed=3, micro_batch=3, **settings)
        names = sorted(trainable.state_dict())
        directions = {
            name: torch.randn(value.shape, generator=torch.Generator().manual_seed(index))
            for index, (name, value) in enumerate(sorted(trainable.state_dict().items()))
        }
        state = trainable.state_dict()
        trainable.load_state_dict({name: state[name] + shift * directions[name] for name in names})
        x, labels = batch("images")
        value = joint_backward(trainable, x, range(4), contrastive(labels))
        slope = sum(
            (parameter.grad * directions[name]).sum()
            for name, parameter in trainable.named_parameters().items()
        )
        return value.item(), slope.item()

    (above, _), (below, _), (_, slope) = loss_at(1e-3), loss_at(-1e-3), loss_at(0.0)
    assert slope == pytest.approx((above - below) / 2e-3, rel=2e-2, abs=2e-2)


@needs_peft
def test_dropout_draws_from_its_own_generator_and_only_in_training(tiny):
    x, labels = batch("images")
    losses = []
    for seed in (3, 3, 4):
        trainable = made(tiny, seed=seed, train="lora", lora_dropout=0.4)
        trainable.generator.manual_seed(seed)
        before = torch.get_rng_state()
        losses += [joint_backward(trainable, x, range(4), contrastive(labels)) for _ in range(2)]
        assert torch.equal(torch.get_rng_state(), before)
        assert torch.equal(trainable.embed(x), trainable.embed(x))
    assert torch.equal(losses[0], losses[2])  # the same seed
    assert len({loss.item() for loss in losses}) == 4  # another seed, another step


@pytest.mark.parametrize("train", FORMS)
def test_the_same_seed_gives_the_same_bits(train, tiny):
    found = []
    for _ in range(2):
        trainable = made(tiny, train=train, micro_batch=3)
        x, labels = batch(trainable.inputs)
        joint_backward(trainable, x, range(4), contrastive(labels))
        found.append(gradient(trainable))
    assert torch.equal(*found)


def test_another_team_is_refused(tiny):
    trainable = made(tiny, train="adapter")
    x, labels = batch("features")
    with pytest.raises(ValueError, match="for which trainable was made"):
        joint_backward(trainable, x, range(4), contrastive(labels), world=World(0, 2))
