"""U-Net's expanding path (Ronneberger et al. 2015), as SMP has it."""

import dataclasses
from collections.abc import Sequence
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
from segjax.ops.packed import Packed


class Block(nn.Module):
    """Upsample (nearest), join the skip, twice convolution - norm - ReLU.

    With ``pack`` x, the skip and the result may be packed
    (:mod:`segjax.ops.packed`), where that is faster.
    """

    features: int
    size: tuple[int, int]
    layers: Layers
    pack: bool = False

    @nn.compact
    def __call__(self, x, train: bool, skip: jax.Array | Packed | None):
        """x[B, h, w, C], skip[B, *size, Cs] or None -> [B, *size, features]."""
        layers, window = self.layers, (1, 1)
        if self.pack:
            size = x.size if isinstance(x, Packed) else (x.shape[1], x.shape[2])
            window = layers.window(self.features, size, self.size)
        x = layers.upsampled_conv_before_norm(
            self.features, window=window, name="conv1"
        )(x, skip, self.size)
        x = layers.norm(relu=True, name="bn1")(x, train)
        x = layers.conv_before_norm(self.features, name="conv2")(x)
        return layers.norm(relu=True, name="bn2")(x, train)


def torch_name_in_block(layer: str) -> str:
    """SMP's name of a layer of :class:`Block`."""
    return f"conv{layer[-1]}.{'0' if layer.startswith('conv') else '1'}"


def center(x: jax.Array, block: type[nn.Module], layers: Layers, train: bool):
    """Two convolutions at the bottom, x[B, h, w, C] -> the same shape."""
    size = (x.shape[1], x.shape[2])
    convolve = block(features=x.shape[3], size=size, layers=layers, name="center")
    return convolve(x, train, None)


def torch_name_in_center(layer: str) -> str:
    """SMP's name of a layer of :func:`center`, below ``decoder``."""
    return f"center.{int(layer[-1]) - 1}.{torch_name_in_block(layer)[-1]}"


def halvings(
    features: Features,
    strides: Sequence[int],
    size: tuple[int, int],
    decoder_channels: Sequence[int] | None,
) -> list[tuple[Octave, int]]:
    """What every block aims at, deepest first: a skip's octave, and the block's width.

    The last octave is the image's own size, without a map. ``decoder_channels`` None
    means 16 there and twice as many per halving.

    Raises:
      ValueError: not one width for every halving.
    """
    *skips, _ = octaves(features, strides, size)
    targets = [*reversed(skips), Octave(None, size)]
    if decoder_channels is None:
        decoder_channels = [16 * 2**i for i in reversed(range(len(targets)))]
    if len(decoder_channels) != len(targets):
        raise ValueError(
            f"decoder_channels has {len(decoder_channels)} numbers, but the encoder "
            f"halves {len(targets)} times: give one number for each"
        )
    return list(zip(targets, decoder_channels, strict=True))


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
        layers = dataclasses.replace(self.layers, kernel_init=kaiming_uniform_fan_in)
        block = layers.block(Block)
        x = features.maps[-1]
        if "pooling switches" in self.provides:
            x = center(x, block, layers, train)
        path = halvings(features, self.strides, size, self.decoder_channels)
        for i, (target, width) in enumerate(path):
            x = block(
                features=width,
                size=target.size,
                layers=layers,
                pack=True,
                name=f"block{i}",
            )(x, train, target.packed or target.map)
        return x

    @nn.nowrap
    def torch_name(self, path: tuple[str, ...], naming: str) -> Name:
        """The module's name below SMP's ``decoder``, from its path in the decoder."""
        block, layer = path
        if block == "center":
            return torch_name_in_center(layer)
        return f"blocks.{block.removeprefix('block')}.{torch_name_in_block(layer)}"


unet = partial(UNet)
