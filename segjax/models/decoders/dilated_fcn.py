"""Torchvision's FCN: a small head on a dilated network (Long et al. 2015)."""

from functools import partial
from typing import ClassVar

import flax.linen as nn
import jax

from segjax.models.heads import FCNHead
from segjax.models.layers import Features, Layers
from segjax.models.naming import Name, Parts


class FCN(nn.Module):
    """Score the deepest map by an :class:`FCNHead`; no skips.

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
