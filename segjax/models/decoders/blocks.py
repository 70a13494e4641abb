"""Blocks that several decoders share."""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax

from segjax.models.layers import Layers
from segjax.ops import table
from segjax.ops.separable import separable_by_rows


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
        if self.separable:
            x = self._separable(x, use_bias)
        else:
            x = layers.conv(
                self.features,
                kernel,
                dilation=self.dilation,
                use_bias=use_bias,
                name="conv",
            )(x)
        return layers.norm(relu=self.relu, name="norm")(x, train)

    def _separable(self, x: jax.Array, use_bias: bool) -> jax.Array:
        layers, channels, size = self.layers, x.shape[3], self.kernel_size
        first = {"groups": channels, "use_bias": False, "name": "depthwise"}
        second = {"use_bias": use_bias, "name": "pointwise"}
        if not table.separable_by_rows(
            layers.spatial, x.shape[1], size, self.dilation, channels, self.features
        ):
            x = layers.conv(channels, size, dilation=self.dilation, **first)(x)
            return layers.conv(self.features, 1, **second)(x)
        depthwise, _ = layers.conv_weights(channels, size, **first)(channels)
        pointwise, bias = layers.conv_weights(self.features, 1, **second)(channels)
        x = x.astype(layers.dtype)
        y = separable_by_rows(x, depthwise, pointwise, self.dilation)
        return y if bias is None else y + bias[None, None, None, :]
