"""Blocks that several decoders share."""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax

from segjax.models.layers import Layers


def layers_of_means(layers: Layers) -> Layers:
    """``layers`` for the image's mean [B, 1, 1, C]: layer norm in group norm's place.

    A group of one channel would be a single value there, and its norm zero.
    """
    kind = "layer" if layers.norm_kind == "group" else layers.norm_kind
    return dataclasses.replace(layers, norm_kind=kind)


class ConvNorm(nn.Module):
    """Convolution, norm and, if asked, ReLU.

    ``separable``: a convolution per channel (depthwise), then a 1x1 convolution of
    them (pointwise), without anything between (Chollet 2017). ``use_bias`` None: only
    where there is no norm.
    """

    features: int
    kernel_size: int = 3
    dilation: int = 1
    separable: bool = False
    use_bias: bool | None = None
    relu: bool = True
    layers: Layers = Layers()

    SEQUENTIAL: ClassVar[dict[str, str]] = {
        "conv": "0",
        "depthwise": "0.0",
        "pointwise": "0.1",
        "norm": "1",
    }
    """Torch's names of the layers where the block is an nn.Sequential."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """x[B, H, W, C] -> [B, H, W, features]."""
        layers, kernel = self.layers, self.kernel_size
        use_bias = layers.norm_kind == "none" if self.use_bias is None else True
        spatial = {"dilation": self.dilation}
        if self.separable:
            channels = x.shape[3]
            spatial |= {"groups": channels, "use_bias": False, "name": "depthwise"}
            x = layers.conv(channels, kernel, **spatial)(x)
            kernel, spatial = 1, {}
        name = "pointwise" if self.separable else "conv"
        x = layers.conv(self.features, kernel, use_bias=use_bias, name=name, **spatial)(
            x
        )
        return layers.norm(relu=self.relu, name="norm")(x, train)
