"""Transposed convolution as a layer."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.ops import conv as conv_ops


class ConvTranspose(nn.Module):
    """Transposed convolution; parameters ``transposed_kernel`` [kh, kw, Ci, Co], bias.

    ``padding`` takes rows and columns off the result, as in torch.nn.ConvTranspose2d.
    """

    features: int
    kernel_size: int
    strides: int
    kernel_init: Callable[..., jax.Array]
    padding: int = 0
    use_bias: bool = True
    bias_init: Callable[..., jax.Array] = nn.initializers.zeros_init()
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    platform: str | None = None
    spatial: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x[B, h, w, Ci] -> [B, (h - 1) * strides - 2 * padding + k, ..., Co]."""
        k = self.kernel_size
        shape = (k, k, x.shape[3], self.features)
        kernel = self.param(
            "transposed_kernel", self.kernel_init, shape, self.param_dtype
        )
        y = conv_ops.conv_transpose(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            strides=self.strides,
            padding=self.padding,
            platform=self.platform,
            spatial=self.spatial,
        )
        if not self.use_bias:
            return y
        bias = self.param("bias", self.bias_init, (self.features,), self.param_dtype)
        return y + bias.astype(self.dtype)[None, None, None, :]
