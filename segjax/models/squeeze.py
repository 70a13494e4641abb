"""Squeeze-and-excitation (Hu et al. 2018)."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.layers import Layers


class ChannelGate(nn.Module):
    """A factor for each channel that two 1x1 convolutions make of the map's mean."""

    squeeze_channels: int
    activation: Callable[[jax.Array], jax.Array]
    gate: Callable[[jax.Array], jax.Array]
    layers: Layers

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x[B, H, W, C] -> [B, 1, 1, C]."""
        scale = jnp.mean(x, (1, 2), keepdims=True)
        scale = self.layers.conv(self.squeeze_channels, 1, name="reduce")(scale)
        scale = self.layers.conv(x.shape[3], 1, name="expand")(self.activation(scale))
        return self.gate(scale)


class SqueezeExcite(ChannelGate):
    """Scale each channel by its gate."""

    def __call__(self, x: jax.Array) -> jax.Array:
        """x[B, H, W, C] -> the same shape."""
        return x * super().__call__(x)
