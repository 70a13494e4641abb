"""UPerNet, pyramid pooling on top of a feature pyramid (Xiao et al. 2018)."""

import dataclasses
import re
from functools import partial
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.decoders.blocks import ConvNorm
from segjax.models.layers import (
    Features,
    Layers,
    kaiming_uniform_fan_in,
    xavier_uniform,
)
from segjax.models.naming import Name, Parts
from segjax.ops.pool import adaptive_avg_pool

BINS = (1, 2, 3, 6)


class UPerNet(nn.Module):
    """The deepest map with its means over 1, 4, 9 and 36 windows, then top down.

    Takes the maps at strides of 4 and more. Each gets a 1x1 convolution and the one
    below it added; a 3x3 convolution on each, and one on all of them, side by side at
    the finest one's size.

    Every map has a layer norm before, as in SMP: Swin's and ConvNeXt's papers have them
    too. By ``like`` "transformers" there are none here, for the encoder has them.
    ``decoder_channels`` None is 256, and 512 by ``like`` "transformers". Whole maps are
    dropped in training at the rate ``decoder_dropout`` (MMSegmentation has 0.1).
    """

    layers: Layers = Layers()
    like: str = "segjax"
    strides: tuple[int, ...] = (2, 4, 8, 16, 32)
    decoder_channels: int | None = None
    decoder_dropout: float = 0.0
    any_size: ClassVar[bool] = True
    options: ClassVar[tuple[str, ...]] = ("decoder_channels", "decoder_dropout")
    head_kernel: ClassVar[int] = 1
    head_init: ClassVar = staticmethod(xavier_uniform)
    torch_parts: ClassVar[dict[str, Parts]] = {
        "smp": Parts(),
        "transformers": Parts(
            encoder="backbone.",
            decoder="decode_head.",
            head="decode_head.classifier",
            auxiliary="auxiliary_head.",
        ),
    }

    @nn.compact
    def __call__(
        self, features: Features, size: tuple[int, int], *, train: bool
    ) -> jax.Array:
        """Features -> [B, h, w, decoder_channels], the size of the map at stride 4."""
        layers = dataclasses.replace(self.layers, kernel_init=kaiming_uniform_fan_in)
        block = layers.block(ConvNorm)
        width = self.decoder_channels or (512 if self.like == "transformers" else 256)
        maps = self._inputs(features)

        def resize(x, like):  # never by the corners, in SMP neither
            size = (like.shape[1], like.shape[2])
            return layers.resize_bilinear(x, size, align_corners=False)

        deepest = maps[-1]
        pooled = [deepest]
        for n in BINS:
            y = adaptive_avg_pool(deepest, (n, n))
            y = block(width, 1, layers=layers, name=f"pool{n}")(y, train)
            pooled.append(resize(y, deepest))
        top = jnp.concatenate(pooled, axis=3)
        joined = [block(width, 3, layers=layers, name="pooled")(top, train)]
        for i in reversed(range(len(maps) - 1)):
            y = block(width, 1, layers=layers, name=f"lateral{i}")(maps[i], train)
            joined.insert(0, y + resize(joined[0], y))
        for i in range(len(joined) - 1):
            joined[i] = block(width, 3, layers=layers, name=f"fpn{i}")(joined[i], train)
        x = jnp.concatenate([resize(y, joined[0]) for y in joined], axis=3)
        x = block(width, 3, layers=layers, name="fuse")(x, train)
        return layers.dropout(x, self.decoder_dropout, train, whole_maps=True)

    def _inputs(self, features):
        """The maps at strides of 4 and more, normalised."""
        pairs = zip(self.strides, features.maps, strict=True)
        maps = [x for stride, x in pairs if stride >= 4]
        if self.like == "transformers":
            return maps
        return [self.layers.layer_norm(name=f"input{i}")(x) for i, x in enumerate(maps)]

    @nn.nowrap
    def torch_name(self, path: tuple[str, ...], naming: str) -> Name:
        """The module's name below ``decoder`` (SMP) or ``decode_head``."""
        names, layers = TORCH[naming]
        part, number = re.findall(r"([a-z]+)(\d*)", path[0])[0]
        if part not in names:
            return None
        i = int(number or 0)
        # SMP counts the pyramid from the deepest map.
        last = sum(stride >= 4 for stride in self.strides) - 2
        place = BINS.index(i) if part == "pool" else i
        name = names[part].format(i=place, back=last - i)
        return ".".join([name, *(layers[layer] for layer in path[1:])])


# For each naming: the decoder's parts, and the layers of a block.
TORCH = {
    "smp": (
        {
            "input": "feature_norms.{i}",
            "pool": "psp.blocks.{i}.1",
            "pooled": "psp.out_conv",
            "lateral": "fpn_lateral_blocks.{back}.conv_norm_relu",
            "fpn": "fpn_conv_blocks.{back}",
            "fuse": "fusion_block",
        },
        ConvNorm.SEQUENTIAL,
    ),
    "transformers": (
        {
            "pool": "psp_modules.{i}.1",
            "pooled": "bottleneck",
            "lateral": "lateral_convs.{i}",
            "fpn": "fpn_convs.{i}",
            "fuse": "fpn_bottleneck",
        },
        {"conv": "conv", "norm": "batch_norm"},
    ),
}

upernet = partial(UPerNet)
