"""U-Net's expanding path (Ronneberger et al. 2015), as SMP has it."""

import dataclasses
from functools import partial
from typing import ClassVar

import flax.linen as nn
import jax

from segjax.models.layers import (
    Features,
    Layers,
    kaiming_uniform_fan_in,
    xavier_uniform,
)


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
    """One block per map of the encoder, deepest first, and one at the input's size."""

    layers: Layers = Layers()
    decoder_channels: tuple[int, ...] = (256, 128, 64, 32, 16)
    any_size: ClassVar[bool] = True
    options: ClassVar[tuple[str, ...]] = ("decoder_channels",)
    head_kernel: ClassVar[int] = 3
    head_init: ClassVar = staticmethod(xavier_uniform)

    @nn.compact
    def __call__(
        self, features: Features, size: tuple[int, int], *, train: bool
    ) -> jax.Array:
        """Features of an image of ``size`` -> [B, *size, decoder_channels[-1]]."""
        *skips, x = features.maps
        skips = [*reversed(skips), None]
        if len(self.decoder_channels) != len(skips):
            raise ValueError(
                f"decoder_channels has {len(self.decoder_channels)} numbers, but the "
                f"encoder has {len(skips)} maps: give one number for each"
            )
        layers = dataclasses.replace(self.layers, kernel_init=kaiming_uniform_fan_in)
        block = layers.block(Block)
        for i, (skip, width) in enumerate(
            zip(skips, self.decoder_channels, strict=True)
        ):
            target = size if skip is None else skip.shape[1:3]
            x = block(
                features=width, size=tuple(target), layers=layers, name=f"block{i}"
            )(x, train, skip)
        return x

    @staticmethod
    def torch_name(path: tuple[str, ...]) -> str:
        """The module's name below SMP's ``decoder``, from its path in the decoder."""
        block, layer = path
        part = {"conv": "0", "bn": "1"}[layer[:-1]]
        return f"blocks.{block.removeprefix('block')}.conv{layer[-1]}.{part}"


unet = partial(UNet)
