"""DeepLabV3+ (Chen et al. 2018, arXiv 1802.02611), as SMP has it."""

import dataclasses
from functools import partial
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.decoders.aspp import ASPP, ASPP_OPTIONS, torch_name_in_aspp
from segjax.models.decoders.blocks import ConvNorm
from segjax.models.layers import Features, Layers, octaves, torch_uniform
from segjax.models.naming import Name, Parts


class DeepLabV3Plus(nn.Module):
    """Separable ASPP on the deepest map, refined by the encoder's map at stride 4.

    Output stride 16 where the encoder can dilate. By ``like`` "smp" the upsampling
    aligns corners, else not. Without a map at stride 4 only the upsampling and the
    last convolution remain. The image is not padded, which would enter the pooled
    branch.
    """

    layers: Layers = Layers()
    like: str = "segjax"
    strides: tuple[int, ...] = (2, 4, 8, 16, 32)
    decoder_channels: int = 256
    decoder_atrous_rates: tuple[int, ...] = (12, 24, 36)
    decoder_aspp_dropout: float = 0.5
    any_size: ClassVar[bool] = True
    options: ClassVar[tuple[str, ...]] = ASPP_OPTIONS
    head_kernel: ClassVar[int] = 1
    head_init: ClassVar = staticmethod(torch_uniform)
    output_stride: ClassVar = staticmethod(lambda like: 16)
    torch_parts: ClassVar[dict[str, Parts]] = {"smp": Parts()}

    @nn.compact
    def __call__(
        self, features: Features, size: tuple[int, int], *, train: bool
    ) -> jax.Array:
        """Features -> [B, ceil(H/4), ceil(W/4), decoder_channels]."""
        layers = dataclasses.replace(self.layers, kernel_init=torch_uniform)
        width, rates = self.decoder_channels, tuple(self.decoder_atrous_rates)
        aspp = ASPP(
            width,
            rates,
            separable=True,
            dropout=self.decoder_aspp_dropout,
            layers=layers,
            name="aspp",
        )
        x = aspp(features.maps[-1], train)
        x = ConvNorm(width, separable=True, layers=layers, name="context")(x, train)
        fine = octaves(features, self.strides, size)[1]
        x = layers.resize_bilinear(x, fine.size, align_corners=self.like == "smp")
        if fine.map is not None:
            # 48 channels: the paper's, few enough not to drown out the context.
            detail = ConvNorm(48, 1, layers=layers, name="detail")(fine.map, train)
            x = jnp.concatenate([x, detail], 3)
        return ConvNorm(width, separable=True, layers=layers, name="fuse")(x, train)

    @nn.nowrap
    def torch_name(self, path: tuple[str, ...], naming: str) -> Name:
        """SMP's name below ``decoder``."""
        part, *rest = path
        if part == "aspp":
            return f"aspp.0.{torch_name_in_aspp(tuple(rest))}"
        layer = ConvNorm.SEQUENTIAL[rest[0]]
        if part == "context":  # not nested: 1 and 2 of the nn.Sequential of the ASPP
            return "aspp.2" if layer == "1" else f"aspp.1{layer.removeprefix('0')}"
        return f"{'block1' if part == 'detail' else 'block2'}.{layer}"


deeplabv3plus = partial(DeepLabV3Plus)
