"""Feature pyramid network (Lin et al. 2017) for segmentation, as SMP has it.

Lin et al.: arXiv 1612.03144; the semantic branch is that of Kirillov et al. 2019
(arXiv 1901.02446).
"""

import dataclasses
from functools import partial
from typing import ClassVar

import flax.linen as nn
import jax

from segjax.models.layers import (
    Features,
    Layers,
    kaiming_uniform_fan_in,
    octaves,
    xavier_uniform,
)
from segjax.models.naming import Name, Parts
from segjax.ops.resize import resize_nearest


class SemanticBranch(nn.Module):
    """3x3 convolution, group norm, ReLU, and bilinear upsampling to each of ``sizes``.

    The convolution also where there is nothing to upsample to.
    """

    features: int
    sizes: tuple[tuple[int, int], ...]
    align_corners: bool
    layers: Layers

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """x[B, h, w, C] -> [B, *sizes[-1], features]."""
        layers = self.layers
        sizes = self.sizes or ((x.shape[1], x.shape[2]),)
        for i, size in enumerate(sizes):
            x = layers.conv_before_norm(self.features, name=f"conv{i}")(x)
            x = layers.norm(relu=True, name=f"norm{i}")(x, train)
            x = layers.resize_bilinear(x, size, align_corners=self.align_corners)
        return x


class FPN(nn.Module):
    """Maps from the deepest to stride 4 added top down, each convolved, and their sum.

    A stride without a map has no lateral. The convolutions of the sum have group norm;
    the ``norm`` option changes it. By ``like`` "smp" their upsampling aligns corners.
    """

    layers: Layers = Layers()
    like: str = "segjax"
    strides: tuple[int, ...] = (2, 4, 8, 16, 32)
    decoder_pyramid_channels: int = 256
    decoder_segmentation_channels: int = 128
    decoder_dropout: float = 0.2  # of whole maps
    any_size: ClassVar[bool] = False
    options: ClassVar[tuple[str, ...]] = (
        "decoder_pyramid_channels",
        "decoder_segmentation_channels",
        "decoder_dropout",
    )
    head_kernel: ClassVar[int] = 1
    head_init: ClassVar = staticmethod(xavier_uniform)
    torch_parts: ClassVar[dict[str, Parts]] = {"smp": Parts()}

    @nn.compact
    def __call__(
        self, features: Features, size: tuple[int, int], *, train: bool
    ) -> jax.Array:
        """Features -> [B, H/4, W/4, decoder_segmentation_channels]."""
        kind = self.layers.norm_kind
        layers = dataclasses.replace(
            self.layers,
            kernel_init=kaiming_uniform_fan_in,
            norm_kind="group" if kind == "batch" else kind,
        )
        branch = layers.block(SemanticBranch)
        levels = octaves(features, self.strides, size)[:0:-1]  # deepest first
        x, branches = None, []
        for i, level in enumerate(levels):
            if x is not None:
                x = resize_nearest(x, level.size)
            if level.map is not None:
                lateral = layers.conv(
                    self.decoder_pyramid_channels, 1, name=f"lateral{i}"
                )(level.map)
                x = lateral if x is None else x + lateral
            one = branch(
                features=self.decoder_segmentation_channels,
                sizes=tuple(finer.size for finer in levels[i + 1 :]),
                align_corners=self.like == "smp",
                layers=layers,
                name=f"branch{i}",
            )
            branches.append(one(x, train))
        total = sum(branches[1:], branches[0])
        return layers.dropout(total, self.decoder_dropout, train, whole_maps=True)

    @nn.nowrap
    def torch_name(self, path: tuple[str, ...], naming: str) -> Name:
        """SMP's name below ``decoder``."""
        part, *rest = path
        if part.startswith("lateral"):
            number = part.removeprefix("lateral")
            return "p5" if number == "0" else f"p{5 - int(number)}.skip_conv"
        kind, number = rest[0][:-1], rest[0][-1]
        block = f"seg_blocks.{part.removeprefix('branch')}.block.{number}.block"
        return f"{block}.{'0' if kind == 'conv' else '1'}"


fpn = partial(FPN)
