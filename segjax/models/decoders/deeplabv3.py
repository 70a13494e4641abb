"""DeepLabV3 (Chen et al. 2017, arXiv 1706.05587), as SMP and torchvision have it."""

import dataclasses
from functools import partial
from typing import ClassVar

import flax.linen as nn
import jax

from segjax.models.decoders.aspp import ASPP, ASPP_OPTIONS, torch_name_in_aspp
from segjax.models.decoders.blocks import ConvNorm
from segjax.models.layers import Features, Layers, torch_uniform
from segjax.models.naming import Name, Parts


class DeepLabV3(nn.Module):
    """ASPP on the deepest map, at output stride 8 where the encoder can dilate.

    SMP and torchvision differ in the encoder's first dilated block and in
    align_corners of the last upsampling alone; "segjax" is torchvision's. The image is
    not padded, which would enter the pooled branch.
    """

    layers: Layers = Layers()
    decoder_channels: int = 256
    decoder_atrous_rates: tuple[int, ...] = (12, 24, 36)
    decoder_aspp_dropout: float = 0.5
    any_size: ClassVar[bool] = True
    options: ClassVar[tuple[str, ...]] = ASPP_OPTIONS
    head_kernel: ClassVar[int] = 1
    head_init: ClassVar = staticmethod(torch_uniform)
    output_stride: ClassVar = staticmethod(lambda like: 8)
    torch_parts: ClassVar[dict[str, Parts]] = {
        "smp": Parts(),
        "torchvision": Parts(
            "backbone.", "classifier.", "classifier.4", "aux_classifier."
        ),
    }

    @nn.compact
    def __call__(
        self, features: Features, size: tuple[int, int], *, train: bool
    ) -> jax.Array:
        """Features -> [B, h, w, decoder_channels], of the deepest map's size."""
        layers = dataclasses.replace(self.layers, kernel_init=torch_uniform)
        width, rates = self.decoder_channels, tuple(self.decoder_atrous_rates)
        rate = self.decoder_aspp_dropout
        aspp = ASPP(width, rates, dropout=rate, layers=layers, name="aspp")
        x = aspp(features.maps[-1], train)
        return ConvNorm(width, layers=layers, name="last")(x, train)

    @nn.nowrap
    def torch_name(self, path: tuple[str, ...], naming: str) -> Name:
        """SMP's name below ``decoder``, or torchvision's below ``classifier``."""
        part, *rest = path
        numbered = naming == "torchvision"
        if part == "aspp":
            return f"{'0' if numbered else 'aspp'}.{torch_name_in_aspp(tuple(rest))}"
        names = ("1", "2") if numbered else ("conv", "bn")
        return names[rest[0] == "norm"]


deeplabv3 = partial(DeepLabV3)
