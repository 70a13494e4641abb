"""Fully convolutional networks (Long, Shelhamer & Darrell 2015)."""

from functools import partial
from typing import ClassVar

import flax.linen as nn
import jax

from segjax.models.heads import FCNHead
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


class FCN(nn.Module):
    """Torchvision's: an :class:`FCNHead` scores the deepest map; no skips.

    The encoder is dilated to output stride 8 where it can be.
    """

    num_classes: int
    layers: Layers = Layers()
    any_size: ClassVar[bool] = True
    options: ClassVar[tuple[str, ...]] = ()
    head_kernel: ClassVar[int] = 0
    output_stride: ClassVar = staticmethod(lambda like: 8)
    torch_parts: ClassVar[dict[str, Parts]] = {
        "torchvision": Parts("backbone.", "classifier.", "", "aux_classifier.")
    }

    @nn.compact
    def __call__(
        self, features: Features, size: tuple[int, int], *, train: bool
    ) -> jax.Array:
        """Features -> scores [B, h, w, num_classes] at the deepest map's size."""
        head = FCNHead(self.num_classes, self.layers, name="head")
        return head(features.maps[-1], train)

    @nn.nowrap
    def torch_name(self, path: tuple[str, ...], naming: str) -> Name:
        """The head's name."""
        return FCNHead(self.num_classes, self.layers).torch_name(path[1:], naming)


fcn = partial(FCN)
fcn32s = partial(FCN32s)
