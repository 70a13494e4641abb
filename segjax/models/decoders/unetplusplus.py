"""U-Net++ (Zhou et al. 2018, arXiv 1807.10165), as SMP has it."""

import dataclasses
from functools import partial
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.decoders.unet import (
    Block,
    center,
    halvings,
    torch_name_in_block,
    torch_name_in_center,
)
from segjax.models.layers import (
    Features,
    Layers,
    kaiming_uniform_fan_in,
    xavier_uniform,
)
from segjax.models.naming import Name, Parts


class UNetPlusPlus(nn.Module):
    """A U-Net whose skips go through U-Nets that start at the shallower maps.

    Level l (0 is the deepest skip's, the last the image's) has nodes 0 to l. Node
    (d, l) upsamples node (d, l - 1), or for d = l the encoder's map below the level,
    and takes the nodes behind it at its level and the encoder's map there. Node (0, l)
    is as wide as decoder_channels[l], the others as that map. A level without a map
    (and the last) has node 0 only.

    An encoder that ends in a pooling (VGG) gets two convolutions at the bottom, as in
    the paper. By ``like`` "smp" nothing depends on them: SMP makes them without
    running them.
    """

    layers: Layers = Layers()
    like: str = "segjax"
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
        path = halvings(features, self.strides, size, self.decoder_channels)
        x = features.maps[-1]
        if "pooling switches" in self.provides:
            deepest = center(x, block, layers, train)
            x = x if self.like == "smp" else deepest
        before = {0: x}  # the nodes below, and the encoder's map
        for level, (target, wide) in enumerate(path):
            nodes = {} if target.map is None else {level + 1: target.map}
            depths = (0,) if target.map is None else range(level + 1)
            for depth in reversed([d for d in depths if d in before]):
                skips = [nodes[d] for d in sorted(nodes)]
                nodes[depth] = block(
                    features=wide if depth == 0 else skips[-1].shape[3],
                    size=target.size,
                    layers=layers,
                    pack=level == len(path) - 1,
                    name=f"x_{depth}_{level}",
                )(before[depth], train, jnp.concatenate(skips, 3) if skips else None)
            before = nodes
        return before[0]

    @nn.nowrap
    def torch_name(self, path: tuple[str, ...], naming: str) -> Name:
        """SMP's name below ``decoder``."""
        node, layer = path
        if node == "center":
            return torch_name_in_center(layer)
        return f"blocks.{node}.{torch_name_in_block(layer)}"


unetplusplus = partial(UNetPlusPlus)
