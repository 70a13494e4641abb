"""build: what it rejects and in which words; the Segmenter's padding."""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.models import build, names
from segjax.models.layers import Layers, xavier_uniform
from segjax.models.segmenter import Segmenter


@pytest.mark.parametrize(
    "change, words",
    [
        (
            {"encoder": "resnet81"},
            ["unknown encoder 'resnet81'", "Did you mean", "resnet101"],
        ),
        ({"decoder": "u-nett"}, ["unknown decoder", "Did you mean 'unet'?", "fcn32s"]),
        ({"remta": True}, ["'remta'", "Did you mean 'remat'?", "decoder_channels"]),
        ({"norm": "bach"}, ["unknown norm 'bach'", "Did you mean 'batch'?", "group"]),
        ({"output_stride": 4}, ["unknown output_stride 4", "8, 16, 32"]),
        ({"like": "pytorch"}, ["unknown like 'pytorch'", "torchvision"]),
        ({"platform": "cuda"}, ["unknown platform 'cuda'", "gpu"]),
        ({"num_classes": 0}, ["num_classes is 0", "above 0"]),
        ({"in_channels": 2.5}, ["in_channels is 2.5"]),
        ({"remat": "yes"}, ["remat is 'yes'"]),
        (
            {"decoder_channels": (8, 8)},
            ["decoder_channels has 2 numbers", "halves 5 times"],
        ),
        ({"decoder": "dpt"}, ["dpt needs tokens", "resnet18 does not", "vit_base"]),
        (
            {"encoder": "vit_small", "decoder": "dpt", "decoder_readout": "project"},
            ["decoder_readout is 'project'", "cat, add, ignore"],
        ),
        (
            {
                "encoder": "vit_small",
                "decoder": "dpt",
                "decoder_intermediate_channels": (8, 8),
            },
            ["decoder_intermediate_channels has 2 numbers", "give 4"],
        ),
        (
            {"encoder": "mit_b0", "output_stride": 8},
            ["mit_b0 has output_stride 32 only", "8 is not possible"],
        ),
    ],
)
def test_one_line_says_what_to_write_instead(change, words):
    arguments = {"encoder": "resnet18", "decoder": "unet", "num_classes": 3, **change}
    with pytest.raises(ValueError) as error:
        model = build(**arguments)
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    text = str(error.value)
    assert "\n" not in text
    for word in words:
        assert word in text


def test_names_are_what_build_takes():
    assert "resnet18" in names()["encoders"] and "unet" in names()["decoders"]
    assert build("ResNet-18".replace("-", ""), "unet", 2).num_classes == 2


def test_wrong_number_of_channels():
    with pytest.raises(ValueError, match=r"takes \[B, H, W, 4\]"):
        model = build("resnet18", "fcn32s", 2, in_channels=4)
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))


class Thirds(nn.Module):
    """An encoder of one map at stride 3."""

    strides: ClassVar[tuple[int, ...]] = (3,)

    def __call__(self, image, *, train):
        return image[:, ::3, ::3]


class Fixed(nn.Module):
    """A decoder that wants whole cells."""

    any_size: ClassVar[bool] = False
    head_kernel: ClassVar[int] = 1
    head_init: ClassVar = staticmethod(xavier_uniform)

    def __call__(self, features, size, *, train):
        assert size == (6, 9) and features.shape[1:3] == (2, 3)
        return jnp.repeat(jnp.repeat(features, 3, 1), 3, 2)


def test_padding_at_the_right_and_the_bottom_is_cropped_again():
    model = Segmenter(Thirds(), Fixed(), 1, 2, Layers())
    x = jax.random.normal(jax.random.key(1), (1, 5, 7, 2))
    variables = model.init(jax.random.key(0), x)
    y = model.apply(variables, x)
    weight = variables["params"]["head"]["kernel"][0, 0, :, 0]
    at = np.arange(7) // 3 * 3
    expected = np.tensordot(np.asarray(x)[:, at[:5]][:, :, at], weight, 1)
    np.testing.assert_allclose(y[..., 0], expected, rtol=1e-5)
