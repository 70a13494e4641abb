"""Stems for other numbers of channels."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.models import build, build_classifier, names
from segjax.models.layers import Layers
from segjax.weights import load_torch, to_torch
from segjax.weights.inflate import find_stems, inflate_kernel
from tests.models.families import SMALL


def small(channels, width=4):
    """A small network, whose deeper widths may equal the number of channels."""
    model = build("resnet18", "fcn32s", 3, in_channels=channels)
    return model.clone(encoder=model.encoder.clone(width=width, counts=(1, 1, 1, 1)))


def random_state(model):
    image = jax.ShapeDtypeStruct((1, 64, 64, model.in_channels), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), image)
    rng = np.random.default_rng(0)
    random = jax.tree.map(lambda s: rng.normal(size=s.shape).astype("f"), shapes)
    return to_torch(model, random)


@pytest.mark.parametrize(
    "rule, old, wanted",
    [
        ("repeat", [1, 2, 6], [0.6, 1.2, 3.6, 0.6, 1.2]),
        ("mean", [1, 2, 6], [1.8] * 5),
        ("zero", [1, 2, 6], [1, 2, 6, 0, 0]),
        ("repeat", [1, 2, 6], [3]),
        ("mean", [1, 2, 6], [9]),
        ("mean", [1, 2, 6], [4.5, 4.5]),
        ("repeat", [1, 2], [2 / 3, 4 / 3, 2 / 3]),
    ],
)
def test_rules_by_hand(rule, old, wanted):
    kernel = np.array(old, np.float16)[None, :, None, None]
    found = inflate_kernel(kernel, len(wanted), rule)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[0, :, 0, 0], wanted, rtol=1e-6)


def test_impossible_rules():
    kernel = np.zeros((1, 3, 1, 1), np.float32)
    with pytest.raises(ValueError, match="'maen'; write one of repeat, mean, zero"):
        inflate_kernel(kernel, 4, "maen")
    with pytest.raises(ValueError, match="keeps the 3 channels .* have 2; write rep"):
        inflate_kernel(kernel, 2, "zero")


@pytest.mark.parametrize("rule", ["repeat", "mean"])
def test_a_gray_image_in_every_channel_gives_the_same_response(rule):
    """The kernel's sum over channels is kept where the channels are alike."""
    state = random_state(small(3))
    kernel = state["encoder.conv1.weight"]
    kernel[...] = kernel.mean(1, keepdims=True)
    x = np.random.default_rng(1).normal(size=(1, 33, 40, 1)).astype(np.float32)
    wanted = small(3).apply(load_torch(small(3), state), x.repeat(3, -1))
    for channels in (1, 2, 5):
        model = small(channels)
        variables = load_torch(model, state, inflate=rule)
        found = model.apply(variables, x.repeat(channels, -1))
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-3)


def test_zero_ignores_what_is_new():
    state = random_state(small(3))
    x = np.random.default_rng(1).normal(size=(1, 33, 40, 6)).astype(np.float32)
    wanted = small(3).apply(load_torch(small(3), state), x[..., :3])
    found = small(6).apply(load_torch(small(6), state, inflate="zero"), x)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_without_it_the_error_says_how():
    with pytest.raises(ValueError) as error:
        load_torch(small(5), random_state(small(3)))
    text = str(error.value)
    assert "1 of another shape: encoder.conv1.weight (4, 3, 7, 7) instead of" in text
    assert "inflate = repeat, mean or zero (in a config model.inflate)" in text


def test_nothing_else_is_inflated():
    """Not a deeper kernel that has as many inputs as the image has channels."""
    model = small(4)  # conv1 of layer1 has 4 inputs as well
    state = random_state(small(3))
    name = "encoder.layer1.0.conv1.weight"
    state[name] = state[name][:, :3]
    with pytest.raises(ValueError, match="1 of another shape: encoder.layer1"):
        load_torch(model, state, inflate="mean")
    # Nor a stem of another width or size, nor one that fits.
    with pytest.raises(ValueError, match=r"conv1.weight \(8, 3, 7, 7\) instead of"):
        load_torch(model, random_state(small(3, width=8)), inflate="mean")
    same = random_state(model)
    found = load_torch(model, same, inflate="mean")["params"]["encoder"]["conv1"]
    wanted = same["encoder.conv1.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(found["kernel"], wanted)


@pytest.mark.parametrize("encoder", [n for n in SMALL if n in names()["encoders"]])
def test_every_encoder_has_a_stem(encoder):
    model = build_classifier(encoder, 5, in_channels=7)
    model = model.clone(encoder=model.encoder.clone(**SMALL[encoder]))
    stems = find_stems(model, (64, 64, 7))
    assert len(stems) >= 1 and all(path[0] == "encoder" for path in stems)


def test_a_branch_with_a_stem_of_its_own_is_inflated_too():
    class TwoStems(nn.Module):
        layers: Layers = Layers()

        @nn.compact
        def __call__(self, x, *, train):
            y = self.layers.conv(7, 3, name="first")(x)
            return (
                y
                + self.layers.conv(7, 3, name="second")(x[:, ::1])
                + (self.layers.conv(7, 1, name="third")(y))
            )

    model = dataclasses.replace(small(7), encoder=TwoStems())
    model = dataclasses.replace(model, decoder=Last())
    found = find_stems(model, (16, 16, 7))
    assert found == {("encoder", n, "kernel") for n in ("first", "second")}


class Last(nn.Module):
    """The encoder's map as it is."""

    any_size = True
    head_kernel = 1
    head_init = staticmethod(nn.initializers.zeros_init())

    def __call__(self, features, size, *, train):
        return features
