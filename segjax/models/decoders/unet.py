"""U-Net's expanding path (Ronneberger et al. 2015), as SMP has it."""

import dataclasses
from functools import partial
from typing import ClassVar

import flax.linen as nn
import jax

from segjax.models.layers import (
    Features,
    Layers,
    Octave,
    kaiming_uniform_fan_in,
    octaves,
    xavier_uniform,
)
from segjax.models.naming import Name, Parts


class Block(nn.Module):
    """Upsample (nearest), join the skip, twice convolution - norm - ReLU."""

    features: int
    size: tuple[int, int]
    layers: Layers

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, skip: jax.Array | None) -> jax.Array:
        """x[B, h, w, C], skip[B, *size, Cs] or None -> [B, *size, features]."""
        layers = self.layers
        x = layers.upsampled_conv_before_norm(self.features, name="conv1")(
            x, skip, self.size
        )
        x = layers.norm(relu=True, name="bn1")(x, train)
        x = layers.conv_before_norm(self.features, name="conv2")(x)
        return layers.norm(relu=True, name="bn2")(x, train)


class UNet(nn.Module):
    """One block per halving, deepest first, and the last at the input's size.

    Where the encoder has no map of a stride (``strides``), the block has no skip.
    ``decoder_channels`` None: 16 at the input's size and twice as many per halving.

    An encoder that ends in a pooling (VGG) has no convolution at its last stride, so
    two stand there before the first block ("center"), as in the paper and in SMP.
    """

    layers: Layers = Layers()
    strides: tuple[int, ...] = (2, 4, 8, 16, 32)
    provides: tuple[str, ...] = ()
    decoder_channels: tuple[int, ...] | None = None
    any_size: ClassVar[bool] = True
    options: ClassVar[tuple[str, ...]] = ("decoder_channels",)
    head_kernel: ClassVar[int] = 3
    head_init: ClassVar = staticmethod(xavier_uniform)
    torch_parts: ClassVar[dict[str, Parts]] = {"smp": Parts()}

    @nn.compact
    def __call__(
        self, features: Features, size: tuple[int, int], *, train: bool
    ) -> jax.Array:
        """Features of an image of ``size`` -> [B, *size, decoder_channels[-1]]."""
        *skips, _ = octaves(features, self.strides, size)
        channels = self.decoder_channels
        if channels is None:
            channels = tuple(16 * 2**i for i in reversed(range(len(skips) + 1)))
        if len(channels) != len(skips) + 1:
            raise ValueError(
                f"decoder_channels has {len(channels)} numbers, but the "
                f"encoder halves {len(skips) + 1} times: give one number for each"
            )
        layers = dataclasses.replace(self.layers, kernel_init=kaiming_uniform_fan_in)
        block = layers.block(Block)
        targets, x = [*reversed(skips), Octave(None, size)], features.maps[-1]
        if "pooling switches" in self.provides:
            deepest = (x.shape[1], x.shape[2])
            x = block(features=x.shape[3], size=deepest, layers=layers, name="center")(
                x, train, None
            )
        for i, (target, width) in enumerate(zip(targets, channels, strict=True)):
            x = block(
                features=width, size=target.size, layers=layers, name=f"block{i}"
            )(x, train, target.map)
        return x

    @nn.nowrap
    def torch_name(self, path: tuple[str, ...], naming: str) -> Name:
        """The module's name below SMP's ``decoder``, from its path in the decoder."""
        block, layer = path
        part = {"conv": "0", "bn": "1"}[layer[:-1]]
        if block == "center":
            return f"center.{int(layer[-1]) - 1}.{part}"
        return f"blocks.{block.removeprefix('block')}.conv{layer[-1]}.{part}"


unet = partial(UNet)
