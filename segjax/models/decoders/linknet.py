"""LinkNet (Chaurasia & Culurciello 2017, arXiv 1707.03718), as SMP has it."""

import dataclasses
from functools import partial
from typing import ClassVar

import flax.linen as nn
import jax

from segjax.models.decoders.blocks import ConvNorm
from segjax.models.layers import (
    Features,
    Layers,
    Octave,
    kaiming_uniform_fan_in,
    octaves,
    torch_uniform,
    xavier_uniform,
)
from segjax.models.naming import Name, Parts


class Block(nn.Module):
    """Narrow to a quarter (1x1), double by a transposed convolution, widen, add."""

    features: int
    size: tuple[int, int]
    layers: Layers

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, skip: jax.Array | None) -> jax.Array:
        """x[B, h, w, C], skip[B, *size, features] or None -> [B, *size, features]."""
        layers, width = self.layers, x.shape[3] // 4
        x = ConvNorm(width, 1, layers=layers, name="narrow")(x, train)
        x = layers.conv_transpose(
            width, 4, 2, padding=1, kernel_init=torch_uniform, name="double"
        )(x)
        x = layers.norm(relu=True, name="norm")(x, train)
        x = ConvNorm(self.features, 1, layers=layers, name="widen")(x, train)
        # Not the double where the encoder dilates or rounds down.
        x = layers.resize_bilinear(x, self.size, align_corners=False)
        return x if skip is None else x + skip


class LinkNet(nn.Module):
    """One block per halving, as wide as the skip that it adds; the last 32 channels.

    Where the encoder has no map of a stride, the width stays.
    """

    layers: Layers = Layers()
    strides: tuple[int, ...] = (2, 4, 8, 16, 32)
    any_size: ClassVar[bool] = False
    options: ClassVar[tuple[str, ...]] = ()
    head_kernel: ClassVar[int] = 1
    head_init: ClassVar = staticmethod(xavier_uniform)
    torch_parts: ClassVar[dict[str, Parts]] = {"smp": Parts()}

    @nn.compact
    def __call__(
        self, features: Features, size: tuple[int, int], *, train: bool
    ) -> jax.Array:
        """Features -> [B, H, W, 32]."""
        layers = dataclasses.replace(self.layers, kernel_init=kaiming_uniform_fan_in)
        block = layers.block(Block)
        *skips, _ = octaves(features, self.strides, size)
        targets, x = [*reversed(skips), Octave(None, size)], features.maps[-1]
        for i, target in enumerate(targets):
            width = x.shape[3] if target.map is None else target.map.shape[3]
            x = block(
                features=width if i + 1 < len(targets) else 32,
                size=target.size,
                layers=layers,
                name=f"block{i}",
            )(x, train, target.map)
        return x

    @nn.nowrap
    def torch_name(self, path: tuple[str, ...], naming: str) -> Name:
        """SMP's name below ``decoder``."""
        block, part, *rest = path
        number = {"narrow": 0, "double": 1, "norm": 1, "widen": 2}[part]
        layer = ConvNorm.SEQUENTIAL.get(rest[0] if rest else part, "0")
        return f"blocks.{block.removeprefix('block')}.block.{number}.{layer}"


linknet = partial(LinkNet)
