"""Pyramid scene parsing (Zhao et al. 2017, arXiv 1612.01105), as SMP has it."""

import dataclasses
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


class PSPNet(nn.Module):
    """Means over 1, 2 x 2, 3 x 3 and 6 x 6 bins beside the map they are of.

    As in the paper, the map is the deepest, at output stride 8 where the encoder can
    dilate. By ``like`` "smp" it is the encoder's map at stride 8 (encoder_depth=3,
    nothing dilated), the deeper stages are there for their names only, and upsampling
    aligns corners. The image is not padded, which would enter the means.
    """

    layers: Layers = Layers()
    like: str = "segjax"
    strides: tuple[int, ...] = (2, 4, 8, 16, 32)
    psp_out_channels: int = 512
    psp_dropout: float = 0.2  # of whole maps
    any_size: ClassVar[bool] = True
    options: ClassVar[tuple[str, ...]] = ("psp_out_channels", "psp_dropout")
    head_kernel: ClassVar[int] = 3
    head_init: ClassVar = staticmethod(xavier_uniform)
    output_stride: ClassVar = staticmethod(lambda like: None if like == "smp" else 8)
    torch_parts: ClassVar[dict[str, Parts]] = {"smp": Parts()}

    @nn.compact
    def __call__(
        self, features: Features, size: tuple[int, int], *, train: bool
    ) -> jax.Array:
        """Features -> [B, h, w, psp_out_channels], of the chosen map's size."""
        layers = dataclasses.replace(self.layers, kernel_init=kaiming_uniform_fan_in)
        block = layers.block(ConvNorm)
        x = features.maps[-1]
        if self.like == "smp":
            shallow = [stride for stride in self.strides if stride <= 8]
            x = features.maps[max(len(shallow), 1) - 1]
        joined = []
        for i, bins in enumerate(BINS):
            # One bin has no norm: from one example there is no variance to learn.
            own = dataclasses.replace(layers, norm_kind="none") if bins == 1 else layers
            y = adaptive_avg_pool(x, (bins, bins))
            y = block(x.shape[3] // len(BINS), 1, layers=own, name=f"bins{i}")(y, train)
            sides = (x.shape[1], x.shape[2])
            joined.append(
                layers.resize_bilinear(y, sides, align_corners=self.like == "smp")
            )
        x = jnp.concatenate([*joined, x], 3)
        x = block(self.psp_out_channels, 1, layers=layers, name="project")(x, train)
        return layers.dropout(x, self.psp_dropout, train, whole_maps=True)

    @nn.nowrap
    def torch_name(self, path: tuple[str, ...], naming: str) -> Name:
        """SMP's name below ``decoder``."""
        block, layer = path
        part = ConvNorm.SEQUENTIAL[layer]
        if block == "project":
            return f"conv.{part}"
        return f"psp.blocks.{block.removeprefix('bins')}.pool.1.{part}"


pspnet = partial(PSPNet)
