"""MA-Net, multi-scale attention (Fan et al. 2020, IEEE Access 8), as SMP has it."""

import dataclasses
from functools import partial
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.decoders.blocks import ConvNorm
from segjax.models.decoders.unet import Block, halvings, torch_name_in_block
from segjax.models.layers import (
    Features,
    Layers,
    kaiming_uniform_fan_in,
    xavier_uniform,
)
from segjax.models.naming import Name, Parts
from segjax.models.squeeze import ChannelGate


class PositionAttention(nn.Module):
    """Add to every pixel a mean over all pixels, weighted by likeness (PAB).

    The weights of a pixel's mean are a softmax over the others (Fu et al. 2019). By
    ``like`` "smp" the softmax is over all pairs of pixels together, and the means
    [H W, C] are read as if they were [C, H, W].
    """

    channels: int
    like: str
    layers: Layers

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x[B, H, W, C] -> [B, H, W, C]."""
        layers, (b, h, w, c) = self.layers, x.shape
        top = layers.conv(self.channels, 1, name="top_conv")(x)
        center = layers.conv(self.channels, 1, name="center_conv")(x)
        bottom = layers.conv(c, 3, name="bottom_conv")(x)
        top, center, bottom = (y.reshape(b, h * w, -1) for y in (top, center, bottom))
        likeness = jnp.einsum("bic,bjc->bij", center, top)
        likeness = likeness.astype(jnp.promote_types(x.dtype, jnp.float32))
        axis = (1, 2) if self.like == "smp" else 2
        weight = jax.nn.softmax(likeness, axis).astype(x.dtype)
        mean = jnp.einsum("bij,bjc->bic", weight, bottom)
        if self.like == "smp":
            mean = mean.reshape(b, c, h, w).transpose(0, 2, 3, 1)
        x = x + mean.reshape(b, h, w, c)
        return layers.conv(c, 3, name="out_conv")(x)


class FusionBlock(nn.Module):
    """Bring x to the skip's width, weight its channels by both, then U-Net's block.

    The multi-scale fusion attention block (MFAB).
    """

    features: int
    size: tuple[int, int]
    layers: Layers

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, skip: jax.Array) -> jax.Array:
        """x[B, h, w, C], skip[B, *size, Cs] -> [B, *size, features]."""
        layers = self.layers
        x = ConvNorm(x.shape[3], layers=layers, name="high1")(x, train)
        x = ConvNorm(skip.shape[3], 1, layers=layers, name="high2")(x, train)
        # Before the upsampling, which changes no mean (nor do the factors).
        squeezed = max(skip.shape[3] // 16, 1)
        attend = partial(ChannelGate, squeezed, nn.relu, nn.sigmoid, layers)
        factor = attend(name="attend_high")(x) + attend(name="attend_skip")(skip)
        block = Block(self.features, self.size, layers, name="fuse")
        return block(x * factor, train, skip)


class MAnet(nn.Module):
    """Position attention on the deepest map, then a U-Net of fusion blocks.

    Where the encoder has no map of a stride, and last, the block is U-Net's.
    """

    layers: Layers = Layers()
    like: str = "segjax"
    strides: tuple[int, ...] = (2, 4, 8, 16, 32)
    decoder_channels: tuple[int, ...] | None = None
    decoder_pab_channels: int = 64
    any_size: ClassVar[bool] = True
    options: ClassVar[tuple[str, ...]] = ("decoder_channels", "decoder_pab_channels")
    head_kernel: ClassVar[int] = 3
    head_init: ClassVar = staticmethod(xavier_uniform)
    torch_parts: ClassVar[dict[str, Parts]] = {"smp": Parts()}

    @nn.compact
    def __call__(
        self, features: Features, size: tuple[int, int], *, train: bool
    ) -> jax.Array:
        """Features of an image of ``size`` -> [B, *size, decoder_channels[-1]]."""
        layers = dataclasses.replace(self.layers, kernel_init=kaiming_uniform_fan_in)
        path = halvings(features, self.strides, size, self.decoder_channels)
        x = PositionAttention(
            self.decoder_pab_channels, self.like, layers, name="center"
        )(features.maps[-1])
        plain, fusion = layers.block(Block), layers.block(FusionBlock)
        for i, (target, width) in enumerate(path):
            block = fusion
            if target.map is None:
                block = partial(plain, pack=i == len(path) - 1)
            x = block(
                features=width, size=target.size, layers=layers, name=f"block{i}"
            )(x, train, target.map)
        return x

    TORCH: ClassVar[dict[str, str]] = {
        "high1": "hl_conv.0",
        "high2": "hl_conv.1",
        "attend_high": "SE_hl",
        "attend_skip": "SE_ll",
        "reduce": "1",
        "expand": "3",
        **ConvNorm.SEQUENTIAL,
    }

    @nn.nowrap
    def torch_name(self, path: tuple[str, ...], naming: str) -> Name:
        """SMP's name below ``decoder``."""
        block, *rest = path
        if block == "center":
            return ".".join(path)
        if len(rest) == 1 or rest[0] == "fuse":
            name = torch_name_in_block(rest[-1])
        else:
            name = ".".join(self.TORCH[part] for part in rest)
        return f"blocks.{block.removeprefix('block')}.{name}"


manet = partial(MAnet)
