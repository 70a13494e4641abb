"""SegNet-Basic's encoder (Badrinarayanan, Kendall & Cipolla 2017)."""

from functools import partial
from typing import ClassVar

import flax.linen as nn
import jax

from segjax.models.heads import PoolDense
from segjax.models.layers import Features, Layers, kaiming_normal_fan_in
from segjax.models.naming import Name


class SegNetBasicEncoder(nn.Module):
    """Four times 7x7 convolution without bias, norm, ReLU and 2x2 max pooling.

    Maps as VGG's: before each pooling (strides 1, 2, 4, 8) and the last pooled one.
    The authors' Caffe network normalises the image's local contrast first; here that
    is left to the preprocessing. It was never a classifier: the pooled head with which
    ``build_classifier`` makes one is nobody's publication.
    """

    layers: Layers = Layers()
    like: str = "segjax"
    width: int = 64
    counts: tuple[int, ...] = (1, 1, 1, 1)
    strides: ClassVar[tuple[int, ...]] = (1, 2, 4, 8, 16)
    provides: ClassVar[tuple[str, ...]] = ("pooling switches",)
    namings: ClassVar[tuple[str, ...]] = ("smp",)
    classifier_head: ClassVar = staticmethod(partial(PoolDense, torch={"smp": "fc"}))
    head_names: ClassVar[tuple[str, ...]] = ("fc.*",)

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool) -> Features:
        """image[B, H, W, C] -> Features; map s is [B, H // s, W // s, width]."""
        x, maps = image, []
        for i in range(1, len(self.counts) + 1):
            x = self.layers.conv_before_norm(
                self.width, 7, kernel_init=kaiming_normal_fan_in, name=f"conv{i}"
            )(x)
            x = self.layers.norm(relu=True, name=f"bn{i}")(x, train)
            maps.append(x)
            x = self.layers.max_pool(x, 2, 2)
        return Features((*maps, x))

    @nn.nowrap
    def torch_name(self, path: tuple[str, ...], naming: str) -> Name:
        """Nobody's: our own path."""
        return ".".join(path)


segnet_basic = partial(SegNetBasicEncoder)
