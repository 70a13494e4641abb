"""Fully convolutional networks (Long, Shelhamer & Darrell 2015)."""

from functools import partial
from typing import ClassVar

import flax.linen as nn
import jax

from segjax.models.layers import Features, Layers, xavier_uniform
from segjax.models.naming import Name, Parts


class FCN32s(nn.Module):
    """Score the deepest map alone; bilinear upsampling does the rest.

    On a ResNet the scoring layer (1x1, the head) acts on the last map directly, where
    VGG has its two convolutionised fully connected layers before. The upsampling is
    the paper's fixed bilinear one, straight to the image's size.

    The paper starts the scoring layer at zero, which blocks every gradient to the
    encoder in the first step. Here it starts as the other heads do (Xavier uniform).
    """

    layers: Layers = Layers()
    any_size: ClassVar[bool] = True
    options: ClassVar[tuple[str, ...]] = ()
    head_kernel: ClassVar[int] = 1
    head_init: ClassVar = staticmethod(xavier_uniform)
    torch_parts: ClassVar[dict[str, Parts]] = {"smp": Parts()}

    @nn.compact
    def __call__(
        self, features: Features, size: tuple[int, int], *, train: bool
    ) -> jax.Array:
        """Features -> the deepest map, [B, h, w, C]."""
        return features.maps[-1]

    @nn.nowrap
    def torch_name(self, path: tuple[str, ...], naming: str) -> Name:
        """Nobody's: our own path."""
        return ".".join(path)


fcn32s = partial(FCN32s)
