"""Pyramid attention network (Li et al. 2018, arXiv 1805.10180), as SMP has it."""

import dataclasses
from functools import partial
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.decoders.blocks import ConvNorm, layers_of_means
from segjax.models.layers import (
    Features,
    Layers,
    kaiming_uniform_fan_in,
    octaves,
    xavier_uniform,
)
from segjax.models.naming import Name, Parts


class FeaturePyramidAttention(nn.Module):
    """Weight every pixel of the deepest map by what lies around it; add the mean.

    The weights (one channel) come from the map halved three times, by convolutions of
    7, 5 and 3 pixels. A single row or column is not halved any more.
    """

    features: int
    align_corners: bool
    layers: Layers

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """x[B, H, W, C] -> [B, H, W, features]."""
        layers, features = self.layers, self.features
        # A layer norm of one channel would be zero.
        kind = "group" if layers.norm_kind == "layer" else layers.norm_kind
        of_one = dataclasses.replace(layers, norm_kind=kind)
        block = partial(ConvNorm, 1, use_bias=True, layers=of_one)

        def halve(x):
            window = (min(2, x.shape[1]), min(2, x.shape[2]))
            return self.layers.max_pool(x, window, window)

        def resize(x, like):
            size = (like.shape[1], like.shape[2])
            return self.layers.resize_bilinear(
                x, size, align_corners=self.align_corners
            )

        mean = jnp.mean(x, (1, 2), keepdims=True)
        mean = ConvNorm(
            features, 1, use_bias=True, layers=layers_of_means(layers), name="pooled"
        )(mean, train)
        middle = ConvNorm(features, 1, use_bias=True, layers=layers, name="middle")
        middle = middle(x, train)
        half = block(7, name="down1")(halve(x), train)
        quarter = block(5, name="down2")(halve(half), train)
        eighth = block(3, name="down3a")(halve(quarter), train)
        eighth = block(3, name="down3b")(eighth, train)
        weight = block(5, name="up2")(quarter, train) + resize(eighth, quarter)
        weight = block(7, name="up1")(half, train) + resize(weight, half)
        return middle * resize(weight, middle) + mean


class GlobalAttentionUpsample(nn.Module):
    """Add the deeper map to the encoder's, whose channels the deeper map weights."""

    features: int
    align_corners: bool
    layers: Layers

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, low: jax.Array) -> jax.Array:
        """x[B, h, w, features], low[B, H, W, C] -> [B, H, W, features]."""
        layers, features = self.layers, self.features
        gate = ConvNorm(
            features,
            1,
            use_bias=True,
            relu=False,
            layers=layers_of_means(layers),
            name="gate",
        )
        gate = nn.sigmoid(gate(jnp.mean(x, (1, 2), keepdims=True), train))
        size = (low.shape[1], low.shape[2])
        x = self.layers.resize_bilinear(x, size, align_corners=self.align_corners)
        low = ConvNorm(features, use_bias=True, layers=layers, name="low")(low, train)
        return x + low * gate


class PAN(nn.Module):
    """Pyramid attention on the deepest map, then one attention for each finer one.

    Down to stride 4; a stride without a map is left out. Output stride 16 where the
    encoder can dilate, as in the paper. By ``like`` "smp" upsampling aligns corners,
    else not. The image is not padded, which would enter the means.
    """

    layers: Layers = Layers()
    like: str = "segjax"
    strides: tuple[int, ...] = (2, 4, 8, 16, 32)
    decoder_channels: int = 32
    any_size: ClassVar[bool] = True
    options: ClassVar[tuple[str, ...]] = ("decoder_channels",)
    head_kernel: ClassVar[int] = 3
    head_init: ClassVar = staticmethod(xavier_uniform)
    output_stride: ClassVar = staticmethod(lambda like: 16)
    torch_parts: ClassVar[dict[str, Parts]] = {"smp": Parts()}

    @nn.compact
    def __call__(
        self, features: Features, size: tuple[int, int], *, train: bool
    ) -> jax.Array:
        """Features -> [B, ceil(H/4), ceil(W/4), decoder_channels]."""
        layers = dataclasses.replace(self.layers, kernel_init=kaiming_uniform_fan_in)
        common = (self.decoder_channels, self.like == "smp", layers)
        attend = layers.block(GlobalAttentionUpsample)
        x = FeaturePyramidAttention(*common, name="fpa")(features.maps[-1], train)
        _, *finer, _ = octaves(features, self.strides, size)
        for i in reversed(range(len(finer))):
            low = finer[i].map
            if low is not None:
                x = attend(*common, name=f"gau{i + 1}")(x, train, low)
        return x

    TORCH: ClassVar[dict[str, str]] = {
        "pooled": "branch1.1",
        "middle": "mid.0",
        "down1": "down1.1",
        "down2": "down2.1",
        "down3a": "down3.1",
        "down3b": "down3.2",
        "up2": "conv2",
        "up1": "conv1",
        "gate": "conv1.1",
        "low": "conv2",
    }

    @nn.nowrap
    def torch_name(self, path: tuple[str, ...], naming: str) -> Name:
        """SMP's name below ``decoder``."""
        part, block, layer = path
        return f"{part}.{self.TORCH[block]}.{'bn' if layer == 'norm' else 'conv'}"


pan = partial(PAN)
